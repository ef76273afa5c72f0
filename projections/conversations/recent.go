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
// time each would write pages of the file that nothing else changes.
//
// The first byte counts them. Of each there is its sequence and what it is, and
// the slot and time of the message if it made one.
type recent []byte

// recentEvent is one of them.
type recentEvent struct {
	place        // its sequence, and of a message the time
	slot  []byte // of the message in the index; nil where it made none
	// counted says that the bucket of events has it, with its share in the counts.
	counted bool
}

// What an event is.
const (
	recentMessage = 1 << iota
	recentCounted
)

// add appends an event.
func (r recent) add(e recentEvent) recent {
	if len(r) == 0 {
		r = append(make(recent, 0, 64), 0)
	}
	r[0]++
	what := byte(0)
	if e.counted {
		what |= recentCounted
	}
	if e.slot == nil {
		return append(binary.AppendUvarint(r, e.seq), what)
	}
	r = append(binary.AppendUvarint(r, e.seq), what|recentMessage)
	return binary.AppendUvarint(append(r, e.slot...), uint64(e.ms))
}

func (r recent) full() bool { return len(r) > 0 && r[0] >= maxRecent }

// each calls f with the events in order, until it returns false. The slots are
// shared.
func (r recent) each(f func(recentEvent) bool) error {
	if len(r) == 0 {
		return nil
	}
	u := unpacker{b: r[1:]}
	for range r[0] {
		e := recentEvent{place: place{seq: u.num()}}
		what := u.num()
		e.counted = what&recentCounted != 0
		if what&recentMessage != 0 {
			e.slot = u.bytes(hashSize)
			e.ms = int64(u.num())
		}
		if u.bad {
			return fmt.Errorf("recent events of %d bytes: %w", len(r), store.ErrCorrupt)
		}
		if !f(e) {
			return nil
		}
	}
	return nil
}

// find returns where the message in that slot is; false if none of the events
// made it.
func (r recent) find(slot []byte) (p place, found bool, err error) {
	if !bytes.Contains(r, slot) {
		return p, false, nil // most are not here, and this is soon told
	}
	err = r.each(func(e recentEvent) bool {
		if found = bytes.Equal(e.slot, slot); found {
			p = e.place
		}
		return !found
	})
	return p, found, err
}

// move writes the events to where they are found without the conversation's row.
func (r recent) move(tx *store.Tx, key, owner []byte) error {
	events, mids, order := tx.Bucket(bucketEvents), tx.Bucket(bucketMIDs), tx.Bucket(bucketOrder)
	var failed error
	err := r.each(func(e recentEvent) bool {
		if !e.counted {
			failed = events.Put(join(owner, be(e.seq)), nil)
		}
		if tail := e.tail(); failed == nil && e.slot != nil {
			if failed = mids.Put(join(owner, e.slot), tail); failed == nil {
				failed = order.Put(join(key, tail), nil)
			}
		}
		return failed == nil
	})
	if failed != nil {
		return fmt.Errorf("move recent events: %w", failed)
	}
	return err
}
