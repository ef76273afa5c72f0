package profile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// run runs the reactor until stop is called.
func run(t *testing.T, reactor *Reactor) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- reactor.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		assert.NoError(t, <-ended)
	})
	t.Cleanup(stop)
	return stop
}

// looking waits until a reactor that runs looks at the events.
func (r *fixture) looking(t *testing.T) {
	t.Helper()
	streamstest.Eventually(t, streamstest.Limit, func() error {
		kv, err := r.JS.KeyValue(t.Context(), positions)
		if err != nil {
			return err
		}
		_, err = kv.Get(t.Context(), position)
		return err
	})
}

func TestRunHandlesStreamEvents(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, leaks) })
	r := newFixture(t)
	r.Publish(t, received("6", 1)) // history
	reactor, g := r.reactor(func(o *Options) { o.MaxWait = 100 * time.Millisecond })
	stop := run(t, reactor)
	r.looking(t)
	g.set(func(g *fakeGraph) { g.fail = io.ErrUnexpectedEOF })
	r.Publish(t, received("7", 1))
	eventually := func(what string, done func() bool) {
		t.Helper()
		streamstest.Eventually(t, streamstest.Limit, func() error {
			if !done() {
				return fmt.Errorf("%s: %+v", what, reactor.Stats())
			}
			return nil
		})
	}
	eventually("not tried", func() bool { return reactor.Stats().Failed > 0 })
	g.set(func(g *fakeGraph) { g.fail = nil })
	eventually("not profiled after a failure", func() bool { return reactor.Stats().Profiled == 1 })
	// A page that is throttled for long does not delay the others.
	g.set(func(g *fakeGraph) { g.fail = &meta.Error{Code: 32, After: time.Hour} })
	for n := range 20 {
		r.Publish(t, received(domain.ContactID(fmt.Sprint(100+n)), 1))
	}
	eventually("not skipped", func() bool { return reactor.Stats().Skipped == 20 })
	stop()
	for _, e := range r.profiles(t) {
		assert.Equal(t, domain.ContactID("7"), e.Contact)
	}
	// Events that are stored while nothing runs are handled later.
	r.Publish(t, received("9", 1))
	next, _ := r.reactor()
	run(t, next)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if list := r.profiles(t); len(list) != 2 || list[1].Contact != "9" {
			return fmt.Errorf("%d profiles", len(list))
		}
		return nil
	})
}

// queue returns the state of the queue, with how many tasks each subject has.
func (r *fixture) queue(t *testing.T) jetstream.StreamState {
	t.Helper()
	st, err := r.JS.Stream(t.Context(), Queue)
	require.NoError(t, err)
	info, err := st.Info(t.Context(), jetstream.WithSubjectFilter(">"))
	require.NoError(t, err)
	return info.State
}

// TestMostEventsMakeNoTask checks that a contact who writes often makes one task, that events which are not about a
// contact make none, and that a task has no id of the contact.
func TestMostEventsMakeNoTask(t *testing.T) {
	r := newFixture(t)
	reactor, g := r.reactor()
	stop := run(t, reactor)
	r.looking(t)
	const contact = "900700"
	for n := range 50 {
		r.Publish(t, received(contact, n))
	}
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if n := reactor.Stats().Profiled; n != 1 {
			return fmt.Errorf("%d profiles", n)
		}
		return nil
	})
	stop() // stores the position
	at, err := reactor.position(t.Context())
	require.NoError(t, err)
	assert.GreaterOrEqual(t, at.Seq, uint64(50))
	assert.Equal(t, 1, g.calls())
	state := r.queue(t)
	assert.Zero(t, state.Msgs)
	assert.LessOrEqual(t, state.LastSeq, uint64(2)) // 2 if the first task was done before the second event was looked at

	require.NoError(t, reactor.enqueue(t.Context(), streams.Stored{Event: received(contact, 1), Seq: 50}))
	st, err := r.JS.Stream(t.Context(), Queue)
	require.NoError(t, err)
	m, err := st.GetMsg(t.Context(), r.queue(t).LastSeq)
	require.NoError(t, err)
	assert.NotContains(t, m.Subject+string(m.Data), contact)
}

// TestFullQueueIsWaitedFor fills the queue while nothing works on it. No contact may be lost.
func TestFullQueueIsWaitedFor(t *testing.T) {
	r := newFixture(t)
	reactor, g := r.reactor(func(o *Options) { o.MaxWait = 100 * time.Millisecond })
	require.NoError(t, reactor.setUp(t.Context()))
	_, err := reactor.position(t.Context())
	require.NoError(t, err)
	var events []domain.Event
	const contacts = queueLimit + 20
	for n := range contacts {
		events = append(events, received(domain.ContactID(fmt.Sprint(1000+n)), 1))
	}
	r.Publish(t, events...)
	ctx, cancel := context.WithCancel(t.Context())
	looked := make(chan error, 1)
	go func() { looked <- reactor.look(ctx) }()
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if n := r.queue(t).Msgs; n != queueLimit {
			return fmt.Errorf("%d tasks", n)
		}
		return nil
	})
	cancel()
	require.NoError(t, <-looked)
	run(t, reactor)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if n := g.calls(); n != contacts {
			return fmt.Errorf("%d of %d contacts", n, contacts)
		}
		return nil
	})
}

