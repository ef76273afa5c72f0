package projections

import (
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// Projection folds events into a read model.
//
// Apply has to be deterministic: the same events in the same order give the
// same bytes, however they are split into transactions. So it has no clock (an
// event has its times), no randomness, does no I/O and calls nobody; and it
// keeps nothing of the transaction, or between calls, outside the store: a
// transaction may be rolled back and its events applied again. It changes nothing
// that an event points to, since other projections have the same event.
//
// Apply is called in stream order, each event once; the [Runner] sees to
// redelivery and to events whose id an earlier one has. It must take whatever
// is in an event: fields absent, ids empty or long, times zero or out of order,
// types it does not know, which it leaves alone. An error from it means that
// the store failed; the projection then stands still and is tried again.
//
// Package projectionstest checks all of this.
type Projection interface {
	// Name is the name of the projection and of its file: lower-case letters,
	// digits and "_". It never changes.
	Name() string
	// Version says which rules wrote the state. Raise it when Apply would now
	// give another state: the read model is then rebuilt at the next start.
	Version() int
	// Apply changes the state by one event.
	Apply(tx *store.Tx, e streams.Stored) error
}
