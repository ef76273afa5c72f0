package hooks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// flushEvery is how often positions are written. Deliveries since the last write are
// repeated after a crash.
const flushEvery = 100 * time.Millisecond

// ErrRan is returned when Run is called a second time, or after Close.
var ErrRan = errors.New("webhooks ran already, or are closed")

// Hooks delivers events to endpoints. Make one with [New]; its methods are safe
// for concurrent use.
type Hooks struct {
	opts      Options
	store     *store.Store
	client    *http.Client
	endpoints []*endpoint

	flushing sync.Mutex

	mu      sync.Mutex
	ran     bool
	closed  bool
	cancel  context.CancelFunc
	stopped chan struct{} // closed when Run has ended
}

// New opens the file and returns hooks that don't run yet. The file keeps the state
// of endpoints that are not in the options, in case they are configured again. It
// fails with [ErrOptions], [ErrSecret], or an error of [store.Open]. Callers must
// call Close, also if Run was never called.
func New(o Options) (*Hooks, error) {
	o = o.withDefaults()
	if err := o.check(); err != nil {
		return nil, err
	}
	st, err := store.Open(o.Path, store.Options{})
	if err != nil {
		return nil, fmt.Errorf("open webhook positions: %w", err)
	}
	if name := st.Recreated(); name != "" {
		o.Logger.Error("webhook positions were corrupt; every endpoint starts like a new one", "moved", name)
	}
	if err := st.AddSums(); err != nil {
		return nil, errors.Join(err, st.Close())
	}
	h := &Hooks{opts: o, store: st, client: newClient(o.Concurrency)}
	for _, c := range o.Endpoints {
		e, err := newEndpoint(c, o, h.client, st, h.flush)
		if err == nil {
			err = e.load()
		}
		if err != nil {
			return nil, errors.Join(err, st.Close())
		}
		h.endpoints = append(h.endpoints, e)
	}
	return h, nil
}

// Run delivers until the context ends, and then returns nil. It fails if the stream
// was deleted or the connection is closed. When it ends, a delivery that is under
// way has 3 seconds to finish. Run may be called once; a second call fails with
// [ErrRan].
//
// An endpoint that has no position yet starts at the head that the stream has when
// Run first reads it, unless [Endpoint.From] is set.
func (h *Hooks) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stopped := make(chan struct{})
	h.mu.Lock()
	if h.ran || h.closed {
		h.mu.Unlock()
		return ErrRan
	}
	h.ran, h.cancel, h.stopped = true, cancel, stopped
	h.mu.Unlock()
	defer close(stopped)

	failed := make([]error, len(h.endpoints))
	var running sync.WaitGroup
	for i, e := range h.endpoints {
		running.Go(func() {
			if err := e.run(ctx); err != nil {
				failed[i] = fmt.Errorf("endpoint %q: %w", e.Name, err)
				cancel()
			}
		})
	}
	h.flushUntil(ctx)
	running.Wait()
	return errors.Join(append(failed, h.flush())...)
}

// flushUntil writes positions periodically until the context ends. A failed write is
// tried again; until it succeeds nothing is delivered.
func (h *Hooks) flushUntil(ctx context.Context) {
	failing := false
	for backoff.Sleep(ctx, flushEvery) == nil {
		err := h.flush()
		if err != nil && !failing {
			h.opts.Logger.Error("webhook positions not written", "err", err)
		}
		failing = err != nil
	}
}

