package hooks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// job returns the lane's next event; false if it was found to have none.
func (e *endpoint) job(ctx context.Context, l *lane) (job, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	e.mu.Lock()
	if len(l.redrive) > 0 {
		seq := l.redrive[0]
		e.mu.Unlock()
		return e.redriven(ctx, l, seq)
	}
	if len(l.queue) == 0 && l.spilled {
		from, to, most := l.next, l.tail, laneEvents
		if l.attempts > 0 {
			most = 1 // it may fail again
		}
		e.mu.Unlock()
		list, more, err := e.refill(ctx, l.page, from, to, most)
		e.mu.Lock()
		if err != nil {
			e.mu.Unlock()
			return job{}, false, err
		}
		e.refilled(l, list, to, more)
	}
	defer e.mu.Unlock()
	if len(l.queue) == 0 {
		return job{}, false, nil
	}
	return job{event: l.queue[0]}, true, nil
}

// refilled puts into the lane what was read up to to, or less where more is
// left.
func (e *endpoint) refilled(l *lane, list []streams.Stored, to uint64, more bool) {
	failing := l.next
	for _, s := range list {
		e.hold(l, s)
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
	if l.next != failing && l.attempts > 0 { // the one that failed was erased
		l.attempts, l.since = 0, time.Time{}
	}
	l.spilled = l.tail > end
	e.touch(l)
}

// refill reads the page's next events from the stream, and reports whether there
// may be more.
func (e *endpoint) refill(ctx context.Context, page domain.PageID, from, to uint64, most int) (list []streams.Stored, more bool, err error) {
	held := 0
	_, err = streams.Read(ctx, e.opts.JS, streams.ReadOptions{
		Stream: streams.Name, From: from, To: to, Filters: streams.Filter(page, e.Types...),
		Malformed: func(uint64, error) error { return nil },
	}, func(s streams.Stored) error {
		if s.Page != page || !e.wants(s) {
			return nil
		}
		if held > 0 && held+size(s) > laneBytes {
			return errEnough
		}
		list, held = append(list, s), held+size(s)
		if len(list) >= most {
			return errEnough
		}
		return nil
	})
	more = errors.Is(err, errEnough)
	if err != nil && !more {
		return nil, false, fmt.Errorf("read events of a page: %w", err)
	}
	return list, more, nil
}
