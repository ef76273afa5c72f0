package streams_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// reactions counts how often each event was handled, by its id.
type reactions struct {
	mu     sync.Mutex
	counts map[string]int
}

func (r *reactions) add(id string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.counts == nil {
		r.counts = map[string]int{}
	}
	r.counts[id]++
	return r.counts[id]
}

func (r *reactions) all() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.counts)
}

func (r *reactions) eventually(t *testing.T, want map[string]int) {
	t.Helper()
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if got := r.all(); !maps.Equal(got, want) {
			return fmt.Errorf("handled %v, want %v", got, want)
		}
		return nil
	})
}

func reactorOptions(s *streamstest.Server) streams.ReactorOptions {
	return streams.ReactorOptions{
		Connect: func() (*nats.Conn, error) { return s.Embedded().Connect("reactor") },
		Filter:  "pagestream.*.message.received", Durable: "test",
		Pause: time.Millisecond, MaxPause: 5 * time.Millisecond, Timeout: 2 * time.Second,
	}
}

// react runs a reactor until stop is called or the test ends.
func react(t *testing.T, o streams.ReactorOptions) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- streams.NewReactor(o).Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		assert.NoError(t, <-ended)
	})
	t.Cleanup(stop)
	return stop
}

// acknowledged waits until the reactor has acknowledged every event up to seq.
func acknowledged(t *testing.T, s *streamstest.Server, seq uint64) {
	t.Helper()
	consumer(t, s, func(info *jetstream.ConsumerInfo) error {
		if info.AckFloor.Stream != seq {
			return fmt.Errorf("acknowledged up to %d", info.AckFloor.Stream)
		}
		return nil
	})
}

// consumer waits until check returns nil for the state of the reactor's consumer.
func consumer(t *testing.T, s *streamstest.Server, check func(*jetstream.ConsumerInfo) error) {
	t.Helper()
	streamstest.Eventually(t, streamstest.Limit, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), streamstest.Limit)
		defer cancel()
		c, err := s.JS.PushConsumer(ctx, streams.Name, "test")
		if err != nil {
			return err
		}
		info, err := c.Info(ctx)
		if err != nil {
			return err
		}
		return check(info)
	})
}

func TestReactorRetriesAndKeepsItsPosition(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	events := messages("7", 4)
	publish(t, s, events[:3])
	var seen reactions
	o := reactorOptions(s)
	o.Handle = streams.OnEvent(func(_ context.Context, e streams.Stored) error {
		switch n := seen.add(e.ID); {
		case e.ID == events[1].ID && n == 1:
			return errors.New("not now")
		case e.ID == events[2].ID && n == 1:
			panic("handler panics")
		}
		return nil
	})
	stop := react(t, o)
	want := map[string]int{events[0].ID: 1, events[1].ID: 2, events[2].ID: 2}
	seen.eventually(t, want)
	// The consumer and its position are kept when the reactor stops.
	acknowledged(t, s, 3)
	stop()
	publish(t, s, events[3:])
	react(t, o)
	want[events[3].ID] = 1
	seen.eventually(t, want)
}

func TestReactorGivesUpAfterMaxDeliver(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	events := messages("7", 2)
	publish(t, s, events)
	var seen reactions
	gaveUp := make(chan string, 4)
	o := reactorOptions(s)
	o.MaxDeliver = 3
	o.GaveUp = func(m *message.Message, err error) { gaveUp <- m.Metadata[streams.MetaSeq] + " " + err.Error() }
	o.Handle = streams.OnEvent(func(_ context.Context, e streams.Stored) error {
		if seen.add(e.ID); e.ID == events[0].ID {
			return errors.New("never")
		}
		return nil
	})
	react(t, o)
	seen.eventually(t, map[string]int{events[0].ID: 3, events[1].ID: 1})
	select {
	case got := <-gaveUp:
		assert.Equal(t, "1 never", got)
	case <-time.After(streamstest.Limit):
		require.Fail(t, "GaveUp was not called")
	}
}

func TestReactorFromNowSkipsOldEvents(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	events := messages("7", 3)
	publish(t, s, events[:1])
	var seen reactions
	o := reactorOptions(s)
	o.FromNow = true
	o.Handle = streams.OnEvent(func(_ context.Context, e streams.Stored) error { seen.add(e.ID); return nil })
	stop := react(t, o)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), streamstest.Limit)
		defer cancel()
		_, err := s.JS.PushConsumer(ctx, streams.Name, "test")
		return err
	})
	publish(t, s, events[1:2])
	seen.eventually(t, map[string]int{events[1].ID: 1})
	stop()
	publish(t, s, events[2:])
	react(t, o)
	seen.eventually(t, map[string]int{events[1].ID: 1, events[2].ID: 1})
}

