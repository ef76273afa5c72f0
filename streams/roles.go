package streams

import (
	"context"

	"github.com/pagestream/pagestream/domain"
)

// Storer stores events; a [Publisher] is one.
type Storer interface {
	// Publish returns when each event is durable or known already, a receipt for
	// each in their order. After an error some of them may be stored; the same
	// events can be published again.
	Publish(ctx context.Context, events []domain.Event) ([]Receipt, error)
}

// Decider appends decisions about a page on condition that nobody else has decided
// meanwhile; a [Publisher] is one.
type Decider interface {
	// LastOf returns the sequence of the page's last event with the noun of t, 0
	// where there is none.
	LastOf(ctx context.Context, page domain.PageID, t domain.Type) (uint64, error)
	// Append stores e if the page's last event of that noun is still at
	// expectedLast, else it fails with [ErrConflict].
	Append(ctx context.Context, e domain.Event, expectedLast uint64) (Receipt, error)
}

var (
	_ Storer  = (*Publisher)(nil)
	_ Decider = (*Publisher)(nil)
)
