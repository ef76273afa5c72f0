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
	if err != nil {
		t.Error(err)
	}
	return n
}

// files returns the names of the files in a directory.
func files(t testing.TB, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		names = append(names, f.Name())
	}
	return names
}

// TestRebuildWhileEventsAreAppliedAndRead rebuilds the read model three times while
// events are stored and the read model is read: no read fails or goes back to an older
// position, and the final state is the fold of all events.
func TestRebuildWhileEventsAreAppliedAndRead(t *testing.T) {
	srv := newTestServer(t)
	all := events(12_000)
	run := start(t, srv.runner(t, &chain{name: "chain", version: 1}))
	wait(t, run, srv.store(t, all[:4000]...))
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
			if n < last {
				t.Errorf("a read went back from %d to %d", last, n)
				return
			}
			last = n
		}
	})
	busy.Go(func() {
		for i := 4000; i < len(all); i += 50 {
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
		if err != nil {
			t.Fatal(err)
		}
		if !out.Equal || out.Was == "" || out.Seq < out.VerifiedSeq || out.VerifiedSeq < 4000 {
			t.Errorf("%+v", out)
		}
	}
	if len(phases) != 9 || phases[1] != projections.PhaseVerify || phases[2] != projections.PhaseCatchUp {
		t.Errorf("phases %v", phases)
	}
	wait(t, run, uint64(len(all)))
	close(stop)
	busy.Wait()
	if digest(t, run) != want(t, &chain{name: "chain"}, all) {
		t.Error("the read model is not the fold of the stream")
	}
	if run.Status().Rebuild != nil {
		t.Error("the status still has a rebuild")
	}
	t.Logf("%d reads", reads.Load())
	if got := files(t, srv.dir); len(got) != 2 || got[0] != "chain.db" || got[1] != "chain.db.previous" {
		t.Errorf("files %v", got)
	}
	// The new file is what the next start opens, without another rebuild.
	if err := run.Close(); err != nil {
		t.Fatal(err)
	}
	p := &chain{name: "chain", version: 1}
	again := start(t, srv.runner(t, p))
	wait(t, again, uint64(len(all)))
	if p.applied.Load() != 0 || again.Status().Rebuilt != "" {
		t.Errorf("applied %d again: %s", p.applied.Load(), again.Status().Rebuilt)
	}
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
	srv := newTestServer(t)
	const n = 100
	p := new(largeRows)
	run := start(t, srv.runner(t, p))
	wait(t, run, srv.store(t, events(n)...))
	before := p.txs
	p.full = false
	out, err := run.Rebuild(t.Context(), nil)
	if err != nil || !out.Equal || out.VerifiedSeq != n {
		t.Fatalf("%v: %+v", err, out)
	}
	if took := p.txs - before; took != 3 {
		t.Errorf("%d transactions for %d MiB", took, n)
	}
	if p.full {
		t.Error("an event was applied to a transaction that was full")
	}
}

func TestConcurrentRebuildFails(t *testing.T) {
	srv := newTestServer(t)
	run := start(t, srv.runner(t, &chain{name: "chain", version: 1}))
	wait(t, run, srv.store(t, events(100)...))
	_, err := run.Rebuild(t.Context(), func(projections.Rebuilding) {
		if _, err := run.Rebuild(t.Context(), nil); !errors.Is(err, projections.ErrBuilding) {
			t.Errorf("got %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestFailedRebuildKeepsTheLiveFile checks that a rebuild that is canceled or fails
// changes nothing.
func TestFailedRebuildKeepsTheLiveFile(t *testing.T) {
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
			if _, err := run.Rebuild(ctx, nil); err == nil {
				t.Fatal("the rebuild did not fail")
			}
			if got := files(t, srv.dir); len(got) != 1 {
				t.Errorf("files %v", got)
			}
			if digest(t, run) != before || run.Status().Rebuild != nil {
				t.Error("the live read model has changed")
			}
			p.hook = nil
			if out, err := run.Rebuild(t.Context(), nil); err != nil || !out.Equal {
				t.Errorf("%+v, %v", out, err)
			}
		})
	}
}

// TestRebuildReplacesAWrongReadModel checks that a difference is reported and that the
// read model is replaced.
func TestRebuildReplacesAWrongReadModel(t *testing.T) {
	srv := newTestServer(t)
	all := events(500)
	run := srv.runner(t, &chain{name: "chain", version: 1})
	// Add a row that no event creates.
	if err := run.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(filepath.Join(srv.dir, "chain.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Update(func(tx *store.Tx) error { return tx.Bucket("chain").Put([]byte("extra"), []byte("row")) })
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	run = start(t, srv.runner(t, &chain{name: "chain", version: 1}))
	wait(t, run, srv.store(t, all...))
	out, err := run.Rebuild(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if out.Equal || out.Was == out.Digest {
		t.Errorf("%+v", out)
	}
	if digest(t, run) != want(t, &chain{name: "chain"}, all) {
		t.Error("the read model is still wrong")
	}
}

// TestOldVersionIsServedDuringARebuild checks that reads use the old file until the new
// one is complete, also if the process is stopped in between.
func TestOldVersionIsServedDuringARebuild(t *testing.T) {
	srv := newTestServer(t)
	all := events(3000)
	old := start(t, srv.runner(t, &chain{name: "chain", version: 1}))
	wait(t, old, srv.store(t, all[:2000]...))
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
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
		if n := count(t, run); n != 2000 {
			t.Errorf("reads see %d events, want the 2000 of the old version", n)
		}
		s := run.Status()
		if s.State == projections.StateLive || s.Seq != 0 || s.Stale != 2000 || s.Rebuild == nil {
			t.Errorf("status %+v", s)
		}
		if run.Healthy(time.Hour) == nil {
			t.Error("it is healthy before the new version is complete")
		}
		if !finish {
			time.AfterFunc(50*time.Millisecond, func() { close(gate) })
			if err := run.Close(); err != nil {
				t.Fatal(err)
			}
			continue
		}
		close(gate)
		wait(t, run, 3000)
		streamstest.Eventually(t, limit, func() error { return run.Healthy(time.Hour) })
		if count(t, run) != 3000 || run.Status().Stale != 0 {
			t.Errorf("status %+v", run.Status())
		}
		wait(t, run, srv.store(t, domain.Event{ID: "more", Type: domain.MessageReceived, Page: "1"}))
	}
}

// TestIncompleteRebuildIsRemovedAtStart checks that the file of a killed rebuild is
// removed.
func TestIncompleteRebuildIsRemovedAtStart(t *testing.T) {
	srv := newTestServer(t)
	left := filepath.Join(srv.dir, "chain.db.building")
	if err := os.WriteFile(left, []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	srv.runner(t, &chain{name: "chain", version: 1})
	if got := files(t, srv.dir); len(got) != 1 || got[0] != "chain.db" {
		t.Errorf("files %v", got)
	}
}
