package projections

import (
	"errors"

	"github.com/pagestream/pagestream/streams"
)

// errRedrive refuses a message whose drive is over: it comes again, in order.
var errRedrive = errors.New("given again after the one before it")

// parcel is a message of the subscriber with its events, in order.
type parcel struct {
	pos    streams.Position
	events []*streams.Replayed // shared with others
	done   chan error          // buffered: the answer never waits
}

func (p *parcel) resolve(err error) { p.done <- err }

// last is the sequence of the last event.
func (p *parcel) last() uint64 { return p.events[len(p.events)-1].Seq }

// order puts messages back in stream order: a router runs a goroutine each, and
// they arrive as they like. It holds no more than the subscriber has in flight.
type order struct {
	epoch  uint64
	next   uint64 // the ordinal that is due
	broken bool   // a message of this epoch was refused: so are all after it
	held   map[uint64]*parcel
	events int // in held
}

func newOrder() *order { return &order{next: 1, held: make(map[uint64]*parcel)} }

// add takes a message in, or refuses it if its drive is over.
func (o *order) add(p *parcel) {
	switch {
	case p.pos.Epoch < o.epoch, p.pos.Epoch == o.epoch && o.broken:
		p.resolve(errRedrive)
		return
	case p.pos.Epoch > o.epoch:
		o.refuse()
		o.epoch, o.next, o.broken = p.pos.Epoch, 1, false
	}
	o.held[p.pos.Ordinal] = p
	o.events += len(p.events)
}

// take removes the messages that are due, in order: of so many events at most,
// but one message in any case.
func (o *order) take(most int) []*parcel {
	var batch []*parcel
	for n := 0; ; {
		p, ok := o.held[o.next]
		if !ok {
			return batch
		}
		if n += len(p.events); n > most && len(batch) > 0 {
			return batch
		}
		delete(o.held, o.next)
		o.events -= len(p.events)
		o.next++
		batch = append(batch, p)
	}
}

// breakOff ends the epoch after a refusal: everything in it comes again.
func (o *order) breakOff() {
	o.broken = true
	o.refuse()
}

func (o *order) refuse() {
	for n, p := range o.held {
		p.resolve(errRedrive)
		delete(o.held, n)
	}
	o.events = 0
}
