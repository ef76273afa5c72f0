package projections_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
	"github.com/pagestream/pagestream/streams/streamstest"
)

const limit = 20 * time.Second

// chain is a projection whose state is a hash over all applied events in their order,
// and their number.
type chain struct {
	name    string
	version int
	applied atomic.Int64
	hook    func(e streams.Stored) error
}

func (c *chain) Name() string { return c.name }
func (c *chain) Version() int { return c.version }

func (c *chain) Apply(tx *store.Tx, e streams.Stored) error {
	c.applied.Add(1)
	b := tx.Bucket("chain")
	sum := sha256.Sum256(fmt.Appendf(b.Get([]byte("hash")), "%d %s", e.Seq, e.ID))
	if err := b.Put([]byte("hash"), sum[:]); err != nil {
		return err
	}
	if err := b.Put([]byte("count"), store.Uint64(store.ToUint64(b.Get([]byte("count")))+1)); err != nil {
		return err
	}
	if c.hook != nil {
		return c.hook(e)
	}
	return nil
}

// testServer is a NATS server with a stream, and a directory for read models.
type testServer struct {
	*streamstest.Server
	identity streams.Identity
	dir      string
}

func newTestServer(t testing.TB) *testServer {
	t.Helper()
	s := streamstest.Run(t, func(o *embedded.Options) { o.Sync = embedded.SyncInterval })
	return &testServer{Server: s, identity: s.Stream(t, streams.Spec{Window: 100 * time.Millisecond}), dir: t.TempDir()}
}

// store publishes events without an id for JetStream's duplicate window, and returns the
// last sequence.
func (srv *testServer) store(t testing.TB, events ...domain.Event) uint64 {
	t.Helper()
	for _, e := range events {
		m, err := streams.Encode(e)
		if err != nil {
			t.Fatal(err)
		}
		m.Header.Del(streams.HeaderMsgID)
		srv.send(t, m)
	}
	return srv.flush(t)
}

func (srv *testServer) send(t testing.TB, m *nats.Msg) {
	t.Helper()
	if _, err := srv.JS.PublishMsgAsync(m, jetstream.WithStallWait(limit)); err != nil {
		t.Fatal(err)
	}
}

func (srv *testServer) flush(t testing.TB) uint64 {
	t.Helper()
	select {
	case <-srv.JS.PublishAsyncComplete():
	case <-time.After(limit):
		t.Fatal("events were not stored in time")
	}
	last, err := streams.Last(t.Context(), srv.JS, streams.Name)
	if err != nil {
		t.Fatal(err)
	}
	return last
}

func (srv *testServer) runner(
	t testing.TB, p projections.Projection, change ...func(*projections.RunnerOptions),
) *projections.Runner {
	t.Helper()
	o := projections.RunnerOptions{
		Dir: srv.dir, JS: srv.JS, Identity: srv.identity, Store: store.Options{NoSync: true, MapSize: 256 << 20},
	}
	o.HeadEvery(20 * time.Millisecond)
	for _, f := range change {
		f(&o)
	}
	run, err := projections.NewRunner(p, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := run.Close(); err != nil {
			t.Error(err)
		}
	})
	return run
}

func start(t testing.TB, r *projections.Runner) *projections.Runner {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- r.Run(context.WithoutCancel(t.Context())) }()
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil && !errors.Is(err, projections.ErrRan) {
			t.Error(err)
		}
	})
	return r
}

func wait(t testing.TB, r *projections.Runner, seq uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := r.WaitFor(ctx, seq); err != nil {
		t.Fatalf("%v; status %+v", err, r.Status())
	}
}

