package conversations

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
)

// Errors of the readers.
var (
	// ErrNotFound is returned when the conversation or message does not exist.
	ErrNotFound = errors.New("not found")
	// ErrErased is returned when the conversation was erased at the contact's request
	// and has had no event since.
	ErrErased = errors.New("conversation was erased")
	// ErrCursor is returned when a cursor was not returned by an earlier call.
	ErrCursor = projections.ErrCursor
)

// List returns a page's conversations, the newest activity first, and the
// cursor of the next ones, which is empty at the end. The limit is as in
// [projections.Limit]. It fails with [ErrCursor] if the cursor is not valid.
//
// Each call is one short transaction. A conversation that becomes active between two
// calls moves to the front and may be missed by the later one. No conversation is
// returned twice, unless it was erased and created again in between.
func List(
	v projections.Viewer, page domain.PageID, cursor string, limit int,
) (list []Conversation, next string, err error) {
	read := func(tx *store.Tx, _, ref []byte) (Conversation, error) {
		row, found, err := store.GetRow[conversation](tx.Bucket(bucketConversations), ref)
		if err == nil && !found {
			err = fmt.Errorf("conversation of an activity is missing: %w", store.ErrCorrupt)
		}
		return row.Conversation, err
	}
	return projections.List(v, bucketActivity, pagePrefix(page), cursor, limit, read)
}

// Get returns one conversation. It fails with [ErrErased] if the conversation was erased
// and has had no event since, and with [ErrNotFound] if it never existed.
func Get(v projections.Viewer, page domain.PageID, contact domain.ContactID) (Conversation, error) {
	var row conversation
	err := v.View(func(tx *store.Tx) (err error) {
		var found bool
		key := conversationKey(page, contact)
		row, found, err = store.GetRow[conversation](tx.Bucket(bucketConversations), key)
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

// ErasedAt returns when the contact was last erased from the page. It returns false if
// it never was.
func ErasedAt(
	v projections.Viewer, page domain.PageID, contact domain.ContactID,
) (at time.Time, ok bool, err error) {
	t, ok, err := tombstoneOf(v, page, contact)
	return t.Time, ok, err
}

// ErasedBy returns the sequence of the last event that erased the contact from the page, 0 if none did. What the contact's
// events before it had added is not there any more.
func ErasedBy(v projections.Viewer, page domain.PageID, contact domain.ContactID) (seq uint64, err error) {
	t, _, err := tombstoneOf(v, page, contact)
	return t.Seq, err
}

func tombstoneOf(
	v projections.Viewer, page domain.PageID, contact domain.ContactID,
) (t tombstone, ok bool, err error) {
	err = v.View(func(tx *store.Tx) error {
		t, ok, err = store.GetJSON[tombstone](tx.Bucket(bucketErased), erasedKey(page, contact))
		return err
	})
	return t, ok, err
}

// Messages returns a conversation's messages in order of event time, or newest
// first, and the cursor of the next ones, which is empty at the end. The limit is as in
// [projections.Limit]. A cursor is valid for its direction only. It fails with
// [ErrCursor] if the cursor is malformed. A conversation that does not exist has no
// messages. A message that arrives late between two calls is not returned if its place
// is before the cursor.
func Messages(
	v projections.Viewer, page domain.PageID, contact domain.ContactID, cursor string, limit int, newestFirst bool,
) (list []Message, next string, err error) {
	after, err := projections.DecodeCursor(cursor)
	if err != nil {
		return nil, "", err
	}
	if len(after) != 0 && len(after) != placeSize {
		return nil, "", ErrCursor
	}
	limit, list = projections.Limit(limit), []Message{}
	from, to := place{ms: math.MinInt64}, maxPlace
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
		c, exists, err := store.GetRow[conversation](tx.Bucket(bucketConversations), conversationKey(page, contact))
		if err != nil {
			return err
		}
		if !exists {
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

// Between returns the messages whose events have the sequences from to to, in order of the sequences, at
// most limit of them. They are of any conversation.
func Between(v projections.Viewer, from, to uint64, limit int) (list []Message, err error) {
	err = v.View(func(tx *store.Tx) error {
		b := messages(tx)
		c := b.Cursor()
		for k, _ := c.Seek(be(from)); k != nil && bytes.Compare(k, be(to)) <= 0 && len(list) < limit; k, _ = c.Next() {
			m, found, err := store.GetRow[message](b, k)
			if err != nil || !found {
				return err
			}
			list = append(list, m.Message)
		}
		return nil
	})
	return list, err
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
