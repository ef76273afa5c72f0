package conversations

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
)

// Errors of the readers.
var (
	// ErrNotFound is returned when there is no such conversation or message.
	ErrNotFound = errors.New("not found")
	// ErrErased is returned when the conversation was erased at the contact's wish
	// and that nothing has come since.
	ErrErased = errors.New("conversation was erased")
	// ErrCursor is returned when a cursor is not one that a list gave.
	ErrCursor = projections.ErrCursor
)

// List returns a page's conversations, the newest activity first, and the
// cursor of the next ones; it is empty at the end. The limit is as in
// [projections.Limit].
//
// Each call is one short transaction. A conversation that becomes active between two calls
// moves to the front and may be missed by the later one; none is
// returned twice unless its activity was erased and began anew.
func List(v projections.Viewer, page domain.PageID, cursor string, limit int) (list []Conversation, next string, err error) {
	read := func(tx *store.Tx, _, ref []byte) (Conversation, error) {
		row, found, err := store.GetRow[conversation](tx.Bucket(bucketConversations), ref)
		if err == nil && !found {
			err = fmt.Errorf("conversation of an activity is missing: %w", store.ErrCorrupt)
		}
		return row.Conversation, err
	}
	return projections.List(v, bucketActivity, pagePrefix(page), cursor, limit, read)
}

// Get returns one conversation. It fails with [ErrNotFound], or [ErrErased].
func Get(v projections.Viewer, page domain.PageID, contact domain.ContactID) (Conversation, error) {
	var row conversation
	err := v.View(func(tx *store.Tx) (err error) {
		var found bool
		row, found, err = store.GetRow[conversation](tx.Bucket(bucketConversations), conversationKey(page, contact))
		switch {
		case err != nil || found:
			return err
		case tx.Bucket(bucketErased).Has(erasedKey(page, contact)):
			return ErrErased
		}
		return ErrNotFound
	})
	return row.Conversation, err
}

// ErasedAt returns when the contact was last erased from the page; false if
// never.
func ErasedAt(v projections.Viewer, page domain.PageID, contact domain.ContactID) (at time.Time, ok bool, err error) {
	err = v.View(func(tx *store.Tx) error {
		t, found, err := store.GetJSON[tombstone](tx.Bucket(bucketErased), erasedKey(page, contact))
		at, ok = t.Time, found
		return err
	})
	return at, ok, err
}

// EventsOf returns the sequences after that one of the contact's events which the
// stream has, in order, at most limit. They are those that an erasure has to
// remove: also events that made no row, and those that came after an erasure.
// Test events are not among them: their contact is nobody.
func EventsOf(v projections.Viewer, page domain.PageID, contact domain.ContactID, after uint64, limit int) (seqs []uint64, err error) {
	err = v.View(func(tx *store.Tx) error {
		prefix := erasedKey(page, contact)
		c := tx.Bucket(bucketEvents).Cursor()
		for k, _ := c.Seek(join(prefix, be(after+1))); k != nil && bytes.HasPrefix(k, prefix) && len(seqs) < limit; k, _ = c.Next() {
			seqs = append(seqs, eventSeq(k))
		}
		row, _, err := store.GetRow[conversation](tx.Bucket(bucketConversations), conversationKey(page, contact))
		if err != nil {
			return err
		}
		return row.Recent.each(func(e recentEvent) bool {
			if e.seq > after && !e.counted {
				seqs = append(seqs, e.seq)
			}
			return true
		})
	})
	slices.Sort(seqs)
	return seqs[:min(len(seqs), max(0, limit))], err
}

// Messages returns a conversation's messages in order of event time, or newest
// first, and the cursor of the next ones; it is empty at the end. A cursor
// belongs to its direction. A conversation that does not exist has none. A message
// that arrives late between two calls is in its place, which may be behind the
// cursor.
func Messages(v projections.Viewer, page domain.PageID, contact domain.ContactID, cursor string, limit int, newestFirst bool) (list []Message, next string, err error) {
	after, err := projections.DecodeCursor(cursor)
	if err != nil {
		return nil, "", err
	}
	if len(after) != 0 && len(after) != placeSize {
		return nil, "", ErrCursor
	}
	limit, list = projections.Limit(limit), []Message{}
	from, to := place{ms: math.MinInt64}, endOfTime
	switch {
	case len(after) > 0 && newestFirst:
		to = placeOf(after)
	case len(after) > 0:
		from = placeOf(after).next()
	}
	err = v.View(func(tx *store.Tx) error {
		key := conversationKey(page, contact)
		c, found, err := store.GetRow[conversation](tx.Bucket(bucketConversations), key)
		if err != nil || !found {
			return err
		}
		all, err := places(tx, &c, key, from, to, limit+1, newestFirst)
		if err != nil {
			return err
		}
		for _, at := range all[:min(len(all), limit)] {
			m, err := messageAt(tx, at)
			if err != nil {
				return err
			}
			list = append(list, m.Message)
		}
		if len(all) > limit {
			next = projections.EncodeCursor(all[limit-1].tail())
		}
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	return list, next, nil
}

// FindByMID returns the message of a conversation with that mid, or fails with
// [ErrNotFound].
func FindByMID(v projections.Viewer, page domain.PageID, contact domain.ContactID, mid string) (Message, error) {
	var found Message
	err := v.View(func(tx *store.Tx) error {
		c, owned, err := store.GetRow[conversation](tx.Bucket(bucketConversations), conversationKey(page, contact))
		if err != nil {
			return err
		}
		if !owned {
			return ErrNotFound
		}
		at, placed, err := find(tx, &c, erasedKey(page, contact), midSlot(mid))
		if err != nil {
			return err
		}
		if !placed {
			return ErrNotFound
		}
		m, err := messageAt(tx, at)
		if err != nil {
			return err
		}
		found = m.Message
		return nil
	})
	return found, err
}

// Count returns the sums of one page, or of all pages if page is empty.
func Count(v projections.Viewer, page domain.PageID) (Counts, error) {
	var sum Counts
	err := v.View(func(tx *store.Tx) (err error) {
		bucket := tx.Bucket(bucketCounts)
		if page != "" {
			sum, _, err = store.GetRow[Counts](bucket, pagePrefix(page))
			return err
		}
		return bucket.ForEachPrefix(nil, func(k, _ []byte) error {
			one, _, err := store.GetRow[Counts](bucket, k)
			sum.add(one)
			return err
		})
	})
	return sum, err
}
