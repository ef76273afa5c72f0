package conversations

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/pagestream/pagestream/projections/store"
)

const (
	// chunkRows is the maximum number of rows in memory while they are changed.
	chunkRows = 256
	// chunkBytes is the maximum size of these rows; a single row may be larger.
	chunkBytes = 1 << 20
)

// scan calls fn for the conversation's messages with times in (after, upto], in
// order, and stores those for which fn returns true. It has the places of one chunk in
// memory.
func (f *fold) scan(after, upto int64, fn func(m *message) (changed bool)) error {
	from, to := place{ms: after + 1}, place{ms: upto + 1}
	for {
		list, err := places(f.tx, f.c, f.key, from, to, chunkRows, false)
		if err != nil {
			return err
		}
		for _, at := range list {
			m, err := messageAt(f.tx, at)
			if err != nil {
				return err
			}
			if !fn(m) {
				continue
			}
			if err := f.put(at, m); err != nil {
				return err
			}
		}
		if len(list) < chunkRows {
			return nil
		}
		from = list[len(list)-1].next()
	}
}

// row is a copy of one stored row.
type row struct{ key, value []byte }

// readChunk copies the first rows in [from, end), at most one chunk, and reports
// whether there are more.
func readChunk(bucket *store.Bucket, from, end []byte) (rows []row, more bool) {
	size := 0
	c := bucket.Cursor()
	for k, v := c.Seek(from); k != nil && bytes.Compare(k, end) < 0; k, v = c.Next() {
		if len(rows) == chunkRows || size >= chunkBytes {
			return rows, true
		}
		rows = append(rows, row{bytes.Clone(k), bytes.Clone(v)})
		size += len(v)
	}
	return rows, false
}

// decode decodes a row that a cursor returned. Its errors do not quote the row.
func decode(b []byte, v any, what string) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read %s of %d bytes: %w", what, len(b), store.ErrCorrupt)
	}
	return nil
}
