package conversations

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/pagestream/pagestream/projections/store"
)

// maxRecent is the number of events in a conversation's row at which they are moved to
// the buckets.
const maxRecent = 32

// recentRoom is how many bytes some more events have.
const recentRoom = 64

// recent has the latest events of a conversation and the places of the messages that
// they created, packed. They are in the conversation's row, which each event writes
// anyway. When there are maxRecent events, they are moved to the buckets that index
// them. The keys of one conversation are adjacent there, so moving many events at once
// writes few pages of the file; writing each event separately would write pages that
// nothing else changes.
//
// The first byte is the number of events. Each event has its sequence, flags, and, if
// it created a message, the slot and time of the message.
type recent []byte

// recentEvent is one event of [recent].
type recentEvent struct {
	place        // the sequence of the event, and the time of the message
	slot  []byte // of the message in the index; nil if it created none
	// counted reports whether the bucket of events has the event, with its share in
	// the counts.
	counted bool
}

// Flags of an event.
const (
	recentMessage = 1 << iota
	recentCounted
)

// add appends an event.
func (r recent) add(e recentEvent) recent {
	if len(r) == 0 {
		r = append(make(recent, 0, recentRoom), 0)
	}
	r[0]++
	flags := byte(0)
	if e.counted {
		flags |= recentCounted
	}
	if e.slot == nil {
		return append(binary.AppendUvarint(r, e.seq), flags)
	}
	r = append(binary.AppendUvarint(r, e.seq), flags|recentMessage)
	return binary.AppendUvarint(append(r, e.slot...), uint64(e.ms))
}

// full reports whether the events are to be moved to the buckets.
func (r recent) full() bool { return len(r) > 0 && r[0] >= maxRecent }

// each calls f with the events in order, until it returns false. The slots share
// memory with r.
func (r recent) each(f func(recentEvent) bool) error {
	if len(r) == 0 {
		return nil
	}
	u := unpacker{b: r[1:]}
	for range r[0] {
		e := recentEvent{place: place{seq: u.num()}}
		flags := u.num()
		e.counted = flags&recentCounted != 0
		if flags&recentMessage != 0 {
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

// find returns the place of the message in that slot. It returns false if none of the
// events created it.
func (r recent) find(slot []byte) (p place, found bool, err error) {
	if !bytes.Contains(r, slot) {
		return p, false, nil // most are not here, and this check is fast
	}
	err = r.each(func(e recentEvent) bool {
		if found = bytes.Equal(e.slot, slot); found {
			p = e.place
		}
		return !found
	})
	return p, found, err
}

// move writes the events to the buckets, where they are found without the
// conversation's row.
func (r recent) move(tx *store.Tx, key, owner []byte) error {
	mids, order := tx.Bucket(bucketMIDs), tx.Bucket(bucketOrder)
	room := make([]byte, 0, 2*keyCapacity) // for keys: the store copies them
	var moved run
	var failed error
	err := r.each(func(e recentEvent) bool {
		if !e.counted {
			moved.add(e.seq)
		}
		if tail := e.tail(); e.slot != nil {
			room = append(append(room[:0], owner...), e.slot...)
			if failed = mids.Put(room, tail); failed == nil {
				room = append(append(room[:0], key...), tail...)
				failed = order.Put(room, nil)
			}
		}
		return failed == nil
	})
	if err == nil && failed == nil {
		failed = moved.put(tx, owner)
	}
	if failed != nil {
		return fmt.Errorf("move recent events: %w", failed)
	}
	return err
}
