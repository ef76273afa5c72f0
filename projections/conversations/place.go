package conversations

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/pagestream/pagestream/projections/store"
)

// place is the place of a message in its conversation: messages are ordered by event
// time, and by arrival within one millisecond. The key of the row is the sequence
// alone, so that rows are written in the order of their keys.
type place struct {
	ms  int64
	seq uint64
}

// maxPlace is after every place.
var maxPlace = place{math.MaxInt64, math.MaxUint64}

// placeSize is the size of a tail in bytes.
const placeSize = 16

// tail returns the place as the end of a key. Tails sort in the order of places.
func (p place) tail() []byte {
	tail := binary.BigEndian.AppendUint64(make([]byte, 0, placeSize), sortable(p.ms))
	return binary.BigEndian.AppendUint64(tail, p.seq)
}

// placeOf returns the place at the end of a key.
func placeOf(key []byte) place {
	tail := key[len(key)-placeSize:]
	return place{int64(binary.BigEndian.Uint64(tail) ^ 1<<63), binary.BigEndian.Uint64(tail[8:])}
}

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.ms, q.ms), cmp.Compare(p.seq, q.seq))
}

// next returns the first place after p.
func (p place) next() place { return place{p.ms, p.seq + 1} }

// row returns the key of the message at this place.
func (p place) row() []byte { return p.appendRow(nil) }

func (p place) appendRow(b []byte) []byte { return binary.BigEndian.AppendUint64(b, p.seq) }

// messages returns the bucket of the messages, most of which are written in the order
// of their keys.
func messages(tx *store.Tx) *store.Bucket {
	b := tx.Bucket(bucketMessages)
	b.Ascending()
	return b
}

// errMissing is returned when an index names a message that does not exist.
var errMissing = fmt.Errorf("message of an index entry is missing: %w", store.ErrCorrupt)

// messageAt returns the message at a place that an index has. It fails with
// [store.ErrCorrupt] if there is none.
func messageAt(tx *store.Tx, p place) (*message, error) {
	m, found, err := store.GetRow[message](messages(tx), p.row())
	if err == nil && !found {
		err = errMissing
	}
	if err != nil {
		return nil, err
	}
	return &m, nil
}

// places returns the places of a conversation's messages in [from, to), in order or
// backwards, at most limit of them.
func places(
	tx *store.Tx, c *conversation, key []byte, from, to place, limit int, backwards bool,
) ([]place, error) {
	var list []place
	within := func(p place) bool { return p.compare(from) >= 0 && p.compare(to) < 0 }
	err := c.Recent.each(func(e recentEvent) bool {
		if e.slot != nil && within(e.place) {
			list = append(list, e.place)
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	if c.Indexed {
		cursor := tx.Bucket(bucketOrder).Cursor()
		var k []byte
		step := cursor.Next
		if backwards {
			step = cursor.Prev
			k, _ = cursor.Before(join(key, to.tail()))
		} else {
			k, _ = cursor.Seek(join(key, from.tail()))
		}
		for n := 0; n < limit && bytes.HasPrefix(k, key) && within(placeOf(k)); n++ {
			list = append(list, placeOf(k))
			k, _ = step()
		}
	}
	slices.SortFunc(list, place.compare)
	if backwards {
		slices.Reverse(list)
	}
	return list[:min(len(list), limit)], nil
}

// find returns the place of the message in a slot. It returns false if there is none.
func find(tx *store.Tx, c *conversation, owner, slot []byte) (p place, found bool, err error) {
	if p, found, err = c.Recent.find(slot); found || err != nil || !c.Indexed {
		return p, found, err
	}
	if tail := tx.Bucket(bucketMIDs).Get(join(owner, slot)); len(tail) == placeSize {
		return placeOf(tail), true, nil
	}
	return p, false, nil
}
