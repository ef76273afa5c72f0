package backfill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/streams"
)

const (
	// batch is how many events are appended together.
	batch = 500
	// maxThrottled is how often one call is made if rate limits are reached.
	maxThrottled = 5
	// maxWait is the longest rate limit to wait for.
	maxWait = 5 * time.Minute
)

// Pauses while the publisher is overloaded, since deliveries have precedence.
const (
	overloadPause = 250 * time.Millisecond
	overloadMax   = 4 * time.Second
	overloadTries = 6
)

// store appends events in reverse order: they are given the newest first and stored
// the oldest first.
func (w *walk) store(ctx context.Context, events []domain.Event) error {
	slices.Reverse(events)
	for part := range slices.Chunk(events, batch) {
		receipts, err := w.publish(ctx, part)
		if err != nil {
			return fmt.Errorf("append messages: %w", err)
		}
		for _, r := range receipts {
			if r.Duplicate == streams.NotDuplicate {
				w.sum.Stored++
			} else {
				w.sum.Duplicates++
			}
		}
	}
	return nil
}

// publish appends events, without those whose contact was erased after them, maybe since they were read. While the publisher
// is overloaded it pauses, so that deliveries are stored first.
func (w *walk) publish(ctx context.Context, events []domain.Event) ([]streams.Receipt, error) {
	pause := backoff.Backoff{Min: overloadPause, Max: overloadMax}
	for try := 1; ; try++ {
		var err error
		if events, err = w.withoutErased(events); err != nil || len(events) == 0 {
			return nil, err
		}
		receipts, err := w.opts.Publisher.Publish(ctx, events)
		if !errors.Is(err, streams.ErrOverloaded) || try == overloadTries {
			return receipts, err
		}
		if err := pause.Wait(ctx); err != nil {
			return nil, fmt.Errorf("wait: %w", err)
		}
	}
}

// withoutErased counts and removes the events whose contact was erased after them.
func (w *walk) withoutErased(events []domain.Event) ([]domain.Event, error) {
	kept := make([]domain.Event, 0, len(events))
	for _, e := range events {
		at, erased, err := w.opts.Erased(e.Page, e.Contact)
		switch {
		case err != nil:
			return nil, fmt.Errorf("ask for an erasure: %w", err)
		case erased && !e.Time.After(at):
			w.sum.Erased++
		default:
			kept = append(kept, e)
		}
	}
	return kept, nil
}

// call makes one call at the page's rate, and repeats it after a rate limit error.
func (w *walk) call(ctx context.Context, f func() error) error {
	for try := 1; ; try++ {
		if err := w.limiter.Wait(ctx); err != nil {
			return fmt.Errorf("wait for the page's turn: %w", err)
		}
		err := f()
		wait := meta.RetryAfter(err)
		if err == nil || wait <= 0 || wait > maxWait || try == maxThrottled {
			return err
		}
		if err := backoff.Sleep(ctx, wait); err != nil {
			return fmt.Errorf("wait: %w", err)
		}
	}
}
