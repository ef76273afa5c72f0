package projections

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// applier applies events to a file: the live one, or one that is built beside it.
// Both take the same decisions. It belongs to one goroutine.
type applier struct {
	projection Projection
	dedup      Index
	tombstones      *tombstones
	// attempts is how often an event is tried before it is parked, 0 for never.
	attempts int
	// giveUp, if not nil, is asked before an event is parked.
	giveUp  func(*applyError) error
	decided *decided
	// applied, if not nil, is told of each event that was applied.
	applied func(tx *store.Tx, seq uint64)
}

// applyError says which of a batch failed.
type applyError struct {
	at       int
	seq      uint64
	panicked bool
	err      error
}

func (e *applyError) Error() string { return fmt.Sprintf("apply event %d: %v", e.seq, e.err) }
func (e *applyError) Unwrap() error { return e.err }

// write calls do with the file that events go to, for one transaction as a rule,
// and keeps the position that do returns. Nobody else writes to the file meanwhile.
type write func(ctx context.Context, do func(*store.Store) (store.Meta, error)) error

// apply applies the events of a batch that are after the position at, with what
// stays of erased ones in between. It takes one transaction as a rule; several where
// an event is parked, a decision falls inside, or a transaction is full. After an
// error the events that are in the file are before its position. It waits for the
// index and the erasures outside of the transactions.
func (a *applier) apply(ctx context.Context, to write, at uint64, batch []*streams.Replayed) error {
	batch, err := a.fill(ctx, at, batch[index(batch, at+1):])
	if err != nil {
		return err
	}
	later, err := a.duplicates(ctx, batch)
	if err != nil {
		return err
	}
	for tries := 0; len(batch) > 0; {
		n := 0
		err := to(ctx, func(s *store.Store) (meta store.Meta, err error) {
			meta, n, err = a.step(ctx, s, batch, later)
			return meta, err
		})
		if n > 0 {
			batch, later, tries = batch[n:], later[n:], 0
		}
		if err == nil {
			continue
		}
		var failed *applyError
		if !errors.As(err, &failed) || !a.parks(failed) {
			return err
		}
		if tries++; tries < a.attempts {
			continue
		}
		if a.giveUp != nil {
			if err := a.giveUp(failed); err != nil {
				return err
			}
		}
		if err := to(ctx, func(s *store.Store) (store.Meta, error) { return parkFailed(s, batch[0], failed, tries) }); err != nil {
			return err
		}
		batch, later, tries = batch[1:], later[1:], 0
	}
	return nil
}

// index is where the first event from a sequence on is in a batch.
func index(batch []*streams.Replayed, seq uint64) int {
	i, _ := slices.BinarySearchFunc(batch, seq, func(w *streams.Replayed, seq uint64) int { return cmp.Compare(w.Seq, seq) })
	return i
}

// fill puts what stays of erased events into the gaps that they have left. The
// file is at sequence at, the batch after it.
func (a *applier) fill(ctx context.Context, at uint64, batch []*streams.Replayed) ([]*streams.Replayed, error) {
	if n := len(batch); n == 0 || a.tombstones == nil || batch[n-1].Seq == at+uint64(n) {
		return batch, nil // no gap
	}
	whole := make([]*streams.Replayed, 0, len(batch))
	for _, w := range batch {
		if w.Seq > at+1 {
			missing, err := a.tombstones.between(ctx, at, w.Seq)
			if err != nil {
				return nil, err
			}
			for _, e := range missing {
				whole = append(whole, &streams.Replayed{Stored: e})
			}
		}
		at = w.Seq
		whole = append(whole, w)
	}
	return whole, nil
}

