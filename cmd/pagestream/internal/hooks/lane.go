package hooks

import (
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// Bounds on what an endpoint holds in memory. What is over a lane's is left in
// the stream and read again later; when the endpoint's are reached its reader
// waits, which ends soon: a lane that fails holds nothing.
const (
	laneEvents     = 64
	laneBytes      = 4 << 20
	endpointEvents = 4096
	endpointBytes  = 32 << 20
	// endpointLanes bounds the pages that are behind at a time.
	endpointLanes = 50_000
	// eventOverhead is what an event takes besides its raw item, about.
	eventOverhead = 1 << 10
)

type laneState int

const (
	idle laneState = iota
	ready
	busy
	waiting
)

// lane is a page that an endpoint is behind with. The endpoint's lock guards it.
type lane struct {
	page  domain.PageID
	state laneState
	// queue has the next events; after them, where spilled, come those of the
	// stream up to tail.
	queue   []streams.Stored
	spilled bool
	tail    uint64
	// next is the first sequence that is not finished, if there is work.
	next uint64
	// redrive are dead letters to send again, before everything else.
	redrive []uint64

	attempts int       // failed tries of the first event
	since    time.Time // the first of them
	until    time.Time // no try before; the zero time where nothing is waited for
	stalled  bool      // what is next can't be read now, not even dead letters
	slow     bool      // is counted in endpoint.slow
	timer    *time.Timer
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

// push puts an event at the end of the lane.
func (e *endpoint) push(l *lane, s streams.Stored) {
	if !l.work() {
		l.next = s.Seq
	}
	held := 0
	for _, q := range l.queue {
		held += size(q)
	}
	if l.spilled || len(l.queue) >= laneEvents || (held > 0 && held+size(s) > laneBytes) {
		l.spilled, l.tail = true, s.Seq
	} else {
		e.hold(l, s)
	}
	e.touch(l)
	if l.state == idle {
		e.enqueue(l)
	}
}

// hold keeps an event in memory.
func (e *endpoint) hold(l *lane, s streams.Stored) {
	l.queue = append(l.queue, s)
	e.events++
	e.bytes += size(s)
}

// finish takes the event off the lane: it was sent or given up.
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
	e.touch(l)
	e.cond.Broadcast() // there is room
}

// spill leaves to the stream what is held.
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

// enqueue lets a worker have the lane.
func (e *endpoint) enqueue(l *lane) {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	l.state, l.stalled = ready, false
	if l.attempts > 0 && len(l.redrive) == 0 {
		e.again = append(e.again, l)
	} else {
		e.ready = append(e.ready, l)
	}
	e.cond.Broadcast()
}

// release puts a lane that was busy where it belongs.
func (e *endpoint) release(l *lane) {
	if l.slow {
		l.slow = false
		e.slow--
		e.cond.Broadcast()
	}
	wait := time.Until(l.until)
	switch {
	case l.empty():
		l.state = idle
		delete(e.lanes, l.page)
		e.cond.Broadcast()
	case (len(l.redrive) > 0 && !l.stalled) || wait <= 0:
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
