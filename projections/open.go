package projections

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pagestream/pagestream/projections/store"
)

// open opens the file. A file that can't be read is replaced by an empty one. One that
// does not fit the stream or this version is served until [Runner.renew] has built a new
// one.
func (r *Runner) open(ctx context.Context, head uint64) error {
	s, err := store.Open(r.path, r.opts.Store)
	if err != nil {
		return err
	}
	fail := func(err error) error {
		return errors.Join(fmt.Errorf("open projection %s: %w", r.projection.Name(), err), s.Close())
	}
	meta, why, err := unreadable(s)
	if err != nil {
		return fail(err)
	}
	if why != "" {
		if err := s.Close(); err != nil {
			return err
		}
		if s.Recreated() != "" || s.Suspicion() != nil || r.suspicion != "" && meta == (store.Meta{}) {
			return r.recreateDamaged(head, why)
		}
		return r.recreate(head, why, nil)
	}
	reconnects := r.reconnects()
	d, err := r.compare(ctx, s)
	if err == nil && d.why == "" {
		r.verified.Store(reconnects)
		err = r.accept(ctx, s, d)
	}
	replaces, unfinished, replacesErr := replacement(s, meta.Seq)
	if err = errors.Join(err, replacesErr); err != nil {
		return fail(err)
	}
	if unfinished {
		r.progress.damaged(replaces)
	}
	r.store.Store(s)
	if d.why != "" {
		r.suspect(d, head)
		return nil
	}
	if why := r.otherVersion(meta, s); why != "" {
		r.outdated = why
		r.progress.started(store.Meta{}, head, why)
		r.progress.setStale(meta.Seq)
		return nil
	}
	r.progress.started(meta, head, replaces.Why)
	return nil
}

// recreateDamaged replaces a damaged file, which is closed or gone, by an empty one.
func (r *Runner) recreateDamaged(head uint64, why string) error {
	if r.suspicion != "" {
		why = r.suspicion + "; " + why
	}
	d := &damaged{Why: why, Target: head}
	r.progress.damaged(*d) // before the new file can be read
	if err := r.recreate(head, why, d); err != nil {
		return err
	}
	r.suspicion = ""
	if r.opts.Renewed != nil {
		r.opts.Renewed(why, nil)
	}
	r.opts.Logger.Error("read model was damaged and is built again; it is not read meanwhile",
		"projection", r.Name(), "why", why)
	return nil
}

// unreadable returns the position in a file, or why there is none.
func unreadable(s *store.Store) (meta store.Meta, why string, err error) {
	var found bool
	err = s.View(func(tx *store.Tx) error {
		if meta, found, err = store.ReadMeta(tx); err == nil {
			_, err = readTrail(tx)
		}
		return err
	})
	switch {
	case errors.Is(err, store.ErrCorrupt):
		s.Suspect(err) //nolint:errcheck // open looks at it
		return meta, "its position can't be read", nil
	case err != nil:
		return meta, "", err
	case s.Recreated() != "":
		return meta, "the file was corrupt and is kept as " + filepath.Base(s.Recreated()), nil
	case !found:
		return meta, "there was no read model", nil
	}
	return meta, "", nil
}

// otherVersion returns why a file of another version is not updated, empty if it is of
// this one.
func (r *Runner) otherVersion(meta store.Meta, s *store.Store) string {
	switch {
	case meta.Version != r.projection.Version():
		return fmt.Sprintf("it was built by version %d, this is version %d", meta.Version, r.projection.Version())
	case !s.Summed():
		return "it has no checksums: an earlier version wrote it"
	}
	return ""
}

// recreate replaces the closed file by an empty one. d is not nil if the file was damaged.
func (r *Runner) recreate(head uint64, why string, d *damaged) error {
	if err := os.Remove(r.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove old read model: %w", err)
	}
	s, err := store.Open(r.path, r.opts.Store)
	if err != nil {
		return err
	}
	meta := store.Meta{Identity: string(r.stream.Load().identity), Version: r.projection.Version()}
	err = s.Update(func(tx *store.Tx) error {
		if d != nil {
			if err := store.PutJSON(tx.Bucket(damagedBucket), damagedKey, d); err != nil {
				return err
			}
		}
		return store.WriteMeta(tx, meta)
	})
	if err == nil {
		err = s.Flush() // what the file replaces must be known after a crash too
	}
	if err != nil {
		return errors.Join(fmt.Errorf("create read model %s: %w", r.projection.Name(), err), s.Close())
	}
	r.store.Store(s)
	r.outdated, r.suspected = "", false
	r.progress.setStale(0)
	r.progress.started(store.Meta{}, head, why)
	r.opts.Logger.Info("read model starts again from the first event",
		"projection", r.projection.Name(), "why", why, "events", head)
	return nil
}

// recover prepares the next drive after one that ended with err. It returns an error
// only if the runner can't go on.
func (r *Runner) recover(ctx context.Context, err error) error {
	var differs differsError
	switch {
	case errors.As(err, &differs):
		r.suspect(differs.difference, differs.info.State.LastSeq)
		return ctx.Err()
	case errors.Is(err, errCorrupt): // see reopen
		return ctx.Err()
	}
	if r.progress.failing(0, err) {
		r.opts.Logger.Warn("projection failed and reads the stream again", "projection", r.Name(), "err", err)
	}
	return ctx.Err()
}
