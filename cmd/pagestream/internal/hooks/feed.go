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

// begin sets the position of an endpoint that has none yet, and checks that of
// one that has.
func (e *endpoint) begin(ctx context.Context) error {
	head, err := e.askHead(ctx)
	pause := backoff.Backoff{Min: 50 * time.Millisecond, Max: headEvery}
	for err != nil {
		switch {
		case ctx.Err() != nil:
			return nil
		case e.opts.JS.Conn().IsClosed(), errors.Is(err, jetstream.ErrStreamNotFound):
			return fmt.Errorf("find where to begin: %w", err)
		}
		if pause.Wait(ctx) != nil {
			return nil
		}
		head, err = e.askHead(ctx)
	}
	e.mu.Lock()
	e.head = head
	if e.known && e.read > head {
		e.log.Warn("webhook position is after the stream's head; beginning there", "position", e.read, "head", head)
		for page, l := range e.lanes {
			l.spilled, l.attempts, l.since = false, 0, time.Time{}
			e.touch(l)
			if l.empty() {
				delete(e.lanes, page)
			}
		}
		e.ready, e.again = nil, nil
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

func (e *endpoint) askHead(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	return streams.Last(ctx, e.opts.JS, streams.Name)
}

// follow reads the stream into the lanes.
func (e *endpoint) follow(ctx context.Context) error {
	for {
		from, ok := e.enabled(ctx)
		if !ok {
			return nil
		}
		err := streams.Follow(ctx, e.opts.JS, streams.ReadOptions{
			Stream: streams.Name, From: from, Filters: e.filters(),
			Malformed: func(seq uint64, _ error) error { return e.offer(ctx, streams.Stored{Seq: seq}, false) },
		}, func(s streams.Stored) error { return e.offer(ctx, s, e.wants(s)) })
		switch {
		case ctx.Err() != nil:
			return nil
		case !errors.Is(err, errDisabled):
			return fmt.Errorf("follow stream: %w", err)
		}
	}
}

// enabled waits until the endpoint is, and returns where to read on.
func (e *endpoint) enabled(ctx context.Context) (uint64, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.disabled != "" && ctx.Err() == nil {
		e.cond.Wait()
	}
	return e.read + 1, ctx.Err() == nil
}

// offer takes what was read from the stream, when there is room for it.
func (e *endpoint) offer(ctx context.Context, s streams.Stored, wanted bool) error {
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

func (e *endpoint) full(page domain.PageID) bool {
	return e.events >= endpointEvents || e.bytes >= endpointBytes ||
		(e.lanes[page] == nil && len(e.lanes) >= endpointLanes)
}

// watchHead asks for the stream's head, and moves the position over what is not
// for the endpoint, which Follow does not tell.
func (e *endpoint) watchHead(ctx context.Context) {
	var last uint64
	for backoff.Sleep(ctx, headEvery) == nil {
		head, err := e.askHead(ctx)
		if err != nil {
			continue // the reader says what is wrong
		}
		e.mu.Lock()
		e.head = head
		read, off := e.read, e.disabled != ""
		e.mu.Unlock()
		if read == last && read < head && !off && e.nothing(ctx, read+1, head) {
			e.mu.Lock()
			if head > e.read {
				e.read, e.dirty = head, true
			}
			e.mu.Unlock()
		}
		last = read
	}
}

// nothing reports whether none of the events is for the endpoint.
func (e *endpoint) nothing(ctx context.Context, from, to uint64) bool {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	_, err := streams.Read(ctx, e.opts.JS, streams.ReadOptions{
		Stream: streams.Name, From: from, To: to, Filters: e.filters(),
		Malformed: func(uint64, error) error { return nil },
	}, func(s streams.Stored) error {
		if e.wants(s) {
			return errEnough
		}
		return nil
	})
	return err == nil
}
