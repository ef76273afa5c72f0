package projections

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

const (
	// scrubTimeout bounds how long the runner waits for readers after an erasure.
	scrubTimeout = 10 * time.Second
	// scrubPoll is how often Scrub checks whether a rebuild has ended.
	scrubPoll = 20 * time.Millisecond
)

// Scrub removes the bytes of erased events from all files of the read model: it
// overwrites the free pages of the live file, and removes the files that a rebuild
// and a corrupt file have left. It waits until no rebuild or verification is running,
// since their files may have such bytes. The caller waits for the erasure first
// ([Runner.WaitFor]).
//
// The runner does the same with its live file after it has applied an erasure.
func (r *Runner) Scrub(ctx context.Context) error {
	for !r.rebuilds.TryLock() {
		if err := backoff.Sleep(ctx, scrubPoll); err != nil {
			return fmt.Errorf("scrub %s: %w: %w", r.Name(), ErrBuilding, err)
		}
	}
	defer r.rebuilds.Unlock()
	err := r.exclusive(ctx, func(s *store.Store) error {
		corrupt, err := filepath.Glob(r.path + ".corrupt-*")
		for _, path := range append(corrupt, r.previous()) {
			err = errors.Join(err, removeFile(path))
		}
		return errors.Join(err, s.Scrub(ctx))
	})
	if err != nil {
		return fmt.Errorf("scrub %s: %w", r.Name(), err)
	}
	return nil
}

// scrub overwrites the free pages of the live file.
func (r *Runner) scrub(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, scrubTimeout)
	defer cancel()
	return r.exclusive(ctx, func(s *store.Store) error { return s.Scrub(ctx) })
}

// isErasure reports whether an event erases a contact.
func isErasure(e *streams.Replayed) bool { return e.Type == domain.ContactErased }
