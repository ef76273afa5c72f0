package projections

import (
	"bytes"
	"encoding/base64"
	"errors"
	"slices"

	"github.com/pagestream/pagestream/projections/store"
)

// ErrCursor is returned when a cursor is not one that a list gave.
var ErrCursor = errors.New("cursor is not valid; start again without one")

// Limits of one page of a list.
const (
	DefaultLimit = 50
	MaxLimit     = 500
)

// maxCursor is more than any key of a list has.
const maxCursor = 8 << 10

// List reads the rows of a bucket whose keys begin with prefix, in order of keys,
// and returns the cursor of the next ones; it is empty at the end. Cursor is empty
// or from an earlier call, and limit as in [Limit]. Each call is one short
// transaction. Read makes an element of a row, whose key and value it must not keep.
func List[T any](v Viewer, bucket string, prefix []byte, cursor string, limit int,
	read func(tx *store.Tx, key, value []byte) (T, error),
) (list []T, next string, err error) {
	after, err := DecodeCursor(cursor)
	if err != nil {
		return nil, "", err
	}
	seek := prefix
	if len(after) > 0 {
		seek = slices.Concat(prefix, after, []byte{0})
	}
	limit, list = Limit(limit), []T{}
	err = v.View(func(tx *store.Tx) error {
		var last []byte
		c := tx.Bucket(bucket).Cursor()
		for k, value := c.Seek(seek); k != nil && bytes.HasPrefix(k, prefix); k, value = c.Next() {
			if len(list) == limit {
				next = EncodeCursor(last[len(prefix):])
				return nil
			}
			row, err := read(tx, k, value)
			if err != nil {
				return err
			}
			list, last = append(list, row), k
		}
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	return list, next, nil
}

// Limit is the limit of a list that was asked for: 0 means [DefaultLimit], and none
// is above [MaxLimit].
func Limit(limit int) int {
	if limit <= 0 {
		return DefaultLimit
	}
	return min(limit, MaxLimit)
}

// EncodeCursor makes a cursor of where a list goes on.
func EncodeCursor(at []byte) string { return base64.RawURLEncoding.EncodeToString(at) }

// DecodeCursor reads what EncodeCursor made, or fails with [ErrCursor].
func DecodeCursor(cursor string) ([]byte, error) {
	at, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || len(at) > maxCursor {
		return nil, ErrCursor
	}
	return at, nil
}
