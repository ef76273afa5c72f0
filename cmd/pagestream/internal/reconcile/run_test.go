package reconcile

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// system is a fixture with a real stream and real runners of the read models.
type system struct {
	*fixture
	server *streamstest.Server
	models [2]*projections.Runner
	opts   Options
}

func newSystem(t *testing.T, list ...domain.PageID) *system {
	t.Helper()
	server := streamstest.Run(t, func(o *embedded.Options) { o.Sync = embedded.SyncInterval })
	id := server.Stream(t, streams.Spec{})
	publisher, err := streams.NewPublisher(server.JS, streams.PublisherOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), streamstest.Limit)
		defer cancel()
		assert.NoError(t, publisher.Close(ctx))
	})
	s := &system{fixture: newFixture(t), server: server}
	s.now = time.Now().Truncate(24 * time.Hour) // a time at which every interval begins
	s.publish = func(e domain.Event) uint64 {
		ctx, cancel := context.WithTimeout(context.Background(), streamstest.Limit)
		defer cancel()
		receipts, err := publisher.Publish(ctx, []domain.Event{e})
		if err != nil || len(receipts) != 1 {
			panic(fmt.Sprint("publish: ", err))
		}
		return receipts[0].Seq
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	for i, p := range []projections.Projection{pages.New(), subscriptions.New()} {
		runner, err := projections.NewRunner(p, projections.RunnerOptions{
			Dir: t.TempDir(), JS: server.JS, Identity: id, Pace: -1, Store: store.Options{NoSync: true},
		})
		require.NoError(t, err)
		running.Go(func() {
			assert.NoError(t, runner.Run(ctx))
			assert.NoError(t, runner.Close())
		})
		s.models[i] = runner
	}
	var last uint64
	for _, p := range list {
		s.connect(p)
		last = s.store(p, domain.PageRenamed, domain.Data{Connection: &domain.Connection{Name: "Page"}})
	}
	for _, m := range s.models {
		wait, stop := context.WithTimeout(ctx, streamstest.Limit)
		require.NoError(t, m.WaitFor(wait, last))
		stop()
	}
	s.opts = Options{
		JS: server.JS, Connect: func() (*nats.Conn, error) { return server.Embedded().Connect("reconcile") },
		Verbs: s.fixture, Pages: s.models[0], Subscriptions: s.models[1],
		Interval: time.Second, Settle: 100 * time.Millisecond, Timeout: 5 * time.Second,
	}
	return s
}

// run runs a loop until stop is called.
func (s *system) run(t *testing.T, change ...func(*Options)) (r *Reconciler, stop func()) {
	t.Helper()
	o := s.opts
	for _, f := range change {
		f(&o)
	}
	r = New(o)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		assert.NoError(t, <-ended)
	})
	t.Cleanup(stop)
	return r, stop
}

func eventually(t *testing.T, check func() error) {
	t.Helper()
	streamstest.Eventually(t, streamstest.Limit, check)
}

// expect returns an error with the formatted text unless ok is true.
func expect(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

func numbered(n int) (out []domain.PageID) {
	for i := range n {
		out = append(out, domain.PageID(fmt.Sprint(1000+i)))
	}
	return out
}

func (f *fixture) change(page domain.PageID, update func(*fakePage)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	update(f.graph[page])
}

func (f *fixture) counts(page domain.PageID) (checks, posts int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.graph[page].checks, f.graph[page].posts
}

func TestRunResubscribesDriftedPages(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, leaks) })
	list := numbered(20)
	s := newSystem(t, list...)
	r, stop := s.run(t)
	eventually(t, func() error {
		for _, p := range r.Status().Pages {
			if p.State != meta.LoopConfirmed {
				return fmt.Errorf("%s is %s", p.Page, p.State)
			}
		}
		return expect(len(r.Status().Pages) == len(list), "%d pages", len(r.Status().Pages))
	})
	for _, p := range list[:5] {
		s.change(p, func(g *fakePage) { g.subscribed = false })
	}
	for _, p := range list[5:8] {
		s.change(p, func(g *fakePage) { g.fields = []string{"messages"} })
	}
	eventually(t, func() error {
		for _, p := range list[:8] {
			sub, err := subscriptions.Get(s.models[1], p, "main")
			if err != nil {
				return err
			}
			if sub.State != subscriptions.Confirmed || len(sub.History) < 5 {
				return fmt.Errorf("%s: %s after %d changes", p, sub.State, len(sub.History))
			}
		}
		return nil
	})
	for i, p := range list {
		_, posts := s.counts(p)
		assert.Equal(t, i < 8, posts == 1, p)
	}
	stop()
}

