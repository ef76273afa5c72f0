package operate

import (
	"context"
	"fmt"
	"slices"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// Adoption says which events of another app a page adopts.
type Adoption struct {
	// Seqs are the sequences of events of type foreign.received; All adopts every one of
	// the page. One of the two is required.
	Seqs []uint64 `json:"seqs,omitempty"`
	All  bool     `json:"all,omitempty"`
}

// Adopted is the result of [Operator.Adopt].
type Adopted struct {
	// Adopted counts the events that were stored as the page's own, Already those that
	// the stream had before.
	Adopted int `json:"adopted"`
	Already int `json:"already"`
	// Seq is the sequence of the last of them.
	Seq uint64 `json:"seq"`
}

// adoptBatch is how many events are stored together.
const adoptBatch = 500

// Adopt stores events of type foreign.received again, as the page's own, with the type
// and id that they would have had; [domain.Data].Adopted records it. It mends a wrong
// judgement, for example if the page was connected through the wrong app. It may be
// repeated: an event is adopted once. A sequence that is not such an event of the page is
// refused before anything is stored.
func (o *Operator) Adopt(ctx context.Context, page domain.PageID, a Adoption, progress func(Adopted)) (Adopted, error) {
	var out Adopted
	if a.All == (len(a.Seqs) > 0) {
		return out, fmt.Errorf("name the events to adopt, or say all: %w", ErrRequest)
	}
	foreign := streams.ReadOptions{Stream: o.Stream, Filters: streams.Filter(page, domain.ForeignReceived)}
	if !a.All {
		wanted := slices.Compact(slices.Sorted(slices.Values(a.Seqs)))
		for _, seq := range wanted {
			e, err := streams.Get(ctx, o.JS, o.Stream, seq)
			if err != nil || e.Page != page || e.Type != domain.ForeignReceived {
				return out, fmt.Errorf("event %d is no event of another app for page %s: %w", seq, page, ErrRequest)
			}
		}
		foreign.From, foreign.To = wanted[0], wanted[len(wanted)-1]
		a.Seqs = wanted
	}
	var batch []domain.Event
	store := func() error {
		receipts, err := o.Publisher.Publish(ctx, batch)
		if err != nil {
			return fmt.Errorf("adopt events: %w", err)
		}
		for _, r := range receipts {
			if r.Duplicate == streams.NotDuplicate {
				out.Adopted++
			} else {
				out.Already++
			}
			out.Seq = max(out.Seq, r.Seq)
		}
		batch = batch[:0]
		if progress != nil {
			progress(out)
		}
		return nil
	}
	_, err := streams.Read(ctx, o.JS, foreign, func(s streams.Stored) error {
		if !a.All {
			if _, named := slices.BinarySearch(a.Seqs, s.Seq); !named {
				return nil
			}
		}
		e := s.Event
		e.Type, e.ID, e.Original, e.OriginalID, e.Data.Adopted = e.Original, e.OriginalID, "", "", s.Seq
		if batch = append(batch, e); len(batch) < adoptBatch {
			return nil
		}
		return store()
	})
	if err == nil && len(batch) > 0 {
		err = store()
	}
	return out, err
}
