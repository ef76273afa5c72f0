package hooks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/projections/store"
)

// flushEvery is how often positions are written: what was delivered in the last
// such moment comes again after a crash.
const flushEvery = 100 * time.Millisecond

// ErrRan is returned when Run was called before, or after Close.
var ErrRan = errors.New("webhooks ran already, or are closed")

// Hooks deliver events to endpoints. Make one with [New]; its methods are safe
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

// New opens the file and returns hooks that don't run yet. What the file has of
// endpoints that are not in the options stays there, for when they come back. It
// fails with [ErrOptions], [ErrSecret], or what [store.Open] fails with. Close
// it, also if it never ran.
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
		o.Logger.Error("webhook positions were corrupt; every endpoint begins anew", "moved", name)
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

// Run delivers until the context ends, which is no error, or the stream or the
// connection is gone for good. A delivery that is under way then has a few
// seconds to come to its end. Run may be called once.
//
// An endpoint that was never seen before begins at the head that the stream has
// when Run first reaches it, unless [Endpoint.From] says otherwise.
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

// flushUntil writes positions until the context ends. A failure is tried again;
// until then nothing is delivered.
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

// flush writes what has changed, all of it in one transaction.
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
			e.takeBack(c)
		}
		return fmt.Errorf("write webhook positions: %w", err)
	}
	for e := range changes {
		e.written()
	}
	return nil
}

// Close stops Run, waits for it, and closes the file. Calling it again does
// nothing.
func (h *Hooks) Close() error {
	h.mu.Lock()
	h.closed = true
	cancel, stopped := h.cancel, h.stopped
	h.mu.Unlock()
	if cancel != nil {
		cancel()
		<-stopped // bounded by the grace of deliveries
	}
	h.client.CloseIdleConnections()
	if err := h.store.Close(); err != nil {
		return fmt.Errorf("close webhook positions: %w", err)
	}
	return nil
}

// Status returns where the endpoints stand, in the order of the options. It asks
// nobody.
func (h *Hooks) Status() []Status {
	list := make([]Status, len(h.endpoints))
	for i, e := range h.endpoints {
		list[i] = e.status()
	}
	return list
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

// Redrive sends a dead letter again, or with sequence 0 all of the endpoint's,
// and returns how many. It returns when that is recorded, before they are sent,
// and outlives a restart. Each gets one try, with its old webhook-id, between
// the deliveries of its page and so out of the stream's order; one that fails
// stays a dead letter. One whose event was erased is dropped. Calling it again
// meanwhile changes nothing. It fails with [ErrUnknownEndpoint] or
// [ErrNoDeadLetter].
func (h *Hooks) Redrive(name string, seq uint64) (int, error) {
	e, err := h.endpoint(name)
	if err != nil {
		return 0, err
	}
	return e.redrive(seq)
}

// Enable lets an endpoint that was disabled go on from where it was, with nothing
// left out. Every page that waits to be tried again is tried at once, also where
// the endpoint was not disabled. It fails with [ErrUnknownEndpoint], or if it
// can't be recorded, which is then tried on.
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
