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

// withAttempts makes a runner park events that fail, as the program's runners do.
func withAttempts(o *projections.RunnerOptions) { o.Attempts = projections.DefaultAttempts }

// conversationEvents returns n events of several pages and contacts, in turn.
func conversationEvents(n, pages, contacts int) []domain.Event {
	list := make([]domain.Event, n)
	for i := range list {
		list[i] = domain.Event{
			ID: fmt.Sprint("t", i), Type: domain.MessageReceived, Page: domain.PageID(fmt.Sprint(100 + i%pages)),
			Contact: domain.ContactID(fmt.Sprint(30 + i/pages%contacts)),
		}
	}
	return list
}

// poisoned returns a chain that can't apply the bad events while failing is set.
func poisoned(failing *atomic.Bool, kind string, bad ...uint64) *chain {
	return &chain{name: "chain", version: 1, hook: func(e streams.Stored) error {
		for _, seq := range bad {
			if e.Seq != seq || !failing.Load() {
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

// deadLetters returns all dead letters, read in pages of 7, and their sequences.
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

// rebuilt rebuilds the read model and reports whether it is the same as before.
func rebuilt(t testing.TB, r *projections.Runner) bool {
	t.Helper()
	out, err := r.Rebuild(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return out.Equal && out.Was != ""
}

// TestPoisonedEventsAreParked checks that an event that can't be applied is parked with
// the later ones of its conversation, and that other events are applied. Redriving and
// discarding keep the order, and a rebuild carries out every decision at the same
// position.
func TestPoisonedEventsAreParked(t *testing.T) {
	for _, kind := range []string{"panic", "unfit"} {
		t.Run(kind, func(t *testing.T) {
			srv := newTestServer(t)
			var failing atomic.Bool
			failing.Store(true)
			all := conversationEvents(3000, 5, 4) // every 20th event is of the same conversation
			run := start(t, srv.runner(t, poisoned(&failing, kind, 1001, 1002, 2021), withAttempts))
			last := srv.store(t, all[:2000]...)
			wait(t, run, last)
			s := run.Status()
			if s.State != projections.StateLive || s.Parked != 2*50 {
				t.Fatalf("status %+v", s)
			}
			list, seqs := deadLetters(t, run)
			if len(seqs) != 100 || seqs[0] != 1001 || seqs[1] != 1021 ||
				list[1].Behind != 1001 || list[0].Attempts != projections.DefaultAttempts ||
				list[0].Behind != 0 || list[0].Error == "" || list[0].Projection != "chain" || list[0].Page != "100" {
				t.Errorf("%+v", list[:2])
			}
			if n := count(t, run); n != 1900 {
				t.Errorf("%d events applied", n)
			}
			if !rebuilt(t, run) {
				t.Error("a rebuild parks other events")
			}
			// A redrive that fails again keeps the order.
			out, err := run.Decide(t.Context(), streams.Decision{Action: streams.Redrive, Page: "100"})
			if err != nil || out.Heads != 1 || out.Applied != 0 || out.Parked != 100 {
				t.Errorf("%+v, %v", out, err)
			}
			// After a discard the rest of the conversation is applied, in order.
			out, err = run.Decide(t.Context(), streams.Decision{Action: streams.Discard, Event: 1001, Reason: "no use"})
			if err != nil || out.Discarded != 1 || out.Applied != 49 || out.Parked != 50 {
				t.Errorf("%+v, %v", out, err)
			}
			last = srv.store(t, all[2000:]...)
			wait(t, run, last)
			// The conversation of 1001 waits for 2021 now, that of 1002 for 1002.
			if s := run.Status(); s.Parked != 50+50+49 || s.Discarded != 1 {
				t.Errorf("status %+v", s)
			}
			if !rebuilt(t, run) {
				t.Error("a rebuild has another result")
			}
			if v, err := run.Verify(t.Context(), nil); err != nil || !v.Equal {
				t.Errorf("%+v, %v", v, err)
			}
			_, err = run.Decide(t.Context(), streams.Decision{Action: streams.Discard, Event: 7})
			if !errors.Is(err, projections.ErrNoDeadLetter) {
				t.Errorf("decide about an event that is not parked: %v", err)
			}
			// When the projection works again, all events are applied, and none is left.
			failing.Store(false)
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
			// The decisions are recorded: the next start does not carry them out again.
			again := start(t, srv.runner(t, poisoned(&failing, kind), withAttempts))
			wait(t, again, last)
			if digest(t, again) != before || again.Status().Discarded != 1 {
				t.Error("another start changes the read model")
			}
		})
	}
}

// TestPoisonedEventBlocksOnlyItsConversation checks that one bad event among 100,000 of
// 50 pages delays its own conversation and no other.
func TestPoisonedEventBlocksOnlyItsConversation(t *testing.T) {
	const n = 100_000
	if testing.Short() {
		t.Skip("100,000 events")
	}
	srv := newTestServer(t)
	var failing atomic.Bool
	failing.Store(true)
	run := start(t, srv.runner(t, poisoned(&failing, "panic", 50_001), withAttempts))
	last := srv.store(t, conversationEvents(n, 50, 20)...)
	wait(t, run, last)
	if s := run.Status(); s.Parked != 50 || s.State != projections.StateLive {
		t.Errorf("status %+v", s)
	}
	if applied := count(t, run); applied != n-50 {
		t.Errorf("%d events applied", applied)
	}
}

// TestStoredDecisionIsCarriedOutAtTheNextStart checks that a decision is carried out if
// the process ended just after it was stored.
func TestStoredDecisionIsCarriedOutAtTheNextStart(t *testing.T) {
	srv := newTestServer(t)
	var failing atomic.Bool
	failing.Store(true)
	run := start(t, srv.runner(t, poisoned(&failing, "unfit", 3), withAttempts))
	last := srv.store(t, conversationEvents(40, 1, 2)...)
	wait(t, run, last)
	if err := run.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := streams.Decide(t.Context(), srv.JS, streams.Name, streams.Decision{
		Projection: "chain", After: last, Action: streams.Discard, Event: 3,
	})
	if err != nil {
		t.Fatal(err)
	}
	again := start(t, srv.runner(t, poisoned(&failing, "unfit", 3), withAttempts))
	streamstest.Eventually(t, limit, func() error {
		if s := again.Status(); s.Parked != 0 || s.Discarded != 1 {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
	if !rebuilt(t, again) {
		t.Error("a rebuild has another result")
	}
}

// TestErasureRemovesParkedEvents checks that parked events are erased with their
// contact, and that nothing of them is left.
func TestErasureRemovesParkedEvents(t *testing.T) {
	srv := newTestServer(t)
	var failing atomic.Bool
	failing.Store(true)
	run := start(t, srv.runner(t, poisoned(&failing, "unfit", 1), withAttempts))
	all := conversationEvents(6, 1, 2)
	last := srv.store(t, all...)
	wait(t, run, last)
	erasure := &domain.Erasure{Contact: domain.ContactHash("30"), Part: 1, Parts: 1}
	var seqs []uint64
	for i, e := range all {
		if e.Contact == "30" {
			stored, err := streams.Get(t.Context(), srv.JS, streams.Name, uint64(i+1))
			if err != nil {
				t.Fatal(err)
			}
			erasure.Events = append(erasure.Events, domain.NewTombstone(e, stored.Seq, stored.At))
			seqs = append(seqs, stored.Seq)
		}
	}
	failing.Store(false)
	last = srv.store(t, domain.Event{
		ID: "gone", Type: domain.ContactErased, Page: "100", Data: domain.Data{Erasure: erasure},
	})
	every := func(streams.Stored) bool { return true }
	if _, err := streams.Erase(context.Background(), srv.JS, streams.Name, seqs, every); err != nil {
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

// TestDecisionsAreDeletedWithTheStream checks that decisions about the events of a
// deleted stream do not apply to a new stream.
func TestDecisionsAreDeletedWithTheStream(t *testing.T) {
	srv := newTestServer(t)
	last := srv.store(t, conversationEvents(5, 1, 1)...)
	_, err := streams.Decide(t.Context(), srv.JS, streams.Name, streams.Decision{
		Projection: "chain", After: last, Action: streams.Discard, Event: 3,
	})
	if err != nil {
		t.Fatal(err)
	}
	if list, err := streams.Decisions(t.Context(), srv.JS, streams.Name, "chain"); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	if list, err := streams.Decisions(t.Context(), srv.JS, streams.Name, "other"); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if err := srv.JS.DeleteStream(t.Context(), streams.Name); err != nil {
		t.Fatal(err)
	}
	srv.Stream(t, streams.Spec{})
	srv.store(t, events(9)...)
	if list, err := streams.Decisions(t.Context(), srv.JS, streams.Name, "chain"); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
}
