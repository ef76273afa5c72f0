package streams_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

func newTail(t testing.TB, s *streamstest.Server, o streams.TailOptions) *streams.Tail {
	t.Helper()
	tail := streams.NewTail(s.JS, o)
	t.Cleanup(func() { assert.NoError(t, tail.Close()) })
	return tail
}

// tailReader subscribes after a sequence and checks that it receives every event in order.
type tailReader struct {
	in    <-chan *message.Message
	ready []*streams.Replayed
	last  uint64
}

func newTailReader(t *testing.T, s *streamstest.Server, tail *streams.Tail, after uint64) *tailReader {
	t.Helper()
	sub := streams.NewSubscriber(s.JS, streams.SubscriberOptions{
		Tail: tail, Batch: 16,
		From: func(context.Context, string) (uint64, error) { return after, nil },
	})
	t.Cleanup(func() { _ = sub.Close() })
	in, err := sub.Subscribe(t.Context(), streams.All)
	require.NoError(t, err)
	return &tailReader{in: in, last: after}
}

// next returns the next event, which must be the one after the last.
func (r *tailReader) next() (streams.Stored, error) {
	if len(r.ready) == 0 {
		var m *message.Message
		select {
		case m = <-r.in:
		case <-time.After(streamstest.Limit):
		}
		if m == nil {
			return streams.Stored{}, fmt.Errorf("no event was delivered after %d", r.last)
		}
		defer m.Ack()
		var err error
		if r.ready, err = streams.EventsOf(m); err != nil {
			return streams.Stored{}, err
		}
	}
	e := r.ready[0]
	r.ready = r.ready[1:]
	if r.last++; e.Malformed != nil || e.Seq != r.last {
		return e.Stored, fmt.Errorf("got event %d, want %d: %w", e.Seq, r.last, e.Malformed)
	}
	return e.Stored, nil
}

// TestTailDeliversEveryEventInOrder checks that readers from any position get every event in order, even if they are
// further back than a small tail, and after the tail was closed.
func TestTailDeliversEveryEventInOrder(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	events := messages("100", 4000)
	publish(t, s, events[:500])
	tail := newTail(t, s, streams.TailOptions{Events: 50})
	p := publisher(t, s, streams.PublisherOptions{})
	var running errgroup.Group
	for _, after := range []uint64{0, 250, 499, 500} {
		r := newTailReader(t, s, tail, after)
		running.Go(func() error {
			for r.last < uint64(len(events)) {
				e, err := r.next()
				if err != nil {
					return fmt.Errorf("the reader from %d: %w", after, err)
				}
				if e.ID != events[e.Seq-1].ID || e.Data.Message.MID != events[e.Seq-1].Data.Message.MID {
					return fmt.Errorf("the reader from %d: event %d is %s", after, e.Seq, e.ID)
				}
			}
			return nil
		})
	}
	for at := 500; at < len(events); at += 7 {
		_, err := p.Publish(t.Context(), events[at:min(at+7, len(events))])
		require.NoError(t, err)
		if at > 3000 {
			_ = tail.Close()
		}
	}
	require.NoError(t, running.Wait())
}

// TestTailDecodesOnce checks that two readers share a decoded event.
func TestTailDecodesOnce(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	tail := newTail(t, s, streams.TailOptions{})
	one, two := newTailReader(t, s, tail, 0), newTailReader(t, s, tail, 0)
	events := messages("100", 1000)
	n := 0
	streamstest.Eventually(t, streamstest.Limit, func() error {
		publish(t, s, events[n:n+1])
		n++
		a, err := one.next()
		require.NoError(t, err)
		b, err := two.next()
		require.NoError(t, err)
		if a.Data.Message != b.Data.Message {
			return fmt.Errorf("event %d was decoded twice", a.Seq)
		}
		return nil
	})
}

// TestTailDropsTheEventsOfAReplacedStream checks that a reader of a new stream does not get events of the old one with
// the same sequences.
func TestTailDropsTheEventsOfAReplacedStream(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	tail := newTail(t, s, streams.TailOptions{})
	publish(t, s, messages("100", 1))
	r := newTailReader(t, s, tail, 0)
	for i := range 200 {
		publish(t, s, messages("100", 200)[i:i+1])
	}
	for range 200 {
		_, err := r.next()
		require.NoError(t, err)
	}
	s.DeleteStream(t, streams.Name)
	s.Stream(t, streams.Spec{})
	fresh := messages("200", 400)
	publish(t, s, fresh)
	r = newTailReader(t, s, tail, 0)
	for i := range fresh {
		e, err := r.next()
		require.NoError(t, err)
		require.Equal(t, fresh[i].ID, e.ID, "event %d of page %s", e.Seq, e.Page)
	}
}

