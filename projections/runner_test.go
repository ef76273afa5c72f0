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
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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

const limit = streamstest.Limit

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
		require.NoError(t, err)
		m.Header.Del(streams.HeaderMsgID)
		srv.send(t, m)
	}
	return srv.flush(t)
}

func (srv *testServer) send(t testing.TB, m *nats.Msg) {
	t.Helper()
	_, err := srv.JS.PublishMsgAsync(m, jetstream.WithStallWait(limit))
	require.NoError(t, err)
}

func (srv *testServer) flush(t testing.TB) uint64 {
	t.Helper()
	select {
	case <-srv.JS.PublishAsyncComplete():
	case <-time.After(limit):
		require.Fail(t, "events were not stored in time")
	}
	last, err := streams.Last(t.Context(), srv.JS, streams.Name)
	require.NoError(t, err)
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
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, run.Close()) })
	return run
}

func start(t testing.TB, r *projections.Runner) *projections.Runner {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- r.Run(context.WithoutCancel(t.Context())) }()
	t.Cleanup(func() {
		assert.NoError(t, r.Close())
		if err := <-done; err != nil {
			assert.ErrorIs(t, err, projections.ErrRan)
		}
	})
	return r
}

func wait(t testing.TB, r *projections.Runner, seq uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := r.WaitFor(ctx, seq); err != nil {
		require.NoError(t, err, "status %+v", r.Status())
	}
}

func digest(t testing.TB, r *projections.Runner) string {
	t.Helper()
	d, _, err := r.Digest()
	require.NoError(t, err)
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
	require.NoError(t, projectionstest.Fold(s, p, stored))
	d, _, err := projectionstest.Digest(s)
	require.NoError(t, err)
	return d
}

func TestEventsAreAppliedInOrder(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	n := streamstest.Volume(10_000, 3_000)
	all := events(n)
	p := &chain{name: "chain", version: 1}
	run := start(t, srv.runner(t, p, func(o *projections.RunnerOptions) { o.Store.NoSync = false }))
	half := srv.store(t, all[:n/2]...) // while it runs
	wait(t, run, half)
	wait(t, run, srv.store(t, all[n/2:]...))
	require.Equal(t, want(t, &chain{name: "chain"}, all), digest(t, run),
		"the read model is not the fold of the stream in order")
	s := run.Status()
	require.Equal(t, int64(n), p.applied.Load())
	require.Equal(t, uint64(n), s.Seq)
	require.Equal(t, projections.StateLive, s.State)
	require.Less(t, s.Commits, uint64(n/4))
	streamstest.Eventually(t, limit, func() error { return run.Healthy(time.Second) })
	t.Logf("%d commits", s.Commits)
}

func TestRestartContinuesAtThePosition(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	all := events(300)
	run := start(t, srv.runner(t, &chain{name: "chain", version: 1}))
	wait(t, run, srv.store(t, all[:200]...))
	require.NoError(t, run.Close())
	require.ErrorIs(t, run.WaitFor(t.Context(), 201), projections.ErrStopped, "wait for a stopped projection")
	require.ErrorIs(t, run.Healthy(time.Hour), projections.ErrNotRunning, "a stopped projection is healthy")
	last := srv.store(t, all[200:]...)
	p := &chain{name: "chain", version: 1}
	run = start(t, srv.runner(t, p))
	wait(t, run, last)
	require.Equal(t, int64(100), p.applied.Load())
	require.Empty(t, run.Status().Rebuilt)
	require.Equal(t, want(t, &chain{name: "chain"}, all), digest(t, run),
		"the read model is not the fold of the stream")
}

