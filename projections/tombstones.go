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

// OfTombstone is the event that an erased one is replaced by when a projection comes
// to its place in the stream.
func OfTombstone(page domain.PageID, h domain.Tombstone) streams.Stored {
	return streams.Stored{Event: h.Event(page), Seq: h.Seq, At: time.UnixMilli(h.At).UTC()}
}

// tombstones are the erased events that a runner has not come to yet.
//
// They are in memory until it has: a rebuild holds those of all erasures at
// once, some 200 bytes each.
type tombstones struct {
	js     jetstream.JetStream
	stream string
	// list is in order of sequence; read is the last event that was looked at.
	list []streams.Stored
	read uint64
}

// between returns the erased events with sequences in (after, before). A missing
// event was erased or never was one of ours: an erasure is on record before
// anything is deleted, so the record is in the stream when the gap is seen.
func (h *tombstones) between(ctx context.Context, after, before uint64) ([]streams.Stored, error) {
	h.drop(after)
	if uint64(len(h.until(before))) < before-after-1 {
		if err := h.load(ctx, after); err != nil {
			return nil, err
		}
	}
	return h.until(before), nil
}

func (h *tombstones) until(before uint64) []streams.Stored {
	n, _ := slices.BinarySearchFunc(h.list, before, func(e streams.Stored, seq uint64) int { return cmp.Compare(e.Seq, seq) })
	return h.list[:n]
}

// drop lets go of what the runner has gone past.
func (h *tombstones) drop(upto uint64) {
	h.list = h.list[len(h.until(upto+1)):]
}

// load reads the erasures that were recorded since the last time.
func (h *tombstones) load(ctx context.Context, after uint64) error {
	upto, err := streams.Read(ctx, h.js, streams.ReadOptions{
		Stream: h.stream, From: h.read + 1, Filters: streams.Filter("", domain.ContactErased),
		Malformed: func(uint64, error) error { return nil },
	}, func(e streams.Stored) error {
		if e.Data.Erasure == nil {
			return nil
		}
		for _, tombstone := range e.Data.Erasure.Events {
			if tombstone.Seq > after && tombstone.Seq < e.Seq {
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
