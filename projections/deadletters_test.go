package projections_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

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
		require.NoError(t, err)
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
	require.NoError(t, err)
	return out.Equal && out.Was != ""
}

// TestPoisonedEventsAreParked checks that an event that can't be applied is parked with
// the later ones of its conversation, and that other events are applied. Redriving and
// discarding keep the order, and a rebuild carries out every decision at the same
// position.
func TestPoisonedEventsAreParked(t *testing.T) {
	t.Parallel()
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
			require.Equal(t, projections.StateLive, s.State)
			require.Equal(t, uint64(2*50), s.Parked)
			list, seqs := deadLetters(t, run)
			require.Len(t, seqs, 100)
			require.Equal(t, uint64(1001), seqs[0])
			require.Equal(t, uint64(1021), seqs[1])
			require.Equal(t, uint64(1001), list[1].Behind)
			require.Equal(t, projections.DefaultAttempts, list[0].Attempts)
			require.Zero(t, list[0].Behind)
			require.NotEmpty(t, list[0].Error)
			require.Equal(t, "chain", list[0].Projection)
			require.Equal(t, domain.PageID("100"), list[0].Page)
			require.Equal(t, uint64(1900), count(t, run))
			require.True(t, rebuilt(t, run), "a rebuild parks other events")
			// A redrive that fails again keeps the order.
			out, err := run.Decide(t.Context(), streams.Decision{Action: streams.Redrive, Page: "100"})
			require.NoError(t, err)
			require.Equal(t, 1, out.Heads)
			require.Zero(t, out.Applied)
			require.Equal(t, uint64(100), out.Parked)
			// After a discard the rest of the conversation is applied, in order.
			out, err = run.Decide(t.Context(), streams.Decision{Action: streams.Discard, Event: 1001, Reason: "no use"})
			require.NoError(t, err)
			require.Equal(t, uint64(1), out.Discarded)
			require.Equal(t, uint64(49), out.Applied)
			require.Equal(t, uint64(50), out.Parked)
			last = srv.store(t, all[2000:]...)
			wait(t, run, last)
			// The conversation of 1001 waits for 2021 now, that of 1002 for 1002.
			s = run.Status()
			require.Equal(t, uint64(50+50+49), s.Parked)
			require.Equal(t, uint64(1), s.Discarded)
			require.True(t, rebuilt(t, run), "a rebuild has another result")
			v, err := run.Verify(t.Context(), nil)
			require.NoError(t, err)
			require.True(t, v.Equal)
			_, err = run.Decide(t.Context(), streams.Decision{Action: streams.Discard, Event: 7})
			require.ErrorIs(t, err, projections.ErrNoDeadLetter, "decide about an event that is not parked")
			// When the projection works again, all events are applied, and none is left.
			failing.Store(false)
			heads, err := run.About(streams.Decision{})
			require.NoError(t, err)
			require.Len(t, heads, 2)
			out, err = run.Decide(t.Context(), streams.Decision{Action: streams.Redrive})
			require.NoError(t, err)
			require.Equal(t, uint64(149), out.Applied)
			require.Zero(t, out.Parked)
			require.Equal(t, uint64(2999), count(t, run))
			before := digest(t, run)
			require.NoError(t, run.Close())
			// The decisions are recorded: the next start does not carry them out again.
			again := start(t, srv.runner(t, poisoned(&failing, kind), withAttempts))
			wait(t, again, last)
			require.Equal(t, before, digest(t, again), "another start changes the read model")
			require.Equal(t, uint64(1), again.Status().Discarded, "another start changes the read model")
		})
	}
}

// TestPoisonedEventBlocksOnlyItsConversation checks that one bad event among 100,000
// (10,000 under the race detector) of 50 pages delays its own conversation and no other.
func TestPoisonedEventBlocksOnlyItsConversation(t *testing.T) {
	t.Parallel()
	n := streamstest.Volume(100_000, 10_000)
	if testing.Short() {
		t.Skip("100,000 events")
	}
	srv := newTestServer(t)
	var failing atomic.Bool
	failing.Store(true)
	run := start(t, srv.runner(t, poisoned(&failing, "panic", uint64(n/2+1)), withAttempts))
	last := srv.store(t, conversationEvents(n, 50, 20)...)
	ctx, cancel := context.WithTimeout(t.Context(), 5*limit)
	defer cancel()
	require.NoError(t, run.WaitFor(ctx, last))
	s := run.Status()
	parked := n / 2 / (50 * 20)
	require.Equal(t, uint64(parked), s.Parked)
	require.Equal(t, projections.StateLive, s.State)
	require.Equal(t, uint64(n-parked), count(t, run))
}

