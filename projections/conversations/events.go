package conversations

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
)

// The events of a contact are recorded so that an erasure finds them in the stream: the latest in the row of its
// conversation (see [recent]), most others in runs, and in rows of their own those that were counted, those that are no
// part of a conversation and those that an erasure has left.

// EventsOf returns the sequences of the contact's events in the stream that are greater
// than after, in order, at most limit of them. These are the events that an erasure
// must remove. They include events without a row and events after an earlier erasure,
// but no test events, which have no real contact.
func EventsOf(
	v projections.Viewer, page domain.PageID, contact domain.ContactID, after uint64, limit int,
) (seqs []uint64, err error) {
	err = v.View(func(tx *store.Tx) error {
		owner := erasedKey(page, contact)
		c := tx.Bucket(bucketEvents).Cursor()
		k, _ := c.Seek(join(owner, be(after+1)))
		for ; k != nil && bytes.HasPrefix(k, owner) && len(seqs) < limit; k, _ = c.Next() {
			seqs = append(seqs, eventSeq(k))
		}
		if err := eachRun(tx, owner, after, func(list []uint64) bool {
			for _, seq := range list {
				if seq > after {
					seqs = append(seqs, seq)
				}
			}
			return len(seqs) < 2*limit // there are at most limit others
		}); err != nil {
			return err
		}
		row, _, err := store.GetRow[conversation](tx.Bucket(bucketConversations), conversationKey(page, contact))
		if err != nil {
			return err
		}
		return row.Recent.each(func(e recentEvent) bool {
			if e.seq > after && !e.counted {
				seqs = append(seqs, e.seq)
			}
			return true
		})
	})
	slices.Sort(seqs)
	return seqs[:min(len(seqs), max(0, limit))], err
}

// run has the sequences of events that follow each other in a conversation, in order. Its row has the first one as the end
// of its key, and then the distance of each from the one before. The runs of a contact don't overlap.
type run struct {
	first, last uint64
	packed      []byte
}

func (r *run) add(seq uint64) {
	if r.first == 0 {
		r.first, r.last = seq, seq
		return
	}
	r.packed = binary.AppendUvarint(r.packed, seq-r.last)
	r.last = seq
}

// put stores the run, unless it is empty.
func (r *run) put(tx *store.Tx, owner []byte) error {
	if r.first == 0 {
		return nil
	}
	return tx.Bucket(bucketRuns).Put(join(owner, be(r.first)), r.packed)
}

// unpackRun returns the sequences of a row.
func unpackRun(key, packed []byte) ([]uint64, error) {
	list := make([]uint64, 1, maxRecent)
	list[0] = eventSeq(key)
	for u := (unpacker{b: packed}); len(u.b) > 0; {
		list = append(list, list[len(list)-1]+u.num())
		if u.bad {
			return nil, fmt.Errorf("run of events of %d bytes: %w", len(packed), store.ErrCorrupt)
		}
	}
	return list, nil
}

// eachRun calls f with the runs of a contact in order, from the one that may have events after a sequence, until f
// returns false.
func eachRun(tx *store.Tx, owner []byte, after uint64, f func([]uint64) bool) error {
	c, from := tx.Bucket(bucketRuns).Cursor(), join(owner, be(after+1))
	k, packed := c.Before(from)
	if !bytes.HasPrefix(k, owner) {
		k, packed = c.Seek(from)
	}
	for ; bytes.HasPrefix(k, owner); k, packed = c.Next() {
		list, err := unpackRun(k, packed)
		if err != nil {
			return err
		}
		if !f(list) {
			return nil
		}
	}
	return nil
}

// share is what one event added to the counts that only grow. It has the JSON names of
// [Counts].
type share struct {
	Late         uint64 `json:"late,omitempty"`
	Conflicts    uint64 `json:"conflicts,omitempty"`
	Dropped      uint64 `json:"dropped,omitempty"`
	Incomplete   uint64 `json:"odd,omitempty"`
	AfterErasure uint64 `json:"after_erasure,omitempty"`
}

// shareOf returns the share in counts that one event has added.
func shareOf(c Counts) share {
	return share{c.Late, c.Conflicts, c.Dropped, c.Incomplete, c.AfterErasure}
}

// recordShare records the event for its contact, with its share in the counts, which
// an erasure subtracts.
func (f *fold) recordShare() error {
	bucket, key := f.tx.Bucket(bucketEvents), join(f.owner, be(f.e.Seq))
	if s := shareOf(f.sum); s != (share{}) {
		return store.PutJSON(bucket, key, s)
	}
	if err := bucket.Put(key, nil); err != nil {
		return fmt.Errorf("record event: %w", err)
	}
	return nil
}

// eraseEvents removes the listed events from those that are recorded for the contact, and the shares of the others, which
// get rows of their own: how they were packed before depends on the removed ones. It returns the sum of all shares.
func eraseEvents(tx *store.Tx, owner []byte, listed map[uint64]bool) (less Counts, err error) {
	less, err = eraseShares(tx, owner, listed)
	if err != nil {
		return less, err
	}
	events := tx.Bucket(bucketEvents)
	err = store.DeleteEach(tx, owner, bucketRuns, func(key []byte) error {
		list, err := unpackRun(key, tx.Bucket(bucketRuns).Get(key))
		if err != nil {
			return err
		}
		for _, seq := range list {
			if listed[seq] {
				continue
			}
			if err := events.Put(join(owner, be(seq)), nil); err != nil {
				return fmt.Errorf("keep event: %w", err)
			}
		}
		return nil
	})
	return less, err
}

// eraseShares removes the rows of the listed events, and the shares of the others. The prefix may be that of a page. It
// returns the sum of all shares.
func eraseShares(tx *store.Tx, prefix []byte, listed map[uint64]bool) (less Counts, err error) {
	bucket, from, end := tx.Bucket(bucketEvents), prefix, store.Successor(prefix)
	for more := true; more; {
		var rows []row
		rows, more = readChunk(bucket, from, end)
		for _, r := range rows {
			if len(r.value) > 0 {
				var s Counts
				if err := decode(r.value, &s, "share"); err != nil {
					return less, err
				}
				less.add(s)
			}
			switch {
			case listed[eventSeq(r.key)]:
				err = bucket.Delete(r.key)
			case len(r.value) > 0:
				err = bucket.Put(r.key, nil)
			}
			if err != nil {
				return less, fmt.Errorf("erase event: %w", err)
			}
			from = join(r.key, []byte{0})
		}
	}
	return less, nil
}
