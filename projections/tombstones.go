package projections

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// OfTombstone returns the event of a tombstone: projections apply it in place of the
// erased event, at the same sequence.
func OfTombstone(page domain.PageID, h domain.Tombstone) streams.Stored {
	return streams.Stored{Event: h.Event(page), Seq: h.Seq, At: time.UnixMilli(h.At).UTC()}
}

// tombstones are the erased events that are after the position of a runner.
//
// They are kept in memory until the runner reaches them: a rebuild keeps those of
// all erasures at once, about 200 bytes each.
type tombstones struct {
	js     jetstream.JetStream
	stream string
	// list is ordered by sequence; read is the last sequence whose erasures are in
	// the list.
	list []streams.Stored
	read uint64
	// pages, if not nil, are the only pages whose events are read: then there are gaps
	// everywhere, and the erasures that were recorded before the first one are used.
	pages  map[domain.PageID]bool
	loaded bool
}

// between returns the erased events with sequences in (after, before). It drops the
// events up to after, so a later call must not ask for them. A missing sequence was
// erased, or this program did not store an event there: an erasure is recorded before
// any event is deleted, so its record is in the stream when a gap is seen.
func (h *tombstones) between(ctx context.Context, after, before uint64) ([]streams.Stored, error) {
	h.drop(after)
	if uint64(len(h.until(before))) < before-after-1 && (h.pages == nil || !h.loaded) {
		h.loaded = true
		if err := h.load(ctx, after); err != nil {
			return nil, err
		}
	}
	return h.until(before), nil
}

// until returns the erased events in the list with sequences below before.
func (h *tombstones) until(before uint64) []streams.Stored {
	bySeq := func(e streams.Stored, seq uint64) int { return cmp.Compare(e.Seq, seq) }
	n, _ := slices.BinarySearchFunc(h.list, before, bySeq)
	return h.list[:n]
}

// drop removes the events up to a sequence from the list.
func (h *tombstones) drop(upto uint64) {
	h.list = h.list[len(h.until(upto+1)):]
}

// load adds the erasures that were recorded since the last call to the list, with
// their events after a sequence.
func (h *tombstones) load(ctx context.Context, after uint64) error {
	upto, err := streams.Read(ctx, h.js, streams.ReadOptions{
		Stream: h.stream, From: h.read + 1, Filters: streams.Filter("", domain.ContactErased, domain.PageAdminErased),
		Malformed: func(uint64, error) error { return nil },
	}, func(e streams.Stored) error {
		if e.Data.Erasure == nil {
			return nil
		}
		for _, tombstone := range e.Data.Erasure.Events {
			if tombstone.Seq > after && tombstone.Seq < e.Seq && (h.pages == nil || h.pages[e.Page]) {
				h.list = append(h.list, OfTombstone(e.Page, tombstone))
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read erasures: %w", err)
	}
	h.read = max(h.read, upto)
	bySeq := func(a, b streams.Stored) int { return cmp.Compare(a.Seq, b.Seq) }
	slices.SortStableFunc(h.list, bySeq)
	h.list = slices.CompactFunc(h.list, func(a, b streams.Stored) bool { return a.Seq == b.Seq })
	return nil
}
