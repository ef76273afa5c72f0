package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/projections"
)

// While one of these errors is current, deliveries are answered with 503, even if the stream works.
var (
	// errStarting is returned before the first check of the stream.
	errStarting = errors.New("starting")
	// errIndexing is returned while the index of ids lacks events that were in the stream at the
	// start of the program: an old duplicate could be stored again.
	errIndexing = errors.New("the index of event ids is catching up with the stream")
)

// healthInterval is the interval of checks whether the stream can store events. A failed publish
// is answered with 503 in any case; the check only avoids waiting for the failure.
const healthInterval = time.Second

// health checks whether deliveries can be stored and whether the read models are running.
type health struct {
	p       *Program
	stored  atomic.Pointer[error] // pointer to nil: the stream accepts events; nil: not checked yet
	indexed atomic.Bool           // the index has caught up once since the start
	cancel  context.CancelFunc
	stopped sync.WaitGroup
}

func (h *health) start(p *Program) {
	h.p = p
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	h.poll(ctx)
	h.stopped.Go(func() {
		for backoff.Sleep(ctx, healthInterval) == nil {
			h.poll(ctx)
		}
	})
}

func (h *health) stop() {
	h.cancel()
	h.stopped.Wait()
}

// poll checks the server and the stream, and logs changes. JetStream can disable itself on a full
// disk while the process runs.
func (h *health) poll(ctx context.Context) {
	err := h.check(ctx)
	if ctx.Err() != nil {
		return
	}
	before := h.stored.Swap(&err)
	switch {
	case err != nil && (before == nil || *before == nil):
		h.p.log.Error("deliveries can't be stored; answering with 503", "err", err)
	case err == nil && before != nil && *before != nil:
		h.p.log.Info("deliveries can be stored again")
	}
}

func (h *health) check(ctx context.Context) error {
	if !h.p.conn.IsConnected() {
		return errors.New("not connected to NATS")
	}
	if h.p.server != nil {
		if err := h.p.server.Healthy(); err != nil {
			return fmt.Errorf("embedded server: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := h.p.js.AccountInfo(ctx); err != nil {
		return fmt.Errorf("JetStream: %w", err)
	}
	return nil
}

// storeError returns why nothing can be stored now, or nil. It does not block.
func (h *health) storeError() error {
	err := h.stored.Load()
	if err == nil {
		return errStarting
	}
	if *err != nil {
		return *err
	}
	return h.index()
}

// index returns errIndexing while the index is behind the head that the stream had at the start,
// or is being rebuilt. If it is rebuilt because it was damaged, the publisher refuses only the events
// that may be old: see streams.ErrIncomplete. A failure of the projection after that does not count: JetStream's window
// and the projections still find duplicates, which is better than refusing every delivery.
func (h *health) index() error {
	s := h.p.models.Deliveries().Status()
	if s.Damaged != "" {
		return nil
	}
	if !h.indexed.Load() {
		if s.Seq < h.p.headAtStart {
			return errIndexing
		}
		h.indexed.Store(true)
	}
	if s.State == projections.StateRebuilding {
		return errIndexing
	}
	return nil
}

// reasons returns every error that makes the process not ready.
func (h *health) reasons() []error {
	var out []error
	if err := h.storeError(); err != nil {
		out = append(out, err)
	}
	for _, r := range h.p.models {
		if err := r.Healthy(h.p.cfg.Projections.MaxLag); err != nil {
			out = append(out, fmt.Errorf("projection %s: %w", r.Name(), err))
		}
	}
	return out
}
