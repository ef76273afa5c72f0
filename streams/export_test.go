package streams

import (
	"context"
	"time"

	"github.com/pagestream/pagestream/domain"
)

// Waiting returns how many events of a page wait for their turn.
func Waiting(p *Publisher, app string, page domain.PageID) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.queue.flows[flowKey{app, page}]; f != nil {
		return f.waiting
	}
	return 0
}

// Window is the window of a publisher.
type Window struct{ w window }

// NewWindow returns a window that begins now.
func NewWindow(size, retry time.Duration, now time.Time) *Window {
	return &Window{newWindow(size, retry, now)}
}

// Look takes note of the clock, and of events with these times.
func (w *Window) Look(now time.Time, events ...time.Time) {
	var items []*item
	for _, at := range events {
		items = append(items, &item{time: at})
	}
	w.w.look(now, items)
}

// Has reports whether an event with this time is covered.
func (w *Window) Has(now, at time.Time) bool { return w.w.has(now, at) }

// PassStall sets how long the readers of a pass wait for one that does not go on.
func (t *Tail) PassStall(d time.Duration) { t.passes.stall = d }

// TakeCheckpoints takes the checkpoints of a journal of which so many bytes were shipped, until the context ends.
func TakeCheckpoints(ctx context.Context, shipped int64) {
	j := &Journal{changed: make(chan struct{}), since: shipped}
	j.takeCheckpoints(ctx)
}

// CheckpointBytes is from how many shipped bytes on a checkpoint does not wait.
const CheckpointBytes = checkpointBytes

// StoreAt sets the time as of which a journal stores, if the clock is earlier.
func (j *Journal) StoreAt(at time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.at = at
}