func TestFileThatDoesNotFitIsRebuilt(t *testing.T) {
	t.Parallel()
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
		require.Equal(t, expect, digest(t, run), "the read model is not the fold of the stream")
		streamstest.Eventually(t, limit, func() error { return run.Healthy(time.Second) })
		require.NoError(t, run.Close())
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
			require.NoError(t, err)
			defer func() { assert.NoError(t, s.Close()) }()
			err = s.Update(func(tx *store.Tx) error {
				return store.WriteMeta(tx, store.Meta{Identity: "another", Version: 2, Seq: last + 1})
			})
			require.NoError(t, err)
		}, 2, "another", true},
		{"corrupt file", func(t *testing.T) {
			t.Helper()
			require.NoError(t, os.WriteFile(path, []byte("no store at all"), 0o600))
		}, 2, "another", true},
		{"lost file", func(t *testing.T) {
			t.Helper()
			require.NoError(t, os.Remove(path))
		}, 2, "another", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.change(t)
			s := build(t, c.version, c.id).Status()
			require.Equal(t, c.rebuilt, s.Rebuilt != "")
		})
	}
	kept, _ := filepath.Glob(path + ".corrupt-*")
	require.Len(t, kept, 1, "the corrupt file was not kept")
}

func TestStateIsRebuildingUntilTheInitialHead(t *testing.T) {
	t.Parallel()
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
	require.Equal(t, projections.StateRebuilding, s.State)
	require.ErrorIs(t, err, projections.ErrRebuilding)
	_, meta, err := run.Digest()
	require.NoError(t, err)
	require.GreaterOrEqual(t, meta.Seq, uint64(140), "read meanwhile")
	close(release)
	wait(t, run, 200)
	streamstest.Eventually(t, limit, func() error { return run.Healthy(time.Second) })
}

// TestDuplicatesInTheStreamAreDropped checks that a duplicate in the stream is dropped by
// every projection, including the index, and also when they are rebuilt.
func TestDuplicatesInTheStreamAreDropped(t *testing.T) {
	t.Parallel()
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
		require.NoError(t, err)
		s := run.Status()
		require.Equal(t, uint64(dups), s.Dropped)
		require.Equal(t, uint64(dups), summary.Duplicates)
		require.Equal(t, uint64(len(all)), summary.Events)
		return [2]string{digest(t, index), digest(t, run)}
	}
	live := build(t, srv.dir)
	require.Equal(t, build(t, t.TempDir()), live, "the live and the rebuilt read model differ")
}

func TestFailedEventIsRetried(t *testing.T) {
	t.Parallel()
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
			require.ErrorIs(t, run.Healthy(time.Hour), projections.ErrFailing)
			require.NotEmpty(t, s.LastError, "the last error has the reason, without secrets")
			require.NotContains(t, s.LastError, "secret", "the last error has the reason, without secrets")
			healed.Store(true)
			wait(t, run, last)
			require.Equal(t, want(t, &chain{name: "chain"}, all), digest(t, run),
				"an event was skipped, repeated or out of order")
			s = run.Status()
			require.Equal(t, projections.StateLive, s.State)
			require.Empty(t, s.LastError)
		})
	}
}

func TestMalformedIsCountedAndSkipped(t *testing.T) {
	t.Parallel()
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
		require.NoError(t, err)
		s := run.Status()
		require.Equal(t, uint64(4), s.Malformed)
		require.Equal(t, projections.StateLive, s.State)
		require.Equal(t, int64(20), p.applied.Load())
		require.Len(t, list, 4)
		require.Equal(t, uint64(11), list[0].Seq)
		require.Equal(t, uint64(14), list[3].Seq)
		require.NotEmpty(t, list[0].Reason)
		digests = append(digests, digest(t, run))
	}
	require.Equal(t, digests[1], digests[0], "the live and the rebuilt read model differ")
}

