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

// count reads how many events the chain in the read model has.
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

// TestRebuildBeside: while events come and somebody reads all the time, the read
// model is rebuilt three times. No read fails or goes back, and the end is the fold.
func TestRebuildBeside(t *testing.T) {
	r := newRig(t)
	all := events(12_000)
	run := start(t, r.runner(t, &chain{name: "chain", version: 1}))
	wait(t, run, r.store(t, all[:4000]...))
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
			r.store(t, all[i:i+50]...)
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
		t.Error("the rebuild is over")
	}
	t.Logf("%d reads", reads.Load())
	if got := files(t, r.dir); len(got) != 2 || got[0] != "chain.db" || got[1] != "chain.db.previous" {
		t.Errorf("files %v", got)
	}
	// The new file is what the next start opens, without another rebuild.
	if err := run.Close(); err != nil {
		t.Fatal(err)
	}
	p := &chain{name: "chain", version: 1}
	again := start(t, r.runner(t, p))
	wait(t, again, uint64(len(all)))
	if p.applied.Load() != 0 || again.Status().Rebuilt != "" {
		t.Errorf("applied %d again: %s", p.applied.Load(), again.Status().Rebuilt)
	}
}

// wide is a projection whose rows are large, and which counts its transactions.
type wide struct {
	last *store.Tx
	txs  int
	full bool
}

func (w *wide) Name() string { return "wide" }
func (w *wide) Version() int { return 1 }

func (w *wide) Apply(tx *store.Tx, e streams.Stored) error {
	if tx != w.last {
		w.last, w.txs = tx, w.txs+1
	}
	w.full = w.full || tx.Full()
	return tx.Bucket("wide").Put(store.Key(e.Seq), make([]byte, 1<<20))
}

// A rebuild reads many events at once. Rows that are large spread them over
// several transactions, without one that is missed or applied again.
func TestRebuildEndsFullTransactions(t *testing.T) {
	r := newRig(t)
	const n = 100
	p := new(wide)
	run := start(t, r.runner(t, p))
	wait(t, run, r.store(t, events(n)...))
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

func TestRebuildTwiceAtOnce(t *testing.T) {
	r := newRig(t)
	run := start(t, r.runner(t, &chain{name: "chain", version: 1}))
	wait(t, run, r.store(t, events(100)...))
	_, err := run.Rebuild(t.Context(), func(projections.Rebuilding) {
		if _, err := run.Rebuild(t.Context(), nil); !errors.Is(err, projections.ErrBuilding) {
			t.Errorf("got %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestRebuildEndedEarly: canceled, or failing, it leaves everything as it is.
func TestRebuildEndedEarly(t *testing.T) {
	for _, how := range []string{"canceled", "failing"} {
		t.Run(how, func(t *testing.T) {
			r := newRig(t)
			all := events(20_000)
			p := &chain{name: "chain", version: 1}
			run := start(t, r.runner(t, p))
			wait(t, run, r.store(t, all...))
			before := digest(t, run)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			from := p.applied.Load()
			p.hook = func(e streams.Stored) error { // only the rebuild comes here
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
				t.Fatal("it did not fail")
			}
			if got := files(t, r.dir); len(got) != 1 {
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

// TestRebuildMendsAWrongReadModel: what differs is told, and replaced.
func TestRebuildMendsAWrongReadModel(t *testing.T) {
	r := newRig(t)
	all := events(500)
	run := r.runner(t, &chain{name: "chain", version: 1})
	// A row that no event made.
	if err := run.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(filepath.Join(r.dir, "chain.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Update(func(tx *store.Tx) error { return tx.Bucket("chain").Put([]byte("odd"), []byte("row")) }); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	run = start(t, r.runner(t, &chain{name: "chain", version: 1}))
	wait(t, run, r.store(t, all...))
	out, err := run.Rebuild(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if out.Equal || out.Was == out.Digest {
		t.Errorf("%+v", out)
	}
	if digest(t, run) != want(t, &chain{name: "chain"}, all) {
		t.Error("it is still wrong")
	}
}

// TestNewVersionServesTheOldOne: reads see the old file until the new one is
// there, also when the process is stopped in between.
func TestNewVersionServesTheOldOne(t *testing.T) {
	r := newRig(t)
	all := events(3000)
	old := start(t, r.runner(t, &chain{name: "chain", version: 1}))
	wait(t, old, r.store(t, all[:2000]...))
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	r.store(t, all[2000:]...)
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
		run := start(t, r.runner(t, p))
		<-reached
		if n := count(t, run); n != 2000 {
			t.Errorf("reads see %d events, want the 2000 of the old version", n)
		}
		s := run.Status()
		if s.State == projections.StateLive || s.Seq != 0 || s.Stale != 2000 || s.Rebuild == nil {
			t.Errorf("status %+v", s)
		}
		if run.Healthy(time.Hour) == nil {
			t.Error("it is not healthy yet")
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
		wait(t, run, r.store(t, domain.Event{ID: "more", Type: domain.MessageReceived, Page: "1"}))
	}
}

// TestLeftoversAreRemoved: what a killed rebuild left is no read model.
func TestLeftoversAreRemoved(t *testing.T) {
	r := newRig(t)
	left := filepath.Join(r.dir, "chain.db.building")
	if err := os.WriteFile(left, []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.runner(t, &chain{name: "chain", version: 1})
	if got := files(t, r.dir); len(got) != 1 || got[0] != "chain.db" {
		t.Errorf("files %v", got)
	}
}
