package projections

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

const (
	closeTimeout = 10 * time.Second
	// retryMax is the longest pause before events that can't be applied are tried again. It is short, so that a
	// read model goes on soon after its disk has room again.
	retryMax = time.Second
	// checkEvery is the minimum time between two checks of the whole file because of a
	// row that can't be read.
	checkEvery = time.Minute
)

// Errors that end one drive over the stream and begin another.
var (
	errCorrupt = errors.New("the store is corrupt")
	errEnded   = errors.New("the subscription ended")
)

// drive follows the stream from the stored position until the context ends or an
// error requires another drive: a watermill router passes one batch of events at a
// time to handle.
func (r *Runner) drive(ctx context.Context) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	select {
	case <-r.differs: // a difference that still exists is found again
	default:
	}
	// The router logs each error of handle, which is in the status too, and recovers
	// from a panic.
	config := message.RouterConfig{CloseTimeout: closeTimeout}
	router, err := message.NewRouter(config, streams.WatermillLogger(r.opts.Logger, slog.LevelWarn))
	if err != nil {
		return fmt.Errorf("create router: %w", err)
	}
	subscriber := streams.NewSubscriber(r.opts.JS, streams.SubscriberOptions{
		Stream: r.opts.Stream, Tail: r.opts.Tail, Batch: r.opts.MaxBatch, Pace: r.opts.Pace, MaxPause: retryMax,
		Logger: r.opts.Logger,
		From:   func(context.Context, string) (uint64, error) { return r.Status().Seq, nil },
	})
	a := r.applier()
	a.giveUp = func(failed *applyError) error { return r.giveUp(ctx, failed) }
	router.AddConsumerHandler(r.Name(), streams.All, subscriber, func(m *message.Message) error {
		return r.handle(ctx, a, m)
	})

	var running sync.WaitGroup
	running.Go(func() { r.supervise(ctx, router.Running(), end) })
	r.token <- struct{}{} // from here on exclusive works
	err = router.Run(ctx)
	end(nil)
	running.Wait()
	<-r.token
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	if err != nil {
		return fmt.Errorf("run router: %w", err)
	}
	return errEnded
}

// handle is the router's handler. It returns when the events of the message and
// their position can be read in the read model. They are in its file a moment later; after a crash they are read from
// the stream again. Acknowledging the message only requests the next one.
func (r *Runner) handle(ctx context.Context, a *applier, m *message.Message) error {
	events, err := streams.EventsOf(m)
	if err != nil {
		return fmt.Errorf("read message %s: %w", m.UUID, err)
	}
	if !r.Verified() { // the events may be of another stream than those before
		if err := r.Current(ctx); err != nil {
			return fmt.Errorf("compare read model with the stream: %w", err)
		}
	}
	err = a.apply(ctx, r.write, r.Status().Seq, events)
	if err == nil && slices.ContainsFunc(events, isErasure) {
		if err := r.scrub(ctx); err != nil && ctx.Err() == nil { // the events are applied
			r.opts.Logger.Error("bytes of erased events stay in the file of the read model", "projection", r.Name(), "err", err)
		}
		return nil
	}
	if err == nil || ctx.Err() != nil {
		return err // if the drive is over, the next one starts at the stored position
	}
	var failed *applyError
	var seq uint64
	if errors.As(err, &failed) {
		seq = failed.seq
	}
	r.progress.failing(seq, err)
	if errors.Is(err, store.ErrCorrupt) {
		r.requestCheck()
	}
	return err
}

// supervise ends the drive if the read model differs from the stream or the file is
// damaged. It returns when the context ends.
func (r *Runner) supervise(ctx context.Context, running <-chan struct{}, end context.CancelCauseFunc) {
	look := time.NewTicker(inspectEvery)
	defer look.Stop()
	unwritten := false // it is the reason for which the read model fails
	for {
		select {
		case <-running:
			r.progress.running()
			running = nil
		case <-r.verify:
			r.stopIfDamaged(end)
		case <-look.C:
			if errors.Is(r.store.Load().Inspect(), store.ErrCorrupt) {
				r.stopIfDamaged(end)
			}
			err := r.store.Load().Unwritten()
			if err != nil {
				r.progress.failing(0, err)
			} else if unwritten {
				r.progress.running()
			}
			unwritten = err != nil
		case d := <-r.differs:
			end(differsError{d})
		case <-ctx.Done():
			return
		}
	}
}

// giveUp is called before an event is parked. If it returns an error, the event is
// not parked.
func (r *Runner) giveUp(ctx context.Context, failed *applyError) error {
	if ctx.Err() == nil {
		r.opts.Logger.Error("event parked as a dead letter", "projection", r.Name(), "seq", failed.seq, "err", failed.err)
	}
	return ctx.Err()
}

// requestCheck requests that the file is checked.
func (r *Runner) requestCheck() {
	select {
	case r.verify <- struct{}{}:
	default: // a check is pending
	}
}

// exclusive calls do with the live file while nothing else writes to it or replaces
// it: between two transactions, which may belong to the same batch. It waits until
// there is a drive. It fails with [ErrStopped] once the runner is stopped.
func (r *Runner) exclusive(ctx context.Context, do func(*store.Store) error) error {
	select {
	case <-r.token:
		defer func() { r.token <- struct{}{} }()
		return do(r.store.Load())
	case <-r.done:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// write is the [writeFunc] of the live file. It has exclusive access for one call.
func (r *Runner) write(ctx context.Context, do func(*store.Store) (store.Meta, error)) error {
	return r.exclusive(ctx, func(s *store.Store) error {
		meta, err := do(s)
		if meta.Seq > r.Status().Seq {
			r.progress.committed(meta)
		}
		return err
	})
}
