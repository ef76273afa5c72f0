package streams

import (
	"context"
	"errors"
	"time"
)

// ErrIncomplete is returned by a [SeenIndex] that is being built again: it may lack any id. So may one that lacks ids which
// the publisher does not remember any more.
var ErrIncomplete = errors.New("the index of ids is being built again")

// windowTimeout bounds the request for the time of the stream's last event.
const windowTimeout = 2 * time.Second

// window knows which events JetStream's dedup window covers, by their own times: if such an event was stored
// before, it was after its own time, and so the window has its id. This holds only for times that the clocks of
// this machine and of Meta agree on, so each doubt moves from, which only means that more events have to wait.
//
// All times are of the wall clock. It is used by the committer only.
type window struct {
	size, margin time.Duration // size 0 means that nothing is covered
	// from is the time from which on events are covered. What the window had before this process started, or
	// before a new connection, is not relied upon: it may be another server, and its window lacks what was erased.
	from time.Time
	// high is the latest time that the clock has had. If the clock is set back, the window has forgotten more than
	// its size by the clock.
	high       time.Time
	reconnects uint64
	asked      bool // for the stream's last event, which may be later than the clock
}

// newWindow returns a window that begins now. The margin has to exceed the difference of the clocks, and the time for
// which an event is sent again.
func newWindow(size, retry time.Duration, now time.Time) window {
	now = now.Round(0) // without the monotonic clock, which is not set
	return window{size: size, margin: size/10 + retry, from: now, high: now}
}

// look takes note of the clock, and of events that are ahead of it.
func (w *window) look(now time.Time, items []*item) {
	if w.size <= 0 {
		return
	}
	now = now.Round(0)
	if now.Before(w.high.Add(-w.margin)) { // it was set back
		w.from = w.high
	}
	for _, it := range items {
		if it.time.Sub(now) > w.margin { // the clock may be slow
			w.from = later(w.from, now)
		}
	}
	w.high = later(w.high, now)
}

// has reports whether an event with this time would be found, if it was stored before.
func (w *window) has(now, at time.Time) bool {
	if w.size <= 0 || at.IsZero() || at.Sub(now.Round(0)) > w.margin {
		return false
	}
	return at.After(later(w.from, w.high.Add(-w.size)).Add(w.margin))
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// covered reports whether an event that the index does not have, and may lack, is new unless JetStream's window
// says otherwise. An event that may have been stored under another id is not: the window would not find that.
func (p *Publisher) covered(it *item) bool {
	w := &p.window
	if w.size <= 0 || len(it.also) > 0 {
		return false
	}
	now := time.Now()
	if p.journal != nil { // the publisher's own memory takes the place of the window
		return w.has(now, it.time) && it.time.After(p.recent.forgottenTime.Add(w.margin))
	}
	if n := p.nc.Stats().Reconnects; n != w.reconnects {
		w.reconnects, w.from = n, later(w.from, now.Round(0))
	}
	if !w.asked {
		ctx, cancel := context.WithTimeout(p.abandoned, windowTimeout)
		defer cancel()
		st, err := p.js.Stream(ctx, p.opts.Stream)
		if err != nil {
			return false
		}
		w.asked = true
		w.high = later(w.high, st.CachedInfo().State.LastTime)
	}
	return w.has(now, it.time)
}
