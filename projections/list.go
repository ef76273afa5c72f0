package projections

import (
	"bytes"
	"encoding/base64"
	"errors"
	"slices"

	"github.com/pagestream/pagestream/projections/store"
)

// ErrCursor is returned when a cursor was not returned by an earlier call.
var ErrCursor = errors.New("cursor is not valid; start again without one")

// Limits of the number of elements in one page of a list.
const (
	DefaultLimit = 50
	MaxLimit     = 500
)

// maxCursor is the maximum length of a decoded cursor in bytes, more than any key
// of a list has.
const maxCursor = 8 << 10

// Listing is one page of a list: of the rows of a bucket whose keys begin with Prefix, in
// the order of the keys or backwards.
type Listing struct {
	Bucket string
	Prefix []byte
	// Cursor is empty for the first page, or was returned by an earlier call. Limit is
	// as in [Limit].
	Cursor    string
	Limit     int
	Backwards bool
}

// maxSelected is the maximum number of rows that one call of [Select] reads.
const maxSelected = 10_000

// List is [Select] for a list of all rows whose keys begin with prefix, in the order of
// the keys.
func List[T any](v Viewer, bucket string, prefix []byte, cursor string, limit int,
	read func(tx *store.Tx, key, value []byte) (T, error),
) (list []T, next string, err error) {
	l := Listing{Bucket: bucket, Prefix: prefix, Cursor: cursor, Limit: limit}
	return Select(v, l, func(tx *store.Tx, key, value []byte) (T, bool, error) {
		row, err := read(tx, key, value)
		return row, true, err
	})
}

// Select returns one page of a list, never nil, and the cursor of the next page, which
// is empty at the end. It fails with [ErrCursor] if the cursor is not valid. Each call is
// one short transaction.
//
// The function read converts a row to an element, and reports whether it is in the list.
// It must not keep the key or the value. If most rows are not in the list, a page may
// have fewer elements than the limit, or none, although there is a next one.
func Select[T any](v Viewer, l Listing,
	read func(tx *store.Tx, key, value []byte) (row T, ok bool, err error),
) (list []T, next string, err error) {
	after, err := DecodeCursor(l.Cursor)
	if err != nil {
		return nil, "", err
	}
	limit := Limit(l.Limit)
	list = []T{}
	err = v.View(func(tx *store.Tx) error {
		c := tx.Bucket(l.Bucket).Cursor()
		step := c.Next
		if l.Backwards {
			step = c.Prev
		}
		var last []byte
		k, value := l.first(c, after)
		for n := 0; k != nil && bytes.HasPrefix(k, l.Prefix); n++ {
			if len(list) == limit || n == maxSelected {
				next = EncodeCursor(last[len(l.Prefix):])
				return nil
			}
			row, ok, err := read(tx, k, value)
			if err != nil {
				return err
			}
			if ok {
				list = append(list, row)
			}
			last = k
			k, value = step()
		}
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	return list, next, nil
}

// first moves the cursor to the first row of the page.
func (l Listing) first(c *store.Cursor, after []byte) (key, value []byte) {
	if !l.Backwards {
		if len(after) > 0 {
			return c.Seek(slices.Concat(l.Prefix, after, []byte{0}))
		}
		return c.Seek(l.Prefix)
	}
	end := slices.Concat(l.Prefix, after)
	if len(after) == 0 {
		end = store.Successor(l.Prefix)
	}
	if len(end) == 0 {
		return c.Last()
	}
	return c.Before(end)
}

// Limit returns the limit to use for a requested one: [DefaultLimit] if it is 0 or
// negative, and at most [MaxLimit].
func Limit(limit int) int {
	if limit <= 0 {
		return DefaultLimit
	}
	return min(limit, MaxLimit)
}

// EncodeCursor returns the cursor of a list that continues after the key at.
func EncodeCursor(at []byte) string { return base64.RawURLEncoding.EncodeToString(at) }

// DecodeCursor decodes a cursor of [EncodeCursor]. It fails with [ErrCursor] if it
// is not valid.
func DecodeCursor(cursor string) ([]byte, error) {
	at, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || len(at) > maxCursor {
		return nil, ErrCursor
	}
	return at, nil
}