// TestStoredDecisionIsCarriedOutAtTheNextStart checks that a decision is carried out if
// the process ended just after it was stored.
func TestStoredDecisionIsCarriedOutAtTheNextStart(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	var failing atomic.Bool
	failing.Store(true)
	run := start(t, srv.runner(t, poisoned(&failing, "unfit", 3), withAttempts))
	last := srv.store(t, conversationEvents(40, 1, 2)...)
	wait(t, run, last)
	require.NoError(t, run.Close())
	_, err := streams.Decide(t.Context(), srv.JS, streams.Name, streams.Decision{
		Projection: "chain", After: last, Action: streams.Discard, Event: 3,
	})
	require.NoError(t, err)
	again := start(t, srv.runner(t, poisoned(&failing, "unfit", 3), withAttempts))
	streamstest.Eventually(t, limit, func() error {
		if s := again.Status(); s.Parked != 0 || s.Discarded != 1 {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
	require.True(t, rebuilt(t, again), "a rebuild has another result")
}

// TestErasureRemovesParkedEvents checks that parked events are erased with their
// contact, and that nothing of them is left.
func TestErasureRemovesParkedEvents(t *testing.T) {
	t.Parallel()
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
			require.NoError(t, err)
			erasure.Events = append(erasure.Events, domain.NewTombstone(e, stored.Seq, stored.At))
			seqs = append(seqs, stored.Seq)
		}
	}
	failing.Store(false)
	last = srv.store(t, domain.Event{
		ID: "gone", Type: domain.ContactErased, Page: "100", Data: domain.Data{Erasure: erasure},
	})
	every := func(streams.Stored) bool { return true }
	_, err := streams.Erase(context.Background(), srv.JS, streams.Name, seqs, every)
	require.NoError(t, err)
	wait(t, run, last)
	require.Zero(t, run.Status().Parked)
	require.Equal(t, uint64(7), count(t, run))
	err = run.View(func(tx *store.Tx) error {
		return tx.Bucket("_parked").ForEachPrefix(nil, func(k, v []byte) error { return fmt.Errorf("left: %q", k) })
	})
	require.NoError(t, err)
}

// TestDecisionsAreDeletedWithTheStream checks that decisions about the events of a
// deleted stream do not apply to a new stream.
func TestDecisionsAreDeletedWithTheStream(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	last := srv.store(t, conversationEvents(5, 1, 1)...)
	_, err := streams.Decide(t.Context(), srv.JS, streams.Name, streams.Decision{
		Projection: "chain", After: last, Action: streams.Discard, Event: 3,
	})
	require.NoError(t, err)
	list, err := streams.Decisions(t.Context(), srv.JS, streams.Name, "chain")
	require.NoError(t, err)
	require.Len(t, list, 1)
	list, err = streams.Decisions(t.Context(), srv.JS, streams.Name, "other")
	require.NoError(t, err)
	require.Empty(t, list)
	srv.DeleteStream(t, streams.Name)
	srv.Stream(t, streams.Spec{})
	srv.store(t, events(9)...)
	list, err = streams.Decisions(t.Context(), srv.JS, streams.Name, "chain")
	require.NoError(t, err)
	require.Empty(t, list)
}

// lanes keeps the order of the events of each conversation, as the program's read models do.
type lanes struct{ chain }

func (l *lanes) Apply(tx *store.Tx, e streams.Stored) error {
	if err := l.hook(e); err != nil {
		return err
	}
	b, key := tx.Bucket("lanes"), []byte(string(e.Page)+"/"+string(e.Contact))
	sum := sha256.Sum256(fmt.Appendf(b.Get(key), "%d %s", e.Seq, e.ID))
	return b.Put(key, sum[:])
}

// TestDecisionsReachOtherNodes checks that a decision about dead letters is carried out by the read models of other
// nodes without a restart, that decisions of several nodes are carried out in one order, and that a rebuild on each
// node has the same result.
func TestDecisionsReachOtherNodes(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	var failing atomic.Bool
	failing.Store(true)
	bad := []uint64{3, 4, 5, 6, 7, 8, 9, 10}
	var nodes []*projections.Runner
	for range 2 {
		dir := t.TempDir()
		own := func(o *projections.RunnerOptions) { o.Dir = dir }
		p := &lanes{chain{name: "lanes", version: 1, hook: poisoned(&failing, "unfit", bad...).hook}}
		nodes = append(nodes, start(t, srv.runner(t, p, withAttempts, own)))
	}
	half := streamstest.Volume(1000, 400)
	all := conversationEvents(2*half, 5, 4)
	last := srv.store(t, all[:half]...)
	for _, r := range nodes {
		wait(t, r, last)
	}
	out, err := nodes[0].Decide(t.Context(), streams.Decision{Action: streams.Discard, Event: 3})
	require.NoError(t, err)
	require.EqualValues(t, 1, out.Discarded)
	same := func(discarded uint64) {
		t.Helper()
		streamstest.Eventually(t, limit, func() error {
			for i, r := range nodes {
				if s := r.Status(); s.Discarded != discarded {
					return fmt.Errorf("node %d has discarded %d, not %d", i, s.Discarded, discarded)
				}
			}
			return nil
		})
	}
	same(1)

	// Both decide at the same time, while events arrive.
	var deciding sync.WaitGroup
	deciding.Go(func() {
		for _, e := range all[half:] {
			srv.store(t, e)
		}
	})
	for i, r := range nodes {
		deciding.Go(func() {
			for n := 1 + i; n < len(bad); n += 2 {
				_, err := r.Decide(t.Context(), streams.Decision{Action: streams.Discard, Event: bad[n]})
				assert.NoError(t, err)
			}
		})
	}
	deciding.Wait()
	for _, r := range nodes {
		wait(t, r, last+uint64(half))
	}
	same(uint64(len(bad)))
	require.Equal(t, digest(t, nodes[0]), digest(t, nodes[1]), "the nodes' read models differ")
	for i, r := range nodes {
		require.Zero(t, r.Status().Parked)
		require.True(t, rebuilt(t, r), "a rebuild of node %d has another result", i)
	}
}
