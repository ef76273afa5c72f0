package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/streams"
)

// Rows is which rows of a read model were compared with a replay of the stream.
type Rows struct {
	// How is [AllRows], [SomeRows] or [NoRows]. Why is the reason for the last two, or why a
	// difference is no problem: events that an operator discarded may be in the replay.
	How string `json:"how"`
	Why string `json:"why,omitempty"`
	// Pages are the pages whose rows were compared; empty for all rows.
	Pages []domain.PageID `json:"pages,omitempty"`
	// Events is the number of events that were replayed.
	Events uint64 `json:"events"`
	// Difference is the first row that differs, nil if there is none.
	Difference *projections.RowDifference `json:"difference,omitempty"`
}

// String says which rows were compared.
func (r Rows) String() string {
	switch r.How {
	case AllRows:
		if r.Difference != nil && r.Why != "" {
			return fmt.Sprintf("all, %d events; they differ, as they may: %s", r.Events, r.Why)
		}
		return fmt.Sprintf("all, %d events", r.Events)
	case SomeRows:
		return fmt.Sprintf("those of %d pages, %d events", len(r.Pages), r.Events)
	}
	return "none, because " + r.Why
}

// The values of Rows.How.
const (
	AllRows  = "all"
	SomeRows = "sample"
	NoRows   = "none"
)

// Bounds of a sample.
const (
	defaultSample = 100_000
	samplePages   = 8
	// samplePicks is how many events are read at random to find these pages.
	samplePicks = 64
)

// verifier compares its rows with a replay. [projections.Runner] is one.
type verifier interface {
	Verify(ctx context.Context, progress func(projections.Rebuilding)) (projections.Verified, error)
	VerifyPages(ctx context.Context, pages []domain.PageID, progress func(projections.Rebuilding)) (
		projections.Verified, error)
}

// compareRows compares the rows of each read model with a replay of the stream.
func (a *auditor) compareRows(ctx context.Context) error {
	sample := cmp.Or(a.o.Sample, defaultSample)
	var pages []domain.PageID
	whole := a.o.Full || a.report.Seq <= sample
	if !whole {
		var err error
		if pages, err = a.pick(ctx, sample); err != nil {
			return fmt.Errorf("choose pages for a sample: %w", err)
		}
	}
	for _, m := range a.models {
		v, ok := m.of.(verifier)
		switch {
		case !ok:
			m.Rows = Rows{How: NoRows, Why: "it can't be replayed"}
			continue
		case !whole && len(pages) == 0:
			m.Rows = Rows{How: NoRows, Why: fmt.Sprintf("no page has at most %d events; type: pagestream audit --full", sample)}
			continue
		}
		report := func(at projections.Rebuilding) {
			a.progress(Progress{Model: m.Name, Seq: at.Seq, Target: at.Target, Pass: 1, Passes: 1})
		}
		out, err := verifyRows(ctx, v, whole, pages, report)
		var damaged *projections.DamagedError
		switch {
		case errors.Is(err, projections.ErrNotPaged):
			m.Rows = Rows{How: NoRows, Why: "its rows depend on all events; type: pagestream audit --full"}
			continue
		case errors.Is(err, projections.ErrBuilding), errors.As(err, &damaged):
			m.Rows = Rows{How: NoRows, Why: err.Error()}
			a.problem(fmt.Sprintf("the rows of %s were not compared: %v", m.Name, err), nil)
			continue
		case err != nil:
			return err
		}
		m.Rows = Rows{How: AllRows, Events: out.Events, Difference: out.Difference}
		if !whole {
			m.Rows.How, m.Rows.Pages = SomeRows, out.Pages
			m.Rows.Why = fmt.Sprintf("the stream has more than %d events; type: pagestream audit --full", sample)
		}
		if !out.Equal && m.discarded > 0 {
			// They could not be applied then. A replay may be able to, with a later version of the projection.
			m.Rows.Why = fmt.Sprintf("a replay may apply the %d events that were discarded", m.discarded)
			continue
		}
		if d := out.Difference; d != nil {
			examples := append(slices.Clone(d.Events.First), d.Events.Last...)
			a.problem(fmt.Sprintf("%s is not what a replay gives: the row %s of %s %s; type: pagestream projections rebuild %s",
				m.Name, d.Key, d.Bucket, whats[d.What], m.Name), examples[:min(len(examples), maxExamples)])
		} else if !out.Equal {
			a.problem(fmt.Sprintf("%s is not what a replay gives: its counts differ; type: pagestream projections rebuild %s",
				m.Name, m.Name), nil)
		}
	}
	return nil
}

// whats are the words for RowDifference.What.
var whats = map[string]string{"missing": "is missing", "extra": "should not be there", "differs": "differs"}

// verifyRows compares all rows, or those of the pages. A difference between the rows of
// pages is looked for again, because an erasure meanwhile looks like one.
func verifyRows(
	ctx context.Context, v verifier, whole bool, pages []domain.PageID, progress func(projections.Rebuilding),
) (out projections.Verified, err error) {
	if whole {
		return v.Verify(ctx, progress)
	}
	out, err = v.VerifyPages(ctx, pages, progress)
	if err == nil && !out.Equal {
		out, err = v.VerifyPages(ctx, pages, progress)
	}
	return out, err
}

// pick chooses pages of events that are chosen at random, so that a page with more events is
// more likely. All of them together have at most limit events.
func (a *auditor) pick(ctx context.Context, limit uint64) (pages []domain.PageID, err error) {
	get, err := streams.Getter(ctx, a.o.JS, a.o.Stream)
	if err != nil {
		return nil, err
	}
	stream, err := a.o.JS.Stream(ctx, a.o.Stream)
	if err != nil {
		return nil, err
	}
	seen := map[domain.PageID]bool{"": true, domain.NoPage: true}
	for range samplePicks {
		e, err := get(ctx, 1+rand.Uint64N(a.report.Seq))
		if errors.Is(err, streams.ErrNotFound) || errors.Is(err, streams.ErrMalformed) || err == nil && seen[e.Page] {
			continue
		}
		if err != nil {
			return nil, err
		}
		seen[e.Page] = true
		var n uint64
		for _, subject := range streams.Filter(e.Page) {
			info, err := stream.Info(ctx, jetstream.WithSubjectFilter(subject))
			if err != nil {
				return nil, err
			}
			for _, count := range info.State.Subjects {
				n += count
			}
		}
		if n > limit {
			continue
		}
		limit -= n
		if pages = append(pages, e.Page); len(pages) == samplePages {
			break
		}
	}
	return pages, nil
}
