package streams

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Replayed is a message of the stream as [Replay] and [EventsOf] return it.
type Replayed struct {
	// Stored is the event. If the message is malformed, only Seq is set.
	Stored
	// Malformed is nil if the message is an event, else the reason why it is not.
	Malformed error
}

const (
	// replayBatch is the most messages in one call of f.
	replayBatch = 512
	// replayAhead is the most batches that are read ahead.
	replayAhead = 8
)

// Replay is like [Read], but faster for many events: it decodes messages on all processors and calls f
// with many at a time, in order, each once. It calls f from one goroutine; f may keep the slice. A
// message that is not an event is passed to f with Replayed.Malformed; ReadOptions.Malformed is not
// called.
func Replay(ctx context.Context, js jetstream.JetStream, o ReadOptions, f func([]Replayed) error) (uint64, error) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()

	type job struct {
		raw  []*arrival
		out  []Replayed
		done chan struct{}
	}
	work, inOrder := make(chan *job, replayAhead), make(chan *job, replayAhead)
	for range runtime.GOMAXPROCS(0) {
		running.Go(func() {
			for j := range work {
				for _, m := range j.raw {
					j.out = append(j.out, m.decode())
				}
				close(j.done)
			}
		})
	}
	var last uint64
	var failed error
	running.Go(func() {
		defer close(inOrder)
		defer close(work)
		last, failed = batches(ctx, js, o, func(raw []*arrival) error {
			j := &job{raw: raw, out: make([]Replayed, 0, len(raw)), done: make(chan struct{})}
			for _, to := range []chan *job{work, inOrder} {
				select {
				case to <- j:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		})
	})
	var at uint64
	for j := range inOrder {
		select {
		case <-j.done:
		case <-ctx.Done():
			return at, ctx.Err()
		}
		if err := f(j.out); err != nil {
			return at, err
		}
		at = j.out[len(j.out)-1].Seq
	}
	if failed != nil {
		return at, failed
	}
	return last, nil
}

// batches is like [each], but calls f with many messages at a time.
func batches(ctx context.Context, js jetstream.JetStream, o ReadOptions, f func([]*arrival) error) (uint64, error) {
	var batch []*arrival
	last, err := each(ctx, js, o, func(m *arrival) error {
		if batch = append(batch, m); len(batch) < replayBatch {
			return nil
		}
		full := batch
		batch = nil
		return f(full)
	})
	if err == nil && len(batch) > 0 {
		err = f(batch)
	}
	return last, err
}

// Raw is a message as it is stored, not decoded. It may be malformed.
type Raw struct {
	Seq     uint64
	At      time.Time // when this stream stored the message, in UTC
	Subject string
	Header  nats.Header
	Data    []byte
}

// ReadRaw is like [Read], but does not decode the messages. ReadOptions.Malformed is not called.
func ReadRaw(ctx context.Context, js jetstream.JetStream, o ReadOptions, f func(Raw) error) (uint64, error) {
	return each(ctx, js, o, func(a *arrival) error {
		return f(Raw{Seq: a.seq, At: a.at.UTC(), Subject: a.subject, Header: a.header, Data: a.data})
	})
}
