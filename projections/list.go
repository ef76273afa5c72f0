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

// List reads the rows of a bucket whose keys begin with prefix, in the order of the
// keys. It returns one page of them, never nil, and the cursor of the next page,
// which is empty at the end. The cursor is empty for the first page or was returned
// by an earlier call; any other fails with [ErrCursor]. The limit is as in [Limit].
// Each call is one short transaction.
//
// The function read converts a row to an element. It must not keep the key or the
// value.
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
