package projections

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/streams"
)

const (
	// spacings is how many of the subscriber's messages come within a pace at most,
	// but for full ones.
	spacings     = 16
	closeTimeout = 10 * time.Second
)

// Errors that end one drive over the stream and begin another.
var (
	errReplaced = errors.New("the stream was replaced")
	errCorrupt  = errors.New("the store is corrupt")
	errEnded    = errors.New("the subscription ended")
)

// drive follows the stream from the stored position, until the context ends or
// it has to start over.
func (r *Runner) drive(ctx context.Context, replaced <-chan *jetstream.StreamInfo) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var running sync.WaitGroup
	defer running.Wait()
	defer end(nil)

	in := make(chan *parcel, r.opts.inFlight())
	running.Go(func() { r.committer(ctx, in, end) })
	running.Go(func() {
		select {
		case info := <-replaced:
			end(replacedError{info})
		case <-ctx.Done():
		}
	})

	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: closeTimeout}, watermill.NopLogger{})
	if err != nil {
		return fmt.Errorf("make router: %w", err)
	}
	subscriber := streams.NewSubscriber(r.opts.JS, streams.SubscriberOptions{
		Stream: r.opts.Stream, Tail: r.opts.Tail, Bundle: r.opts.bundle(), Spacing: r.opts.Pace / spacings,
		MaxInFlight: r.opts.inFlight(), Logger: r.opts.Logger,
		From: func(context.Context, string) (uint64, error) { return r.Status().Seq, nil },
	})
	router.AddConsumerHandler(r.Name(), streams.All, subscriber, func(m *message.Message) error {
		return r.handle(ctx, in, m)
	})
	running.Go(func() {
		select {
		case <-router.Running():
			r.progress.running()
		case <-ctx.Done():
		}
	})
	err = router.Run(ctx)
	switch cause := context.Cause(ctx); {
	case cause != nil:
		return cause
	case err != nil:
		return fmt.Errorf("run router: %w", err)
	}
	return errEnded
}

// handle is the router's handler: it decodes, passes the events to the committer, and
// returns when the events are durable in the read model.
func (r *Runner) handle(ctx context.Context, in chan<- *parcel, m *message.Message) error {
	pos, err := streams.PositionOf(m)
	if err != nil {
		return fmt.Errorf("find message's place: %w", err)
	}
	events, err := streams.EventsOf(m)
	if err != nil {
		return fmt.Errorf("read message %d: %w", pos.Seq, err)
	}
	p := &parcel{pos: pos, events: events, done: make(chan error, 1)}
	select {
	case in <- p:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-p.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
