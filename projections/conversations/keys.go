package conversations

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/store"
)

// Buckets and their keys. Messages are in the order in which they are written,
// because bbolt writes neighbours five times faster than strangers, and all that
// belongs to one conversation is together. The latest rows of order, mids and
// events are in the conversation's own (see [recent]).
const (
	bucketConversations = "conversations" // page | contact -> conversation
	bucketMessages      = "messages"      // seq -> message
	bucketOrder         = "order"         // page | contact | time | seq -> nothing, for each message
	bucketActivity      = "activity"      // page | inverted time | contact -> conversation's key
	bucketMIDs          = "mids"          // page | hash of contact | hash of mid -> time | seq of the message
	bucketPending       = "pending"       // page | contact | hash of mid | seq -> what waits for that mid
	bucketReceipts      = "receipts"      // page | contact | kind -> receipts, packed
	bucketErased        = "erased"        // page | hash of contact -> tombstone
	bucketContacts      = "contacts"      // page | hash of contact -> contact that has a conversation
	bucketEvents        = "events"        // page | hash of contact | seq -> the event's share in the counts
	bucketCounts        = "counts"        // page -> counts
)

// hashSize is that of [domain.ContactHash] too.
const hashSize = 16

// hash16 is the fixed-length form of a mid, an event id or a contact.
func hash16(kind, s string) []byte {
	b := make([]byte, 0, 256) // on the stack
	sum := sha256.Sum256(append(append(b, kind...), s...))
	return sum[:hashSize]
}

// room is what most keys have room in.
const room = 64

func pagePrefix(page domain.PageID) []byte {
	return store.AppendText(make([]byte, 0, room), string(page))
}

func conversationKey(page domain.PageID, contact domain.ContactID) []byte {
	return store.AppendText(pagePrefix(page), string(contact))
}

// sortable maps a signed number to one whose bytes sort as it does.
func sortable(n int64) uint64 { return uint64(n) ^ 1<<63 }

// join copies prefix, so that keys never share memory.
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

func be(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// activityKey sorts a page's conversations newest first.
func activityKey(page domain.PageID, contact domain.ContactID, ms int64) []byte {
	return store.AppendText(binary.BigEndian.AppendUint64(pagePrefix(page), ^sortable(ms)), string(contact))
}

// midSlot is the place of the message with that mid in its conversation's index.
func midSlot(mid string) []byte { return hash16("mid:", mid) }

// slotOf is the place of a message, or of its event if it has no mid of its own.
func slotOf(m *Message) []byte {
	if m.MID == "" {
		return hash16("event:", m.ID)
	}
	return midSlot(m.MID)
}

func pendingPrefix(conversation []byte, mid string) []byte { return join(conversation, midSlot(mid)) }

// contactHash has the bytes of [domain.ContactHash].
func contactHash(contact domain.ContactID) []byte { return hash16("contact:", string(contact)) }

// erasedKey is what stays of a conversation's key after an erasure.
func erasedKey(page domain.PageID, contact domain.ContactID) []byte {
	return append(pagePrefix(page), contactHash(contact)...)
}

// eventSeq is the sequence that a key ends with.
func eventSeq(key []byte) uint64 { return binary.BigEndian.Uint64(key[len(key)-8:]) }

// successor returns the first key after every key that starts with prefix.
// Every prefix here begins with a page, so there always is one.
func successor(prefix []byte) []byte {
	next := append([]byte(nil), prefix...)
	for i := len(next) - 1; i >= 0; i-- {
		next[i]++
		if next[i] != 0 {
			return next[:i+1]
		}
	}
	return nil
}

// millis is a time in Unix milliseconds; 0 for never.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
