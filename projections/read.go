package projections

import (
	"context"
	"errors"
	"fmt"

	"github.com/pagestream/pagestream/projections/store"
)

// View runs f in one short read-only transaction on the read model. It fails
// with store.ErrClosed after Close.
func (r *Runner) View(f func(*store.Tx) error) error {
	for {
		s := r.store.Load()
		err := s.View(f)
		if errors.Is(err, store.ErrClosed) && r.store.Load() != s {
			continue // started over meanwhile
		}
		if errors.Is(err, store.ErrCorrupt) {
			select {
			case r.verify <- struct{}{}:
			default: // it will be looked at
			}
		}
		return err
	}
}

// Digest returns the digest of the read model and the position it is of. It
// reads everything in one transaction: for verification, not for serving.
func (r *Runner) Digest() (digest string, meta store.Meta, err error) {
	return digestOf(r)
}

// WaitFor returns once the read model holds every event up to seq: after it a
// reader sees what was stored at seq. It fails with the context's error, or
// with [ErrStopped].
func (r *Runner) WaitFor(ctx context.Context, seq uint64) error {
	for {
		at, state, moved := r.progress.position()
		if at >= seq {
			return nil
		}
		if state == StateStopped {
			return fmt.Errorf("wait for event %d of %s, at %d: %w", seq, r.Name(), at, ErrStopped)
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("wait for event %d of %s, at %d: %w", seq, r.Name(), at, ctx.Err())
		}
	}
}
