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

// place is where a message stands in its conversation: by event time, and by
// arrival within one millisecond. Its row is found by the sequence alone, so that
// rows are written one behind the other.
type place struct {
	ms  int64
	seq uint64
}

// endOfTime is behind every place.
var endOfTime = place{math.MaxInt64, math.MaxUint64}

// placeSize is that of a tail.
const placeSize = 16

// tail is a place as the end of a key, which sorts as places do.
func (p place) tail() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(make([]byte, 0, placeSize), sortable(p.ms)), p.seq)
}

// placeOf is the place that a key ends with.
func placeOf(key []byte) place {
	tail := key[len(key)-placeSize:]
	return place{int64(binary.BigEndian.Uint64(tail) ^ 1<<63), binary.BigEndian.Uint64(tail[8:])}
}

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.ms, q.ms), cmp.Compare(p.seq, q.seq))
}

// next is the first place behind p.
func (p place) next() place { return place{p.ms, p.seq + 1} }

// row is the key of the message there.
func (p place) row() []byte { return be(p.seq) }

// messages is the bucket of the rows, most of which are written in order.
func messages(tx *store.Tx) *store.Bucket {
	b := tx.Bucket(bucketMessages)
	b.Ascending()
	return b
}

// errMissing says that a message is listed and not there.
var errMissing = fmt.Errorf("message of an index entry is missing: %w", store.ErrCorrupt)

// messageAt reads the row at a place, where a list of places says that it is.
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

// places lists where a conversation's messages are from one place up to another,
// in order, or from the last of them backwards; no more than most.
func places(tx *store.Tx, c *conversation, key []byte, from, to place, most int, backwards bool) ([]place, error) {
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
			if k, _ = cursor.Seek(join(key, to.tail())); k == nil {
				k, _ = cursor.Last()
			} else {
				k, _ = step()
			}
		} else {
			k, _ = cursor.Seek(join(key, from.tail()))
		}
		for n := 0; n < most && bytes.HasPrefix(k, key) && within(placeOf(k)); n++ {
			list = append(list, placeOf(k))
			k, _ = step()
		}
	}
	slices.SortFunc(list, place.compare)
	if backwards {
		slices.Reverse(list)
	}
	return list[:min(len(list), most)], nil
}

// find returns where the message in a slot is; false if there is none.
func find(tx *store.Tx, c *conversation, owner, slot []byte) (p place, found bool, err error) {
	if p, found, err = c.Recent.find(slot); found || err != nil || !c.Indexed {
		return p, found, err
	}
	if tail := tx.Bucket(bucketMIDs).Get(join(owner, slot)); len(tail) == placeSize {
		return placeOf(tail), true, nil
	}
	return p, false, nil
}
