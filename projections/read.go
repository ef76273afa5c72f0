package projections

import (
	"context"
	"errors"
	"fmt"

	"github.com/pagestream/pagestream/projections/store"
)

// View runs f in one short read-only transaction on the read model. It fails
// with store.ErrClosed after Close, and with a [*DamagedError] while the read model is
// damaged: then nothing that f has read is valid. If the file was replaced before the
// transaction began, View tries again with the new file.
func (r *Runner) View(f func(*store.Tx) error) error {
	return r.view(f, false)
}

// Partial returns a viewer that can also read a read model that is being built again
// because it was damaged: it is correct as of its position, which is earlier than that of
// the damaged one. It is for those who wait for that position.
func (r *Runner) Partial() Viewer { return partial{r} }

// PartialOf returns the partial viewer of a runner (see [Runner.Partial]), and any other
// viewer itself.
func PartialOf(v Viewer) Viewer {
	if r, ok := v.(interface{ Partial() Viewer }); ok {
		return r.Partial()
	}
	return v
}

type partial struct{ r *Runner }

// View is [Runner.View], but for a damaged read model.
func (p partial) View(f func(*store.Tx) error) error { return p.r.view(f, true) }

func (r *Runner) view(f func(*store.Tx) error, partial bool) error {
	for {
		s := r.store.Load() // before the status, which changes before the file does
		if err := r.progress.unreadable(partial); err != nil {
			return err
		}
		err := s.View(f)
		if errors.Is(err, store.ErrClosed) && r.store.Load() != s {
			continue // the file was replaced
		}
		var other *DamagedError
		if !errors.Is(err, store.ErrCorrupt) || errors.As(err, &other) {
			return err
		}
		if r.store.Load() != s {
			continue
		}
		if s.Suspicion() != nil {
			r.progress.checkBegan(err.Error())
			if r.store.Load() != s { // it was checked meanwhile
				r.progress.checkEnded()
				continue
			}
		}
		r.requestCheck()
		return &DamagedError{Name: r.Name(), Why: err.Error(), Checking: true}
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
