package projections

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/pagestream/pagestream/projections/store"
)

// ErrDamaged is returned by reads of a read model whose file is damaged, or is being checked
// because it may be, until the read model has been built again. The error is a
// [*DamagedError]; it is also store.ErrCorrupt.
var ErrDamaged = errors.New("read model is damaged")

// DamagedError says why a read model can't be read.
type DamagedError struct {
	Name string
	// Why is what was found. It has no text of messages.
	Why string
	// Checking is set while it is not yet known whether the file is damaged. Left is about
	// how long the rebuild still takes, 0 if that is not known.
	Checking bool
	Left     time.Duration
}

// Error says what was found, and how long it takes.
func (e *DamagedError) Error() string {
	switch {
	case e.Checking:
		return fmt.Sprintf("read model %s is being checked: %s", e.Name, e.Why)
	case e.Left > 0:
		return fmt.Sprintf("read model %s is being built again, which takes about %s: %s",
			e.Name, e.Left.Round(time.Second), e.Why)
	}
	return fmt.Sprintf("read model %s is being built again: %s", e.Name, e.Why)
}

// Is reports whether target is [ErrDamaged] or store.ErrCorrupt.
func (e *DamagedError) Is(target error) bool {
	return target == ErrDamaged || target == store.ErrCorrupt
}

// damagedBucket has the row that a file gets which replaces a damaged one: until it has
// reached the target, also after a restart, it is not read.
const damagedBucket = "_damaged"

var damagedKey = []byte("damaged")

// damaged is why a file replaces a damaged one, and the stream's last event then.
type damaged struct {
	Why    string `json:"why"`
	Target uint64 `json:"target"`
}

// check is the check of the store's options.
func (r *Runner) check(path string) error {
	limit := checkBase
	if info, err := os.Stat(path); err == nil {
		limit += time.Duration(info.Size()/checkRate) * time.Second
	}
	ctx, cancel := context.WithTimeout(r.checking, limit)
	defer cancel()
	began := time.Now()
	err := r.opts.Check(ctx, path)
	if err != nil && ctx.Err() != nil && r.checking.Err() == nil {
		err = fmt.Errorf("%w: it can't be read within %s", store.ErrCorrupt, limit)
	}
	r.opts.Logger.Info("file of a read model checked", "projection", r.Name(), "took", time.Since(began), "err", err)
	return err
}

// stopIfDamaged ends the drive if the file may be damaged: the store has found that it is, or a
// row can't be read. The second is not asked again for a while after a check has found
// nothing, because then the row was written like that.
func (r *Runner) stopIfDamaged(end context.CancelCauseFunc) {
	s := r.store.Load()
	if s.Suspicion() == nil {
		if time.Since(r.checked) < checkEvery {
			return
		}
		s.Suspect(errors.New("a row can't be read")) //nolint:errcheck // reopen reads it
	}
	end(errCorrupt)
}

// reopen checks the file if it may be damaged, and opens it again; a damaged one is moved
// aside, and the read model starts again from the first event.
func (r *Runner) reopen(ctx context.Context) error {
	s := r.store.Load()
	why := s.Suspicion()
	if why == nil {
		return nil
	}
	r.progress.checkBegan(why.Error())
	if s != r.reported {
		r.reported = s
		r.opts.Logger.Error("read model may be damaged: it is checked, and not read meanwhile",
			"projection", r.Name(), "why", why)
	}
	if err := s.Close(); err != nil { // its memory map stays
		r.opts.Logger.Warn("damaged read model was not closed", "projection", r.Name(), "err", err)
	}
	info, err := r.streamInfo(ctx)
	if err != nil {
		return err
	}
	r.suspicion = why.Error()
	if err := r.open(ctx, info.State.LastSeq); err != nil {
		return err
	}
	now := time.Now()
	if now.Sub(r.checked) > unfoundedFor {
		r.unfounded = 0
	}
	r.checked = now
	select {
	case <-r.verify: // it was about the file of before
	default:
	}
	if r.suspicion == "" {
		return nil // it is damaged
	}
	r.suspicion = ""
	r.progress.checkEnded()
	if r.unfounded++; r.unfounded >= maxUnfounded && !r.opts.Store.AnyTime {
		r.opts.Store.AnyTime = true
		r.opts.Logger.Warn("the file system changes the time of a file that nobody writes to: it is no longer looked at",
			"projection", r.Name())
	}
	r.opts.Logger.Warn("read model is not damaged", "projection", r.Name(), "why", why)
	return nil
}

// When a file was found to be whole maxUnfounded times, with at most unfoundedFor in between,
// the time of its last change is no longer a reason to check it.
const (
	maxUnfounded = 10
	unfoundedFor = time.Hour
)

// replacement returns whether the file replaces a damaged one and has not reached the
// position of that.
func replacement(s *store.Store, at uint64) (d damaged, ok bool, err error) {
	err = s.View(func(tx *store.Tx) error {
		d, ok, err = store.GetJSON[damaged](tx.Bucket(damagedBucket), damagedKey)
		return err
	})
	return d, ok && at < d.Target, err
}