// TestContactThatIsDroppedIsAskedForAgain checks what happens after the last attempt for a contact.
func TestContactThatIsDroppedIsAskedForAgain(t *testing.T) {
	r := newFixture(t)
	reactor, g := r.reactor(func(o *Options) { o.MaxWait = 10 * time.Millisecond })
	g.set(func(g *fakeGraph) { g.fail = io.ErrUnexpectedEOF })
	run(t, reactor)
	r.looking(t)
	r.Publish(t, received("7", 1))
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if n, state := g.calls(), r.queue(t); n < streams.DefaultMaxDeliver || state.Msgs > 0 {
			return fmt.Errorf("%d attempts, %d tasks", n, state.Msgs)
		}
		return nil
	})
	g.set(func(g *fakeGraph) { g.fail = nil })
	r.Publish(t, received("7", 2))
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if n := len(r.profiles(t)); n != 1 {
			return fmt.Errorf("%d profiles", n)
		}
		return nil
	})
	assert.Equal(t, streams.DefaultMaxDeliver+1, g.calls())
}

// TestPositionOfAnotherStream checks that a reactor whose stored position is not one of the stream goes on at the last
// event that is known to be in both.
func TestPositionOfAnotherStream(t *testing.T) {
	r := newFixture(t)
	reactor, _ := r.reactor()
	require.NoError(t, reactor.setUp(t.Context()))
	r.Publish(t, received("7", 1), received("7", 2))
	all := r.All(t)
	trail := streams.Trail{}.With(&all[0])
	other := all[1]
	other.ID = "other"
	ahead := looked{Position: streams.Position{Seq: 2, Trail: trail.With(&other)}}
	require.NoError(t, reactor.save(t.Context(), ahead))
	at, err := reactor.position(t.Context())
	require.NoError(t, err)
	assert.Equal(t, uint64(1), at.Seq)

	require.NoError(t, reactor.save(t.Context(), looked{Position: streams.Position{Seq: 1000}}))
	at, err = reactor.position(t.Context())
	require.NoError(t, err)
	assert.Equal(t, uint64(2), at.Seq)

	// What was there before the first run is not looked at, as far as the stream that there is now goes.
	for floor, want := range map[uint64]uint64{1: 1, 2: 2, 1000: 2} {
		trail := streams.Trail{}.With(&other)
		require.NoError(t, reactor.save(t.Context(), looked{streams.Position{Seq: 2, Trail: trail}, floor}))
		at, err = reactor.position(t.Context())
		require.NoError(t, err)
		assert.Equal(t, want, at.Seq, "begun at %d", floor)
	}

	require.NoError(t, reactor.save(t.Context(), ahead))
	run(t, reactor)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if len(r.profiles(t)) == 0 {
			return errors.New("the event that differs was not looked at")
		}
		return nil
	})
}

// TestEventsAfterTheEndOfAShorterStream replaces the stream by one that ends before the first run began. What is stored
// after that end is handled, also if no node runs then, and the node that noticed it was killed.
func TestEventsAfterTheEndOfAShorterStream(t *testing.T) {
	r := newFixture(t)
	reactor, _ := r.reactor()
	require.NoError(t, reactor.setUp(t.Context()))
	r.Publish(t, received("7", 1), received("7", 2))
	require.NoError(t, reactor.save(t.Context(), looked{Position: streams.Position{Seq: 1500}, Floor: 1000}))
	at, err := reactor.position(t.Context())
	require.NoError(t, err)
	require.Equal(t, uint64(2), at.Seq)
	r.Publish(t, received("8", 1), received("9", 1), received("10", 1))
	again, _ := r.reactor()
	require.NoError(t, again.setUp(t.Context()))
	at, err = again.position(t.Context())
	require.NoError(t, err)
	require.Equal(t, uint64(2), at.Seq)
}

