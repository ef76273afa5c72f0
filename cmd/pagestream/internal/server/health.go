package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/streams"
)

// While one of these errors is current, deliveries are answered with 503, even if the stream works.
var (
	// errStarting is returned before the first check of the stream.
	errStarting = errors.New("starting")
	// errIndexing is returned while the index of ids lacks events that were in the stream at the
	// start of the program: an old duplicate could be stored again.
	errIndexing = errors.New("the index of event ids is catching up with the stream")
	// errComparing is returned until the index of ids was compared with the stream, at the start and
	// after each reconnect: the stream may be another one.
	errComparing = errors.New("the index of event ids is being compared with the stream")
	// errDisconnected is returned while there is no connection to NATS.
	errDisconnected = errors.New("not connected to NATS")
)

// healthInterval is the interval of checks whether the stream can store events. A failed publish
// is answered with 503 in any case; the check only avoids waiting for the failure.
const healthInterval = time.Second

// health checks whether deliveries can be stored and whether the read models are running.
type health struct {
	p       *Program
	space   space
	durable durability
	leader  leader
	damage  damage
	stored  atomic.Pointer[error] // pointer to nil: the stream accepts events; nil: not checked yet
	last    atomic.Pointer[outcome]
	indexed atomic.Bool // the index has caught up once since the start
	cancel  context.CancelFunc
	stopped sync.WaitGroup

	// The last publish that failed for want of space, and what was left then. Only poll uses them.
	refused     *outcome
	refusedLeft int64

	// The restarts of the embedded server. Only poll uses them.
	restarts    int
	nextRestart time.Time
	outgrown    time.Time // when the disk was last looked at for that
}

func (h *health) start(p *Program) error {
	h.p, h.space.p = p, p
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	h.durable.watch(ctx, &h.stopped)
	if err := h.leader.watch(ctx, &h.stopped); err != nil {
		cancel()
		return err
	}
	h.poll(ctx)
	h.stopped.Go(func() {
		for backoff.Sleep(ctx, h.interval()) == nil {
			h.poll(ctx)
		}
	})
	return nil
}

func (h *health) stop() {
	h.cancel()
	h.stopped.Wait()
}

// interval returns the time until the next check. It is short after a failure, and while space is running out, so
// that deliveries are refused before they have used up what is kept free of them.
func (h *health) interval() time.Duration {
	short := slices.ContainsFunc(h.space.now(), func(s meta.Space) bool { return s.Level() != meta.SpaceFine })
	if err := h.stored.Load(); short || err != nil && *err != nil {
		return healthInterval / 10
	}
	return healthInterval
}

// poll checks the server and the stream, and logs changes. A full disk can stop the server while the process
// runs.
func (h *health) poll(ctx context.Context) {
	err := h.check(ctx)
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		h.forget()
	}
	h.changed(h.stored.Swap(&err), err)
	h.suspect(ctx)
	h.heal(ctx)
}

// changed logs that something begins or ceases to keep deliveries from being stored. The error before may be nil.
func (h *health) changed(before *error, now error) {
	switch {
	case now != nil && (before == nil || *before == nil):
		h.p.log.Error("deliveries can't be stored; answering with 503", "err", now)
	case now == nil && before != nil && *before != nil:
		h.p.log.Info("deliveries can be stored again")
	}
}

func (h *health) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	err := h.answers()
	// With an external NATS the limits are asked of another server than the one that stores the events.
	if asked := h.space.measure(ctx, err == nil); asked != nil && h.p.server != nil {
		err = asked
	}
	if full := h.space.full(); full != nil && err != nil {
		return fmt.Errorf("%w; %w", full, err)
	} else if full != nil {
		return full
	}
	return err
}

// answers returns an error if NATS does not answer, or the embedded server does not store events any more. What an
// external NATS answers is known to leader.
func (h *health) answers() error {
	if h.p.server == nil {
		return nil
	}
	if err := h.p.server.Healthy(); err != nil {
		return fmt.Errorf("embedded server: %w", err)
	}
	if err := h.p.server.WriteErrors()[streams.Name]; err != nil {
		return fmt.Errorf("embedded server: %w", err)
	}
	if !h.p.conn.IsConnected() {
		return errDisconnected
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
	if err := h.leader.refusal(); err != nil {
		return err
	}
	if err := h.durable.refusal(); err != nil {
		return err
	}
	if h.p.journal != nil {
		if err := h.p.journal.Refuses(); err != nil {
			return err
		}
	}
	if err := h.index(); err != nil {
		return err
	}
	return h.uncovered()
}

// door returns why a delivery is refused before it is read, or nil.
func (h *health) door() error {
	if err := h.storeError(); err != nil {
		return err
	}
	return h.leader.try()
}

// refusals returns why deliveries are answered 503 now: it is known that they can't be stored, or the last
// publish failed.
func (h *health) refusals() (out []error) {
	for _, err := range []error{h.storeError(), h.publishError()} {
		if err != nil {
			out = append(out, err)
		}
	}
	return out
}

// index returns errIndexing while the index is behind the head that the stream had at the start,
// is of another stream, or is being rebuilt, and errComparing before it was compared with the stream. If it is
// rebuilt because it was damaged, the publisher refuses only the events that may be old: see
// streams.ErrIncomplete. A failure of the projection after that counts only as far as uncovered says.
func (h *health) index() error {
	s := h.p.models.Deliveries().Status()
	switch {
	case s.Damaged != "":
		return nil
	case s.State == projections.StateRebuilding:
		return errIndexing
	}
	if !h.indexed.Load() {
		if s.Seq < h.p.headAtStart || s.Stale > 0 {
			return errIndexing
		}
		h.indexed.Store(true)
	}
	return h.p.ownIndex()
}

// ownIndex returns an error unless the index of ids is known to be of the stream that there is, or is rebuilt because
// it was damaged.
func (p *Program) ownIndex() error {
	s := p.models.Deliveries().Status()
	switch {
	case s.Damaged != "":
		return nil
	case s.Stale > 0:
		return errIndexing
	case !p.models.Deliveries().Verified():
		return errComparing
	}
	return nil
}

// indexCurrent returns an error unless what the index of ids has is in the stream that there is. The connection may be
// lost: reactors have others, and what they read may be of the stream after that.
func (p *Program) indexCurrent() error {
	if !p.conn.IsConnected() {
		return errDisconnected
	}
	return p.ownIndex()
}

// reasons returns every error that makes the process not ready.
func (h *health) reasons() []error {
	out := h.refusals()
	for _, r := range h.p.models {
		if err := r.Healthy(h.p.cfg.Projections.MaxLag); err != nil {
			out = append(out, fmt.Errorf("projection %s: %w", r.Name(), err))
		}
	}
	return out
}