// step carries out what was decided before the batch, applies its first n events,
// and returns the position after them. It fails with an [applyError] only for the
// first one.
func (a *applier) step(ctx context.Context, s *store.Store, batch []*streams.Replayed, later []bool) (meta store.Meta, n int, err error) {
	if meta, err = metaOf(s); err != nil {
		return meta, 0, err
	}
	if meta, _, err = a.decide(ctx, s, meta, batch[0].Seq, a.decided.last()); err != nil {
		return meta, 0, err
	}
	end := a.decided.cut(meta, batch)
	after, n, err := a.once(s, batch[:end], later[:end])
	var failed *applyError
	if errors.As(err, &failed) && failed.at > 0 { // what comes before it first
		after, n, err = a.once(s, batch[:failed.at], later[:failed.at])
	}
	if err != nil {
		return meta, 0, err
	}
	return after, n, nil
}

// once is one transaction: the batch, or as much of it as the transaction takes
// well, and the position after it. It returns how many of the batch are in the
// file then.
func (a *applier) once(s *store.Store, batch []*streams.Replayed, later []bool) (meta store.Meta, n int, err error) {
	err = s.Update(func(tx *store.Tx) error {
		if meta, _, err = store.ReadMeta(tx); err != nil {
			return err
		}
		before := meta.Seq
		for i, w := range batch {
			if tx.Full() {
				break
			}
			n = i + 1
			seq := w.Seq
			if seq <= meta.Seq {
				continue // redelivered: it is in there
			}
			switch {
			case w.Malformed != nil:
				meta.Malformed++
				err = recordMalformed(tx, seq, w.Malformed, meta.Malformed > maxMalformed)
			case later[i]:
				meta.Dropped++
			default:
				err = a.take(tx, &meta, w.Stored)
			}
			if err != nil {
				var p *panicError
				return &applyError{at: i, seq: seq, panicked: errors.As(err, &p), err: err}
			}
			meta.Seq = seq
			if a.applied != nil {
				a.applied(tx, seq)
			}
		}
		if meta.Seq == before {
			return errNothing
		}
		return store.WriteMeta(tx, meta)
	})
	if errors.Is(err, errNothing) {
		err = nil
	}
	return meta, n, err
}

// take applies an event, or parks it behind one of its conversation.
func (a *applier) take(tx *store.Tx, meta *store.Meta, e streams.Stored) error {
	if meta.Parked > 0 {
		if err := unparkErased(tx, meta, e, a); err != nil {
			return err
		}
		if head := parkedHead(tx, e.Page, e.Contact); head > 0 {
			meta.Parked++
			return putDeadLetter(tx, waiting(e, head))
		}
	}
	return a.applyOne(tx, e)
}

// errNothing rolls an empty transaction back, which spares its fsync.
var errNothing = errors.New("nothing new")

// duplicates says which of the batch are not the first with their id.
func (a *applier) duplicates(ctx context.Context, batch []*streams.Replayed) ([]bool, error) {
	later := make([]bool, len(batch))
	if a.dedup == nil {
		return later, nil
	}
	ids := make([]string, 0, len(batch))
	at := make([]int, 0, len(batch))
	for i, w := range batch {
		if w.Malformed == nil {
			ids = append(ids, w.ID)
			at = append(at, i)
		}
	}
	if len(ids) == 0 {
		return later, nil
	}
	first, err := a.dedup.First(ctx, ids, batch[len(batch)-1].Seq)
	if err != nil {
		return nil, fmt.Errorf("look up ids: %w", err)
	}
	for n, i := range at {
		switch seq := batch[i].Seq; {
		case first[n] == 0, first[n] > seq:
			// To take it for new or for old would be a guess.
			return nil, fmt.Errorf("look up ids: the index has no first event for the id of event %d", seq)
		case first[n] < seq:
			later[i] = true
		}
	}
	return later, nil
}

// panicError is a panic of a projection. It has no text of the panic's value
// but a runtime error's, which has none of a message.
type panicError struct{ value any }

func (e *panicError) Error() string {
	if re, ok := e.value.(runtime.Error); ok {
		return "projection panicked: " + re.Error()
	}
	return fmt.Sprintf("projection panicked with a %T", e.value)
}

func (a *applier) applyOne(tx *store.Tx, e streams.Stored) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{v}
		}
	}()
	return a.projection.Apply(tx, e)
}
