package conversations

import (
	"crypto/sha256"
	"encoding/binary"
	"strconv"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/store"
)

// Buckets and their keys. Messages are in the order in which they are written,
// because bbolt writes adjacent keys five times faster than others. The other rows of
// one conversation are adjacent. The latest rows of order, mids and runs are in the
// row of the conversation (see [recent]).
const (
	bucketConversations = "conversations" // page | contact -> conversation
	bucketMessages      = "messages"      // seq -> message
	bucketOrder         = "order"         // page | contact | time | seq -> nothing, for each message
	bucketActivity      = "activity"      // page | inverted time | contact -> conversation's key
	bucketMIDs          = "mids"          // page | hash of contact | hash of mid -> time | seq of the message
	bucketPending       = "pending"       // page | contact | hash of mid | seq -> change that waits for that mid
	bucketReceipts      = "receipts"      // page | contact | kind -> receipts, packed
	bucketErased        = "erased"        // page | hash of contact -> tombstone
	bucketContacts      = "contacts"      // page | hash of contact -> contact with a conversation
	bucketEvents        = "events"        // page | hash of contact | seq -> what the event added to the counts
	bucketRuns          = "runs"          // page | hash of contact | seq -> later events of the contact, packed (see run)
	bucketCounts        = "counts"        // page -> counts
)

// hashSize is the size of a hash in a key, and also that of [domain.ContactHash].
const hashSize = 16

// hash16 returns the hash of a mid, an event id or a contact. The kind keeps them apart.
func hash16(kind, s string) []byte { return appendHash(make([]byte, 0, hashSize), kind, s) }

// appendHash appends the hash of [hash16].
func appendHash(to []byte, kind, s string) []byte {
	b := make([]byte, 0, 256) // on the stack
	sum := sha256.Sum256(append(append(b, kind...), s...))
	return append(to, sum[:hashSize]...)
}

// keyCapacity is the capacity of new keys, enough for most of them.
const keyCapacity = 64

func pagePrefix(page domain.PageID) []byte {
	return store.AppendText(make([]byte, 0, keyCapacity), string(page))
}

func conversationKey(page domain.PageID, contact domain.ContactID) []byte {
	return store.AppendText(pagePrefix(page), string(contact))
}

// sortable maps a signed number to an unsigned one whose big-endian bytes sort in the
// same order.
func sortable(n int64) uint64 { return uint64(n) ^ 1<<63 }

// join concatenates parts of a key. It copies prefix, so that keys never share memory.
func join(prefix []byte, tails ...[]byte) []byte {
	n := len(prefix)
	for _, t := range tails {
		n += len(t)
	}
	key := append(make([]byte, 0, n), prefix...)
	for _, t := range tails {
		key = append(key, t...)
	}
	return key
}

// be returns the big-endian bytes of n.
func be(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// activityKey sorts a page's conversations newest first.
func activityKey(page domain.PageID, contact domain.ContactID, ms int64) []byte {
	return appendActivityKey(make([]byte, 0, keyCapacity), page, contact, ms)
}

func appendActivityKey(key []byte, page domain.PageID, contact domain.ContactID, ms int64) []byte {
	key = binary.BigEndian.AppendUint64(store.AppendText(key, string(page)), ^sortable(ms))
	return store.AppendText(key, string(contact))
}

// midSlot returns the slot of the message with that mid: its key in the
// conversation's index of messages.
func midSlot(mid string) []byte { return hash16("mid:", mid) }

// slotOf returns the slot of a message: that of its mid, or of its event's id if it has
// no mid.
func slotOf(m *Message) []byte {
	if m.MID == "" {
		return hash16("event:", m.ID)
	}
	return midSlot(m.MID)
}

// factSlot returns the slot of a message whose item has neither a mid nor a time of its
// own: that of its fact and of its time, counted in windows of redelivery. Two rows with
// the same fact are more than a window apart, so a slot has at most one of them.
func factSlot(fact string, ms, neighbour int64) []byte {
	return hash16("fact:", fact+"|"+strconv.FormatInt(ms/domain.RedeliveryWindow.Milliseconds()+neighbour, 10))
}

func pendingPrefix(conversation []byte, mid string) []byte { return join(conversation, midSlot(mid)) }

// erasedKey returns the key of a conversation with a hash of its contact. It may be
// stored after an erasure.
func erasedKey(page domain.PageID, contact domain.ContactID) []byte {
	return appendHash(pagePrefix(page), "contact:", string(contact)) // the bytes of domain.ContactHash
}

// eventSeq returns the sequence at the end of a key.
func eventSeq(key []byte) uint64 { return binary.BigEndian.Uint64(key[len(key)-8:]) }

// millis returns a time in Unix milliseconds, 0 for the zero time.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
