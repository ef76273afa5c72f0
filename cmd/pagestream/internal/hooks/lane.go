package hooks

import (
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// Bounds on the events that an endpoint has in memory. Events over a lane's bounds
// are left in the stream and read again later. When the endpoint's bounds are
// reached its reader waits; the wait is short, because a lane that fails releases
// its events.
const (
	laneEvents     = 64
	laneBytes      = 4 << 20
	endpointEvents = 4096
	endpointBytes  = 32 << 20
	// endpointLanes bounds the number of pages that are behind at a time.
	endpointLanes = 50_000
	// eventOverhead is about how many bytes an event takes besides its raw item.
	eventOverhead = 1 << 10
)

// laneState is where a lane is in its cycle.
type laneState int

const (
	idle    laneState = iota // the lane has no work
	ready                    // the lane is queued for a worker
	busy                     // a worker has it
	waiting                  // its timer queues it again
)

// lane contains the unfinished events of one page. It exists while the endpoint is
// behind with that page. The endpoint's lock guards it.
type lane struct {
	page  domain.PageID
	state laneState
	// queue contains the next events. If spilled is set, more events follow in the
	// stream, up to tail.
	queue   []streams.Stored
	spilled bool
	tail    uint64
	// next is the first sequence that is not finished. It is only valid if there is
	// work.
	next uint64
	// redrive are the sequences of dead letters to send again, before all else.
	redrive []uint64

	attempts    int       // failed tries of the first event
	since       time.Time // time of the first failed try
	until       time.Time // no try before this time; zero for no wait
	unreadable  bool      // the stream or the store can't be read now, so redrives wait as well
	slowCounted bool      // the lane is counted in endpoint.slow
	timer       *time.Timer
}

// work reports whether there are events that are not finished.
func (l *lane) work() bool { return l.spilled || len(l.queue) > 0 }

func (l *lane) empty() bool { return !l.work() && len(l.redrive) == 0 }

// job is one event to try.
type job struct {
	event   streams.Stored
	redrive bool
}

func size(s streams.Stored) int { return len(s.Data.Raw) + eventOverhead }

// push appends an event to the lane. If the lane's bounds are reached, the event is
// left in the stream.
func (e *endpoint) push(l *lane, s streams.Stored) {
	if !l.work() {
		l.next = s.Seq
	}
	bytes := 0
	for _, q := range l.queue {
		bytes += size(q)
	}
	if l.spilled || len(l.queue) >= laneEvents || (bytes > 0 && bytes+size(s) > laneBytes) {
		l.spilled, l.tail = true, s.Seq
	} else {
		e.buffer(l, s)
	}
	e.markDirty(l)
	if l.state == idle {
		e.enqueue(l)
	}
}

// buffer adds an event to the lane's queue in memory.
func (e *endpoint) buffer(l *lane, s streams.Stored) {
	l.queue = append(l.queue, s)
	e.events++
	e.bytes += size(s)
}

// finish removes an event that was delivered or given up from the lane.
func (e *endpoint) finish(l *lane, seq uint64) {
	if len(l.queue) > 0 && l.queue[0].Seq == seq {
		e.events--
		e.bytes -= size(l.queue[0])
		l.queue[0] = streams.Stored{}
		l.queue = l.queue[1:]
	}
	l.next = seq + 1
	if l.spilled && l.tail <= seq {
		l.spilled = false
	}
	l.attempts, l.since, l.until = 0, time.Time{}, time.Time{}
	e.markDirty(l)
	e.cond.Broadcast() // the reader may be waiting for room
}

// spill drops the lane's events from memory. They are read from the stream again.
func (e *endpoint) spill(l *lane) {
	if len(l.queue) == 0 {
		return
	}
	if !l.spilled {
		l.spilled, l.tail = true, l.queue[len(l.queue)-1].Seq
	}
	for _, q := range l.queue {
		e.events--
		e.bytes -= size(q)
	}
	l.queue = nil
	e.cond.Broadcast()
}

// enqueue queues the lane for a worker.
func (e *endpoint) enqueue(l *lane) {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	l.state, l.unreadable = ready, false
	if l.attempts > 0 && len(l.redrive) == 0 {
		e.retries = append(e.retries, l)
	} else {
		e.ready = append(e.ready, l)
	}
	e.cond.Broadcast()
}

// release ends a worker's use of a lane: the lane is removed, queued again, or
// waits for its next try.
func (e *endpoint) release(l *lane) {
	if l.slowCounted {
		l.slowCounted = false
		e.slow--
		e.cond.Broadcast()
	}
	wait := time.Until(l.until)
	switch {
	case l.empty():
		l.state = idle
		delete(e.lanes, l.page)
		e.cond.Broadcast()
	case (len(l.redrive) > 0 && !l.unreadable) || wait <= 0:
		e.enqueue(l)
	default:
		l.state = waiting
		l.timer = time.AfterFunc(wait, func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			if l.state == waiting {
				e.enqueue(l)
			}
		})
	}
}
