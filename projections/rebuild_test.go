package projections_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// count returns how many events the chain in the read model has.
func count(t testing.TB, v projections.Viewer) (n uint64) {
	t.Helper()
	err := v.View(func(tx *store.Tx) error {
		n = store.ToUint64(tx.Bucket("chain").Get([]byte("count")))
		return nil
	})
	assert.NoError(t, err)
	return n
}

// files returns the names of the files in a directory.
func files(t testing.TB, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, f := range list {
		names = append(names, f.Name())
	}
	return names
}

// TestRebuildWhileEventsAreAppliedAndRead rebuilds the read model three times while
// events are stored and the read model is read: no read fails or goes back to an older
// position, and the final state is the fold of all events.
func TestRebuildWhileEventsAreAppliedAndRead(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	first := streamstest.Volume(4000, 1000)
	all := events(3 * first)
	run := start(t, srv.runner(t, &chain{name: "chain", version: 1}))
	wait(t, run, srv.store(t, all[:first]...))
	var busy sync.WaitGroup
	stop := make(chan struct{})
	var reads atomic.Int64
	busy.Go(func() {
		for last := uint64(0); ; reads.Add(1) {
			select {
			case <-stop:
				return
			default:
			}
			n := count(t, run)
			if !assert.GreaterOrEqual(t, n, last, "a read went back") {
				return
			}
			last = n
		}
	})
	busy.Go(func() {
		for i := first; i < len(all); i += 50 {
			srv.store(t, all[i:i+50]...)
		}
	})
	var phases []projections.Phase
	for range 3 {
		out, err := run.Rebuild(t.Context(), func(p projections.Rebuilding) {
			if n := len(phases); n == 0 || phases[n-1] != p.Phase {
				phases = append(phases, p.Phase)
			}
		})
		require.NoError(t, err)
		require.True(t, out.Equal)
		require.NotEmpty(t, out.Was)
		require.GreaterOrEqual(t, out.Seq, out.VerifiedSeq)
		require.GreaterOrEqual(t, out.VerifiedSeq, uint64(first))
	}
	require.Len(t, phases, 9)
	require.Equal(t, projections.PhaseVerify, phases[1])
	require.Equal(t, projections.PhaseCatchUp, phases[2])
	wait(t, run, uint64(len(all)))
	close(stop)
	busy.Wait()
	require.Equal(t, want(t, &chain{name: "chain"}, all), digest(t, run),
		"the read model is not the fold of the stream")
	require.Nil(t, run.Status().Rebuild, "the status still has a rebuild")
	t.Logf("%d reads", reads.Load())
	got := files(t, srv.dir)
	require.Len(t, got, 2)
	require.Equal(t, "chain.db", got[0])
	require.Equal(t, "chain.db.previous", got[1])
	// The new file is what the next start opens, without another rebuild.
	require.NoError(t, run.Close())
	p := &chain{name: "chain", version: 1}
	again := start(t, srv.runner(t, p))
	wait(t, again, uint64(len(all)))
	require.Zero(t, p.applied.Load())
	require.Empty(t, again.Status().Rebuilt)
}

// largeRows is a projection with rows of 1 MiB that counts its transactions.
type largeRows struct {
	last *store.Tx
	txs  int
	full bool
}

func (p *largeRows) Name() string { return "large" }
func (p *largeRows) Version() int { return 1 }

func (p *largeRows) Apply(tx *store.Tx, e streams.Stored) error {
	if tx != p.last {
		p.last, p.txs = tx, p.txs+1
	}
	p.full = p.full || tx.Full()
	return tx.Bucket("large").Put(store.Key(e.Seq), make([]byte, 1<<20))
}

// TestRebuildSplitsLargeTransactions checks that a batch of large rows is applied in
// several transactions, without an event that is missed or applied twice.
func TestRebuildSplitsLargeTransactions(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	const n = 100
	p := new(largeRows)
	run := start(t, srv.runner(t, p))
	wait(t, run, srv.store(t, events(n)...))
	before := p.txs
	p.full = false
	out, err := run.Rebuild(t.Context(), nil)
	require.NoError(t, err)
	require.True(t, out.Equal)
	require.Equal(t, uint64(n), out.VerifiedSeq)
	require.Equal(t, 3, p.txs-before, "transactions for %d MiB", n)
	require.False(t, p.full, "an event was applied to a transaction that was full")
}

func TestConcurrentRebuildFails(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	run := start(t, srv.runner(t, &chain{name: "chain", version: 1}))
	wait(t, run, srv.store(t, events(100)...))
	_, err := run.Rebuild(t.Context(), func(projections.Rebuilding) {
		_, err := run.Rebuild(t.Context(), nil)
		assert.ErrorIs(t, err, projections.ErrBuilding)
	})
	require.NoError(t, err)
}

