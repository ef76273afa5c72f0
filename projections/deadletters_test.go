package projections_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// parking is how a program runs its read models.
func parking(o *projections.RunnerOptions) { o.Attempts = projections.DefaultAttempts }

// talk makes events of several pages and contacts, in turn.
func talk(n, pages, contacts int) []domain.Event {
	list := make([]domain.Event, n)
	for i := range list {
		list[i] = domain.Event{
			ID: fmt.Sprint("t", i), Type: domain.MessageReceived, Page: domain.PageID(fmt.Sprint(100 + i%pages)),
			Contact: domain.ContactID(fmt.Sprint(30 + i/pages%contacts)),
		}
	}
	return list
}

// poisoned is a chain that can't apply some events, while it is sick.
func poisoned(sick *atomic.Bool, kind string, bad ...uint64) *chain {
	return &chain{name: "chain", version: 1, hook: func(e streams.Stored) error {
		for _, seq := range bad {
			if e.Seq != seq || !sick.Load() {
				continue
			}
			if kind == "panic" {
				panic("secret text")
			}
			return fmt.Errorf("no such field: %w", projections.ErrUnfit)
		}
		return nil
	}}
}

func deadLetters(t testing.TB, r *projections.Runner) (list []projections.DeadLetter, seqs []uint64) {
	t.Helper()
	for {
		var after projections.DeadLetter
		if len(list) > 0 {
			after = list[len(list)-1]
		}
		more, err := r.DeadLetters(after, 7)
		if err != nil {
			t.Fatal(err)
		}
		if len(more) == 0 {
			return list, seqs
		}
		for _, d := range more {
			seqs = append(seqs, d.Seq)
		}
		list = append(list, more...)
	}
}