// TestTailGoesOnAfterARestart checks that the tail delivers events after a restart of the server.
func TestTailGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t)
	s.Stream(t, streams.Spec{})
	tail := newTail(t, s, streams.TailOptions{})
	r := newTailReader(t, s, tail, 0)
	events := messages("100", 60)
	for i := range events {
		if i%20 == 10 {
			s.Halt(t)
			s.Start(t)
		}
		publish(t, s, events[i:i+1])
		_, err := r.next()
		require.NoError(t, err)
	}
}

// TestBatchIsBoundedAndRedelivered checks that a batch is bounded, does not wait without a Pace, has malformed
// messages in their places, and is delivered again after it was refused.
func TestBatchIsBoundedAndRedelivered(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	publish(t, s, messages("100", 300))
	subject := streams.SubjectPrefix + ".100.message.received"
	_, err := s.JS.Publish(t.Context(), subject, []byte("not an event"))
	require.NoError(t, err)
	publish(t, s, messages("200", 99))
	const all = 400
	sub := streams.NewSubscriber(s.JS, streams.SubscriberOptions{Batch: 64})
	defer sub.Close()
	in, err := sub.Subscribe(t.Context(), streams.All)
	require.NoError(t, err)
	refused, largest := 0, 0
	for at := uint64(0); at < all; {
		var m *message.Message
		select {
		case m = <-in:
		case <-time.After(streamstest.Limit):
			require.Fail(t, "no event was delivered", "after %d", at)
		}
		events, err := streams.EventsOf(m)
		require.NoError(t, err)
		require.NotEmpty(t, events)
		require.LessOrEqual(t, len(events), 64)
		require.Equal(t, at+1, events[0].Seq)
		if at > 100 && refused < 3 {
			refused++
			m.Nack()
			continue
		}
		require.Empty(t, m.Payload, "a batch has payload or metadata")
		require.Empty(t, m.Metadata, "a batch has payload or metadata")
		largest = max(largest, len(events))
		for _, e := range events {
			at++
			require.Equal(t, at, e.Seq)
			require.Equal(t, at == 301, e.Malformed != nil)
		}
		m.Ack()
	}
	require.GreaterOrEqual(t, refused, 3)
	require.GreaterOrEqual(t, largest, 2)
	_, err = streams.EventsOf(message.NewMessage("1", nil))
	require.ErrorIs(t, err, streams.ErrMalformed, "a message of another subscriber")
}

// TestPaceBoundsTheRateOfBatches checks that events that are stored one by one are delivered in at most one batch per
// Pace, and all of them are delivered.
func TestPaceBoundsTheRateOfBatches(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	const n, pace = 300, 20 * time.Millisecond
	subscriber := streams.NewSubscriber(s.JS, streams.SubscriberOptions{Batch: 4 * n, Pace: pace})
	defer func() { assert.NoError(t, subscriber.Close()) }()
	ctx, cancel := context.WithTimeout(t.Context(), streamstest.Limit)
	defer cancel()
	in, err := subscriber.Subscribe(ctx, streams.All)
	require.NoError(t, err)
	var publishing errgroup.Group
	publishing.Go(func() error {
		for _, e := range messages("100", n) {
			m, err := streams.Encode(e)
			if err != nil {
				return err
			}
			if _, err := s.JS.PublishMsg(ctx, m); err != nil {
				return err
			}
		}
		return nil
	})
	var began time.Time
	batches := 0
	for at := 0; at < n; batches++ {
		m, ok := <-in
		require.True(t, ok, "ended at event %d", at)
		if batches == 0 {
			began = time.Now()
		}
		events, err := streams.EventsOf(m)
		require.NoError(t, err)
		require.Equal(t, uint64(at+1), events[0].Seq)
		at += len(events)
		m.Ack()
	}
	// The first and the last batch may be in addition.
	require.LessOrEqual(t, batches, 2+int(time.Since(began)/pace))
	require.NoError(t, publishing.Wait())
}
