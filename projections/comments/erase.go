package comments

import (
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
)

// tombstone is stored for an erased contact.
type tombstone struct {
	Time time.Time `json:"time"`
	Seq  uint64    `json:"seq"`
}

// erase removes all that a contact's events have added, and stores a tombstone so that
// old events don't add it again. The state afterwards is the same whether the contact's
// events were applied before or were already missing from the stream.
func (f *fold) erase() error {
	hash := contactHash(f.e.Contact)
	if d := f.e.Data.Erasure; d != nil {
		b, err := hex.DecodeString(d.Contact)
		if err != nil || len(b) != hashSize {
			return nil
		}
		hash = b
	} else if f.e.Contact == "" {
		return nil
	}
	owner := append(pagePrefix(f.page), hash...)
	if err := f.putTombstone(owner); err != nil {
		return err
	}
	err := f.eachOf(bucketParts, owner, func(key, person []byte) error {
		return f.update(tailOf(key[len(owner):]), func(r *row) bool { return r.remove(domain.ContactID(person)) })
	})
	if err != nil {
		return err
	}
	err = f.eachOf(bucketReactions, owner, func(key, value []byte) error {
		var old reaction
		if err := old.UnmarshalBinary(value); err != nil {
			return fmt.Errorf("read reaction of %d bytes: %w", len(value), store.ErrCorrupt)
		}
		return f.recount(tailOf(key[len(owner):]), old.Name, "")
	})
	if err != nil {
		return err
	}
	return f.count(func(c *Counts) { c.Erased++ })
}

// forget removes all of the page's comments and posts, in transactions of store.PartSize rows. That contacts were erased
// stays. The counts change in the last transaction.
func (f *fold) forget() error {
	for _, bucket := range []string{
		bucketComments, bucketPosts, bucketOrder, bucketThreads, bucketAuthors, bucketFeed, bucketReactions, bucketParts,
	} {
		err := store.DeleteEach(f.tx, pagePrefix(f.page), bucket, func([]byte) error { return f.tx.Part() })
		if err != nil {
			return err
		}
	}
	if !f.tx.Bucket(bucketCounts).Has(pagePrefix(f.page)) {
		return nil
	}
	return f.count(func(c *Counts) { *c = Counts{Erased: c.Erased} })
}

// putTombstone stores the tombstone. If there is one, it keeps the later time.
func (f *fold) putTombstone(key []byte) error {
	bucket := f.tx.Bucket(bucketErased)
	t := tombstone{Time: projections.When(f.e), Seq: f.e.Seq}
	old, _, err := store.GetJSON[tombstone](bucket, key)
	if err != nil {
		return err
	}
	if old.Time.After(t.Time) {
		t.Time = old.Time
	}
	return store.PutJSON(bucket, key, t)
}

// remove removes the part of a person.
func (r *row) remove(person domain.ContactID) (changed bool) {
	i, found := r.find(person)
	if found {
		r.Parts = slices.Delete(r.Parts, i, i+1)
	}
	return found
}

// eachOf calls fn with each row of a bucket whose key begins with prefix, and then
// removes the row.
func (f *fold) eachOf(name string, prefix []byte, fn func(key, value []byte) error) error {
	bucket := f.tx.Bucket(name)
	return store.DeleteEach(f.tx, prefix, name, func(key []byte) error { return fn(key, bucket.Get(key)) })
}

// ErasedAt returns when the contact was last erased from the page. It returns false if
// it never was.
func ErasedAt(v projections.Viewer, page domain.PageID, contact domain.ContactID) (at time.Time, ok bool, err error) {
	err = v.View(func(tx *store.Tx) error {
		t, found, err := store.GetJSON[tombstone](tx.Bucket(bucketErased), ownerPrefix(page, contact))
		at, ok = t.Time, found
		return err
	})
	return at, ok, err
}
