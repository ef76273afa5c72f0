package consumers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/streams"
)

// Target is where a consumer is rewound to: an event, by its sequence, or, if Seq is 0,
// the first one that was stored at a time or later.
type Target struct {
	Seq uint64
	At  time.Time
}

// rewinds is how often a rewind is tried while the outbox is being filled.
const rewinds = 20

// Rewind delivers the events from the target on again, and returns the consumer. It
// empties the outbox, which is then filled from the target on. It fails with [ErrUnknown],
// or with [ErrRewind] if the consumer has not acknowledged the event before the target:
// a rewind never skips events.
func (c *Consumers) Rewind(ctx context.Context, name string, to Target) (out Consumer, err error) {
	if to.Seq == 0 {
		if to.Seq, err = streams.SeqAt(ctx, c.opts.JS, c.opts.Stream, to.At); err != nil {
			return Consumer{}, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r, err := c.find(ctx, name)
	if err != nil {
		return Consumer{}, err
	}
	head, err := streams.Last(ctx, c.opts.JS, c.opts.Stream)
	if err != nil {
		return Consumer{}, err
	}
	now, err := c.consumer(ctx, r, head)
	if err != nil {
		return Consumer{}, err
	}
	if to.Seq > now.Seq+1 {
		return Consumer{}, fmt.Errorf("%w: it has acknowledged what it gets up to event %d", ErrRewind, now.Seq)
	}
	b := c.outbox(r)
	at, err := b.rewind(ctx, to.Seq-1)
	if errors.Is(err, errFull) {
		larger := b
		larger.maxBytes += batchBytes
		if err = larger.ensure(ctx); err == nil {
			defer func() { err = errors.Join(err, b.ensure(context.WithoutCancel(ctx))) }()
			at, err = larger.rewind(ctx, to.Seq-1)
		}
	}
	if err != nil {
		return Consumer{}, fmt.Errorf("rewind consumer %s: %w", name, err)
	}
	c.fillersMu.Lock()
	if f := c.fillers[name]; f != nil {
		f.setProgress(at.Seq, false)
		f.session.Interrupt()
	}
	c.fillersMu.Unlock()
	st, err := c.opts.JS.Stream(ctx, b.stream)
	if err != nil {
		return Consumer{}, fmt.Errorf("get outbox: %w", err)
	}
	// What was stored before the new position; the events from the target on are after it.
	if err := st.Purge(ctx, jetstream.WithPurgeSequence(at.last)); err != nil {
		return Consumer{}, fmt.Errorf("empty outbox: %w", err)
	}
	return c.consumer(ctx, r, head)
}

// rewind replaces the position, and returns it.
func (b outbox) rewind(ctx context.Context, seq uint64) (position, error) {
	for try := 1; ; try++ {
		at, err := b.position(ctx)
		if err != nil {
			return at, err
		}
		next, err := b.publish(ctx, at, nil, position{Position: at.Upto(seq)})
		if err == nil {
			return next, b.keep(ctx, next)
		}
		if !errors.Is(err, errLost) || try == rewinds {
			return next, err
		}
		if err := backoff.Sleep(ctx, backoff.Jitter(pace)); err != nil {
			return at, err
		}
	}
}
