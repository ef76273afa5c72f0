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

// open opens the file and starts over if it does not fit the stream.
func (r *Runner) open(head uint64) error {
	s, err := store.Open(r.path, r.opts.Store)
	if err != nil {
		return err
	}
	meta, why, err := r.fits(s, head)
	if err != nil {
		return errors.Join(fmt.Errorf("open projection %s: %w", r.projection.Name(), err), s.Close())
	}
	if why == "" {
		r.store.Store(s)
		r.progress.began(meta, head, "")
		return nil
	}
	if meta.Identity == string(r.identity) && meta.Version != r.projection.Version() && meta.Seq <= head && s.Recreated() == "" {
		// True as of its position: it is read until there is a new one.
		r.store.Store(s)
		r.older = why
		r.progress.began(store.Meta{}, head, why)
		r.progress.stale(meta.Seq)
		return nil
	}
	if err := s.Close(); err != nil {
		return err
	}
	return r.begin(head, why)
}

// fits says why the file can't be gone on with, empty if it can.
func (r *Runner) fits(s *store.Store, head uint64) (meta store.Meta, why string, err error) {
	var found bool
	err = s.View(func(tx *store.Tx) error {
		meta, found, err = store.ReadMeta(tx)
		return err
	})
	switch {
	case errors.Is(err, store.ErrCorrupt):
		return meta, "the position can't be read", nil
	case err != nil:
		return meta, "", err
	case s.Recreated() != "":
		return meta, "the file was corrupt and is kept as " + filepath.Base(s.Recreated()), nil
	case !found:
		return meta, "there was none", nil
	case meta.Identity != string(r.identity):
		return meta, "it was built from another stream", nil
	case meta.Version != r.projection.Version():
		return meta, fmt.Sprintf("it was built by version %d, this is version %d", meta.Version, r.projection.Version()), nil
	case meta.Seq > head:
		return meta, fmt.Sprintf("it is at event %d, the stream ends at %d: an older stream was restored", meta.Seq, head), nil
	}
	return meta, "", nil
}

// begin puts an empty file in the place of the closed one.
func (r *Runner) begin(head uint64, why string) error {
	if err := os.Remove(r.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove old read model: %w", err)
	}
	s, err := store.Open(r.path, r.opts.Store)
	if err != nil {
		return err
	}
	meta := store.Meta{Identity: string(r.identity), Version: r.projection.Version()}
	if err := s.Update(func(tx *store.Tx) error { return store.WriteMeta(tx, meta) }); err != nil {
		return errors.Join(fmt.Errorf("begin projection %s: %w", r.projection.Name(), err), s.Close())
	}
	r.store.Store(s)
	r.older = ""
	r.progress.stale(0)
	r.progress.began(store.Meta{}, head, why)
	r.opts.Logger.Info("read model begun anew", "projection", r.projection.Name(), "why", why, "events", head)
	return nil
}

// renew builds a read model of this version where the open file is of another.
func (r *Runner) renew(ctx context.Context) error {
	if r.older == "" {
		return nil
	}
	r.rebuilds.Lock()
	defer r.rebuilds.Unlock()
	r.progress.running()
	r.opts.Logger.Info("read model is built anew; the old one is served meanwhile", "projection", r.Name(), "why", r.older)
	out, err := r.rebuild(ctx, r.older, nil)
	if err != nil {
		return fmt.Errorf("build read model anew: %w", err)
	}
	r.older = ""
	r.opts.Logger.Info("read model built anew", "projection", r.Name(), "seq", out.Seq, "took", out.Took)
	return nil
}

// recover makes the next drive possible.
func (r *Runner) recover(ctx context.Context, err error) error {
	var replaced replacedError
	switch {
	case errors.As(err, &replaced):
		info := replaced.info
		if !info.Created.Equal(r.created) {
			// Nobody told us its identity; this one is unlike any, so the next
			// start builds once more.
			r.identity = streams.Identity(fmt.Sprintf("%s then %s", r.opts.Identity, info.Created.UTC().Format(time.RFC3339Nano)))
			r.created = info.Created
			r.decided.set(nil)
		}
		if err := r.store.Load().Close(); err != nil {
			return err
		}
		return r.begin(info.State.LastSeq, errReplaced.Error())
	case errors.Is(err, errCorrupt):
		if err := r.store.Load().Close(); err != nil {
			return err
		}
		aside, err := store.SetAside(r.path, time.Now())
		if err != nil {
			return err
		}
		return r.begin(r.Status().Head, "the file was corrupt and is kept as "+filepath.Base(aside))
	}
	if r.progress.failing(0, err) {
		r.opts.Logger.Warn("projection reads the stream again", "projection", r.Name(), "err", err)
	}
	return ctx.Err()
}