func TestWaitFor(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	run := start(t, srv.runner(t, &chain{name: "chain", version: 1}))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, run.WaitFor(ctx, 1), context.DeadlineExceeded, "wait for an event that does not exist")
	// Many writers read their own writes.
	all := events(50)
	var writers sync.WaitGroup
	for i, e := range all {
		writers.Go(func() {
			m, err := streams.Encode(e)
			if !assert.NoError(t, err) {
				return
			}
			ack, err := srv.JS.PublishMsg(t.Context(), m)
			if !assert.NoError(t, err) {
				return
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			if !assert.NoError(t, run.WaitFor(ctx, ack.Sequence)) {
				return
			}
			var meta store.Meta
			err = run.View(func(tx *store.Tx) (err error) { meta, _, err = store.ReadMeta(tx); return err })
			if assert.NoError(t, err, "writer %d reads a model without its own write", i) {
				assert.GreaterOrEqual(t, meta.Seq, ack.Sequence, "writer %d reads a model without its own write", i)
			}
		})
	}
	writers.Wait()
}

// TestHangingWorkerIsReported checks that a worker that hangs is reported, since the last
// sequence of the stream is requested independently of it.
func TestHangingWorkerIsReported(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
	srv := newTestServer(t)
	run := start(t, srv.runner(t, &chain{name: "chain", version: 1}))
	wait(t, run, srv.store(t, events(50)...))
	srv.DeleteStream(t, streams.Name)
	srv.identity = srv.Stream(t, streams.Spec{})
	fewer := events(80)[60:]
	last := srv.store(t, fewer...)
	streamstest.Eventually(t, limit, func() error {
		if s := run.Status(); s.Seq != last || s.State != projections.StateLive {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
	require.Equal(t, want(t, &chain{name: "chain"}, fewer), digest(t, run),
		"the read model is not the fold of the new stream")
}

func TestTruncatedFileIsRebuiltWhileRunning(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	all := events(3000)
	run := start(t, srv.runner(t, &chain{name: "chain", version: 1}))
	wait(t, run, srv.store(t, all[:2000]...))
	srv.store(t, domain.Event{
		ID: "big", Type: domain.MessageReceived, Page: "1", Data: domain.Data{App: strings.Repeat("a", 300_000)},
	})
	wait(t, run, 2001)
	path := filepath.Join(srv.dir, "chain.db")
	require.NoError(t, os.Truncate(path, 2*4096))
	// A read past the end of the file must return an error and not end the process.
	_, _, err := run.Digest()
	require.ErrorIs(t, err, store.ErrCorrupt, "read a truncated file")
	streamstest.Eventually(t, limit, func() error {
		s := run.Status()
		if s.Rebuilt == "" || s.Seq != 2001 || s.State != projections.StateLive ||
			!strings.Contains(s.Rebuilt, "corrupt") {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
	wait(t, run, srv.store(t, all[2000:]...))
	kept, _ := filepath.Glob(path + ".corrupt-*")
	require.Len(t, kept, 1, "the corrupt file was not kept")
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
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
		_, err := projections.NewRunner(c.p, o)
		require.ErrorIs(t, err, projections.ErrBadOptions, name)
	}
	run := srv.runner(t, &chain{name: "chain", version: 1})
	_, err := projections.NewRunner(&chain{name: "chain"}, good)
	require.ErrorIs(t, err, store.ErrLocked, "two runners on one file")
	require.NoError(t, run.Close())
	require.ErrorIs(t, run.Run(t.Context()), projections.ErrRan, "run after close")
}

func TestCloseLeavesNoGoroutines(t *testing.T) {
	srv := newTestServer(t)
	srv.store(t, events(100)...)
	before := goleak.IgnoreCurrent()
	run := start(t, srv.runner(t, &chain{name: "chain", version: 1}))
	wait(t, run, 100)
	require.NoError(t, run.Close())
	// The NATS server may keep the consumer until it is idle.
	const consumer = "github.com/nats-io/nats-server/v2/server.(*consumer)."
	goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction(consumer+"loopAndGatherMsgs"),
		goleak.IgnoreAnyFunction(consumer+"processInboundAcks"),
		goleak.IgnoreAnyFunction(consumer+"processInboundNextMsgReqs"))
}
