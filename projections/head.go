package projections

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const headTimeout = 5 * time.Second

// replacedError ends a drive because the stream was replaced. It has the info of
// the new stream.
type replacedError struct{ info *jetstream.StreamInfo }

func (replacedError) Error() string { return errReplaced.Error() }

// streamInfo requests the info of the stream from the server.
func (r *Runner) streamInfo(ctx context.Context) (*jetstream.StreamInfo, error) {
	st, err := r.opts.JS.Stream(ctx, r.opts.Stream)
	if err != nil {
		return nil, fmt.Errorf("request info of stream %s: %w", r.opts.Stream, err)
	}
	return st.CachedInfo(), nil
}

// watch requests the last sequence of the stream every headEvery until the context
// ends. It is independent of the drive, so that a drive that hangs is noticed. If
// the stream was replaced, it sends the info of the new one to replaced.
func (r *Runner) watch(ctx context.Context, replaced chan<- *jetstream.StreamInfo) {
	created := r.created
	t := time.NewTicker(r.opts.headEvery)
	defer t.Stop()
	for {
		before := r.Status().Seq
		infoCtx, cancel := context.WithTimeout(ctx, headTimeout)
		info, err := r.streamInfo(infoCtx)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			r.progress.headSeen(0, err)
		} else {
			if !info.Created.Equal(created) || info.State.LastSeq < before {
				created = info.Created
				select {
				case replaced <- info:
				default:
				}
			}
			r.progress.headSeen(info.State.LastSeq, nil)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}
