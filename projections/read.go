package projections

import (
	"context"
	"errors"
	"fmt"

	"github.com/pagestream/pagestream/projections/store"
)

// View runs f in one short read-only transaction on the read model. It fails
// with store.ErrClosed after Close. If the file was replaced before the
// transaction began, View tries again with the new file.
func (r *Runner) View(f func(*store.Tx) error) error {
	for {
		s := r.store.Load()
		err := s.View(f)
		if errors.Is(err, store.ErrClosed) && r.store.Load() != s {
			continue // the file was replaced
		}
		if errors.Is(err, store.ErrCorrupt) {
			select {
			case r.verify <- struct{}{}:
			default: // a check is pending
			}
		}
		return err
	}
}

// Digest returns the digest of the read model and its position. It reads the whole
// file in one transaction, so it is for verification and not for serving requests.
func (r *Runner) Digest() (digest string, meta store.Meta, err error) {
	return digestOf(r)
}

// WaitFor returns once the read model has applied every event up to seq: a reader
// then sees the effect of event seq. It fails with the context's error if the
// context ends first, and with [ErrStopped] if the runner stops first.
func (r *Runner) WaitFor(ctx context.Context, seq uint64) error {
	for {
		position, state, changed := r.progress.position()
		if position >= seq {
			return nil
		}
		if state == StateStopped {
			return fmt.Errorf("wait for event %d of %s, at %d: %w", seq, r.Name(), position, ErrStopped)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for event %d of %s, at %d: %w", seq, r.Name(), position, ctx.Err())
		}
	}
}
