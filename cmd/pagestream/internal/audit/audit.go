// Package audit proves over the whole stream what pagestream promises: that each
// item that was answered 200 is in the stream, once, with no sequence missing but
// erased ones, and that every read model has counted just that.
package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/projections/store"
)

const (
	// perPass bounds the ids that are in memory at once: some 50 bytes each. A
	// longer stream is read more than once.
	perPass = 8 << 20
	// maxExamples bounds the sequences that a problem names.
	maxExamples = 20
	// tellEvery is how often progress is told, in events.
	tellEvery = 4096
	// sourceWebhook is what an event has that came in at the door.
	sourceWebhook = "webhook"
	// defaultWait is how long a read model may be behind.
	defaultWait = 2 * time.Minute
)

// Options of an audit. JS, Stream, Models, and Ledger are required.
type Options struct {
	JS     jetstream.JetStream
	Stream string
	// Models are the read models; the deliveries model is among them.
	Models []projections.Model
	// Ledger is what was counted at the door.
	Ledger func() deliveries.Counts
	// Wait bounds the wait for a read model that is behind, by default two
	// minutes.
	Wait time.Duration
	// PerPass is the most ids in memory, by default 8 million.
	PerPass uint64
}

// Progress is how far an audit is.
type Progress struct {
	Seq    uint64 `json:"seq"`
	Target uint64 `json:"target"`
	Pass   int    `json:"pass"`
	Passes int    `json:"passes"`
}

// Report is what was found.
type Report struct {
	// OK says that there is no problem.
	OK bool `json:"ok"`
	// Seq is the event up to which the stream was read.
	Seq    uint64        `json:"seq"`
	Took   time.Duration `json:"took_ns"`
	Stream Stream        `json:"stream"`
	Door   Door          `json:"door"`
	Models []Projected   `json:"models"`
	// Problems is empty where OK is true.
	Problems []Problem `json:"problems,omitempty"`
}

// Stream is what the stream holds. Seq = Events + Erased + Malformed + Missing.
type Stream struct {
	Events    uint64 `json:"events"`
	Erased    uint64 `json:"erased"`
	Malformed uint64 `json:"malformed"`
	// Missing sequences are neither there nor on record as erased.
	Missing uint64 `json:"missing"`
	// Doubled are events whose id an earlier one has.
	Doubled uint64 `json:"doubled"`
	// Webhook are those that came by a webhook, erased ones too.
	Webhook uint64 `json:"webhook"`
}

// Door is what was counted where deliveries come in:
// Items = Stored + Duplicates. An unreadable delivery is one item.
type Door struct {
	Since      time.Time `json:"since,omitzero"`
	Accepted   uint64    `json:"accepted"`
	Items      uint64    `json:"items"`
	Stored     uint64    `json:"stored"`
	Duplicates uint64    `json:"duplicates"`
	Unreadable uint64    `json:"unreadable"`
	// Uncounted are events of webhooks that this ledger did not count: from
	// before it was begun, by another node, or of the last second before a crash.
	Uncounted uint64 `json:"uncounted"`
}

// Projected is what one read model has taken in. The counts are as of Seq.
type Projected struct {
	Name      string `json:"name"`
	Seq       uint64 `json:"seq"`
	Doubled   uint64 `json:"doubled"`
	Malformed uint64 `json:"malformed"`
	// Parked are events that it could not handle, and those that wait for them.
	Parked uint64 `json:"parked"`
}

// Problem is one thing that is not as promised.
type Problem struct {
	What string `json:"what"`
	// Examples are the first sequences that it is about.
	Examples []uint64 `json:"examples,omitempty"`
}

// errNoDeliveries says that Options lack the model that counts.
var errNoDeliveries = errors.New("no deliveries model among the models")

// Run audits the stream from its first event to where the read models are. It may
// run on a live server: what comes meanwhile is not looked at. It changes
// nothing. An error says that the audit could not be made; what it found is in
// the report. Progress may be nil.
func Run(ctx context.Context, o Options, progress func(Progress)) (Report, error) {
	o.Wait = cmp.Or(o.Wait, defaultWait)
	o.PerPass = cmp.Or(o.PerPass, perPass)
	if progress == nil {
		progress = func(Progress) {}
	}
	began := time.Now()
	a := &auditor{o: o, tell: progress}
	// The door first: whatever it counts as stored by now is in the stream.
	a.door = o.Ledger()
	if err := a.settle(ctx); err != nil {
		return Report{}, err
	}
	passes := max(1, int((a.report.Seq+o.PerPass-1)/o.PerPass))
	for pass := range passes {
		if err := a.pass(ctx, pass, passes); err != nil {
			return Report{}, fmt.Errorf("read stream: %w", err)
		}
	}
	a.compare()
	a.report.OK, a.report.Took = len(a.report.Problems) == 0, time.Since(began)
	return a.report, nil
}

type auditor struct {
	o                 Options
	tell              func(Progress)
	door              deliveries.Counts
	models            []*model
	missing, repeated []uint64
	report            Report
	// summary is what the deliveries model has counted.
	summary deliveries.Summary
}

// model is a read model as it says it is, and what the stream says it should be.
type model struct {
	Projected
	// doubled, malformed and given are what the stream has up to Seq.
	doubled, malformed, given uint64
}

