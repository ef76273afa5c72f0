package projections

import (
	"context"

	"github.com/pagestream/pagestream/projections/store"
)

// Viewer reads a read model. [Runner] and [store.Store] implement it.
type Viewer interface {
	// View runs f in one short read-only transaction.
	View(f func(*store.Tx) error) error
}

// Index finds the first event with an id. The deliveries projection is one; all
// other projections use it, so that all drop the same duplicates.
type Index interface {
	// First returns for each id the sequence of the first event with it, or 0 if
	// no event up to upto has it. It waits until the index has applied every event
	// up to upto, or until the context ends; then it returns an error.
	First(ctx context.Context, ids []string, upto uint64) ([]uint64, error)
}
