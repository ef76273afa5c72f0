// Package audit checks pagestream's guarantees over the whole stream: each item of a
// delivery that was answered 200 is in the stream exactly once, no sequence is
// missing except erased ones, the counts of every read model agree with the stream, and
// its rows with a replay: of all events or, in a long stream, of some pages.
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
	"github.com/pagestream/pagestream/streams"
)

const (
	// perPass bounds the ids that are in memory at once: about 50 bytes each. A
	// longer stream is read more than once.
	perPass = 8 << 20
	// maxExamples bounds the sequences that a problem lists.
	maxExamples = 20
	// progressEvery is how often progress is reported, in events.
	progressEvery = 4096
	// defaultWait bounds the wait for a read model that is behind.
	defaultWait = 2 * time.Minute
)

// Options of an audit. JS, Stream, Models, and Ledger are required.
type Options struct {
	JS     jetstream.JetStream
	Stream string
	// Models are the read models. The deliveries model must be one of them.
	Models []projections.Model
	// Ledger returns the counts of the webhook endpoint.
	Ledger func() deliveries.Counts
	// Others, if not nil, returns the counts of the webhook endpoints of other nodes. They may be less than what
	// these have stored, and not more.
	Others func(context.Context) ([]deliveries.Published, error)
	// Wait bounds the wait for a read model that is behind, by default two
	// minutes.
	Wait time.Duration
	// PerPass is the largest number of ids in memory, by default 8 million.
	PerPass uint64
	// Full compares all rows of each read model with a replay of the whole stream. Otherwise
	// that is done only for a stream of at most Sample events, by default 100,000; in a
	// longer one, the rows of pages chosen at random are compared with a replay of at most
	// as many events.
	Full   bool
	Sample uint64
}

// Progress is the progress of an audit: the current sequence of the current pass over the
// stream, or of the replay for a read model.
type Progress struct {
	// Model is the read model whose rows are compared, empty during the passes.
	Model  string `json:"model,omitempty"`
	Seq    uint64 `json:"seq"`
	Target uint64 `json:"target"`
	Pass   int    `json:"pass"`
	Passes int    `json:"passes"`
}

// Report is the result of an audit.
type Report struct {
	// OK is set if there is no problem.
	OK bool `json:"ok"`
	// Seq is the sequence up to which the stream was read.
	Seq    uint64        `json:"seq"`
	Took   time.Duration `json:"took_ns"`
	Stream Stream        `json:"stream"`
	Intake Intake        `json:"door"`
	// Others are the counts of the webhook endpoints of other nodes.
	Others []Door        `json:"others,omitempty"`
	Models []ModelCounts `json:"models"`
	// Problems is empty where OK is true.
	Problems []Problem `json:"problems,omitempty"`
}

// Stream contains the counts of the stream.
// Report.Seq = Events + Erased + Malformed + Missing.
type Stream struct {
	Events    uint64 `json:"events"`
	Erased    uint64 `json:"erased"`
	Malformed uint64 `json:"malformed"`
	// Missing counts the sequences that are neither in the stream nor recorded as
	// erased.
	Missing uint64 `json:"missing"`
	// Accepted counts those of Missing whose loss was accepted, which is no problem.
	Accepted uint64 `json:"accepted,omitempty"`
	// Repeated counts the events that have the id of an earlier event.
	Repeated uint64 `json:"doubled"`
	// Webhook counts the events that were received by the webhook, with erased ones.
	Webhook uint64 `json:"webhook"`
}

// Intake contains the counts of the webhook endpoint since Since: Accepted counts the
// deliveries that were answered 200, Items their items, Stored the items that became
// events, Duplicates those that were stored before, and Unreadable the deliveries
// that are not JSON; each of these is one item. Items = Stored + Duplicates.
type Intake struct {
	Since      time.Time `json:"since,omitzero"`
	Accepted   uint64    `json:"accepted"`
	Items      uint64    `json:"items"`
	Stored     uint64    `json:"stored"`
	Duplicates uint64    `json:"duplicates"`
	Unreadable uint64    `json:"unreadable"`
	// LastSeq is the highest sequence of an item of an accepted delivery.
	LastSeq uint64 `json:"last_seq,omitempty"`
	// Uncounted counts the webhook events in the stream that no ledger has counted: from
	// before Since, from another node that has not published its counts, or from the last
	// second before a crash. So many lost events could not be noticed by the counts alone.
	Uncounted uint64 `json:"uncounted"`
}

