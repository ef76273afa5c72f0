package projections

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const headTimeout = 5 * time.Second

// replacedError ends a drive because the stream was replaced; it has the new one.
type replacedError struct{ info *jetstream.StreamInfo }

func (replacedError) Error() string { return errReplaced.Error() }

// look asks for the state of the stream.
func (r *Runner) look(ctx context.Context) (*jetstream.StreamInfo, error) {
	st, err := r.opts.JS.Stream(ctx, r.opts.Stream)
	if err != nil {
		return nil, fmt.Errorf("ask stream %s: %w", r.opts.Stream, err)
	}
	return st.CachedInfo(), nil
}

// watch looks at the head of the stream each headEvery, apart from the drive, so
// that a drive that has died is noticed. A stream that was replaced goes to
// replaced.
func (r *Runner) watch(ctx context.Context, replaced chan<- *jetstream.StreamInfo) {
	created := r.created
	t := time.NewTicker(r.opts.headEvery)
	defer t.Stop()
	for {
		before := r.Status().Seq
		lookCtx, cancel := context.WithTimeout(ctx, headTimeout)
		info, err := r.look(lookCtx)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			r.progress.sawHead(0, err)
		} else {
			if !info.Created.Equal(created) || info.State.LastSeq < before {
				created = info.Created
				select {
				case replaced <- info:
				default:
				}
			}
			r.progress.sawHead(info.State.LastSeq, nil)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}
