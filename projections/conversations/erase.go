package conversations

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// tombstone is stored in place of an erased conversation.
type tombstone struct {
	Time time.Time `json:"time"`
	Seq  uint64    `json:"seq"`
}

// erase removes all data of a conversation, and stores a tombstone so that old events
// don't create it again.
//
// The state afterwards is the same whether the erased events were applied before or
// were already missing from the stream. So everything that the contact's events have
// added to the counts is subtracted. This includes events that the erasure does not
// list because they arrived while it was written: these remain recorded for the next
// erasure.
func erase(tx *store.Tx, e streams.Stored) error {
	key := erasedKey(e.Page, e.Contact)
	var listed map[uint64]bool
	if d := e.Data.Erasure; d != nil {
		hash, err := hex.DecodeString(d.Contact)
		if err != nil || len(hash) != hashSize {
			return count(tx, e.Page, Counts{Incomplete: 1}, Counts{})
		}
		key, listed = join(pagePrefix(e.Page), hash), make(map[uint64]bool, len(d.Events))
		for _, h := range d.Events {
			listed[h.Seq] = true
		}
	} else if e.Contact == "" {
		return count(tx, e.Page, Counts{Incomplete: 1}, Counts{})
	}
	if err := putTombstone(tx, e, key); err != nil {
		return err
	}
	var c conversation
	contacts := tx.Bucket(bucketContacts)
	contact := domain.ContactID(contacts.Get(key))
	if contact != "" {
		if err := contacts.Delete(key); err != nil {
			return fmt.Errorf("erase contact: %w", err)
		}
		var err error
		if c, err = eraseConversation(tx, e.Page, contact, key); err != nil {
			return err
		}
	}
	less, err := eraseEvents(tx, key, listed)
	if err != nil {
		return err
	}
	if contact != "" {
		less.Conversations, less.In, less.Out, less.Pending = 1, c.In, c.Out, c.Pending
	}
	return count(tx, e.Page, Counts{Erased: 1}, less)
}

// putTombstone stores the tombstone. If there is one, it keeps the later time.
func putTombstone(tx *store.Tx, e streams.Stored, key []byte) error {
	bucket := tx.Bucket(bucketErased)
	t := tombstone{Time: projections.When(e), Seq: e.Seq}
	old, _, err := store.GetJSON[tombstone](bucket, key)
	if err != nil {
		return err
	}
	if old.Time.After(t.Time) {
		t.Time = old.Time
	}
	return store.PutJSON(bucket, key, t)
}

// eraseConversation removes the rows of a conversation and returns its row. The
// recorded events of its contact are kept.
func eraseConversation(
	tx *store.Tx, page domain.PageID, contact domain.ContactID, owner []byte,
) (conversation, error) {
	conversations, key := tx.Bucket(bucketConversations), conversationKey(page, contact)
	c, found, err := store.GetRow[conversation](conversations, key)
	if err != nil {
		return c, err
	}
	if !found {
		return c, fmt.Errorf("conversation of a contact is missing: %w", store.ErrCorrupt)
	}
	if err := c.Recent.move(tx, key, owner); err != nil {
		return c, err
	}
	err = store.DeleteEach(tx, key, bucketOrder, func(k []byte) error {
		return messages(tx).Delete(placeOf(k).row())
	})
	err = cmp.Or(err,
		store.DeletePrefix(tx, owner, bucketMIDs),
		store.DeletePrefix(tx, key, bucketPending, bucketReceipts))
	if err != nil {
		return c, err
	}
	if err := tx.Bucket(bucketActivity).Delete(activityKey(page, contact, millis(c.LastActivity))); err != nil {
		return c, fmt.Errorf("erase activity: %w", err)
	}
	if err := conversations.Delete(key); err != nil {
		return c, fmt.Errorf("erase conversation: %w", err)
	}
	return c, nil
}
