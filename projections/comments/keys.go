package comments

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/store"
)

// Buckets and their keys. The value of an index of comments is the state of the comment,
// as one byte.
const (
	bucketComments  = "comments"  // page | comment -> row
	bucketPosts     = "posts"     // page | post -> row
	bucketOrder     = "order"     // page | time | comment -> state
	bucketThreads   = "threads"   // page | post | time | comment -> state
	bucketAuthors   = "authors"   // page | hash of contact | time | comment -> state
	bucketFeed      = "feed"      // page | time | post -> nothing
	bucketReactions = "reactions" // page | hash of person | kind | id -> the person's reaction to it
	bucketParts     = "parts"     // page | hash of contact | kind | id -> contact, for each part of a row
	bucketErased    = "erased"    // page | hash of contact -> tombstone
	bucketCounts    = "counts"    // page -> counts
)

// hashSize is the size of a hash in a key, and also that of [domain.ContactHash].
const hashSize = 16

// contactHash returns the bytes of [domain.ContactHash].
func contactHash(contact domain.ContactID) []byte {
	b := make([]byte, 0, 128) // on the stack
	sum := sha256.Sum256(append(append(b, "contact:"...), contact...))
	return sum[:hashSize]
}

func pagePrefix(page domain.PageID) []byte {
	return store.AppendText(make([]byte, 0, 64), string(page))
}

func ownerPrefix(page domain.PageID, contact domain.ContactID) []byte {
	return append(pagePrefix(page), contactHash(contact)...)
}

func threadPrefix(page domain.PageID, post string) []byte {
	return store.AppendText(pagePrefix(page), post)
}

// timeSize is the size of a time in a key.
const timeSize = 8

// appendTime appends a time that is not negative.
func appendTime(key []byte, ms int64) []byte { return binary.BigEndian.AppendUint64(key, uint64(ms)) }

// target names a row: a comment or a post.
type target struct {
	kind byte
	// key is the end of the row's key: the id, encoded as in a key.
	key string
	id  string
}

// The kinds of targets, as they are written in keys.
const (
	aComment = 'c'
	aPost    = 'p'
)

// targetOf returns the target with that id. It must not be empty.
func targetOf(kind byte, id string) target {
	id = valid(id)
	return target{kind, string(store.AppendText(make([]byte, 0, 64), id)), id}
}

// bucket returns the bucket of the target's row.
func (t target) bucket() string {
	if t.kind == aPost {
		return bucketPosts
	}
	return bucketComments
}

// row returns the key of the target's row.
func (t target) row(page domain.PageID) []byte { return append(pagePrefix(page), t.key...) }

// tail returns the end of a key that names the target. It is parsed by [tailOf].
func (t target) tail() []byte { return append([]byte{t.kind}, t.key...) }

// tailOf returns the target in a tail. Its id is unknown.
func tailOf(tail []byte) target { return target{kind: tail[0], key: string(tail[1:])} }

// rowKey returns the key of the row that an entry of an index names: the entry's key
// ends with a time and the target.
func rowKey(page domain.PageID, tail []byte) []byte {
	return slices.Concat(pagePrefix(page), tail[min(timeSize, len(tail)):])
}
