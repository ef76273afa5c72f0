package conversations

import (
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/store"
)

// forget removes all of a page's conversations. Two things stay: that contacts were erased, so that old events of theirs
// are not applied later, and which events a contact has, so that an erasure finds them in the stream. It makes as
// many changes as the page has rows, in transactions of store.PartSize, or one conversation if that is larger. The last
// one changes the counts and the shares of all recorded events.
func forget(tx *store.Tx, page domain.PageID) error {
	prefix, contacts := pagePrefix(page), tx.Bucket(bucketContacts)
	err := store.DeleteEach(tx, prefix, bucketContacts, func(key []byte) error {
		if err := tx.Part(); err != nil {
			return err
		}
		_, err := eraseConversation(tx, page, domain.ContactID(contacts.Get(key)), key)
		return err
	})
	if err != nil {
		return err
	}
	if _, err := eraseShares(tx, prefix, nil); err != nil { // they count for nothing any more
		return err
	}
	counts, found, err := store.GetRow[Counts](tx.Bucket(bucketCounts), prefix)
	if err != nil || !found {
		return err
	}
	if counts.Erased == 0 {
		return store.DeletePrefix(tx, prefix, bucketCounts)
	}
	return store.PutRow(tx.Bucket(bucketCounts), prefix, Counts{Erased: counts.Erased})
}