func TestReactorSkipsMalformedMessages(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	malformed := nats.NewMsg("pagestream.7.message.received")
	malformed.Header["Twice"] = []string{"a", "b"} // watermill-nats's own unmarshaler can't decode these
	ctx, cancel := context.WithTimeout(context.Background(), streamstest.Limit)
	defer cancel()
	_, err := s.JS.PublishMsg(ctx, malformed)
	require.NoError(t, err)
	events := messages("7", 1)
	publish(t, s, events)
	var seen reactions
	o := reactorOptions(s)
	o.Handle = streams.OnEvent(func(_ context.Context, e streams.Stored) error { seen.add(e.ID); return nil })
	react(t, o)
	seen.eventually(t, map[string]int{events[0].ID: 1})
}

func TestReactorsOfOneNameShareTheEvents(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	var seen reactions
	o := reactorOptions(s)
	o.Handle = streams.OnEvent(func(_ context.Context, e streams.Stored) error { seen.add(e.ID); return nil })
	react(t, o)
	react(t, o)
	events := messages("7", 200)
	publish(t, s, events)
	want := map[string]int{}
	for _, e := range events {
		want[e.ID] = 1
	}
	seen.eventually(t, want)
}

func TestReactorFailsWithoutItsStream(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	o := reactorOptions(s)
	o.Handle = func(context.Context, *message.Message) error { return nil }
	ctx, cancel := context.WithTimeout(context.Background(), streamstest.Limit)
	defer cancel()
	require.Error(t, streams.NewReactor(o).Run(ctx))
	assert.Panics(t, func() { streams.NewReactor(streams.ReactorOptions{}) })
}

// Stopping a reactor while messages are delivered must not race with watermill-nats, which closes its channel.
// Messages that were not finished are delivered again.
func TestReactorCanStopWhileMessagesAreDelivered(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	events := messages("7", 300)
	publish(t, s, events)
	var seen reactions
	o := reactorOptions(s)
	o.Timeout = 100 * time.Millisecond // unfinished messages are delivered again after a few of these
	o.Handle = streams.OnEvent(func(ctx context.Context, e streams.Stored) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		seen.add(e.ID)
		return nil
	})
	for range 6 {
		stop := react(t, o)
		before := len(seen.all())
		streamstest.Eventually(t, streamstest.Limit, func() error {
			if n := len(seen.all()); n == before && n < len(events) {
				return errors.New("no event was handled yet")
			}
			return nil
		})
		stop()
	}
	react(t, o)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if n := len(seen.all()); n < len(events) {
			return fmt.Errorf("%d of %d events were handled", n, len(events))
		}
		return nil
	})
}

// TestReactorBesideAnOlderStream replaces the stream by an older copy while an event is handled. The place of that event
// is another event's then, which must be handled until it succeeds.
func TestReactorBesideAnOlderStream(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t)
	s.Stream(t, streams.Spec{})
	events := messages("7", 3)
	before, after := events[1], events[2]
	var seen reactions
	began, proceed := make(chan struct{}), make(chan struct{})
	o := reactorOptions(s)
	o.Connect = func() (*nats.Conn, error) {
		return nats.Connect("", nats.InProcessServer(s), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	}
	o.Timeout, o.MaxPause = streamstest.Limit, time.Second
	o.Handle = streams.OnEvent(func(_ context.Context, e streams.Stored) error {
		switch n := seen.add(e.ID); {
		case e.ID == before.ID:
			close(began)
			<-proceed
		case e.ID == after.ID && n == 1:
			return errors.New("not now")
		}
		return nil
	})
	react(t, o)
	publish(t, s, events[:1])
	acknowledged(t, s, 1)
	s.Halt(t)
	older := t.TempDir()
	copyDir(t, s.Dir, older)
	s.Start(t)
	publish(t, s, []domain.Event{before})
	<-began
	s.Halt(t)
	require.NoError(t, os.RemoveAll(s.Dir))
	copyDir(t, older, s.Dir)
	s.Start(t)
	publish(t, s, []domain.Event{after})
	consumer(t, s, func(info *jetstream.ConsumerInfo) error {
		if info.Delivered.Stream < 2 {
			return fmt.Errorf("delivered up to %d", info.Delivered.Stream)
		}
		return nil
	})
	close(proceed)
	seen.eventually(t, map[string]int{events[0].ID: 1, before.ID: 1, after.ID: 2})
	acknowledged(t, s, 2)
}
