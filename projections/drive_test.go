package projections_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// TestTombstoneIsRetried checks that the event of a tombstone is applied after it failed.
// It is in no message of the stream, so it must be added again to the rest of the batch
// after the events before it were applied.
func TestTombstoneIsRetried(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	all := conversationEvents(8, 1, 1)
	srv.store(t, all...)
	const erased = 4
	stored, err := streams.Get(t.Context(), srv.JS, streams.Name, erased)
	require.NoError(t, err)
	last := srv.store(t, domain.Event{ID: "gone", Type: domain.ContactErased, Page: "100", Data: domain.Data{
		Erasure: &domain.Erasure{
			Contact: domain.ContactHash("30"), Part: 1, Parts: 1,
			Events: []domain.Tombstone{domain.NewTombstone(stored.Event, erased, stored.At)},
		},
	}})
	every := func(streams.Stored) bool { return true }
	_, err = streams.Erase(t.Context(), srv.JS, streams.Name, []uint64{erased}, every)
	require.NoError(t, err)
	var tries atomic.Int64
	run := start(t, srv.runner(t, &chain{name: "chain", version: 1, hook: func(e streams.Stored) error {
		if e.Seq == erased && tries.Add(1) <= 3 {
			return errors.New("no space left on device")
		}
		return nil
	}}, withAttempts))
	wait(t, run, last)
	require.Equal(t, last, count(t, run))
	require.True(t, rebuilt(t, run), "a rebuild has another result than the live read model")
}

// slowIndex is an index of [conversationEvents] that blocks until it is released.
type slowIndex struct {
	asked    atomic.Bool
	released chan struct{}
}

func (x *slowIndex) First(ctx context.Context, ids []string, _ uint64) ([]uint64, error) {
	x.asked.Store(true)
	select {
	case <-x.released:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	seqs := make([]uint64, len(ids))
	for i, id := range ids {
		if _, err := fmt.Sscanf(id, "t%d", &seqs[i]); err != nil {
			return nil, err
		}
		seqs[i]++
	}
	return seqs, nil
}

// TestWaitingBatchDoesNotBlockDecisions checks that decisions about dead letters and the
// swap of a rebuild do not wait for a batch that waits for the index, nor for one that
// is retried.
func TestWaitingBatchDoesNotBlockDecisions(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"idle", "waits for the index", "is tried again"} {
		t.Run(kind, func(t *testing.T) {
			srv := newTestServer(t)
			var failing, noSpace atomic.Bool
			failing.Store(true)
			p := poisoned(&failing, "unfit", 2)
			unfit := p.hook
			p.hook = func(e streams.Stored) error {
				if e.Seq == 5 && noSpace.Load() {
					return errors.New("no space left on device")
				}
				return unfit(e)
			}
			all := conversationEvents(6, 1, 1)
			last := srv.store(t, all[:4]...)
			index := &slowIndex{released: make(chan struct{})}
			close(index.released)
			run := srv.runner(t, p, withAttempts, func(o *projections.RunnerOptions) { o.Dedup = index })
			start(t, run)
			wait(t, run, last)
			require.Equal(t, uint64(3), run.Status().Parked)
			switch kind {
			case "waits for the index":
				index.released = make(chan struct{})
				index.asked.Store(false)
				last = srv.store(t, all[4:]...)
				streamstest.Eventually(t, limit, func() error {
					if !index.asked.Load() {
						return errors.New("the index was not asked")
					}
					return nil
				})
			case "is tried again":
				noSpace.Store(true)
				other := all[4]
				other.Contact = "77" // otherwise it would wait for event 2
				last = srv.store(t, other, all[5])
				streamstest.Eventually(t, limit, func() error {
					if s := run.Status(); s.State != projections.StateFailing || s.FailingSeq != 5 {
						return fmt.Errorf("status %+v", s)
					}
					return nil
				})
			}
			failing.Store(false)
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			out, err := run.Decide(ctx, streams.Decision{Action: streams.Redrive})
			require.NoError(t, err)
			require.Equal(t, uint64(3), out.Applied)
			require.Zero(t, out.Parked)
			noSpace.Store(false)
			if kind == "waits for the index" {
				close(index.released)
			}
			wait(t, run, last)
			require.Equal(t, last, count(t, run))
			require.True(t, rebuilt(t, run), "a rebuild has another result")
		})
	}
}

// TestRebuildsBetweenTransactionsLoseNoEvents rebuilds many times while batches of
// several transactions are applied: a swap must not lose an event or apply it twice.
func TestRebuildsBetweenTransactionsLoseNoEvents(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	var failing atomic.Bool
	failing.Store(true)
	all := conversationEvents(4000, 3, 5)
	var bad []uint64
	for seq := uint64(50); seq < 4000; seq += 100 {
		bad = append(bad, seq)
	}
	pace := func(o *projections.RunnerOptions) { o.Pace = 20 * time.Millisecond }
	run := start(t, srv.runner(t, poisoned(&failing, "unfit", bad...), withAttempts, pace))
	var last uint64
	swaps := 0
	for at := 0; at < len(all); at += 500 {
		last = srv.store(t, all[at:at+500]...)
		if rebuilt(t, run) {
			swaps++
		}
	}
	wait(t, run, last)
	require.Equal(t, last, uint64(run.Status().Parked)+count(t, run))
	require.NotZero(t, swaps)
	require.True(t, rebuilt(t, run))
	failing.Store(false)
	out, err := run.Decide(t.Context(), streams.Decision{Action: streams.Redrive})
	require.NoError(t, err)
	require.Zero(t, out.Parked)
	require.Equal(t, last, count(t, run))
}
