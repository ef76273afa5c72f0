package streams

import (
	"context"

	"github.com/pagestream/pagestream/domain"
)

// Storer stores events. [Publisher] implements it.
type Storer interface {
	// Publish stores the events and returns a receipt for each, in order, when every one is durable
	// or was already stored. After an error some of them may be stored; the same events can be
	// published again.
	Publish(ctx context.Context, events []domain.Event) ([]Receipt, error)
}

// Decider appends events that record decisions about a page, on condition that no other decision was
// stored meanwhile. [Publisher] implements it.
type Decider interface {
	// LastOf returns the sequence of the page's last event with the same noun as t, or 0 if there is
	// none.
	LastOf(ctx context.Context, page domain.PageID, t domain.Type) (uint64, error)
	// Append stores e if the page's last event of the same noun is still the one at expectedLast.
	// Otherwise [ErrConflict] is returned.
	Append(ctx context.Context, e domain.Event, expectedLast uint64) (Receipt, error)
}

var (
	_ Storer  = (*Publisher)(nil)
	_ Decider = (*Publisher)(nil)
)