func TestTwoNodesShareTheTasks(t *testing.T) {
	list := numbered(12)
	s := newSystem(t, list...)
	hour := func(o *Options) { o.Interval = time.Hour }
	// There is one interval, so each page has one task; the ticks carry the time.
	ticks := [2]chan time.Time{make(chan time.Time), make(chan time.Time)}
	var nodes [2]*Reconciler
	for i := range nodes {
		nodes[i], _ = s.run(t, hour, func(o *Options) {
			o.Now = s.clock
			o.Ticker = func(time.Duration) (<-chan time.Time, func()) { return ticks[i], func() {} }
		})
	}
	ticks[0] <- s.clock()
	ticks[1] <- s.clock()
	s.advance(59 * time.Minute)
	for range 2 { // the second tick is received only when the first is done
		ticks[0] <- s.clock()
		ticks[1] <- s.clock()
	}
	eventually(t, func() error {
		n := nodes[0].Status().Counters.Checks + nodes[1].Status().Counters.Checks
		return expect(n >= uint64(len(list)), "%d checks", n)
	})
	eventually(t, func() error {
		st, err := s.server.JS.Stream(context.Background(), TaskStream)
		if err != nil {
			return err
		}
		return expect(st.CachedInfo().State.Msgs == 0, "%d tasks left", st.CachedInfo().State.Msgs)
	})
	for _, p := range list {
		checks, _ := s.counts(p)
		assert.Equal(t, 1, checks, p)
	}
}

func TestTaskIsRetriedAtItsNextTry(t *testing.T) {
	s := newSystem(t, one)
	tick := make(chan time.Time)
	s.change(one, func(g *fakePage) { g.down = 1 })
	r, _ := s.run(t, func(o *Options) {
		o.Interval, o.Now = 24*time.Hour, s.clock
		o.Ticker = func(time.Duration) (<-chan time.Time, func()) { return tick, func() {} }
	})
	tick <- s.clock() // the interval is planned
	s.advance(13 * time.Hour)
	tick <- s.clock()
	eventually(t, func() error { p, _ := r.Page(one); return expect(p.State == meta.LoopUnreachable, "%s", p.State) })
	s.advance(59 * time.Second)
	tick <- s.clock()
	tick <- s.clock()
	checks, _ := s.counts(one)
	assert.Equal(t, 1, checks)
	s.advance(time.Second)
	tick <- s.clock()
	eventually(t, func() error { p, _ := r.Page(one); return expect(p.State == meta.LoopConfirmed, "%s", p.State) })
}

// TestChecksGoOnWhenTheClockIsSetBack checks that a page is checked in each interval, though checks and tasks of the
// same times were before the clock was set back.
func TestChecksGoOnWhenTheClockIsSetBack(t *testing.T) {
	s := newSystem(t, one)
	tick := make(chan time.Time)
	s.run(t, func(o *Options) {
		o.Interval, o.Now = time.Hour, s.clock
		o.Ticker = func(time.Duration) (<-chan time.Time, func()) { return tick, func() {} }
	})
	for n := 1; n <= 6; n++ {
		tick <- s.clock()
		tick <- s.clock() // the interval is planned now
		s.advance(31 * time.Minute)
		tick <- s.clock()
		eventually(t, func() error {
			checks, _ := s.counts(one)
			return expect(checks == n, "%d checks of %d", checks, n)
		})
		if s.advance(29 * time.Minute); n == 3 {
			s.setClock(-2 * time.Hour)
		}
	}
}

func TestRunHandlesRefreshEvents(t *testing.T) {
	s := newSystem(t, one)
	r, _ := s.run(t, func(o *Options) { o.Interval = -1 })
	eventually(t, func() error { // the consumer starts at the end of the stream
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := s.server.JS.PushConsumer(ctx, streams.Name, refreshDurable)
		return err
	})
	s.refresh(one)
	eventually(t, func() error {
		_, posts := s.counts(one)
		p, _ := r.Page(one)
		return expect(posts == 1 && p.State == meta.LoopConfirmed, "%d requests, %s", posts, p.State)
	})
	checks, _ := s.counts(one)
	assert.Zero(t, checks, "the loop itself is off")
}

func TestInvalidTasksAreSkipped(t *testing.T) {
	f := newFixture(t)
	g := f.connect(one)
	r := newLoop(f)
	work := func(payload string) {
		require.NoError(t, r.work(context.Background(), message.NewMessage("1", []byte(payload))))
	}
	work("")
	work("{}")
	work(`{"page":"nobody","at":1}`)
	assert.Zero(t, g.checks)
	at := func(d time.Duration) string { return fmt.Sprintf(`{"page":"101","at":%d}`, start.Add(d).UnixMilli()) }
	work(at(0))
	work(at(-time.Minute))
	assert.Equal(t, 1, g.checks, "it was looked at since")
	work(at(time.Minute))
	assert.Equal(t, 2, g.checks)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, r.work(ctx, message.NewMessage("1", []byte(at(time.Hour)))), errCut)
}

func TestRunNeedsItsQueue(t *testing.T) {
	f := newFixture(t)
	assert.Panics(t, func() { New(Options{}) })
	assert.Panics(t, func() { _ = newLoop(f).Run(context.Background()) })
	s := streamstest.Run(t)
	ctx, cancel := context.WithTimeout(context.Background(), streamstest.Limit)
	defer cancel()
	_, err := s.JS.CreateStream(ctx, jetstream.StreamConfig{Name: "other", Subjects: []string{"pagestream-tasks.>"}})
	require.NoError(t, err)
	r := newLoop(f, func(o *Options) {
		o.JS = s.JS
		o.Connect = func() (*nats.Conn, error) { return nil, errors.New("no connection") }
	})
	require.ErrorContains(t, r.Run(ctx), "make work queue")
	cancel()
	require.NoError(t, r.Run(ctx))
}