func digest(t testing.TB, r *projections.Runner) string {
	t.Helper()
	d, _, err := r.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func events(n int) []domain.Event {
	out := make([]domain.Event, n)
	for i, s := range projectionstest.Events(5, n) {
		s.ID = fmt.Sprintf("%s-%d", s.ID, i) // make it unique
		out[i] = s.Event
	}
	return out
}

// want returns the digest of the state after these events, folded without a runner.
func want(t testing.TB, p projections.Projection, events []domain.Event) string {
	t.Helper()
	s := projectionstest.Open(t, filepath.Join(t.TempDir(), "want.db"))
	stored := make([]streams.Stored, len(events))
	for i, e := range events {
		stored[i] = streams.Stored{Event: e, Seq: uint64(i + 1)}
	}
	if err := projectionstest.Fold(s, p, stored); err != nil {
		t.Fatal(err)
	}
	d, _, err := projectionstest.Digest(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestEventsAreAppliedInOrder(t *testing.T) {
	srv := newTestServer(t)
	const n = 10_000
	all := events(n)
	p := &chain{name: "chain", version: 1}
	run := start(t, srv.runner(t, p, func(o *projections.RunnerOptions) { o.Store.NoSync = false }))
	half := srv.store(t, all[:n/2]...) // while it runs
	wait(t, run, half)
	wait(t, run, srv.store(t, all[n/2:]...))
	if digest(t, run) != want(t, &chain{name: "chain"}, all) {
		t.Error("the read model is not the fold of the stream in order")
	}
	s := run.Status()
	if p.applied.Load() != n || s.Seq != n || s.State != projections.StateLive || s.Commits >= n/4 {
		t.Errorf("%d applied, status %+v", p.applied.Load(), s)
	}
	streamstest.Eventually(t, limit, func() error { return run.Healthy(time.Second) })
	t.Logf("%d commits", s.Commits)
}

func TestRestartContinuesAtThePosition(t *testing.T) {
	srv := newTestServer(t)
	all := events(300)
	run := start(t, srv.runner(t, &chain{name: "chain", version: 1}))
	wait(t, run, srv.store(t, all[:200]...))
	if err := run.Close(); err != nil {
		t.Fatal(err)
	}
	if err := run.WaitFor(t.Context(), 201); !errors.Is(err, projections.ErrStopped) {
		t.Errorf("wait for a stopped projection: %v", err)
	}
	if err := run.Healthy(time.Hour); !errors.Is(err, projections.ErrNotRunning) {
		t.Errorf("a stopped projection is healthy: %v", err)
	}
	last := srv.store(t, all[200:]...)
	p := &chain{name: "chain", version: 1}
	run = start(t, srv.runner(t, p))
	wait(t, run, last)
	if p.applied.Load() != 100 || run.Status().Rebuilt != "" {
		t.Errorf("%d events applied after the restart, status %+v", p.applied.Load(), run.Status())
	}
	if digest(t, run) != want(t, &chain{name: "chain"}, all) {
		t.Error("the read model is not the fold of the stream")
	}
}

func TestFileThatDoesNotFitIsRebuilt(t *testing.T) {
	srv := newTestServer(t)
	all := events(120)
	last := srv.store(t, all...)
	expect := want(t, &chain{name: "chain"}, all)
	path := filepath.Join(srv.dir, "chain.db")
	build := func(t *testing.T, version int, identity streams.Identity) *projections.Runner {
		t.Helper()
		withIdentity := func(o *projections.RunnerOptions) { o.Identity = identity }
		run := start(t, srv.runner(t, &chain{name: "chain", version: version}, withIdentity))
		wait(t, run, last)
		if digest(t, run) != expect {
			t.Error("the read model is not the fold of the stream")
		}
		streamstest.Eventually(t, limit, func() error { return run.Healthy(time.Second) })
		if err := run.Close(); err != nil {
			t.Fatal(err)
		}
		return run
	}
	for _, c := range []struct {
		name    string
		change  func(t *testing.T)
		version int
		id      streams.Identity
		rebuilt bool
	}{
		{"no file", func(*testing.T) {}, 1, srv.identity, true},
		{"file that fits", func(*testing.T) {}, 1, srv.identity, false},
		{"other version", func(*testing.T) {}, 2, srv.identity, true},
		{"other stream", func(*testing.T) {}, 2, "another", true},
		{"older stream", func(t *testing.T) {
			t.Helper()
			s, err := store.Open(path, store.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}()
			err = s.Update(func(tx *store.Tx) error {
				return store.WriteMeta(tx, store.Meta{Identity: "another", Version: 2, Seq: last + 1})
			})
			if err != nil {
				t.Fatal(err)
			}
		}, 2, "another", true},
		{"corrupt file", func(t *testing.T) {
			t.Helper()
			if err := os.WriteFile(path, []byte("no store at all"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, 2, "another", true},
		{"lost file", func(t *testing.T) {
			t.Helper()
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}, 2, "another", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.change(t)
			if s := build(t, c.version, c.id).Status(); (s.Rebuilt != "") != c.rebuilt {
				t.Errorf("rebuilt: %q", s.Rebuilt)
			}
		})
	}
	if kept, _ := filepath.Glob(path + ".corrupt-*"); len(kept) != 1 {
		t.Errorf("the corrupt file was not kept: %v", kept)
	}
}

func TestStateIsRebuildingUntilTheInitialHead(t *testing.T) {
	srv := newTestServer(t)
	srv.store(t, events(200)...)
	release := make(chan struct{})
	run := start(t, srv.runner(t, &chain{name: "chain", version: 1, hook: func(e streams.Stored) error {
		if e.Seq == 150 {
			<-release
		}
		return nil
	}}, func(o *projections.RunnerOptions) { o.MaxBatch = 10 }))
	wait(t, run, 140)
	s, err := run.Status(), run.Healthy(time.Hour)
	if s.State != projections.StateRebuilding || !errors.Is(err, projections.ErrRebuilding) {
		t.Errorf("status %+v, %v", s, err)
	}
	if _, meta, err := run.Digest(); err != nil || meta.Seq < 140 {
		t.Errorf("read meanwhile: at %d, %v", meta.Seq, err)
	}
	close(release)
	wait(t, run, 200)
	streamstest.Eventually(t, limit, func() error { return run.Healthy(time.Second) })
}

// TestDuplicatesInTheStreamAreDropped checks that a duplicate in the stream is dropped by
// every projection, including the index, and also when they are rebuilt.
func TestDuplicatesInTheStreamAreDropped(t *testing.T) {
	srv := newTestServer(t)
	all := events(500)
	twice := make([]domain.Event, 0, 600)
	for i, e := range all {
		twice = append(twice, e)
		if i%5 == 0 {
			twice = append(twice, all[i/2]) // the same event, or a much older one
		}
	}
	const dups = 100
	build := func(t *testing.T, dir string) (digests [2]string) {
		t.Helper()
		inDir := func(o *projections.RunnerOptions) { o.Dir = dir }
		index := start(t, srv.runner(t, deliveries.New(), inDir))
		run := start(t, srv.runner(t, &chain{name: "chain", version: 1}, inDir, func(o *projections.RunnerOptions) {
			o.Dedup = deliveries.Index{Runner: index}
			o.MaxBatch = 64
		}))
		if dir == srv.dir {
			srv.store(t, twice[:300]...)
			srv.store(t, twice[300:]...)
		}
		wait(t, run, uint64(len(twice)))
		summary, err := deliveries.Read(index)
		if err != nil {
			t.Fatal(err)
		}
		if s := run.Status(); s.Dropped != dups || summary.Duplicates != dups || summary.Events != uint64(len(all)) {
			t.Errorf("dropped %d; %d duplicates of %d events in the index", s.Dropped, summary.Duplicates, summary.Events)
		}
		return [2]string{digest(t, index), digest(t, run)}
	}
	live := build(t, srv.dir)
	if again := build(t, t.TempDir()); live != again {
		t.Error("the live and the rebuilt read model differ")
	}
}

func TestFailedEventIsRetried(t *testing.T) {
	for _, kind := range []string{"error", "panic"} {
		t.Run(kind, func(t *testing.T) {
			srv := newTestServer(t)
			all := events(400)
			var healed atomic.Bool
			p := &chain{name: "chain", version: 1, hook: func(e streams.Stored) error {
				if e.Seq != 200 || healed.Load() {
					return nil
				}
				if kind == "panic" {
					panic("secret text")
				}
				return errors.New("disk failure")
			}}
			run := start(t, srv.runner(t, p))
			last := srv.store(t, all...)
			wait(t, run, 199) // the events before it are applied
			streamstest.Eventually(t, limit, func() error {
				s := run.Status()
				if s.State != projections.StateFailing || s.FailingSeq != 200 || s.Seq != 199 {
					return fmt.Errorf("status %+v", s)
				}
				return nil
			})
			s := run.Status()
			if err := run.Healthy(time.Hour); !errors.Is(err, projections.ErrFailing) {
				t.Errorf("healthy: %v", err)
			}
			if s.LastError == "" || strings.Contains(s.LastError, "secret") {
				t.Errorf("last error %q", s.LastError)
			}
			healed.Store(true)
			wait(t, run, last)
			if digest(t, run) != want(t, &chain{name: "chain"}, all) {
				t.Error("an event was skipped, repeated or out of order")
			}
			if s := run.Status(); s.State != projections.StateLive || s.LastError != "" {
				t.Errorf("status %+v", s)
			}
		})
	}
}

func TestMalformedIsCountedAndSkipped(t *testing.T) {
	srv := newTestServer(t)
	all := events(20)
	srv.store(t, all[:10]...)
	for _, m := range []*nats.Msg{
		{Subject: "pagestream.1.message.received", Data: []byte(`{}`)},
		{Subject: "pagestream.unknown", Data: []byte("x")},
		{Subject: "pagestream.1.message.received", Data: []byte("{"), Header: nats.Header{
			streams.HeaderID: {"a"}, streams.HeaderSource: {"/pages/1"},
		}},
		{Subject: "pagestream.1.message.received", Data: []byte(`{}`), Header: nats.Header{
			streams.HeaderID: {"b", "c"}, streams.HeaderSource: {"/pages/%zz"}, streams.MetaSeq: {"999"},
		}},
	} {
		srv.send(t, m)
	}
	last := srv.store(t, all[10:]...)
	var digests []string
	for _, dir := range []string{srv.dir, t.TempDir()} {
		index := start(t, srv.runner(t, deliveries.New(), func(o *projections.RunnerOptions) { o.Dir = dir }))
		p := &chain{name: "chain", version: 1}
		run := start(t, srv.runner(t, p, func(o *projections.RunnerOptions) {
			o.Dir, o.Dedup = dir, deliveries.Index{Runner: index}
		}))
		wait(t, run, last)
		list, err := run.Malformed()
		if err != nil {
			t.Fatal(err)
		}
		if s := run.Status(); s.Malformed != 4 || s.State != projections.StateLive || p.applied.Load() != 20 {
			t.Errorf("status %+v, %d applied", s, p.applied.Load())
		}
		if len(list) != 4 || list[0].Seq != 11 || list[3].Seq != 14 || list[0].Reason == "" {
			t.Errorf("malformed %+v", list)
		}
		digests = append(digests, digest(t, run))
	}
	if digests[0] != digests[1] {
		t.Error("the live and the rebuilt read model differ")
	}
}

func TestWaitFor(t *testing.T) {
	srv := newTestServer(t)
	run := start(t, srv.runner(t, &chain{name: "chain", version: 1}))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := run.WaitFor(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait for an event that does not exist: %v", err)
	}
	// Many writers read their own writes.
	all := events(50)
	var writers sync.WaitGroup
	for i, e := range all {
		writers.Go(func() {
			m, err := streams.Encode(e)
			if err != nil {
				t.Error(err)
				return
			}
			ack, err := srv.JS.PublishMsg(t.Context(), m)
			if err != nil {
				t.Error(err)
				return
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			if err := run.WaitFor(ctx, ack.Sequence); err != nil {
				t.Error(err)
				return
			}
			var meta store.Meta
			err = run.View(func(tx *store.Tx) (err error) { meta, _, err = store.ReadMeta(tx); return err })
			if err != nil || meta.Seq < ack.Sequence {
				t.Errorf("writer %d stored %d and reads a model at %d (%v)", i, ack.Sequence, meta.Seq, err)
			}
		})
	}
	writers.Wait()
}

// TestHangingWorkerIsReported checks that a worker that hangs is reported, since the last
// sequence of the stream is requested independently of it.
func TestHangingWorkerIsReported(t *testing.T) {
	srv := newTestServer(t)
	release := make(chan struct{})
	p := &chain{name: "chain", version: 1, hook: func(e streams.Stored) error {
		if e.Seq == 3 {
			<-release
		}
		return nil
	}}
	run := start(t, srv.runner(t, p, func(o *projections.RunnerOptions) { o.MaxBatch = 1 }))
	last := srv.store(t, events(10)...)
	wait(t, run, 2)
	streamstest.Eventually(t, limit, func() error {
		err := run.Healthy(100 * time.Millisecond)
		if !errors.Is(err, projections.ErrBehind) || !strings.Contains(err.Error(), "standing still") {
			return fmt.Errorf("healthy: %w", err)
		}
		return nil
	})
	close(release)
	wait(t, run, last)
	streamstest.Eventually(t, limit, func() error { return run.Healthy(100 * time.Millisecond) })
}

func TestStreamReplacedWhileRunning(t *testing.T) {
	srv := newTestServer(t)
	run := start(t, srv.runner(t, &chain{name: "chain", version: 1}))
	wait(t, run, srv.store(t, events(50)...))
	if err := srv.JS.DeleteStream(t.Context(), streams.Name); err != nil {
		t.Fatal(err)
	}
	srv.identity = srv.Stream(t, streams.Spec{})
	fewer := events(80)[60:]
	last := srv.store(t, fewer...)
	streamstest.Eventually(t, limit, func() error {
		if s := run.Status(); s.Seq != last || s.State != projections.StateLive {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
	if digest(t, run) != want(t, &chain{name: "chain"}, fewer) {
		t.Error("the read model is not the fold of the new stream")
	}
}

func TestTruncatedFileIsRebuiltWhileRunning(t *testing.T) {
	srv := newTestServer(t)
	all := events(3000)
	run := start(t, srv.runner(t, &chain{name: "chain", version: 1}))
	wait(t, run, srv.store(t, all[:2000]...))
	srv.store(t, domain.Event{
		ID: "big", Type: domain.MessageReceived, Page: "1", Data: domain.Data{App: strings.Repeat("a", 300_000)},
	})
	wait(t, run, 2001)
	path := filepath.Join(srv.dir, "chain.db")
	if err := os.Truncate(path, 2*4096); err != nil {
		t.Fatal(err)
	}
	// A read past the end of the file must return an error and not end the process.
	if _, _, err := run.Digest(); !errors.Is(err, store.ErrCorrupt) {
		t.Fatalf("read a truncated file: %v", err)
	}
	streamstest.Eventually(t, limit, func() error {
		s := run.Status()
		if s.Rebuilt == "" || s.Seq != 2001 || s.State != projections.StateLive ||
			!strings.Contains(s.Rebuilt, "corrupt") {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
	wait(t, run, srv.store(t, all[2000:]...))
	if kept, _ := filepath.Glob(path + ".corrupt-*"); len(kept) != 1 {
		t.Errorf("the corrupt file was not kept: %v", kept)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	srv := newTestServer(t)
	good := projections.RunnerOptions{Dir: srv.dir, JS: srv.JS, Identity: srv.identity}
	for name, c := range map[string]struct {
		p      projections.Projection
		change func(*projections.RunnerOptions)
	}{
		"name":      {&chain{name: "../chain"}, func(*projections.RunnerOptions) {}},
		"directory": {&chain{name: "chain"}, func(o *projections.RunnerOptions) { o.Dir = "" }},
		"JetStream": {&chain{name: "chain"}, func(o *projections.RunnerOptions) { o.JS = nil }},
		"identity":  {&chain{name: "chain"}, func(o *projections.RunnerOptions) { o.Identity = "" }},
	} {
		o := good
		c.change(&o)
		if _, err := projections.NewRunner(c.p, o); !errors.Is(err, projections.ErrBadOptions) {
			t.Errorf("%s: %v", name, err)
		}
	}
	run := srv.runner(t, &chain{name: "chain", version: 1})
	if _, err := projections.NewRunner(&chain{name: "chain"}, good); !errors.Is(err, store.ErrLocked) {
		t.Errorf("two runners on one file: %v", err)
	}
	if err := run.Close(); err != nil {
		t.Fatal(err)
	}
	if err := run.Run(t.Context()); !errors.Is(err, projections.ErrRan) {
		t.Errorf("run after close: %v", err)
	}
}

func TestCloseLeavesNoGoroutines(t *testing.T) {
	srv := newTestServer(t)
	srv.store(t, events(100)...)
	before := goleak.IgnoreCurrent()
	run := start(t, srv.runner(t, &chain{name: "chain", version: 1}))
	wait(t, run, 100)
	if err := run.Close(); err != nil {
		t.Fatal(err)
	}
	// The NATS server may keep the consumer until it is idle.
	const consumer = "github.com/nats-io/nats-server/v2/server.(*consumer)."
	goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction(consumer+"loopAndGatherMsgs"),
		goleak.IgnoreAnyFunction(consumer+"processInboundAcks"),
		goleak.IgnoreAnyFunction(consumer+"processInboundNextMsgReqs"))
}
