package conversations

import (
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// Name is the projection's name.
const Name = "conversations"

// Projection folds events into conversations and messages. All of its state is in the
// store.
type Projection struct{}

// New returns the projection.
func New() *Projection { return &Projection{} }

// Name returns [Name].
func (*Projection) Name() string { return Name }

// Version returns the version of the rules and of the stored format. When it changes,
// the read model is rebuilt.
func (*Projection) Version() int { return 6 }

// PagedBuckets implements [projections.Paged]: each row is about one page.
func (*Projection) PagedBuckets() (byPage, byKey []string) {
	return []string{
		bucketConversations, bucketOrder, bucketActivity, bucketMIDs, bucketPending, bucketReceipts, bucketErased,
		bucketContacts, bucketEvents, bucketRuns, bucketCounts,
	}, []string{bucketMessages}
}

// FilteredBucket implements [projections.Filtered]: each new message of a conversation with many is looked up by its mid.
func (*Projection) FilteredBucket() string { return bucketMIDs }

// Apply applies one event. No content of an event makes it fail: an event without its
// payload is counted and skipped. Its errors are those of the store.
//
// Events must be applied in stream order and once each. The resulting messages do not
// depend on that order (see the package comment).
func (*Projection) Apply(tx *store.Tx, e streams.Stored) error {
	if e.Data.Test || e.Page == "" || e.Page == domain.NoPage {
		return nil
	}
	if e.Type == domain.ContactErased {
		return erase(tx, e)
	}
	if e.Type == domain.PageForgotten {
		return forget(tx, e.Page)
	}
	if e.Contact == "" {
		return nil
	}
	f := &fold{
		tx: tx, e: e, time: projections.When(e),
		key: conversationKey(e.Page, e.Contact), owner: erasedKey(e.Page, e.Contact),
		room: make([]byte, 0, 2*keyCapacity),
	}
	switch e.Type.Noun() {
	case "page", "subscription":
		return nil
	case "change", "comment", "post", "reaction", "mention", "rating", "lead", "label", "live", "foreign":
		return f.skip() // no part of a conversation; package comments has the comments
	}
	if err := f.load(); err != nil {
		return err
	}
	if !f.c.ErasedBefore.IsZero() && !f.time.After(f.c.ErasedBefore) {
		f.sum.AfterErasure++
		return f.skip()
	}
	if e.Type == domain.ContactProfiled && f.isNew {
		// The contact was erased, or never wrote: a name alone is not stored.
		f.sum.Incomplete++
		return f.skip()
	}
	if err := f.apply(); err != nil {
		return err
	}
	if err := f.recordEvent(); err != nil {
		return err
	}
	if err := f.save(); err != nil {
		return err
	}
	return count(tx, e.Page, f.sum, f.less)
}
