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

// Errors while deliveries are answered 503 although the stream may well work.
var (
	// errStarting is returned before the stream was asked for the first time.
	errStarting = errors.New("starting")
	// errIndexing is returned while the index of ids does not hold what the stream
	// held when the program started: an old duplicate would get into the stream.
	errIndexing = errors.New("the index of event ids is catching up with the stream")
)

// healthInterval is how often the stream is asked whether it can store. A
// failed publish is answered 503 in any case; this only spares the wait.
const healthInterval = time.Second

// health watches whether deliveries can be stored and whether the read models
// are alive.
type health struct {
	p       *Program
	stored  atomic.Pointer[error] // nil error: the stream takes events
	indexed atomic.Bool           // the index was at the head once since the start
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

// poll asks the server and the stream. JetStream can turn itself off on a full
// disk while the process lives.
func (h *health) poll(ctx context.Context) {
	err := h.ask(ctx)
	if ctx.Err() != nil {
		return
	}
	before := h.stored.Swap(&err)
	switch {
	case err != nil && (before == nil || *before == nil):
		h.p.log.Error("deliveries can't be stored; answering 503", "err", err)
	case err == nil && before != nil && *before != nil:
		h.p.log.Info("deliveries can be stored again")
	}
}

func (h *health) ask(ctx context.Context) error {
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

// storing returns why nothing can be stored now, or nil. It doesn't wait.
func (h *health) storing() error {
	err := h.stored.Load()
	if err == nil {
		return errStarting
	}
	if *err != nil {
		return *err
	}
	return h.index()
}

// index returns errIndexing while the index is behind what the stream held at
// the start, or is being built anew. A projection that fails later is another
// matter: then the window and the projections find duplicates, which is better
// than to take nothing.
func (h *health) index() error {
	s := h.p.models.Deliveries().Status()
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

// reasons returns everything that makes the process not ready.
func (h *health) reasons() []error {
	var out []error
	if err := h.storing(); err != nil {
		out = append(out, err)
	}
	for _, r := range h.p.models {
		if err := r.Healthy(h.p.cfg.Projections.MaxLag); err != nil {
			out = append(out, fmt.Errorf("projection %s: %w", r.Name(), err))
		}
	}
	return out
}
