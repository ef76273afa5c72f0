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

	"github.com/pagestream/pagestream/internal/yield"
)

// applier applies events to a file: the live one, or one that is built beside it.
// Both make the same choices. It is not safe for concurrent use.
type applier struct {
	projection Projection
	dedup      Index
	tombstones *tombstones
	// attempts is how often an event is tried before it is parked; 0 means that events
	// are never parked.
	attempts int
	// giveUp, if not nil, is called before an event is parked. If it returns an
	// error, the event is not parked.
	giveUp  func(*applyError) error
	decided *decided
	// applied, if not nil, is called for each sequence after it was applied or
	// counted, in its transaction.
	applied func(tx *store.Tx, seq uint64)
	// part is after how many changes a transaction may end in the middle of an event; 0 means never.
	part int
}

// applyError is returned when an event of a batch can't be applied.
type applyError struct {
	index    int // in the batch
	seq      uint64
	panicked bool
	err      error
}

func (e *applyError) Error() string { return fmt.Sprintf("apply event %d: %v", e.seq, e.err) }
func (e *applyError) Unwrap() error { return e.err }

// writeFunc calls do with the file to write to, usually for one transaction, and
// stores the position that do returns. Nothing else writes to the file meanwhile.
type writeFunc func(ctx context.Context, do func(*store.Store) (store.Meta, error)) error

