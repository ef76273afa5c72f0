package projections

import (
	"context"

	"github.com/pagestream/pagestream/projections/store"
)

// Viewer reads a read model. [Runner] is one, and so is [store.Store].
type Viewer interface {
	// View runs f in one short read-only transaction.
	View(f func(*store.Tx) error) error
}

// Index knows which event was the first with an id. The deliveries projection
// is one; by it every other projection drops the same events.
type Index interface {
	// First returns for each id the sequence of the first event with it, 0
	// where no event up to upto has it. It waits until the index holds
	// everything up to upto, or the context ends.
	First(ctx context.Context, ids []string, upto uint64) ([]uint64, error)
}