// rebuilt rebuilds and says whether the read model is the same as before.
func rebuilt(t testing.TB, r *projections.Runner) bool {
	t.Helper()
	out, err := r.Rebuild(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return out.Equal && out.Was != ""
}

// TestPoison: what can't be applied is parked, its conversation waits behind it,
// everything else goes on; redriving and discarding keep the order, and a rebuild
// takes every decision at the same place.
func TestPoison(t *testing.T) {
	for _, kind := range []string{"panic", "unfit"} {
		t.Run(kind, func(t *testing.T) {
			r := newRig(t)
			var sick atomic.Bool
			sick.Store(true)
			all := talk(3000, 5, 4) // a conversation has every 20th
			run := start(t, r.runner(t, poisoned(&sick, kind, 1001, 1002, 2021), parking))
			last := r.store(t, all[:2000]...)
			wait(t, run, last)
			s := run.Status()
			if s.State != projections.StateLive || s.Parked != 2*50 {
				t.Fatalf("status %+v", s)
			}
			list, seqs := deadLetters(t, run)
			if len(seqs) != 100 || seqs[0] != 1001 || seqs[1] != 1021 || list[1].Behind != 1001 || list[0].Attempts != projections.DefaultAttempts ||
				list[0].Behind != 0 || list[0].Error == "" || list[0].Projection != "chain" || list[0].Page != "100" {
				t.Errorf("%+v", list[:2])
			}
			if n := count(t, run); n != 1900 {
				t.Errorf("%d events applied", n)
			}
			if !rebuilt(t, run) {
				t.Error("a rebuild parks other events")
			}
			// Redriven in vain: the order stays.
			out, err := run.Decide(t.Context(), streams.Decision{Action: streams.Redrive, Page: "100"})
			if err != nil || out.Heads != 1 || out.Applied != 0 || out.Parked != 100 {
				t.Errorf("%+v, %v", out, err)
			}
			// Discarded: the rest of the conversation is applied, in order.
			out, err = run.Decide(t.Context(), streams.Decision{Action: streams.Discard, Event: 1001, Reason: "no use"})
			if err != nil || out.Discarded != 1 || out.Applied != 49 || out.Parked != 50 {
				t.Errorf("%+v, %v", out, err)
			}
			last = r.store(t, all[2000:]...)
			wait(t, run, last)
			// 1001's conversation has its second poisoned event; 1002's has its first.
			if s := run.Status(); s.Parked != 50+50+49 || s.Discarded != 1 {
				t.Errorf("status %+v", s)
			}
			if !rebuilt(t, run) {
				t.Error("a rebuild decides otherwise")
			}
			if v, err := run.Verify(t.Context(), nil); err != nil || !v.Equal {
				t.Errorf("%+v, %v", v, err)
			}
			if _, err := run.Decide(t.Context(), streams.Decision{Action: streams.Discard, Event: 7}); !errors.Is(err, projections.ErrNoDeadLetter) {
				t.Errorf("nothing to decide: %v", err)
			}
			// Mended: all of it is applied, and nothing is left.
			sick.Store(false)
			heads, err := run.About(streams.Decision{})
			if err != nil || len(heads) != 2 {
				t.Errorf("%+v, %v", heads, err)
			}
			out, err = run.Decide(t.Context(), streams.Decision{Action: streams.Redrive})
			if err != nil || out.Applied != 149 || out.Parked != 0 {
				t.Errorf("%+v, %v", out, err)
			}
			if n := count(t, run); n != 2999 {
				t.Errorf("%d events applied", n)
			}
			before := digest(t, run)
			if err := run.Close(); err != nil {
				t.Fatal(err)
			}
			// The decisions are on record: the next start does not take them again.
			again := start(t, r.runner(t, poisoned(&sick, kind), parking))
			wait(t, again, last)
			if digest(t, again) != before || again.Status().Discarded != 1 {
				t.Error("another start changes what was decided")
			}
		})
	}
}

// TestPoisonAmongMany: one bad event among 100,000 of 50 pages holds up its own
// conversation and no other.
func TestPoisonAmongMany(t *testing.T) {
	const n = 100_000
	if testing.Short() {
		t.Skip("100,000 events")
	}
	r := newRig(t)
	var sick atomic.Bool
	sick.Store(true)
	run := start(t, r.runner(t, poisoned(&sick, "panic", 50_001), parking))
	last := r.store(t, talk(n, 50, 20)...)
	wait(t, run, last)
	if s := run.Status(); s.Parked != 50 || s.State != projections.StateLive {
		t.Errorf("status %+v", s)
	}
	if applied := count(t, run); applied != n-50 {
		t.Errorf("%d events applied", applied)
	}
}

// TestDecisionCutOff: a decision that was stored, after which the process was
// gone, is carried out at the next start.
func TestDecisionCutOff(t *testing.T) {
	r := newRig(t)
	var sick atomic.Bool
	sick.Store(true)
	run := start(t, r.runner(t, poisoned(&sick, "unfit", 3), parking))
	last := r.store(t, talk(40, 1, 2)...)
	wait(t, run, last)
	if err := run.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := streams.Decide(t.Context(), r.JS, streams.Name, streams.Decision{
		Projection: "chain", After: last, Action: streams.Discard, Event: 3,
	})
	if err != nil {
		t.Fatal(err)
	}
	again := start(t, r.runner(t, poisoned(&sick, "unfit", 3), parking))
	streamstest.Eventually(t, limit, func() error {
		if s := again.Status(); s.Parked != 0 || s.Discarded != 1 {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
	if !rebuilt(t, again) {
		t.Error("a rebuild decides otherwise")
	}
}

// TestParkedIsErased: what waits is erased with its contact, and nobody can tell
// from what is left.
func TestParkedIsErased(t *testing.T) {
	r := newRig(t)
	var sick atomic.Bool
	sick.Store(true)
	run := start(t, r.runner(t, poisoned(&sick, "unfit", 1), parking))
	all := talk(6, 1, 2)
	last := r.store(t, all...)
	wait(t, run, last)
	erasure := &domain.Erasure{Contact: domain.ContactHash("30"), Part: 1, Parts: 1}
	var seqs []uint64
	for i, e := range all {
		if e.Contact == "30" {
			stored, err := streams.Get(t.Context(), r.JS, streams.Name, uint64(i+1))
			if err != nil {
				t.Fatal(err)
			}
			erasure.Events = append(erasure.Events, domain.NewTombstone(e, stored.Seq, stored.At))
			seqs = append(seqs, stored.Seq)
		}
	}
	sick.Store(false)
	last = r.store(t, domain.Event{ID: "gone", Type: domain.ContactErased, Page: "100", Data: domain.Data{Erasure: erasure}})
	if _, err := streams.Erase(context.Background(), r.JS, streams.Name, seqs, func(streams.Stored) bool { return true }); err != nil {
		t.Fatal(err)
	}
	wait(t, run, last)
	if s := run.Status(); s.Parked != 0 {
		t.Errorf("status %+v", s)
	}
	if n := count(t, run); n != 7 {
		t.Errorf("%d events applied", n)
	}
	err := run.View(func(tx *store.Tx) error {
		return tx.Bucket("_parked").ForEachPrefix(nil, func(k, v []byte) error { return fmt.Errorf("left: %q", k) })
	})
	if err != nil {
		t.Error(err)
	}
}

// TestDecisionOfAnotherStream: the stream was deleted and made again; what was
// decided about the old one's events is not about the new one's.
func TestDecisionOfAnotherStream(t *testing.T) {
	r := newRig(t)
	last := r.store(t, talk(5, 1, 1)...)
	if _, err := streams.Decide(t.Context(), r.JS, streams.Name, streams.Decision{Projection: "chain", After: last, Action: streams.Discard, Event: 3}); err != nil {
		t.Fatal(err)
	}
	if list, err := streams.Decisions(t.Context(), r.JS, streams.Name, "chain"); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	if list, err := streams.Decisions(t.Context(), r.JS, streams.Name, "other"); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if err := r.JS.DeleteStream(t.Context(), streams.Name); err != nil {
		t.Fatal(err)
	}
	r.Stream(t, streams.Spec{})
	r.store(t, events(9)...)
	if list, err := streams.Decisions(t.Context(), r.JS, streams.Name, "chain"); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
}