// TestTaskWithoutAnEvent checks that tasks whose events are gone, or which the stream does not have since it is another
// one, delay the others little, and that their contacts are asked for again.
func TestTaskWithoutAnEvent(t *testing.T) {
	r := newFixture(t)
	reactor, g := r.reactor()
	reactor.lag = 100 * time.Millisecond
	require.NoError(t, reactor.setUp(t.Context()))
	erased := r.Publish(t, received("7", 1))[0].Seq
	require.NoError(t, reactor.enqueue(t.Context(), streams.Stored{Event: received("7", 1), Seq: erased}))
	for n := range 10 {
		contact := domain.ContactID(fmt.Sprint(100 + n))
		require.NoError(t, reactor.enqueue(t.Context(), streams.Stored{Event: received(contact, 1), Seq: 1000 + uint64(n)}))
	}
	st, err := r.JS.Stream(t.Context(), streams.Name)
	require.NoError(t, err)
	require.NoError(t, st.DeleteMsg(t.Context(), erased))
	ctx, cancel := context.WithCancel(t.Context())
	worked := make(chan error, 1)
	go func() { worked <- reactor.worker().Run(ctx) }()
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if n := r.queue(t).Msgs; n > 0 {
			return fmt.Errorf("%d tasks", n)
		}
		return nil
	})
	assert.Zero(t, g.calls())
	for _, contact := range []domain.ContactID{"7", "100"} {
		assert.True(t, reactor.wants(t.Context(), streams.Stored{Event: received(contact, 2), Seq: erased + 1}), contact)
	}
	cancel()
	require.NoError(t, <-worked)
}

// TestNodesQueueOneTask checks that nodes which look at the same event make one task, and that a node puts a task into the
// queue again if the queue was lost.
func TestNodesQueueOneTask(t *testing.T) {
	r := newFixture(t)
	one, _ := r.reactor()
	other, _ := r.reactor()
	require.NoError(t, one.setUp(t.Context()))
	r.Publish(t, received("7", 1))
	tasks := func(n uint64) {
		t.Helper()
		streamstest.Eventually(t, streamstest.Limit, func() error {
			if state := r.queue(t); state.LastSeq != n || state.Msgs != 1 {
				return fmt.Errorf("%d tasks of %d", state.Msgs, state.LastSeq)
			}
			return nil
		})
	}
	look := func() (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- one.look(ctx) }()
		return func() {
			t.Helper()
			cancel()
			require.NoError(t, <-ended)
		}
	}
	stop := look()
	tasks(1)
	require.NoError(t, other.enqueue(t.Context(), r.All(t)[0]))
	tasks(1)
	stop()

	require.NoError(t, r.JS.DeleteStream(t.Context(), Queue))
	require.NoError(t, one.setUp(t.Context()))
	require.NoError(t, one.save(t.Context(), looked{}))
	stop = look()
	tasks(1)
	stop()
}

// TestUpgradeFromVersion010 checks that the durable consumer of that version is removed, with the events that it gave up
// on, that what it had not handled is handled, and that a node of that version which still runs takes no task.
func TestUpgradeFromVersion010(t *testing.T) {
	r := newFixture(t)
	parking := streams.NewParking(r.JS, streams.Name)
	r.Publish(t, received("6", 1)) // history
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- streams.NewReactor(streams.ReactorOptions{
			Connect: r.connect, Filter: streams.SubjectPrefix + ".*.*.received", Durable: former, FromNow: true, Parking: parking,
			Handle: streams.OnEvent(func(_ context.Context, e streams.Stored) error {
				if e.Contact == "7" {
					return streams.ErrNoRetry
				}
				return errors.New("not now")
			}),
		}).Run(ctx)
	}()
	streamstest.Eventually(t, streamstest.Limit, func() error {
		_, err := r.JS.PushConsumer(t.Context(), streams.Name, former)
		return err
	})
	r.Publish(t, received("7", 1))
	streamstest.Eventually(t, streamstest.Limit, func() error {
		list, err := parking.List(t.Context(), former)
		if err == nil && len(list) == 0 {
			err = errors.New("nothing is parked")
		}
		return err
	})
	r.Publish(t, received("8", 1))
	require.NotEmpty(t, parking.Stalled())

	reactor, g := r.reactor(func(o *Options) { o.Parking = parking })
	run(t, reactor)
	const contacts = 30
	for n := range contacts {
		r.Publish(t, received(domain.ContactID(fmt.Sprint(100+n)), 1))
	}
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if n := len(r.profiles(t)); n != 1+contacts {
			return fmt.Errorf("%d of %d profiles", n, 1+contacts)
		}
		return nil
	})
	assert.Equal(t, 1+contacts, g.calls(), "neither the history nor what was parked is asked for")
	_, err := r.JS.PushConsumer(t.Context(), streams.Name, former)
	require.ErrorIs(t, err, jetstream.ErrConsumerNotFound)
	list, err := parking.List(t.Context(), former)
	require.NoError(t, err)
	assert.Empty(t, list)
	assert.Empty(t, parking.Stalled())
	cancel()
	require.NoError(t, <-ended)
}
