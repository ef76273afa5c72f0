package conversations

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/pagestream/pagestream/projections/store"
)

// maxRecent is how many events a conversation's row holds before they move.
const maxRecent = 32

// recent are the latest events of a conversation and where the messages are that
// they made, packed. They stand in the conversation's row, which each event
// writes anyway. When there are maxRecent they move to the buckets by which they
// are found: there the events of one conversation are neighbours, but one at a
// time each would write two pages of the file that nothing else changes.
//
// The first byte counts them. Of each there is its sequence, doubled, and one more
// where it made a message; then the message's slot and time follow.
type recent []byte

// add appends an event; slot is nil where it made no message.
func (r recent) add(seq uint64, slot []byte, ms int64) recent {
	if len(r) == 0 {
		r = append(make(recent, 0, 64), 0)
	}
	r[0]++
	if slot == nil {
		return binary.AppendUvarint(r, seq<<1)
	}
	r = binary.AppendUvarint(r, seq<<1|1)
	return binary.AppendUvarint(append(r, slot...), uint64(ms))
}

func (r recent) full() bool { return len(r) > 0 && r[0] >= maxRecent }

// each calls f with the events in order, until it returns false. The slots are
// shared.
func (r recent) each(f func(seq uint64, slot []byte, ms int64) bool) error {
	if len(r) == 0 {
		return nil
	}
	u := unpacker{b: r[1:]}
	for range r[0] {
		seq, slot, ms := u.num(), []byte(nil), uint64(0)
		if seq&1 == 1 {
			slot = u.bytes(hashSize)
			ms = u.num()
		}
		if u.bad {
			return fmt.Errorf("recent events of %d bytes: %w", len(r), store.ErrCorrupt)
		}
		if !f(seq>>1, slot, int64(ms)) {
			return nil
		}
	}
	return nil
}

// find returns the tail of the key of the message with that slot, nil if none of
// the events made it.
func (r recent) find(slot []byte) (tail []byte, err error) {
	if !bytes.Contains(r, slot) {
		return nil, nil // most are not here, and this is soon told
	}
	err = r.each(func(seq uint64, have []byte, ms int64) bool {
		if bytes.Equal(have, slot) {
			tail = messageKey(nil, ms, seq)
		}
		return tail == nil
	})
	return tail, err
}

// move writes the events to where they are found without the conversation's row.
func (r recent) move(tx *store.Tx, owner []byte) error {
	events, mids := tx.Bucket(bucketEvents), tx.Bucket(bucketMIDs)
	var failed error
	err := r.each(func(seq uint64, slot []byte, ms int64) bool {
		if failed = events.Put(join(owner, be(seq)), nil); failed == nil && slot != nil {
			failed = mids.Put(join(owner, slot), messageKey(nil, ms, seq))
		}
		return failed == nil
	})
	if failed != nil {
		return fmt.Errorf("move recent events: %w", failed)
	}
	return err
}
