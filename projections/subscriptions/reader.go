package subscriptions

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
)

// Errors of the readers.
var (
	// ErrNotFound is returned when there is no event about the subscription.
	ErrNotFound = errors.New("subscription not found")
	// ErrCursor is returned when a cursor was not returned by an earlier call.
	ErrCursor = projections.ErrCursor
)

// List returns the subscriptions of all pages in byte order of page and app, and
// the cursor of the next ones, which is empty at the end. The limit is as in
// [projections.Limit]. It fails with [ErrCursor] if the cursor is not valid. Each call
// is one short transaction.
func List(v projections.Viewer, cursor string, limit int) (list []Subscription, next string, err error) {
	return projections.List(v, bucketSubscriptions, nil, cursor, limit, decode)
}

// OfPage returns a page's subscriptions in byte order of their apps, at most
// [projections.MaxLimit]: an installation has only a few apps.
func OfPage(v projections.Viewer, page domain.PageID) ([]Subscription, error) {
	prefix := store.Key(string(page))
	list, _, err := projections.List(v, bucketSubscriptions, prefix, "", projections.MaxLimit, decode)
	return list, err
}

// Get returns the subscription of one page to one app, or fails with
// [ErrNotFound].
func Get(v projections.Viewer, page domain.PageID, app string) (s Subscription, err error) {
	err = v.View(func(tx *store.Tx) error {
		var found bool
		s, found, err = store.GetJSON[Subscription](tx.Bucket(bucketSubscriptions), store.Key(string(page), app))
		if err == nil && !found {
			return ErrNotFound
		}
		return err
	})
	return s, err
}

func decode(_ *store.Tx, _, value []byte) (s Subscription, err error) {
	if err := json.Unmarshal(value, &s); err != nil {
		return s, fmt.Errorf("read subscription of %d bytes: %w", len(value), store.ErrCorrupt)
	}
	return s, nil
}

// Index has all subscriptions, by page and app.
type Index map[indexKey]*Subscription

type indexKey struct {
	page domain.PageID
	app  string
}

// Of returns the subscription of one page to one app, or nil if there is none.
func (x Index) Of(page domain.PageID, app string) *Subscription { return x[indexKey{page, app}] }

// All returns every subscription. It reads [projections.MaxLimit] of them in one
// transaction.
func All(v projections.Viewer) (Index, error) {
	out := Index{}
	for cursor := ""; ; {
		list, next, err := List(v, cursor, projections.MaxLimit)
		if err != nil {
			return nil, err
		}
		for i, s := range list {
			out[indexKey{s.Page, s.App}] = &list[i]
		}
		if cursor = next; next == "" {
			return out, nil
		}
	}
}