// Door has the counts of the webhook endpoint of another node, as published at At.
type Door struct {
	Ledger string    `json:"ledger"`
	Node   string    `json:"node"`
	At     time.Time `json:"at"`
	Intake
}

// ModelCounts contains the counts of one read model, as of its event Seq.
type ModelCounts struct {
	Name string `json:"name"`
	Seq  uint64 `json:"seq"`
	// Repeated counts the events that it skipped because an earlier event has their
	// id.
	Repeated  uint64 `json:"doubled"`
	Malformed uint64 `json:"malformed"`
	// Parked counts the events that it could not handle, and those that wait behind
	// them.
	Parked uint64 `json:"parked"`
	// Rows is which rows were compared with a replay.
	Rows Rows `json:"rows"`
}

// Problem is one violation of the guarantees.
type Problem struct {
	What string `json:"what"`
	// Examples are the sequences of the first events concerned, at most 20.
	Examples []uint64 `json:"examples,omitempty"`
}

// errNoDeliveries is returned when Options.Models has no deliveries model.
var errNoDeliveries = errors.New("no deliveries model among the models")

// Run audits the stream from its first event up to the position of the read models.
// It may run on a live server: events that are stored in the meantime are not
// included. It changes nothing. It returns an error if the audit could not be done;
// violations are listed in the report and are no error. Progress may be nil.
func Run(ctx context.Context, o Options, progress func(Progress)) (Report, error) {
	o.Wait = cmp.Or(o.Wait, defaultWait)
	o.PerPass = cmp.Or(o.PerPass, perPass)
	if progress == nil {
		progress = func(Progress) {}
	}
	began := time.Now()
	a := &auditor{o: o, progress: progress}
	// The ledger is read first: all that it counts as stored is in the stream then.
	a.ledger = o.Ledger()
	if o.Others != nil {
		var err error
		if a.others, err = o.Others(ctx); err != nil {
			return Report{}, err
		}
	}
	if err := a.readModels(ctx); err != nil {
		return Report{}, err
	}
	var err error
	if a.accepted, err = streams.AcceptedLosses(ctx, o.JS, o.Stream); err != nil {
		return Report{}, err
	}
	passes := max(1, int((a.report.Seq+o.PerPass-1)/o.PerPass))
	for pass := range passes {
		if err := a.readStream(ctx, pass, passes); err != nil {
			return Report{}, fmt.Errorf("read stream: %w", err)
		}
	}
	if err := a.compareRows(ctx); err != nil {
		return Report{}, err
	}
	a.compare()
	a.report.OK, a.report.Took = len(a.report.Problems) == 0, time.Since(began)
	return a.report, nil
}

type auditor struct {
	o                 Options
	progress          func(Progress)
	ledger            deliveries.Counts
	others            []deliveries.Published
	models            []*model
	missing, repeated []uint64
	accepted          []streams.Range
	report            Report
	last              uint64 // sequence of the stream
	// summary contains the counts of the deliveries model.
	summary deliveries.Summary
}

// model contains the actual counts of a read model, and the expected ones.
type model struct {
	ModelCounts
	// repeated, malformed and events are the stream's counts up to Seq.
	repeated, malformed, events uint64
	discarded                   uint64 // parked events that an operator discarded
	of                          projections.Model
}