// flush writes all changed positions in one transaction.
func (h *Hooks) flush() error {
	h.flushing.Lock()
	defer h.flushing.Unlock()
	changes := make(map[*endpoint]change)
	for _, e := range h.endpoints {
		if c, ok := e.changes(); ok {
			changes[e] = c
		}
	}
	if len(changes) == 0 {
		return nil
	}
	err := h.store.Update(func(tx *store.Tx) error {
		for e, c := range changes {
			if err := c.write(tx, e.Name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		for e, c := range changes {
			e.markUnwritten(c)
		}
		return fmt.Errorf("write webhook positions: %w", err)
	}
	for e := range changes {
		e.markWritten()
	}
	return nil
}

// Close stops Run, waits for it, and closes the file. It is idempotent.
func (h *Hooks) Close() error {
	h.mu.Lock()
	h.closed = true
	cancel, stopped := h.cancel, h.stopped
	h.mu.Unlock()
	if cancel != nil {
		cancel()
		<-stopped // the wait is bounded by grace
	}
	h.client.CloseIdleConnections()
	if err := h.store.Close(); err != nil {
		return fmt.Errorf("close webhook positions: %w", err)
	}
	return nil
}

// Status returns the state of each endpoint, in the order of the options. It reads
// memory, and asks [Options.KnowsPage] and [Options.FindCompany].
func (h *Hooks) Status() []Status {
	list := make([]Status, len(h.endpoints))
	for i, e := range h.endpoints {
		list[i] = e.status()
	}
	return list
}

// Receivers returns the names of the endpoints that get events of a page, or may have got
// some when their company had it.
func (h *Hooks) Receivers(page domain.PageID) (names []string, err error) {
	for _, e := range h.endpoints {
		gets := e.All || slices.Contains(e.Pages, page)
		if !gets && e.company != "" {
			held, err := pages.Held(h.opts.Pages, e.company)
			if err != nil {
				return nil, fmt.Errorf("list pages of a company: %w", err)
			}
			gets = slices.ContainsFunc(held, func(h pages.Holding) bool { return h.ID == page })
		}
		if gets {
			names = append(names, e.Name)
		}
	}
	return names, nil
}

// Gets reports whether an endpoint gets an event, of which the page, the type and the
// sequence are needed. For a company it waits until the read model of pages has applied
// the event.
func (h *Hooks) Gets(ctx context.Context, name string, s streams.Stored) (bool, error) {
	e, err := h.endpoint(name)
	if err != nil {
		return false, err
	}
	return e.wants(ctx, s)
}

// DeadLetters returns an endpoint's dead letters with a sequence after the given
// one, in order, at most limit or [MaxDeadLetterPage]. It fails with
// [ErrUnknownEndpoint].
func (h *Hooks) DeadLetters(name string, after uint64, limit int) ([]DeadLetter, error) {
	e, err := h.endpoint(name)
	if err != nil {
		return nil, err
	}
	return e.deadLetters(after, limit)
}

// Redrive sends a dead letter again, or all of the endpoint's if seq is 0, and
// returns how many. It returns when the redrive is recorded, before anything is
// sent; a redrive survives a restart. Each dead letter gets one try, with its old
// webhook-id, between the deliveries of its page and so out of the stream's order.
// If it fails it stays a dead letter. A dead letter whose event was erased is
// deleted. A second call before the try changes nothing. It fails with
// [ErrUnknownEndpoint] or [ErrNoDeadLetter].
func (h *Hooks) Redrive(name string, seq uint64) (int, error) {
	e, err := h.endpoint(name)
	if err != nil {
		return 0, err
	}
	return e.redrive(seq)
}

// Enable resumes a disabled endpoint at its position, so that no event is skipped.
// Every page that waits for its next try is tried at once, also if the endpoint was
// not disabled. It fails with [ErrUnknownEndpoint], or if the change can't be
// written; then the write is tried again in the background.
func (h *Hooks) Enable(name string) error {
	e, err := h.endpoint(name)
	if err != nil {
		return err
	}
	e.enable()
	return h.flush()
}

func (h *Hooks) endpoint(name string) (*endpoint, error) {
	i := slices.IndexFunc(h.endpoints, func(e *endpoint) bool { return e.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("endpoint %q: %w", name, ErrUnknownEndpoint)
	}
	return h.endpoints[i], nil
}