// settle waits for the read models and notes where they are.
func (a *auditor) settle(ctx context.Context) error {
	stream, err := a.o.JS.Stream(ctx, a.o.Stream)
	if err != nil {
		return fmt.Errorf("ask stream: %w", err)
	}
	head := stream.CachedInfo().State.LastSeq
	waiting, cancel := context.WithTimeout(ctx, a.o.Wait)
	defer cancel()
	counted := false
	for _, m := range a.o.Models {
		name := m.Status().Name
		if err := m.WaitFor(waiting, head); err != nil {
			if ctx.Err() != nil {
				return err
			}
			a.problem(fmt.Sprintf("%s does not come to event %d: %v", name, head, err), nil)
		}
		at := &model{Projected: Projected{Name: name}}
		err := m.View(func(tx *store.Tx) error {
			meta, _, err := store.ReadMeta(tx)
			at.Seq, at.Malformed, at.Doubled, at.Parked = meta.Seq, meta.Malformed, meta.Dropped, meta.Parked
			return err
		})
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if name == deliveries.Name {
			// It is what others know duplicates by, so it counts them itself.
			counted = true
			if a.summary, err = deliveries.Read(m); err != nil {
				return err
			}
			at.Seq, at.Doubled = a.summary.Seq, a.summary.Duplicates
		}
		a.models = append(a.models, at)
		a.report.Seq = max(a.report.Seq, at.Seq)
	}
	if !counted {
		return errNoDeliveries
	}
	return nil
}

// pass reads the whole stream and looks at one part of all ids.
func (a *auditor) pass(ctx context.Context, pass, passes int) error {
	ids := make(map[[16]byte]struct{})
	s := &a.report.Stream
	return projections.Walk(ctx, a.o.JS, a.o.Stream, a.report.Seq, func(w projections.Walked) error {
		if w.Seq%tellEvery == 0 {
			a.tell(Progress{Seq: w.Seq, Target: a.report.Seq, Pass: pass + 1, Passes: passes})
		}
		if pass == 0 {
			switch {
			case w.Missing:
				s.Missing++
				a.missing = example(a.missing, w.Seq)
			case w.Malformed != nil:
				s.Malformed++
				a.upto(w.Seq, func(m *model) { m.malformed++ })
			default:
				if w.Erased {
					s.Erased++
				} else {
					s.Events++
				}
				if w.Data.Source == sourceWebhook {
					s.Webhook++
				}
				a.upto(w.Seq, func(m *model) { m.given++ })
			}
		}
		if w.Missing || w.Malformed != nil {
			return nil
		}
		key := [16]byte(domain.IDKey(w.ID))
		if (int(key[0])<<8|int(key[1]))%passes != pass {
			return nil
		}
		if _, again := ids[key]; again {
			s.Doubled++
			a.repeated = example(a.repeated, w.Seq)
			a.upto(w.Seq, func(m *model) { m.doubled++ })
			return nil
		}
		ids[key] = struct{}{}
		return nil
	})
}

// upto changes what is expected of the models that are at seq or further.
func (a *auditor) upto(seq uint64, f func(*model)) {
	for _, m := range a.models {
		if seq <= m.Seq {
			f(m)
		}
	}
}

func example(list []uint64, seq uint64) []uint64 {
	if len(list) < maxExamples {
		list = append(list, seq)
	}
	return list
}

func (a *auditor) problem(what string, examples []uint64) {
	a.report.Problems = append(a.report.Problems, Problem{What: what, Examples: examples})
}

// compare holds the counts against each other.
func (a *auditor) compare() {
	s, d := &a.report.Stream, a.door
	if s.Missing > 0 {
		a.problem(fmt.Sprintf("%d sequences are missing from the stream and on no record of an erasure", s.Missing), a.missing)
	}
	if s.Doubled > 0 {
		a.problem(fmt.Sprintf("%d events have the id of an earlier one", s.Doubled), a.repeated)
	}
	door := &a.report.Door
	*door = Door{
		Since: d.Since, Accepted: d.Accepted, Items: d.Items, Stored: d.Stored, Duplicates: d.Duplicates(), Unreadable: d.Unreadable,
	}
	if door.Items != door.Stored+door.Duplicates {
		a.problem(fmt.Sprintf("%d items were accepted, but %d stored and %d known already", door.Items, door.Stored, door.Duplicates), nil)
	}
	switch {
	case door.Stored > s.Webhook:
		a.problem(fmt.Sprintf("%d items were stored since %s, the stream has %d: an older stream was restored, or events were lost",
			door.Stored, door.Since.Format(time.RFC3339), s.Webhook), nil)
	default:
		door.Uncounted = s.Webhook - door.Stored
	}
	for _, m := range a.models {
		a.report.Models = append(a.report.Models, m.Projected)
		if m.Malformed != m.malformed {
			a.problem(fmt.Sprintf("%s counts %d messages that are no events, the stream has %d up to event %d", m.Name, m.Malformed, m.malformed, m.Seq), nil)
		}
		if m.Doubled != m.doubled {
			a.problem(fmt.Sprintf("%s left %d events out as doubled, the stream has %d up to event %d", m.Name, m.Doubled, m.doubled, m.Seq), nil)
		}
		if m.Name == deliveries.Name && a.summary.Events+m.Doubled+m.Parked != m.given {
			a.problem(fmt.Sprintf("%s counts %d events and %d doubled, the stream has %d up to event %d", m.Name, a.summary.Events, m.Doubled, m.given, m.Seq), nil)
		}
		if m.Parked > 0 {
			a.problem(fmt.Sprintf("%s has not taken in %d events, which are parked; type: pagestream deadletters list", m.Name, m.Parked), nil)
		}
	}
	slices.SortFunc(a.report.Models, func(x, y Projected) int { return cmp.Compare(x.Name, y.Name) })
}
