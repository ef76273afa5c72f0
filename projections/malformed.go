package projections

import (
	"bytes"
	"fmt"

	"github.com/pagestream/pagestream/projections/store"
)

// malformedBucket maps the sequence of each message that is not an event to the
// reason.
const malformedBucket = "_malformed"

// maxMalformed is the maximum number of malformed messages in the bucket.
const maxMalformed = 1000

// Malformed is a message in the stream that is not a valid event.
type Malformed struct {
	Seq    uint64 `json:"seq"`
	Reason string `json:"reason"`
}

// Malformed returns the latest malformed messages, at most 1000, oldest first.
// Status.Malformed counts all of them.
func (r *Runner) Malformed() ([]Malformed, error) {
	var out []Malformed
	err := r.View(func(tx *store.Tx) error {
		return tx.Bucket(malformedBucket).ForEachPrefix(nil, func(k, v []byte) error {
			m := Malformed{Reason: string(v)}
			if store.ParseKey(k, &m.Seq) {
				out = append(out, m)
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read malformed messages: %w", err)
	}
	return out, nil
}

// recordMalformed stores a malformed message. If the bucket is full, it deletes the
// oldest one.
func recordMalformed(tx *store.Tx, seq uint64, reason error, full bool) error {
	b := tx.Bucket(malformedBucket)
	if full {
		oldest, _ := b.Cursor().First()
		if err := b.Delete(bytes.Clone(oldest)); err != nil {
			return err
		}
	}
	return b.Put(store.Key(seq), []byte(errorText(reason)))
}
