package projections

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

const (
	headTimeout = 5 * time.Second
	// compareTimeout bounds one comparison with the stream.
	compareTimeout = 15 * time.Second
)

// ErrDiffers is returned by [Runner.Current] when the read model was built from another
// stream than there is now.
var ErrDiffers = errors.New("read model and stream differ")

// differsError ends a drive because the read model differs from the stream.
type differsError struct{ difference }

func (e differsError) Error() string { return e.why }

// streamInfo requests the info of the stream from the server.
func (r *Runner) streamInfo(ctx context.Context) (*jetstream.StreamInfo, error) {
	info, err := streams.Info(ctx, r.opts.JS, r.opts.Stream)
	if err != nil {
		return nil, fmt.Errorf("request info of stream %s: %w", r.opts.Stream, err)
	}
	return info, nil
}

// reconnects returns how often the connection was made again.
func (r *Runner) reconnects() uint64 { return r.opts.JS.Conn().Stats().Reconnects }

// Verified reports whether the read model was compared with the stream, and found to be
// built from it, since the last time that the connection was made again. It does not
// block.
func (r *Runner) Verified() bool { return r.verified.Load() == r.reconnects() }

// Current compares the read model with the stream now. It fails with [ErrDiffers], and
// the read model is built again then if a second comparison confirms it. It fails as well
// while that is going on.
func (r *Runner) Current(ctx context.Context) error {
	if stale := r.Status().Stale; stale > 0 {
		return fmt.Errorf("%s at event %d: %w", r.Name(), stale, ErrDiffers)
	}
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	reconnects := r.reconnects()
	d, err := r.compareComplete(ctx)
	if err != nil {
		return err
	}
	if d.why != "" {
		select {
		case r.differs <- d:
		default: // one is pending
		}
		return fmt.Errorf("%s: %w: %s", r.Name(), ErrDiffers, d.why)
	}
	if d.unknown || d.meta.Identity != string(r.identityOf(d.info)) {
		err = r.exclusive(ctx, func(s *store.Store) error { return r.accept(ctx, s, d) })
	}
	if err == nil {
		r.verified.Store(reconnects)
	}
	return err
}

// compareComplete compares the read model with the stream when that has all that the read model may have read.
func (r *Runner) compareComplete(ctx context.Context) (difference, error) {
	if r.opts.Complete != nil {
		if err := r.opts.Complete(ctx); err != nil {
			return difference{}, err
		}
	}
	return r.compare(ctx, r.Partial())
}

// watch requests the last sequence of the stream every headEvery until the context
// ends. It is independent of the drive, so that a drive that hangs is noticed. It compares
// the read model with the stream when the stream looks shorter or other, and after the
// connection was made again.
func (r *Runner) watch(ctx context.Context) {
	conn := r.opts.JS.Conn()
	connected := conn.StatusChanged(nats.CONNECTED)
	defer conn.RemoveStatusListener(connected)
	t := time.NewTicker(r.opts.headEvery)
	defer t.Stop()
	for {
		before := r.Status()
		infoCtx, cancel := context.WithTimeout(ctx, headTimeout)
		info, err := r.streamInfo(infoCtx)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			r.progress.headSeen(0, err)
		} else {
			other := !streams.CreatedAt(info).Equal(r.stream.Load().created) || info.State.LastSeq < before.Seq
			if before.Stale == 0 && (other || !r.Verified()) {
				if err := r.Current(ctx); err != nil && ctx.Err() == nil {
					r.opts.Logger.Debug("read model compared with the stream", "projection", r.Name(), "err", err)
				}
			}
			r.progress.headSeen(info.State.LastSeq, nil)
		}
		select {
		case <-t.C:
		case <-connected:
		case <-ctx.Done():
			return
		}
	}
}
