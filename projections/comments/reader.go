package comments

import (
	"errors"
	"fmt"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
)

// Errors of the readers.
var (
	// ErrNotFound is returned when the comment or post does not exist.
	ErrNotFound = errors.New("not found")
	// ErrCursor is returned when a cursor was not returned by an earlier call.
	ErrCursor = projections.ErrCursor
)

// Query selects comments of a page. Each empty field selects all.
type Query struct {
	// Contact is the author, Post the post, and State the state of the comments.
	Contact domain.ContactID
	Post    string
	State   State
}

// Page is which elements of a list a call returns: at most Limit of them, as in
// [projections.Limit], after the cursor that an earlier call for the same list returned.
type Page struct {
	Cursor      string
	Limit       int
	NewestFirst bool
}

// listing returns the page of a list.
func (p Page) listing(bucket string, prefix []byte) projections.Listing {
	return projections.Listing{
		Bucket: bucket, Prefix: prefix, Cursor: p.Cursor, Limit: p.Limit, Backwards: p.NewestFirst,
	}
}

// List returns comments of a page in order of time, and the cursor of the next ones,
// which is empty at the end. It fails with [ErrCursor] if the cursor is not valid. A
// call reads a limited number of rows, so it may return few comments, or none, and a
// cursor.
//
// Each call is one short transaction. A comment whose place changes between two calls,
// because its first event arrives late, may be missed or returned twice.
func List(v projections.Viewer, page domain.PageID, q Query, p Page) (list []Comment, next string, err error) {
	l := p.listing(bucketOrder, pagePrefix(page))
	switch {
	case q.Contact != "":
		l.Bucket, l.Prefix = bucketAuthors, ownerPrefix(page, q.Contact)
	case q.Post != "":
		l.Bucket, l.Prefix = bucketThreads, threadPrefix(page, q.Post)
	}
	return projections.Select(v, l, func(tx *store.Tx, key, state []byte) (c Comment, ok bool, err error) {
		if q.State != "" && string(state) != string(q.State[:1]) {
			return c, false, nil
		}
		r, err := indexed(tx, bucketComments, rowKey(page, key[len(l.Prefix):]))
		if err != nil {
			return c, false, err
		}
		c = r.comment(page)
		return c, q.Post == "" || c.Post == q.Post, nil
	})
}

// Get returns one comment, or fails with [ErrNotFound].
func Get(v projections.Viewer, page domain.PageID, id string) (c Comment, err error) {
	r, err := get(v, page, targetOf(aComment, id))
	if err == nil && len(r.Parts) == 0 { // only reactions to it are known
		err = ErrNotFound
	}
	if err != nil {
		return c, err
	}
	return r.comment(page), nil
}

// Posts returns the posts of a page in order of time, and the cursor of the next ones,
// as [List] does. A post of which only comments are known has the time of the first
// one.
func Posts(v projections.Viewer, page domain.PageID, p Page) (list []Post, next string, err error) {
	l := p.listing(bucketFeed, pagePrefix(page))
	return projections.Select(v, l, func(tx *store.Tx, key, _ []byte) (Post, bool, error) {
		r, err := indexed(tx, bucketPosts, rowKey(page, key[len(l.Prefix):]))
		return r.post(page), true, err
	})
}

// GetPost returns one post, or fails with [ErrNotFound].
func GetPost(v projections.Viewer, page domain.PageID, id string) (p Post, err error) {
	r, err := get(v, page, targetOf(aPost, id))
	if err != nil {
		return p, err
	}
	return r.post(page), nil
}

// indexed returns the row that an index names.
func indexed(tx *store.Tx, bucket string, key []byte) (row, error) {
	r, found, err := store.GetRow[row](tx.Bucket(bucket), key)
	if err == nil && !found {
		err = fmt.Errorf("row of an index entry is missing in %s: %w", bucket, store.ErrCorrupt)
	}
	return r, err
}

// get returns a row, or fails with [ErrNotFound].
func get(v projections.Viewer, page domain.PageID, t target) (r row, err error) {
	err = v.View(func(tx *store.Tx) error {
		var found bool
		r, found, err = store.GetRow[row](tx.Bucket(t.bucket()), t.row(page))
		if err == nil && !found {
			return ErrNotFound
		}
		return err
	})
	return r, err
}

// Count returns the counts of one page, or their sums for all pages if page is empty.
func Count(v projections.Viewer, page domain.PageID) (sum Counts, err error) {
	err = v.View(func(tx *store.Tx) error {
		bucket := tx.Bucket(bucketCounts)
		if page != "" {
			one, _, err := store.GetRow[counts](bucket, pagePrefix(page))
			sum = one.Counts
			return err
		}
		return bucket.ForEachPrefix(nil, func(k, _ []byte) error {
			one, _, err := store.GetRow[counts](bucket, k)
			sum.add(one.Counts)
			return err
		})
	})
	return sum, err
}
