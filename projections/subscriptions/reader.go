package subscriptions

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
)

// Errors of the readers.
var (
	// ErrNotFound is returned when no event ever spoke of the subscription.
	ErrNotFound = errors.New("subscription not found")
	// ErrCursor is returned when a cursor is not one that a list gave.
	ErrCursor = errors.New("cursor is not valid; start again without one")
)

// Limits of one page of a list.
const (
	DefaultLimit = 50
	MaxLimit     = 500
)

// maxCursor is more than any key here has.
const maxCursor = 8 << 10

// List returns the subscriptions of all pages in byte order of page and app, and
// the cursor of the next ones; it is empty at the end. A limit of 0 means
// [DefaultLimit], and none is above [MaxLimit]. Each call is one short
// transaction.
func List(v projections.Viewer, cursor string, limit int) (list []Subscription, next string, err error) {
	after, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || len(after) > maxCursor {
		return nil, "", ErrCursor
	}
	if limit <= 0 {
		limit = DefaultLimit
	}
	return scan(v, nil, after, min(limit, MaxLimit))
}

// OfPage returns a page's subscriptions by app, at most [MaxLimit]: an
// install has a handful of apps.
func OfPage(v projections.Viewer, page domain.PageID) ([]Subscription, error) {
	list, _, err := scan(v, store.Key(string(page)), nil, MaxLimit)
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

func scan(v projections.Viewer, prefix, after []byte, limit int) (list []Subscription, next string, err error) {
	list = []Subscription{}
	err = v.View(func(tx *store.Tx) error {
		c := tx.Bucket(bucketSubscriptions).Cursor()
		seek := prefix
		if len(after) > 0 {
			seek = append(bytes.Clone(after), 0)
		}
		k, b := c.First()
		if len(seek) > 0 {
			k, b = c.Seek(seek)
		}
		for ; k != nil && bytes.HasPrefix(k, prefix); k, b = c.Next() {
			if len(list) == limit {
				next = base64.RawURLEncoding.EncodeToString(after)
				return nil
			}
			var s Subscription
			if err := json.Unmarshal(b, &s); err != nil {
				return fmt.Errorf("read subscription of %d bytes: %w", len(b), store.ErrCorrupt)
			}
			list = append(list, s)
			after = bytes.Clone(k)
		}
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	return list, next, nil
}

// Index has subscriptions by page and app.
type Index map[indexKey]*Subscription

type indexKey struct {
	page domain.PageID
	app  string
}

// Of returns the subscription of one page to one app, nil if there is none.
func (x Index) Of(page domain.PageID, app string) *Subscription { return x[indexKey{page, app}] }

// All reads every subscription.
func All(v projections.Viewer) (Index, error) {
	out := Index{}
	for cursor := ""; ; {
		list, next, err := List(v, cursor, MaxLimit)
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
