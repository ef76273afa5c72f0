package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
)

// errDamaged is why the embedded server is started again when its files are damaged.
var errDamaged = errors.New("files of the stream are damaged")

// damage is what is known of damage in the files of the stream. The embedded server does not say that it skips a damaged
// message, does not go on at a damaged block, and does not start with one if it has to read all blocks.
type damage struct {
	mu sync.Mutex // held while the files are read
	// found is set until the server was started again without what is damaged.
	found atomic.Bool
	// suspected is when the server last could not read a message. Only poll uses it.
	suspected time.Time
}

const (
	// suspectEvery is how often the files are read because the server can't read a message.
	suspectEvery = 10 * time.Minute
	damagePoll   = 50 * time.Millisecond
)

// examine reads all files of the embedded server's stream. If some are damaged, it waits until the server was started
// again with what can be read of them.
func (p *Program) examine(ctx context.Context) error {
	if p.server == nil {
		return nil
	}
	d := &p.health.damage
	d.mu.Lock()
	defer d.mu.Unlock()
	blocks, err := p.checkpoints.Damaged(ctx)
	if err != nil || len(blocks) == 0 {
		return err
	}
	d.found.Store(true)
	for d.found.Load() {
		if err := backoff.Sleep(ctx, damagePoll); err != nil {
			return fmt.Errorf("start the server without the damaged files: %w", err)
		}
	}
	return nil
}

// suspect examines the stream when the server could not read a message.
func (h *health) suspect(ctx context.Context) {
	if h.p.server == nil || !h.p.server.Unreadable() || time.Since(h.damage.suspected) < suspectEvery {
		return
	}
	h.damage.suspected = time.Now()
	h.stopped.Go(func() {
		if _, err := h.p.lost.Examine(ctx); err != nil && ctx.Err() == nil {
			h.p.log.Error("the stream could not be examined", "err", err)
		}
	})
}

// mend removes what is damaged from the files of the stopped server, if there is anything.
func (h *health) mend() error {
	if !h.damage.found.Load() {
		return nil
	}
	_, err := h.p.mendBlocks()
	return err
}

func (p *Program) mendBlocks() (mended bool, err error) {
	blocks, err := p.checkpoints.Mend()
	if len(blocks) > 0 {
		p.log.Error("files of the stream were damaged; what can be read of them is kept, the rest is lost", "blocks", blocks)
	}
	return len(blocks) > 0, err
}

// mendUnreadable starts the embedded server again without what is damaged, if the stream is in its files and the server
// could not read it. It reports whether it has it now.
func (p *Program) mendUnreadable(ctx context.Context) (mended bool, err error) {
	if _, err := embedded.Created(p.natsDir(), streams.Name); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	err = p.server.RestartAfter(ctx, func() (err error) {
		mended, err = p.mendBlocks()
		return err
	})
	if err != nil || !mended {
		return false, err
	}
	pause := backoff.Backoff{Min: 20 * time.Millisecond, Max: 200 * time.Millisecond}
	for {
		_, err := p.js.Stream(ctx, streams.Name)
		if err == nil || errors.Is(err, jetstream.ErrStreamNotFound) {
			return err == nil, nil
		}
		if pause.Wait(ctx) != nil { // until the connection has reconnected
			return false, err
		}
	}
}
