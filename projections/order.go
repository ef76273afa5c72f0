package projections

import (
	"errors"

	"github.com/pagestream/pagestream/streams"
)

// errRedrive refuses a message whose drive is over: it comes again, in order.
var errRedrive = errors.New("given again after the one before it")

// work is one message on its way into a transaction.
type work struct {
	pos       streams.Position
	event     streams.Stored
	malformed error
	done      chan error // buffered: the answer never waits
}

func (w *work) resolve(err error) { w.done <- err }

// order puts messages back in stream order: a router runs a goroutine each, and
// they arrive as they like. It holds no more than the subscriber has in flight.
type order struct {
	epoch  uint64
	next   uint64 // the ordinal that is due
	broken bool   // a message of this epoch was refused: so are all after it
	held   map[uint64]*work
}

func newOrder() *order { return &order{next: 1, held: make(map[uint64]*work)} }

// add takes a message in, or refuses it if its drive is over.
func (o *order) add(w *work) {
	switch {
	case w.pos.Epoch < o.epoch, w.pos.Epoch == o.epoch && o.broken:
		w.resolve(errRedrive)
		return
	case w.pos.Epoch > o.epoch:
		o.refuse()
		o.epoch, o.next, o.broken = w.pos.Epoch, 1, false
	}
	o.held[w.pos.Ordinal] = w
}

// take removes the messages that are due, in order, at most so many.
func (o *order) take(most int) []*work {
	var batch []*work
	for len(batch) < most {
		w, ok := o.held[o.next]
		if !ok {
			break
		}
		delete(o.held, o.next)
		o.next++
		batch = append(batch, w)
	}
	return batch
}

// breakOff ends the epoch after a refusal: everything in it comes again.
func (o *order) breakOff() {
	o.broken = true
	o.refuse()
}

func (o *order) refuse() {
	for n, w := range o.held {
		w.resolve(errRedrive)
		delete(o.held, n)
	}
}
