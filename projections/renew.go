package projections

import (
	"context"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// followed is the stream that a runner follows.
type followed struct {
	identity streams.Identity
	created  time.Time
}

// suspect stops updating the file: it differs from the stream by one answer of the
// server. It is served until [Runner.confirm] has asked again.
func (r *Runner) suspect(d difference, head uint64) {
	r.outdated, r.suspected = d.why, true
	r.progress.suspended(d.meta.Seq, head)
	r.opts.Logger.Warn("read model and stream differ; it is served while the stream is asked again",
		"projection", r.Name(), "why", d.why)
}

// renew builds a new file if the open one must not be updated any more. The old one is
// served meanwhile.
func (r *Runner) renew(ctx context.Context) error {
	if r.outdated == "" {
		return nil
	}
	r.rebuilds.Lock()
	defer r.rebuilds.Unlock()
	r.progress.running()
	if r.suspected {
		if err := r.confirm(ctx); err != nil {
			return fmt.Errorf("compare read model with the stream: %w", err)
		}
	}
	if r.outdated == "" {
		return nil
	}
	done, err := r.turn(ctx)
	if err != nil {
		return fmt.Errorf("wait for the rebuild of other read models: %w", err)
	}
	defer done()
	if err := r.refused(false); err != nil {
		return fmt.Errorf("rebuild read model: %w", err)
	}
	r.opts.Logger.Info("read model is being rebuilt; the old one is served meanwhile",
		"projection", r.Name(), "why", r.outdated)
	out, err := r.rebuild(ctx, r.outdated, nil)
	if err != nil {
		return fmt.Errorf("rebuild read model: %w", err)
	}
	if r.opts.Renewed != nil {
		r.opts.Renewed(r.outdated, &out)
	}
	r.outdated = ""
	r.opts.Logger.Info("read model rebuilt", "projection", r.Name(), "seq", out.Seq, "took", out.Took)
	return nil
}

// confirm waits and compares the file with the stream again. If they don't differ then,
// the file is updated again. Otherwise the stream is another one for certain: whoever
// remembers something of it is told. In both cases the file is no longer suspected.
func (r *Runner) confirm(ctx context.Context) error {
	if err := backoff.Sleep(ctx, 2*r.opts.headEvery); err != nil {
		return err
	}
	reconnects := r.reconnects()
	d, err := r.compareComplete(ctx)
	if err != nil {
		return err
	}
	if d.why == "" {
		if err := r.accept(ctx, r.store.Load(), d); err != nil {
			return err
		}
		r.verified.Store(reconnects)
		r.suspected, r.outdated = false, r.otherVersion(d.meta, r.store.Load())
		r.opts.Logger.Warn("read model and stream don't differ any more", "projection", r.Name(), "seq", d.meta.Seq)
		if r.outdated == "" {
			r.progress.reinstated(d.meta, d.info.State.LastSeq)
		}
		return nil
	}
	list, seen, err := streams.DecisionsAfter(ctx, r.opts.JS, r.opts.Stream, r.Name(), 0)
	if err != nil {
		return err
	}
	r.decided.set(list, seen)
	r.stream.Store(&followed{r.identityOf(d.info), streams.CreatedAt(d.info)})
	r.verified.Store(reconnects)
	r.suspected, r.outdated = false, d.why
	r.progress.replaced(d.why, d.info.State.LastSeq)
	r.opts.Logger.Error("the stream is not the one that the read model was built from; "+
		"it is built again beside the old one, which is served meanwhile and kept as "+r.Name()+".db.previous",
		"projection", r.Name(), "why", d.why, "common", d.common)
	if r.opts.RolledBack != nil {
		r.opts.RolledBack(d.common)
	}
	return nil
}

// accept keeps what is needed to notice another stream the next time: the identity of the
// stream, and the trail of a file that has none. Nothing else writes to the file.
func (r *Runner) accept(ctx context.Context, s *store.Store, d difference) error {
	identity := r.identityOf(d.info)
	r.stream.Store(&followed{identity, streams.CreatedAt(d.info)})
	if d.meta.Identity != string(identity) {
		_, err := changeMeta(s, func(_ *store.Tx, meta *store.Meta) error {
			meta.Identity = string(identity)
			return nil
		})
		if err != nil {
			return fmt.Errorf("write identity of the stream: %w", err)
		}
	}
	if d.unknown {
		return r.begin(ctx, s, d.meta.Seq)
	}
	return nil
}

// turn waits until no other runner builds its file on its own account, and calls the
// index first if the projection has one. The caller calls done at the end.
func (r *Runner) turn(ctx context.Context) (done func(), err error) {
	if r.opts.Dedup != nil {
		head, err := streams.Last(ctx, r.opts.JS, r.opts.Stream)
		if err != nil {
			return nil, err
		}
		if _, err := r.opts.Dedup.First(ctx, nil, head); err != nil {
			return nil, err
		}
		if x, ok := r.opts.Dedup.(interface{ Current(context.Context) error }); ok {
			if err := x.Current(ctx); err != nil {
				return nil, err
			}
		}
	}
	if r.opts.Turns == nil {
		return func() {}, nil
	}
	select {
	case r.opts.Turns <- struct{}{}:
		return func() { <-r.opts.Turns }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// refused returns why no file may be replaced.
func (r *Runner) refused(differs bool) error {
	if r.opts.Refuse == nil {
		return nil
	}
	return r.opts.Refuse(differs)
}
