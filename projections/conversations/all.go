package conversations

import (
	"bytes"
	"cmp"
	"container/heap"
	"fmt"
	"slices"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
)

// maxScanned is the maximum number of rows that one call of [ListAll] reads.
const maxScanned = 10_000

// The parts of a list over all pages. The first byte of a cursor is the part that it continues.
const (
	everything byte = iota
	unanswered
	answered
)

// ListAll returns the conversations of all pages, the newest activity first, and the cursor of the next
// ones, which is empty at the end. With unansweredFirst the conversations with unanswered messages come
// before all others. The limit is as in [projections.Limit]. It fails with [ErrCursor] if the cursor is
// not valid, or is of the other order.
//
// The lists of the pages are merged, so a call costs two look-ups for each page with a conversation. It
// reads 10,000 rows at most: with unansweredFirst it may return fewer conversations than the limit, or
// none, although there are next ones. What [List] says of conversations that change between two calls
// holds here too; one that is answered in between may be returned twice.
func ListAll(v projections.Viewer, unansweredFirst bool, cursor string, limit int) (
	list []Conversation, next string, err error,
) {
	after, err := projections.DecodeCursor(cursor)
	if err != nil {
		return nil, "", err
	}
	part := everything
	if unansweredFirst {
		part = unanswered
	}
	if len(after) > 0 {
		if (after[0] != everything) != unansweredFirst || after[0] > answered {
			return nil, "", ErrCursor
		}
		part, after = after[0], after[1:]
	}
	limit, list = projections.Limit(limit), []Conversation{}
	err = v.View(func(tx *store.Tx) error {
		for scanned := 0; ; part, after = answered, nil {
			m, err := newMerge(tx, after)
			if err != nil {
				return err
			}
			var last []byte // none: the next call begins with this part
			for len(m.heads) > 0 {
				if len(list) == limit || scanned == maxScanned {
					next = projections.EncodeCursor(append([]byte{part}, last...))
					return nil
				}
				h := m.heads[0]
				row, found, err := store.GetRow[conversation](tx.Bucket(bucketConversations), h.ref)
				if err == nil && !found {
					err = fmt.Errorf("conversation of an activity is missing: %w", store.ErrCorrupt)
				}
				if err != nil {
					return err
				}
				if part == everything || (row.Unanswered > 0) == (part == unanswered) {
					list = append(list, row.Conversation)
				}
				scanned++
				last = h.position()
				m.advance()
			}
			if part != unanswered {
				return nil
			}
		}
	})
	if err != nil {
		return nil, "", err
	}
	return list, next, nil
}

// head is the next row of a page's activity.
type head struct {
	page, key, ref []byte // page is the prefix of the key
}

// position is the place of the row in the order of all pages: inverted time, page, contact.
func (h head) position() []byte {
	time, contact := h.key[len(h.page):len(h.page)+8], h.key[len(h.page)+8:]
	return slices.Concat(time, h.page, contact)
}

// heads is a heap of the rows that are next in the pages' lists.
type heads []head

func (h heads) Len() int           { return len(h) }
func (h heads) Less(i, j int) bool { return h[i].compare(h[j]) < 0 }
func (h heads) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *heads) Push(x any)        { *h = append(*h, x.(head)) } //nolint:forcetypeassert // by container/heap
func (h *heads) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}

// compare compares the positions of two rows, without making them.
func (h head) compare(o head) int {
	return cmp.Or(
		bytes.Compare(h.key[len(h.page):len(h.page)+8], o.key[len(o.page):len(o.page)+8]),
		bytes.Compare(h.page, o.page),
		bytes.Compare(h.key[len(h.page)+8:], o.key[len(o.page)+8:]),
	)
}

// merge merges the lists of activity of all pages. The first of heads is the next row.
type merge struct {
	c *store.Cursor
	heads
}

// newMerge returns a merge of the rows after a position, of all rows if it is empty. It fails with
// [ErrCursor] if that is no position.
func newMerge(tx *store.Tx, after []byte) (*merge, error) {
	m := &merge{c: tx.Bucket(bucketActivity).Cursor()}
	var time uint64
	var at domain.PageID
	var contact domain.ContactID
	if len(after) > 0 {
		if len(after) < 8 || !store.ParseKey(slices.Concat(after[8:], after[:8]), &at, &contact, &time) {
			return nil, ErrCursor
		}
	}
	for k, ref := m.c.First(); k != nil; {
		var page domain.PageID
		var newest uint64
		var of domain.ContactID
		if !store.ParseKey(k, &page, &newest, &of) {
			return nil, fmt.Errorf("key of an activity is malformed: %w", store.ErrCorrupt)
		}
		prefix := pagePrefix(page)
		if len(after) > 0 {
			from := join(prefix, after[:8])
			switch order := bytes.Compare(prefix, pagePrefix(at)); {
			case order == 0:
				from = append(store.AppendText(from, string(contact)), 0)
			case order < 0: // its rows of that time come before the position
				from = store.Successor(from)
			}
			k, ref = m.c.Seek(from)
		}
		if bytes.HasPrefix(k, prefix) {
			m.heads = append(m.heads, head{prefix, k, ref})
		}
		k, ref = m.c.Seek(store.Successor(prefix))
	}
	heap.Init(m)
	return m, nil
}

// advance moves on to the row after the first of heads.
func (m *merge) advance() {
	h := &m.heads[0]
	if k, ref := m.c.Seek(append(slices.Clone(h.key), 0)); bytes.HasPrefix(k, h.page) {
		h.key, h.ref = k, ref
		heap.Fix(m, 0)
		return
	}
	heap.Pop(m)
}
