package comments

import (
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// Name is the projection's name.
const Name = "comments"

// Types returns the types of the events that the projection applies.
func Types() []domain.Type {
	return []domain.Type{
		domain.CommentReceived, domain.CommentEdited, domain.CommentRemoved, domain.CommentHidden, domain.CommentUnhidden,
		domain.PostPublished, domain.PostEdited, domain.PostRemoved,
		domain.ReactionAdded, domain.ReactionRemoved, domain.ContactErased, domain.PageForgotten,
	}
}

// Projection folds events into comments and posts. All of its state is in the store.
type Projection struct{}

// New returns the projection.
func New() *Projection { return &Projection{} }

// Name returns [Name].
func (*Projection) Name() string { return Name }

// Version returns the version of the rules and of the stored format. When it changes,
// the read model is rebuilt.
func (*Projection) Version() int { return 1 }

// PagedBuckets implements [projections.Paged]: each row is about one page.
func (*Projection) PagedBuckets() (byPage, byKey []string) {
	return []string{
		bucketComments, bucketPosts, bucketOrder, bucketThreads, bucketAuthors, bucketFeed, bucketReactions, bucketParts,
		bucketErased, bucketCounts,
	}, nil
}

// Apply applies one event. No content of an event makes it fail: an event without its
// payload or without an id is skipped. Its errors are those of the store. Events must be
// applied in stream order and once each.
func (*Projection) Apply(tx *store.Tx, e streams.Stored) error {
	if e.Data.Test || e.Page == "" || e.Page == domain.NoPage {
		return nil
	}
	// Nearly no event is for this read model: only those that are get a fold, which is large.
	switch e.Type.Noun() {
	case "comment":
		if c := e.Data.Comment; c != nil && c.ID != "" {
			f := newFold(tx, e)
			return f.change(targetOf(aComment, c.ID), c.From, func(p *part) { f.comment(p, c) })
		}
	case "post":
		if c := e.Data.Post; c != nil && c.ID != "" {
			f := newFold(tx, e)
			return f.change(targetOf(aPost, c.ID), c.From, func(p *part) { f.post(p, c) })
		}
	case "reaction":
		if r := e.Data.PostReaction; r != nil {
			return newFold(tx, e).react(r)
		}
	case "page":
		if e.Type == domain.PageForgotten {
			return newFold(tx, e).forget()
		}
	case "contact":
		if e.Type == domain.ContactErased {
			return newFold(tx, e).erase()
		}
	}
	return nil
}
