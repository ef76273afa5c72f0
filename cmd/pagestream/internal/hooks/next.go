package hooks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// nextJob returns the lane's next event, or false if the lane has none.
func (e *endpoint) nextJob(ctx context.Context, l *lane) (job, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	e.mu.Lock()
	if len(l.redrive) > 0 {
		seq := l.redrive[0]
		e.mu.Unlock()
		return e.redriveJob(ctx, l, seq)
	}
	if len(l.queue) == 0 && l.spilled {
		from, to, limit := l.next, l.tail, laneEvents
		if l.attempts > 0 {
			limit = 1 // it may fail again
		}
		e.mu.Unlock()
		list, more, err := e.readPage(ctx, l.page, from, to, limit)
		e.mu.Lock()
		if err != nil {
			e.mu.Unlock()
			return job{}, false, err
		}
		e.refill(l, list, to, more)
	}
	defer e.mu.Unlock()
	if len(l.queue) == 0 {
		return job{}, false, nil
	}
	return job{event: l.queue[0]}, true, nil
}

// refill adds the events read from the stream to the lane. The events cover the
// stream up to to; if more is set, only up to the last event of the list.
func (e *endpoint) refill(l *lane, list []streams.Stored, to uint64, more bool) {
	failing := l.next
	for _, s := range list {
		e.buffer(l, s)
	}
	end := to
	if len(list) > 0 {
		l.next = list[0].Seq
		if more {
			end = list[len(list)-1].Seq
		}
	} else {
		l.next = to + 1
	}
	if l.next != failing && l.attempts > 0 { // the event that failed was erased
		l.attempts, l.since = 0, time.Time{}
	}
	l.spilled = l.tail > end
	e.markDirty(l)
}

// readPage reads the page's next events from the stream, at most limit and
// laneBytes, and reports whether there may be more.
func (e *endpoint) readPage(ctx context.Context, page domain.PageID, from, to uint64, limit int) (
	list []streams.Stored, more bool, err error,
) {
	bytes := 0
	_, err = streams.Read(ctx, e.opts.JS, streams.ReadOptions{
		Stream: streams.Name, From: from, To: to, Filters: streams.Filter(page, e.Types...),
		Malformed: func(uint64, error) error { return nil },
	}, func(s streams.Stored) error {
		if s.Page != page {
			return nil
		}
		if wanted, err := e.wants(ctx, s); !wanted || err != nil {
			return err
		}
		if bytes > 0 && bytes+size(s) > laneBytes {
			return errStop
		}
		list, bytes = append(list, s), bytes+size(s)
		if len(list) >= limit {
			return errStop
		}
		return nil
	})
	more = errors.Is(err, errStop)
	if err != nil && !more {
		return nil, false, fmt.Errorf("read events of a page: %w", err)
	}
	return list, more, nil
}