// TestFailedRebuildKeepsTheLiveFile checks that a rebuild that is canceled or fails
// changes nothing.
func TestFailedRebuildKeepsTheLiveFile(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"canceled", "failing"} {
		t.Run(how, func(t *testing.T) {
			srv := newTestServer(t)
			all := events(20_000)
			p := &chain{name: "chain", version: 1}
			run := start(t, srv.runner(t, p))
			wait(t, run, srv.store(t, all...))
			before := digest(t, run)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			from := p.applied.Load()
			p.hook = func(e streams.Stored) error { // called by the rebuild only
				switch {
				case p.applied.Load() < from+15_000:
				case how == "canceled":
					cancel()
				default:
					return errors.New("no room")
				}
				return nil
			}
			_, err := run.Rebuild(ctx, nil)
			require.Error(t, err, "the rebuild did not fail")
			require.Len(t, files(t, srv.dir), 1)
			require.Equal(t, before, digest(t, run), "the live read model has changed")
			require.Nil(t, run.Status().Rebuild, "the live read model has changed")
			p.hook = nil
			out, err := run.Rebuild(t.Context(), nil)
			require.NoError(t, err)
			require.True(t, out.Equal)
		})
	}
}

// TestRebuildReplacesAWrongReadModel checks that a difference is reported and that the
// read model is replaced.
func TestRebuildReplacesAWrongReadModel(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	all := events(500)
	run := srv.runner(t, &chain{name: "chain", version: 1})
	// Add a row that no event creates.
	require.NoError(t, run.Close())
	s, err := store.Open(filepath.Join(srv.dir, "chain.db"), store.Options{})
	require.NoError(t, err)
	err = s.Update(func(tx *store.Tx) error { return tx.Bucket("chain").Put([]byte("extra"), []byte("row")) })
	require.NoError(t, err)
	require.NoError(t, s.Close())
	run = start(t, srv.runner(t, &chain{name: "chain", version: 1}))
	wait(t, run, srv.store(t, all...))
	out, err := run.Rebuild(t.Context(), nil)
	require.NoError(t, err)
	require.False(t, out.Equal)
	require.NotEqual(t, out.Digest, out.Was)
	require.Equal(t, want(t, &chain{name: "chain"}, all), digest(t, run), "the read model is still wrong")
}

// TestOldVersionIsServedDuringARebuild checks that reads use the old file until the new
// one is complete, also if the process is stopped in between.
func TestOldVersionIsServedDuringARebuild(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	all := events(3000)
	old := start(t, srv.runner(t, &chain{name: "chain", version: 1}))
	wait(t, old, srv.store(t, all[:2000]...))
	require.NoError(t, old.Close())
	srv.store(t, all[2000:]...)
	for _, finish := range []bool{false, true} {
		gate, reached := make(chan struct{}), make(chan struct{})
		var once sync.Once
		p := &chain{name: "chain", version: 2}
		p.hook = func(e streams.Stored) error {
			if e.Seq == 1500 {
				once.Do(func() { close(reached) })
				select {
				case <-gate:
				case <-time.After(limit):
				}
			}
			return nil
		}
		run := start(t, srv.runner(t, p))
		<-reached
		n := count(t, run)
		require.Equal(t, uint64(2000), n, "reads see the events of the old version")
		s := run.Status()
		require.NotEqual(t, projections.StateLive, s.State)
		require.Zero(t, s.Seq)
		require.Equal(t, uint64(2000), s.Stale)
		require.NotNil(t, s.Rebuild)
		require.Error(t, run.Healthy(time.Hour), "it is healthy before the new version is complete")
		if !finish {
			time.AfterFunc(50*time.Millisecond, func() { close(gate) })
			require.NoError(t, run.Close())
			continue
		}
		close(gate)
		wait(t, run, 3000)
		streamstest.Eventually(t, limit, func() error { return run.Healthy(time.Hour) })
		require.Equal(t, uint64(3000), count(t, run))
		require.Zero(t, run.Status().Stale)
		wait(t, run, srv.store(t, domain.Event{ID: "more", Type: domain.MessageReceived, Page: "1"}))
	}
}

// TestIncompleteRebuildIsRemovedAtStart checks that the file of a killed rebuild is
// removed.
func TestIncompleteRebuildIsRemovedAtStart(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	left := filepath.Join(srv.dir, "chain.db.building")
	require.NoError(t, os.WriteFile(left, []byte("half a file"), 0o600))
	srv.runner(t, &chain{name: "chain", version: 1})
	got := files(t, srv.dir)
	require.Len(t, got, 1)
	require.Equal(t, "chain.db", got[0])
}
