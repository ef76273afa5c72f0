package projections

import (
	"context"
	"errors"

	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// decideBatch is how many parked events are read from the stream at once.
const decideBatch = 500

// release carries out a decision for one dead letter, and then applies the parked
// events of its conversation until one fails.
func (a *applier) release(ctx context.Context, s *store.Store, head DeadLetter, d streams.Decision) error {
	if d.Action == streams.Discard {
		_, err := changeMeta(s, func(tx *store.Tx, meta *store.Meta) error {
			meta.Parked--
			meta.Discarded++
			return tx.Bucket(parkedBucket).Delete(parkedKey(head))
		})
		if err != nil {
			return err
		}
	}
	for {
		more, err := a.releaseNext(ctx, s, head)
		if err != nil || !more {
			return err
		}
	}
}

// releaseNext applies the next parked events of a conversation. It returns false if
// none is left or one failed.
func (a *applier) releaseNext(ctx context.Context, s *store.Store, of DeadLetter) (more bool, err error) {
	var list []DeadLetter
	err = s.View(func(tx *store.Tx) error {
		return eachParked(tx, store.Key(of.Page, of.Contact), func(l DeadLetter) error {
			if len(list) == decideBatch {
				return store.Stop
			}
			list = append(list, l)
			return nil
		})
	})
	if err != nil || len(list) == 0 {
		return false, err
	}
	batch := make([]streams.Stored, 0, len(list))
	for _, l := range list {
		e, err := a.stored(ctx, l)
		if err != nil {
			return false, err
		}
		batch = append(batch, e)
	}
	n, failure, err := a.unpark(s, list, batch)
	if failure != nil && n > 0 { // rolled back: apply those before it again
		if _, _, err = a.unpark(s, list[:n], batch[:n]); err != nil {
			return false, err
		}
	}
	if err != nil {
		return false, err
	}
	if failure != nil {
		l := list[n]
		l.Behind, l.Error, l.Attempts = 0, errorText(failure), l.Attempts+1
		return false, s.Update(func(tx *store.Tx) error { return putDeadLetter(tx, l) })
	}
	return len(list) == decideBatch, nil
}

// unpark applies parked events in one transaction. If the event at index n can't be
// applied, it returns the reason as failure, and the transaction is rolled back.
func (a *applier) unpark(s *store.Store, list []DeadLetter, batch []streams.Stored) (n int, failure, err error) {
	_, err = changeMeta(s, func(tx *store.Tx, meta *store.Meta) error {
		for i, e := range batch {
			n = i
			if e.Seq != 0 {
				if err := a.applyOne(tx, e); err != nil {
					var p *panicError
					if errors.As(err, &p) || errors.Is(err, ErrUnfit) {
						failure = err
						return errNothing
					}
					return err
				}
			}
			meta.Parked--
			if err := tx.Bucket(parkedBucket).Delete(parkedKey(list[i])); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, errNothing) {
		err = nil
	}
	return n, failure, err
}

// stored reads a parked event again, or returns the event of its tombstone if it was
// erased. The sequence of the result is 0 if there is neither.
func (a *applier) stored(ctx context.Context, l DeadLetter) (streams.Stored, error) {
	e, err := streams.Get(ctx, a.tombstones.js, a.tombstones.stream, l.Seq)
	if !errors.Is(err, streams.ErrNotFound) {
		return e, err
	}
	erased := &tombstones{js: a.tombstones.js, stream: a.tombstones.stream}
	list, err := erased.between(ctx, l.Seq-1, l.Seq+1)
	if err != nil || len(list) == 0 {
		return streams.Stored{}, err
	}
	return list[0], nil
}
