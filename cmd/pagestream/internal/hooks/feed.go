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

// initPosition sets the position of an endpoint that has none yet, and moves a
// position that is after the stream's head back to the head, unless the endpoint
// still waits for its first event, [Endpoint.From].
func (e *endpoint) initPosition(ctx context.Context) error {
	head, err := e.readHead(ctx)
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
		head, err = e.readHead(ctx)
	}
	e.mu.Lock()
	e.head = head
	if e.known && e.read > head && e.read != e.From-1 {
		e.log.Warn("webhook position is after the stream's head; starting at the head", "position", e.read, "head", head)
		for page, l := range e.lanes {
			l.spilled, l.attempts, l.since = false, 0, time.Time{}
			e.markDirty(l)
			if l.empty() {
				delete(e.lanes, page)
			}
		}
		e.ready, e.retries = nil, nil
		for _, l := range e.lanes {
			e.enqueue(l)
		}
		e.read, e.dirty = head, true
	}
	if !e.known {
		e.read = head
		if e.From > 0 {
			e.read = e.From - 1
		}
		e.known, e.dirty = true, true
	}
	e.mu.Unlock()
	return e.flush()
}

func (e *endpoint) readHead(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	return streams.Last(ctx, e.opts.JS, streams.Name)
}

// follow reads the stream and adds its events to the lanes.
func (e *endpoint) follow(ctx context.Context) error {
	for {
		from, ok := e.waitEnabled(ctx)
		if !ok {
			return nil
		}
		err := streams.Follow(ctx, e.opts.JS, streams.ReadOptions{
			Stream: streams.Name, From: from, Filters: e.filters(),
			Malformed: func(seq uint64, _ error) error { return e.accept(ctx, streams.Stored{Seq: seq}, false) },
		}, func(s streams.Stored) error { return e.next(ctx, s) })
		switch {
		case ctx.Err() != nil:
			return nil
		case !errors.Is(err, errDisabled):
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
// from. It returns false when the context ends.
func (e *endpoint) waitEnabled(ctx context.Context) (uint64, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.disabled != "" && ctx.Err() == nil {
		e.cond.Wait()
	}
	return e.read + 1, ctx.Err() == nil
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
	case s.Seq <= e.read:
		return nil
	}
	e.read, e.dirty = s.Seq, true
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
