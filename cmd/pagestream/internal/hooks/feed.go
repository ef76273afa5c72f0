package hooks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/streams"
)

// initPosition sets the position of an endpoint that has none yet. If the stream has
// other events than those that the endpoint has read, it moves the position back to the
// last one that is known to be in both, and a position that is after the stream's head to
// the head, unless the endpoint still waits for its first event, [Endpoint.From].
func (e *endpoint) initPosition(ctx context.Context) error {
	e.mu.Lock()
	trail := e.trail
	e.reconnects = e.opts.JS.Conn().Stats().Reconnects
	e.mu.Unlock()
	c, err := e.compare(ctx, trail)
	pause := backoff.Backoff{Min: 50 * time.Millisecond, Max: headEvery}
	for err != nil {
		switch {
		case ctx.Err() != nil:
			return nil
		case e.opts.JS.Conn().IsClosed(), errors.Is(err, jetstream.ErrStreamNotFound):
			return fmt.Errorf("read stream's head: %w", err)
		}
		if pause.Wait(ctx) != nil {
			return nil
		}
		c, err = e.compare(ctx, trail)
	}
	e.mu.Lock()
	e.head = c.Last
	switch {
	case !e.known:
		e.read = c.Last
		if e.From > 0 {
			e.read = e.From - 1
		}
		e.known, e.dirty = true, true
	case c.Differs.Seq > 0:
		e.rewind(c.Common.Seq, c.Common.Seq)
	case e.read > c.Last && e.read != e.From-1:
		e.rewind(c.Last, 0) // nothing is known of what is unfinished
	}
	e.mu.Unlock()
	return e.flush()
}

// compare compares a trail with the stream, which also tells the head.
func (e *endpoint) compare(ctx context.Context, trail streams.Trail) (streams.Compared, error) {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	return trail.Compare(ctx, e.opts.JS, streams.Name)
}

// rewind moves the position back, and forgets the unfinished events after the sequence
// known: the stream has others. The caller holds the lock.
func (e *endpoint) rewind(to, known uint64) {
	e.log.Warn("the stream has other events than those that were read for the webhook; it goes on after the last one "+
		"that is known to be in both", "position", e.read, "common", to, "head", e.head)
	for _, l := range e.lanes {
		if !l.work() {
			continue
		}
		e.spill(l)
		l.tail = min(l.tail, known)
		if l.next > known {
			l.spilled, l.attempts, l.since = false, 0, time.Time{}
		}
		e.markDirty(l)
	}
	e.read, e.trail, e.dirty = to, e.trail.Upto(to), true
	e.cond.Broadcast()
}

func (e *endpoint) readHead(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	return streams.Last(ctx, e.opts.JS, streams.Name)
}

// follow reads the stream and adds its events to the lanes.
func (e *endpoint) follow(ctx context.Context) error {
	for {
		reading, end := context.WithCancel(ctx)
		from, recheck, ok := e.waitEnabled(ctx, end)
		if !ok {
			end()
			return nil
		}
		if recheck {
			end()
			if err := e.initPosition(ctx); err != nil || ctx.Err() != nil {
				return err
			}
			continue
		}
		err := streams.Follow(reading, e.opts.JS, streams.ReadOptions{
			Stream: streams.Name, From: from, Filters: e.filters(),
			Malformed: func(seq uint64, _ error) error { return e.accept(reading, streams.Stored{Seq: seq}, false) },
		}, func(s streams.Stored) error { return e.next(reading, s) })
		interrupted := reading.Err() != nil
		end()
		switch {
		case ctx.Err() != nil:
			return nil
		case !interrupted && !errors.Is(err, errDisabled) && !errors.Is(err, streams.ErrReconnected):
			return fmt.Errorf("follow stream: %w", err)
		}
	}
}