// apply applies the events of a batch that are after the position at, and the
// tombstones of erased events between them. It usually takes one transaction, and
// several if an event is parked, a decision is to be carried out within the batch, or
// a transaction becomes too large, which may be in the middle of an event. After an error, the file has the events up to its
// position and no others. The requests to the index and for erasures are made outside
// of the transactions.
func (a *applier) apply(ctx context.Context, to writeFunc, at uint64, batch []*streams.Replayed) error {
	batch, err := a.fillGaps(ctx, at, batch[indexOf(batch, at+1):])
	if err != nil {
		return err
	}
	duplicate, err := a.duplicates(ctx, batch)
	if err != nil {
		return err
	}
	for tries := 0; len(batch) > 0; {
		n := 0
		err := to(ctx, func(s *store.Store) (meta store.Meta, err error) {
			meta, n, err = a.applyNext(ctx, s, batch, duplicate)
			return meta, err
		})
		if n > 0 {
			batch, duplicate, tries = batch[n:], duplicate[n:], 0
		}
		if err == nil {
			continue
		}
		var failed *applyError
		if !errors.As(err, &failed) || !a.parkable(failed) {
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
		err = to(ctx, func(s *store.Store) (store.Meta, error) {
			return parkFailed(s, batch[0], failed, tries)
		})
		if err != nil {
			return err
		}
		batch, duplicate, tries = batch[1:], duplicate[1:], 0
	}
	return nil
}

// indexOf returns the index of the first event in the batch whose sequence is at
// least seq.
func indexOf(batch []*streams.Replayed, seq uint64) int {
	bySeq := func(w *streams.Replayed, seq uint64) int { return cmp.Compare(w.Seq, seq) }
	i, _ := slices.BinarySearchFunc(batch, seq, bySeq)
	return i
}

// fillGaps inserts the events of tombstones into the gaps that erased events have
// left in the batch. The file is at sequence at, and the batch is after it.
func (a *applier) fillGaps(ctx context.Context, at uint64, batch []*streams.Replayed) ([]*streams.Replayed, error) {
	if n := len(batch); n == 0 || a.tombstones == nil || batch[n-1].Seq == at+uint64(n) {
		return batch, nil // no gap
	}
	filled := make([]*streams.Replayed, 0, len(batch))
	for _, w := range batch {
		if w.Seq > at+1 {
			missing, err := a.tombstones.between(ctx, at, w.Seq)
			if err != nil {
				return nil, err
			}
			for _, e := range missing {
				filled = append(filled, &streams.Replayed{Stored: e})
			}
		}
		at = w.Seq
		filled = append(filled, w)
	}
	return filled, nil
}

// applyNext carries out the decisions before the batch, applies its first n events,
// and returns the position after them. It fails with an [applyError] only for the
// first event: if a later one fails, the events before it are applied. After an error the position is only known if
// there are decisions.
func (a *applier) applyNext(
	ctx context.Context, s *store.Store, batch []*streams.Replayed, duplicate []bool,
) (meta store.Meta, n int, err error) {
	end := len(batch)
	if last := a.decided.last(); last > 0 { // nearly no read model has decisions
		if meta, err = metaOf(s); err != nil {
			return meta, 0, err
		}
		if meta, _, err = a.decide(ctx, s, meta, batch[0].Seq, last); err != nil {
			return meta, 0, err
		}
		end = a.decided.cut(meta, batch)
	}
	after, n, err := a.applyInTx(s, batch[:end], duplicate[:end])
	var failed *applyError
	if errors.As(err, &failed) && failed.index > 0 { // apply the events before it first
		after, n, err = a.applyInTx(s, batch[:failed.index], duplicate[:failed.index])
	}
	if err != nil {
		return meta, 0, err
	}
	return after, n, nil
}

// applyInTx applies the batch in one transaction, or the first part of it if the
// transaction becomes too large. It returns the position after it and the number of
// events that are in the file then.
func (a *applier) applyInTx(
	s *store.Store, batch []*streams.Replayed, duplicate []bool,
) (meta store.Meta, n int, err error) {
	err = s.Update(func(tx *store.Tx) error {
		if meta, _, err = store.ReadMeta(tx); err != nil {
			return err
		}
		before, begun := meta.Seq, meta.Begun
		tx.InParts(a.part)
		read := make([]*streams.Stored, 0, len(batch))
		var loop yield.Loop
		for i, w := range batch {
			if tx.Full() {
				break
			}
			loop.Step()
			n = i + 1
			seq := w.Seq
			if seq <= meta.Seq {
				continue // redelivered: it was applied before
			}
			switch {
			case w.Malformed != nil:
				meta.Malformed++
				err = recordMalformed(tx, seq, w.Malformed, meta.Malformed > maxMalformed)
			case duplicate[i]:
				meta.Dropped++
			default:
				err = a.applyOrPark(tx, &meta, w.Stored)
			}
			if errors.Is(err, store.ErrPart) { // the next call goes on with it
				n, meta.Begun = i, seq
				break
			}
			meta.Begun = 0
			if err != nil {
				var p *panicError
				return &applyError{index: i, seq: seq, panicked: errors.As(err, &p), err: err}
			}
			meta.Seq = seq
			if w.Malformed == nil {
				read = append(read, &w.Stored)
			}
			if a.applied != nil {
				a.applied(tx, seq)
			}
		}
		if meta.Seq == before && meta.Begun == 0 && begun == 0 {
			return errNothing
		}
		return errors.Join(writeTrail(tx, read), store.WriteMeta(tx, meta))
	})
	if errors.Is(err, errNothing) {
		err = nil
	}
	return meta, n, err
}

// applyOrPark applies an event, or parks it if an earlier event of its conversation
// is parked.
func (a *applier) applyOrPark(tx *store.Tx, meta *store.Meta, e streams.Stored) error {
	if meta.Parked > 0 {
		if err := unparkErased(tx, meta, e, a); err != nil {
			return err
		}
		if head := parkedHead(tx, e.Page, e.Contact); head > 0 {
			meta.Parked++
			return putDeadLetter(tx, newDeadLetter(e, head))
		}
	}
	return a.applyOne(tx, e)
}

// errNothing rolls back a transaction without changes, which saves its fsync.
var errNothing = errors.New("nothing to commit")

// duplicates reports for each event of the batch whether an earlier one has its id. Those that are known to be the
// first are not looked up, so they don't wait for the index.
func (a *applier) duplicates(ctx context.Context, batch []*streams.Replayed) ([]bool, error) {
	duplicate := make([]bool, len(batch))
	if a.dedup == nil {
		return duplicate, nil
	}
	ids := make([]string, 0, len(batch))
	indexes := make([]int, 0, len(batch))
	for i, w := range batch {
		if w.Malformed == nil && !w.Unique {
			ids = append(ids, w.ID)
			indexes = append(indexes, i)
		}
	}
	if len(ids) == 0 {
		return duplicate, nil
	}
	first, err := a.dedup.First(ctx, ids, batch[len(batch)-1].Seq)
	if err != nil {
		return nil, fmt.Errorf("look up ids: %w", err)
	}
	for n, i := range indexes {
		switch seq := batch[i].Seq; {
		case first[n] == 0, first[n] > seq:
			// Whether it is a duplicate can't be known.
			return nil, fmt.Errorf("look up ids: the index has no first event for the id of event %d", seq)
		case first[n] < seq:
			duplicate[i] = true
		}
	}
	return duplicate, nil
}

// panicError is a panic of a projection. Its text has the panic's value only if that
// is a runtime error, which never has the text of a message.
type panicError struct{ value any }

func (e *panicError) Error() string {
	if re, ok := e.value.(runtime.Error); ok {
		return "projection panicked: " + re.Error()
	}
	return fmt.Sprintf("projection panicked with a %T", e.value)
}

// applyOne applies one event. It returns a panic of the projection as a [panicError].
func (a *applier) applyOne(tx *store.Tx, e streams.Stored) (err error) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if err = store.Damage(v); err == nil {
			err = &panicError{v}
		}
	}()
	return a.projection.Apply(tx, e)
}
