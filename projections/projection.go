package projections

import (
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// Projection folds events into a read model.
//
// Apply must be deterministic: the same events in the same order produce the
// same bytes, however they are split into transactions. So Apply must not read a
// clock (an event has its times), use randomness, do I/O or call other services.
// It must keep no state outside the store, neither of the transaction nor between
// calls: a transaction may be rolled back and its events applied again. It must
// not modify anything that an event points to, since other projections share the
// same event.
//
// Apply may return the error of store.Tx.Part: what it has changed is committed, and it
// is called again with the same event in a new transaction. It may only do so where the
// state in the end is the same wherever it was split. Views see the parts.
//
// Apply is called in stream order and once for each event; the [Runner] handles
// redelivered events and events with the id of an earlier one. Apply must accept
// any content of an event: absent fields, empty or long ids, zero times or times
// out of order, and unknown types, which it ignores. An error from Apply means
// that the store failed, or wraps [ErrUnfit]; the Runner retries the event and
// does not skip it, unless it becomes a [DeadLetter].
//
// Package projectionstest checks all of this.
type Projection interface {
	// Name returns the name of the projection, which is also that of its file:
	// 1 to 64 lower-case letters, digits and "_". It never changes.
	Name() string
	// Version returns the version of the rules that write the state. Raise it when
	// Apply would now produce another state: the read model is then rebuilt at the
	// next start.
	Version() int
	// Apply applies one event to the state.
	Apply(tx *store.Tx, e streams.Stored) error
}

// Filtered is a [Projection] with a bucket whose keys are mostly looked up when it does not have them. A runner keeps in
// memory which ones it has, see store.Options.Filter.
type Filtered interface {
	// FilteredBucket returns the name of the bucket.
	FilteredBucket() string
}