// next accepts an event of the stream, when it is known whether the endpoint wants it.
func (e *endpoint) next(ctx context.Context, s streams.Stored) error {
	retry := backoff.Backoff{Min: 50 * time.Millisecond, Max: headEvery}
	for {
		wanted, err := e.wants(ctx, s)
		if err == nil {
			return e.accept(ctx, s, wanted)
		}
		if waitErr := retry.Wait(ctx); waitErr != nil {
			return waitErr
		}
		e.log.Warn("can't find out whose an event is; trying again", "sequence", s.Seq, "err", err)
	}
}

// waitEnabled waits until the endpoint is enabled, and returns the sequence to read
// from, or that the position is to be compared with the stream first. The function
// interrupt will be called for that from then on. It returns false when the context ends.
func (e *endpoint) waitEnabled(ctx context.Context, interrupt context.CancelFunc) (from uint64, recheck, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.disabled != "" && ctx.Err() == nil {
		e.cond.Wait()
	}
	recheck, e.recheck, e.interrupt = e.recheck, false, interrupt
	return e.read + 1, recheck, ctx.Err() == nil
}

// Recheck makes every endpoint compare its position with the stream. It is called when
// the stream was replaced. An endpoint does so in any case when it starts, and before it
// accepts an event that it was given after a reconnect.
func (h *Hooks) Recheck() {
	for _, e := range h.endpoints {
		e.mu.Lock()
		e.recheck = true
		if e.interrupt != nil {
			e.interrupt()
		}
		e.cond.Broadcast()
		e.mu.Unlock()
	}
}

// accept waits until there is room for an event read from the stream, and then adds
// it to its page's lane. An event that is not wanted only moves the position.
func (e *endpoint) accept(ctx context.Context, s streams.Stored, wanted bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for wanted && e.disabled == "" && ctx.Err() == nil && e.full(s.Page) {
		e.cond.Wait()
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case e.disabled != "":
		return errDisabled
	case e.reconnects != e.opts.JS.Conn().Stats().Reconnects:
		e.recheck = true // otherwise the events of another stream would be sent, and sent again after the rewind
		return streams.ErrReconnected
	case s.Seq <= e.read:
		return nil
	}
	e.read, e.dirty = s.Seq, true
	if s.ID != "" { // it is an event
		e.trail = e.trail.With(&s)
	}
	if wanted {
		e.push(e.lane(s.Page), s)
	}
	return nil
}

// full reports whether there is no room for another event of the page.
func (e *endpoint) full(page domain.PageID) bool {
	return e.events >= endpointEvents || e.bytes >= endpointBytes ||
		(e.lanes[page] == nil && len(e.lanes) >= endpointLanes)
}

// watchHead reads the stream's head every second. It also moves the position past
// events that the endpoint's filters exclude: Follow does not report them.
func (e *endpoint) watchHead(ctx context.Context) {
	var last uint64
	for backoff.Sleep(ctx, headEvery) == nil {
		head, err := e.readHead(ctx)
		if err != nil {
			continue // follow returns the error if it lasts
		}
		e.mu.Lock()
		e.head = head
		read, disabled := e.read, e.disabled != ""
		e.mu.Unlock()
		if read == last && read < head && !disabled && e.noneWanted(ctx, read+1, head) {
			e.mu.Lock()
			if head > e.read {
				e.read, e.dirty = head, true
			}
			e.mu.Unlock()
		}
		last = read
	}
}

// noneWanted reports whether the endpoint wants none of the events from from to to.
// It returns false if they can't be read.
func (e *endpoint) noneWanted(ctx context.Context, from, to uint64) bool {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	_, err := streams.Read(ctx, e.opts.JS, streams.ReadOptions{
		Stream: streams.Name, From: from, To: to, Filters: e.filters(),
		Malformed: func(uint64, error) error { return nil },
	}, func(s streams.Stored) error {
		wanted, err := e.wants(ctx, s)
		if wanted {
			return errStop
		}
		return err
	})
	return err == nil
}