// readModels waits for the read models and reads their positions and counts.
func (a *auditor) readModels(ctx context.Context) error {
	stream, err := a.o.JS.Stream(ctx, a.o.Stream)
	if err != nil {
		return fmt.Errorf("read stream info: %w", err)
	}
	head := stream.CachedInfo().State.LastSeq
	a.last = head
	waiting, cancel := context.WithTimeout(ctx, a.o.Wait)
	defer cancel()
	counted := false
	for _, m := range a.o.Models {
		name := m.Status().Name
		if why := m.Status().Damaged; why != "" {
			a.damaged(name, why)
			counted = counted || name == deliveries.Name
			continue
		}
		if err := m.WaitFor(waiting, head); err != nil {
			if ctx.Err() != nil {
				return err
			}
			a.problem(fmt.Sprintf("%s does not reach event %d: %v", name, head, err), nil)
		}
		at := &model{ModelCounts: ModelCounts{Name: name}}
		err := m.View(func(tx *store.Tx) error {
			meta, _, err := store.ReadMeta(tx)
			at.Seq, at.Malformed, at.Repeated, at.Parked = meta.Seq, meta.Malformed, meta.Dropped, meta.Parked
			at.discarded = meta.Discarded
			return err
		})
		var found *projections.DamagedError
		if errors.As(err, &found) {
			a.damaged(name, found.Why)
			counted = counted || name == deliveries.Name
			continue
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		at.of = m
		if name == deliveries.Name {
			// It is the index by which the other models detect duplicates, so it counts
			// them itself.
			counted = true
			if a.summary, err = deliveries.Read(m); err != nil {
				return err
			}
			at.Seq, at.Repeated = a.summary.Seq, a.summary.Duplicates
		}
		a.models = append(a.models, at)
		a.report.Seq = max(a.report.Seq, at.Seq)
	}
	if !counted {
		return errNoDeliveries
	}
	return nil
}

// readStream reads the whole stream once. Each pass checks its own part of all ids
// for repetitions; the first pass counts everything else.
func (a *auditor) readStream(ctx context.Context, pass, passes int) error {
	ids := make(map[[16]byte]struct{})
	s := &a.report.Stream
	return projections.Walk(ctx, a.o.JS, a.o.Stream, a.report.Seq, func(w projections.Walked) error {
		if w.Seq%progressEvery == 0 {
			a.progress(Progress{Seq: w.Seq, Target: a.report.Seq, Pass: pass + 1, Passes: passes})
		}
		if pass == 0 {
			switch {
			case w.Missing:
				s.Missing++
				if slices.ContainsFunc(a.accepted, func(r streams.Range) bool { return r.Has(w.Seq) }) {
					s.Accepted++
				} else {
					a.missing = appendExample(a.missing, w.Seq)
				}
			case w.Malformed != nil:
				s.Malformed++
				a.expect(w.Seq, func(m *model) { m.malformed++ })
			default:
				if w.Erased {
					s.Erased++
				} else {
					s.Events++
				}
				if w.Data.Source == domain.SourceWebhook {
					s.Webhook++
				}
				a.expect(w.Seq, func(m *model) { m.events++ })
			}
		}
		if w.Missing || w.Malformed != nil {
			return nil
		}
		key := [16]byte(domain.IDKey(w.ID))
		if (int(key[0])<<8|int(key[1]))%passes != pass {
			return nil
		}
		if _, repeated := ids[key]; repeated {
			s.Repeated++
			a.repeated = appendExample(a.repeated, w.Seq)
			a.expect(w.Seq, func(m *model) { m.repeated++ })
			return nil
		}
		ids[key] = struct{}{}
		return nil
	})
}

// expect changes the expected counts of the models that are at seq or further.
func (a *auditor) expect(seq uint64, f func(*model)) {
	for _, m := range a.models {
		if seq <= m.Seq {
			f(m)
		}
	}
}

// appendExample appends seq, up to maxExamples.
func appendExample(list []uint64, seq uint64) []uint64 {
	if len(list) < maxExamples {
		list = append(list, seq)
	}
	return list
}

// damaged adds the problem of a read model that can't be read.
func (a *auditor) damaged(name, why string) {
	a.problem(fmt.Sprintf("%s can't be read and is built again: %s; audit it again when it is done", name, why), nil)
	a.report.Models = append(a.report.Models, ModelCounts{Name: name, Rows: Rows{How: NoRows, Why: "it is damaged"}})
}

func (a *auditor) problem(what string, examples []uint64) {
	a.report.Problems = append(a.report.Problems, Problem{What: what, Examples: examples})
}

// compare adds a problem for each difference between the counts.
func (a *auditor) compare() {
	s := &a.report.Stream
	if n := s.Missing - s.Accepted; n > 0 {
		a.problem(fmt.Sprintf("%d sequences are missing from the stream and not recorded as erased", n), a.missing)
	}
	if s.Repeated > 0 {
		a.problem(fmt.Sprintf("%d events have the id of an earlier one", s.Repeated), a.repeated)
	}
	a.compareDoors()
	for _, m := range a.models {
		a.report.Models = append(a.report.Models, m.ModelCounts)
		if m.Malformed != m.malformed {
			a.problem(fmt.Sprintf("%s counts %d messages that are not events, the stream has %d up to event %d",
				m.Name, m.Malformed, m.malformed, m.Seq), nil)
		}
		if m.Repeated != m.repeated {
			a.problem(fmt.Sprintf("%s skipped %d events as duplicates, the stream has %d up to event %d",
				m.Name, m.Repeated, m.repeated, m.Seq), nil)
		}
		if m.Name == deliveries.Name && a.summary.Events+m.Repeated+m.Parked != m.events {
			a.problem(fmt.Sprintf("%s counts %d events and %d duplicates, the stream has %d up to event %d",
				m.Name, a.summary.Events, m.Repeated, m.events, m.Seq), nil)
		}
		if m.Parked > 0 {
			a.problem(fmt.Sprintf("%s has not applied %d events, which are parked; type: pagestream deadletters list",
				m.Name, m.Parked), nil)
		}
	}
	slices.SortFunc(a.report.Models, func(x, y ModelCounts) int { return cmp.Compare(x.Name, y.Name) })
}

// compareDoors compares the stream with the counts of the webhook endpoints of all nodes.
func (a *auditor) compareDoors() {
	s, in := &a.report.Stream, &a.report.Intake
	*in = a.door(a.ledger, "")
	stored, last, who, since := in.Stored, in.LastSeq, "", in.Since
	for _, o := range a.others {
		d := Door{Ledger: o.Ledger, Node: o.Node, At: o.At, Intake: a.door(o.Counts, " by "+o.Node)}
		a.report.Others = append(a.report.Others, d)
		stored += d.Stored
		if d.LastSeq > last {
			last, who = d.LastSeq, " by "+d.Node
		}
		if d.Since.Before(since) {
			since = d.Since
		}
	}
	switch {
	case stored > s.Webhook+s.Accepted:
		a.problem(fmt.Sprintf(
			"%d items were stored since %s, the stream has %d: an older stream was restored, or events were lost",
			stored, since.Format(time.RFC3339), s.Webhook), nil)
	default:
		in.Uncounted = s.Webhook - min(stored, s.Webhook)
	}
	if last > a.last {
		a.problem(fmt.Sprintf("event %d was acknowledged%s, the stream ends at %d: an older stream was restored, "+
			"or events were lost", last, who, a.last), nil)
	}
}

// door returns the counts of a webhook endpoint. There is a problem if they contradict each other.
func (a *auditor) door(c deliveries.Counts, who string) Intake {
	in := Intake{
		Since: c.Since, Accepted: c.Accepted, Items: c.Items, Stored: c.Stored,
		Duplicates: c.Duplicates(), Unreadable: c.Unreadable, LastSeq: c.LastSeq,
	}
	if in.Items != in.Stored+in.Duplicates {
		a.problem(fmt.Sprintf("%d items were accepted%s, but %d stored and %d known already",
			in.Items, who, in.Stored, in.Duplicates), nil)
	}
	return in
}
