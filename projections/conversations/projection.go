package conversations

import (
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// Name is the projection's name.
const Name = "conversations"

// Projection folds events into conversations and messages. It has no state of
// its own; the transaction has all of it.
type Projection struct{}

// New returns the projection.
func New() *Projection { return &Projection{} }

// Name returns [Name].
func (*Projection) Name() string { return Name }

// Version changes when the fold or its layout does, and then the read model is
// rebuilt.
func (*Projection) Version() int { return 4 }

// Apply folds one event in. It never fails on what an event says: what lacks
// its payload is counted and passed over. Errors are the store's.
//
// Events must come in stream order and each once; the messages they make do not
// depend on that order (see the package comment).
func (*Projection) Apply(tx *store.Tx, e streams.Stored) error {
	if e.Data.Test || e.Page == "" || e.Page == domain.NoPage {
		return nil
	}
	if e.Type == domain.ContactErased {
		return erase(tx, e)
	}
	if e.Contact == "" {
		return nil
	}
	f := &fold{tx: tx, e: e, time: projections.When(e), key: conversationKey(e.Page, e.Contact), owner: erasedKey(e.Page, e.Contact)}
	switch e.Type.Noun() {
	case "page", "subscription":
		return nil
	case "change":
		return f.aside()
	}
	if err := f.load(); err != nil {
		return err
	}
	if !f.c.ErasedBefore.IsZero() && !f.time.After(f.c.ErasedBefore) {
		f.sum.AfterErasure++
		return f.aside()
	}
	if e.Type == domain.ContactProfiled && f.fresh {
		// The person was erased, or never wrote: a name alone is not kept.
		f.sum.Odd++
		return f.aside()
	}
	if err := f.apply(); err != nil {
		return err
	}
	if err := f.remember(); err != nil {
		return err
	}
	if err := f.save(); err != nil {
		return err
	}
	return count(tx, e.Page, f.sum, f.less)
}
