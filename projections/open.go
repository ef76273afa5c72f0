package projections

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// open opens the file. If the file does not fit the stream, it is replaced by an
// empty one, or served until [Runner.rebuildOutdated] has built a new one.
func (r *Runner) open(head uint64) error {
	s, err := store.Open(r.path, r.opts.Store)
	if err != nil {
		return err
	}
	meta, why, err := r.unusable(s, head)
	if err != nil {
		return errors.Join(fmt.Errorf("open projection %s: %w", r.projection.Name(), err), s.Close())
	}
	if why == "" {
		d, ok, err := replacement(s, meta.Seq)
		if err != nil {
			return errors.Join(fmt.Errorf("open projection %s: %w", r.projection.Name(), err), s.Close())
		}
		if ok {
			r.progress.replaced(d)
		}
		r.store.Store(s)
		r.progress.started(meta, head, d.Why)
		return nil
	}
	sameStream := meta.Identity == string(r.identity) && meta.Seq <= head
	if sameStream && (meta.Version != r.projection.Version() || !s.Summed()) && s.Recreated() == "" {
		// It is correct as of its position: it is served until there is a new one.
		r.store.Store(s)
		r.outdated = why
		r.progress.started(store.Meta{}, head, why)
		r.progress.setStale(meta.Seq)
		return nil
	}
	if err := s.Close(); err != nil {
		return err
	}
	if s.Recreated() != "" || s.Suspicion() != nil || r.suspicion != "" && meta == (store.Meta{}) {
		return r.recreateDamaged(head, why)
	}
	return r.recreate(head, why, nil)
}

// recreateDamaged replaces a damaged file, which is closed or gone, by an empty one.
func (r *Runner) recreateDamaged(head uint64, why string) error {
	if r.suspicion != "" {
		why = r.suspicion + "; " + why
	}
	d := &damaged{Why: why, Target: head}
	r.progress.replaced(*d) // before the new file can be read
	if err := r.recreate(head, why, d); err != nil {
		return err
	}
	r.suspicion = ""
	r.opts.Logger.Error("read model was damaged and is built again; it is not read meanwhile",
		"projection", r.Name(), "why", why)
	return nil
}

// unusable returns why the file can't be updated any more, or an empty string if it
// can, and its position.
func (r *Runner) unusable(s *store.Store, head uint64) (meta store.Meta, why string, err error) {
	var found bool
	err = s.View(func(tx *store.Tx) error {
		meta, found, err = store.ReadMeta(tx)
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
	case !s.Summed():
		return meta, "it has no checksums: an earlier version wrote it", nil
	case meta.Identity != string(r.identity):
		return meta, "it was built from another stream", nil
	case meta.Version != r.projection.Version():
		why = fmt.Sprintf("it was built by version %d, this is version %d", meta.Version, r.projection.Version())
		return meta, why, nil
	case meta.Seq > head:
		why = fmt.Sprintf("it is at event %d, the stream ends at %d: an older stream was restored", meta.Seq, head)
		return meta, why, nil
	}
	return meta, "", nil
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
	meta := store.Meta{Identity: string(r.identity), Version: r.projection.Version()}
	err = s.Update(func(tx *store.Tx) error {
		if d != nil {
			if err := store.PutJSON(tx.Bucket(damagedBucket), damagedKey, d); err != nil {
				return err
			}
		}
		return store.WriteMeta(tx, meta)
	})
	if err != nil {
		return errors.Join(fmt.Errorf("create read model %s: %w", r.projection.Name(), err), s.Close())
	}
	r.store.Store(s)
	r.outdated = ""
	r.progress.setStale(0)
	r.progress.started(store.Meta{}, head, why)
	r.opts.Logger.Info("read model starts again from the first event",
		"projection", r.projection.Name(), "why", why, "events", head)
	return nil
}

// rebuildOutdated builds a read model of this version if the open file is of another.
func (r *Runner) rebuildOutdated(ctx context.Context) error {
	if r.outdated == "" {
		return nil
	}
	r.rebuilds.Lock()
	defer r.rebuilds.Unlock()
	r.progress.running()
	r.opts.Logger.Info("read model is being rebuilt; the old one is served meanwhile",
		"projection", r.Name(), "why", r.outdated)
	out, err := r.rebuild(ctx, r.outdated, nil)
	if err != nil {
		return fmt.Errorf("rebuild read model: %w", err)
	}
	r.outdated = ""
	r.opts.Logger.Info("read model rebuilt", "projection", r.Name(), "seq", out.Seq, "took", out.Took)
	return nil
}

// recover prepares the next drive after one that ended with err. It returns an error
// only if the runner can't go on.
func (r *Runner) recover(ctx context.Context, err error) error {
	var replaced replacedError
	switch {
	case errors.As(err, &replaced):
		info := replaced.info
		if !info.Created.Equal(r.created) {
			// The identity of the new stream is not known here. This one differs from
			// every other, so the next start rebuilds the read model once more.
			created := info.Created.UTC().Format(time.RFC3339Nano)
			r.identity = streams.Identity(fmt.Sprintf("%s then %s", r.opts.Identity, created))
			r.created = info.Created
			r.decided.set(nil)
		}
		if err := r.store.Load().Close(); err != nil {
			return err
		}
		return r.recreate(info.State.LastSeq, errReplaced.Error(), nil)
	case errors.Is(err, errCorrupt): // see reopen
		return ctx.Err()
	}
	if r.progress.failing(0, err) {
		r.opts.Logger.Warn("projection failed and reads the stream again", "projection", r.Name(), "err", err)
	}
	return ctx.Err()
}
