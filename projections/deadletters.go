package projections

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// ErrUnfit is for a projection to say that it can't apply an event, ever, while
// its store is fine. The event becomes a [DeadLetter], as does one that makes the
// projection panic.
var ErrUnfit = errors.New("event can't be applied")

// DefaultAttempts is how often an event is tried before it is parked.
const DefaultAttempts = 3

// parkedBucket has what is not in the state: page, contact, sequence ->
// [DeadLetter].
const parkedBucket = "_parked"

// decideBatch is how many parked events are read from the stream at once.
const decideBatch = 500

// DeadLetter is an event that a projection could not apply, or one of the same
// conversation that waits behind it. Conversations don't wait for each other; the
// events of a page that are of no conversation wait for one another.
type DeadLetter struct {
	Projection string           `json:"projection"`
	Seq        uint64           `json:"seq"`
	Page       domain.PageID    `json:"page"`
	Contact    domain.ContactID `json:"contact,omitempty"`
	Type       domain.Type      `json:"type"`
	// Behind is the dead letter that it waits for; 0 if it has failed itself. Then
	// Error says why, without any text of a message, and Attempts how often it was
	// tried.
	Behind   uint64 `json:"behind,omitempty"`
	Error    string `json:"error,omitempty"`
	Attempts int    `json:"attempts,omitempty"`
}

func waiting(e streams.Stored, behind uint64) DeadLetter {
	return DeadLetter{Seq: e.Seq, Page: e.Page, Contact: e.Contact, Type: e.Type, Behind: behind}
}

// parks says whether a failure is one of the event and not of the store.
func (a *applier) parks(failed *applyError) bool {
	return a.attempts > 0 && (failed.panicked || errors.Is(failed, ErrUnfit)) && !errors.Is(failed, store.ErrCorrupt)
}

func (a *applier) parkFailed(s *store.Store, w *streams.Replayed, failed *applyError, attempts int) (meta store.Meta, err error) {
	err = s.Update(func(tx *store.Tx) error {
		if meta, _, err = store.ReadMeta(tx); err != nil {
			return err
		}
		meta.Seq = w.Seq
		meta.Parked++
		d := waiting(w.Stored, 0)
		d.Error, d.Attempts = errorText(failed.err), attempts
		if err := putDeadLetter(tx, d); err != nil {
			return err
		}
		return store.WriteMeta(tx, meta)
	})
	if err != nil {
		return meta, fmt.Errorf("park event %d: %w", w.Seq, err)
	}
	return meta, nil
}

func errorText(err error) string {
	text := err.Error()
	return text[:min(len(text), maxErrorText)]
}

func parkedKey(d DeadLetter) []byte { return store.Key(d.Page, d.Contact, d.Seq) }

func putDeadLetter(tx *store.Tx, d DeadLetter) error {
	return store.PutJSON(tx.Bucket(parkedBucket), parkedKey(d), d)
}

// parkedHead returns the first parked event of a conversation, 0 for none.
func parkedHead(tx *store.Tx, page domain.PageID, contact domain.ContactID) (seq uint64) {
	prefix := store.Key(page, contact)
	k, _ := tx.Bucket(parkedBucket).Cursor().Seek(prefix)
	var p domain.PageID
	var c domain.ContactID
	if !store.ParseKey(k, &p, &c, &seq) || p != page || c != contact {
		return 0
	}
	return seq
}

// unparkErased puts what stays of erased events in the place of parked ones.
func unparkErased(tx *store.Tx, meta *store.Meta, e streams.Stored, a *applier) error {
	if e.Type != domain.ContactErased || e.Data.Erasure == nil {
		return nil
	}
	var gone []DeadLetter
	err := eachParked(tx, store.Key(e.Page), func(d DeadLetter) error {
		if d.Contact != "" && domain.ContactHash(d.Contact) == e.Data.Erasure.Contact {
			gone = append(gone, d)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, d := range gone {
		for _, h := range e.Data.Erasure.Events {
			if h.Seq != d.Seq {
				continue
			}
			if err := tx.Bucket(parkedBucket).Delete(parkedKey(d)); err != nil {
				return err
			}
			meta.Parked--
			if err := a.applyOne(tx, OfHusk(e.Page, h)); err != nil {
				return err
			}
		}
	}
	return nil
}

func eachParked(tx *store.Tx, prefix []byte, f func(DeadLetter) error) error {
	return tx.Bucket(parkedBucket).ForEachPrefix(prefix, func(k, _ []byte) error {
		d, _, err := store.GetJSON[DeadLetter](tx.Bucket(parkedBucket), k)
		if err != nil {
			return err
		}
		return f(d)
	})
}

// decided are the decisions about a projection's dead letters, in order.
type decided struct {
	mu   sync.Mutex
	list []streams.Decision
}

func (d *decided) set(list []streams.Decision) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.list = list
}

func (d *decided) add(x streams.Decision) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.list = append(d.list, x)
}

// last is the last decision's sequence, 0 for none.
func (d *decided) last() uint64 {
	if d == nil {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.list) == 0 {
		return 0
	}
	return d.list[len(d.list)-1].Seq
}

// due returns what comes after a position and before an event, up to a decision.
func (d *decided) due(m store.Meta, before, upto uint64) (out []streams.Decision) {
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, x := range d.list {
		if x.Seq > m.Decision && x.Seq <= upto && x.After < before {
			out = append(out, x)
		}
	}
	return out
}

// cut says how many of a batch come before the next decision: at least one, as
// those before it were carried out.
func (d *decided) cut(m store.Meta, batch []*streams.Replayed) int {
	if d == nil {
		return len(batch)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, x := range d.list {
		if x.Seq > m.Decision {
			n, _ := slices.BinarySearchFunc(batch, x.After+1, func(w *streams.Replayed, seq uint64) int { return cmp.Compare(w.Seq, seq) })
			return max(1, n)
		}
	}
	return len(batch)
}

// decide carries out the decisions that come before an event, up to one of them.
func (a *applier) decide(ctx context.Context, s *store.Store, meta store.Meta, before, upto uint64) (store.Meta, bool, error) {
	changed := false
	for _, d := range a.decided.due(meta, before, upto) {
		m, err := a.carryOut(ctx, s, d)
		if err != nil {
			return meta, changed, fmt.Errorf("%s dead letters: %w", d.Action, err)
		}
		meta, changed = m, true
	}
	return meta, changed, nil
}

// carryOut goes through the dead letters that a decision is about, one
// conversation after the other. Cut off, it may be done again.
func (a *applier) carryOut(ctx context.Context, s *store.Store, d streams.Decision) (meta store.Meta, err error) {
	heads, err := headsOf(s, d)
	if err != nil {
		return meta, err
	}
	for _, head := range heads {
		if err := a.release(ctx, s, head, d); err != nil {
			return meta, err
		}
	}
	err = s.Update(func(tx *store.Tx) error {
		if meta, _, err = store.ReadMeta(tx); err != nil {
			return err
		}
		meta.Decision = d.Seq
		return store.WriteMeta(tx, meta)
	})
	return meta, err
}

// headsOf returns the dead letters that a decision names: those that have failed
// themselves, or one by its sequence.
func headsOf(v Viewer, d streams.Decision) (heads []DeadLetter, err error) {
	var prefix []byte
	if d.Page != "" {
		prefix = store.Key(d.Page)
	}
	err = v.View(func(tx *store.Tx) error {
		return eachParked(tx, prefix, func(l DeadLetter) error {
			if d.Event == l.Seq || d.Event == 0 && l.Behind == 0 {
				heads = append(heads, l)
			}
			return nil
		})
	})
	slices.SortFunc(heads, func(x, y DeadLetter) int { return cmp.Compare(x.Seq, y.Seq) })
	return heads, err
}

// release carries a decision out for one dead letter, and then applies what waits
// in its conversation until one fails.
func (a *applier) release(ctx context.Context, s *store.Store, head DeadLetter, d streams.Decision) error {
	if d.Action == streams.Discard {
		err := s.Update(func(tx *store.Tx) error {
			meta, _, err := store.ReadMeta(tx)
			if err != nil {
				return err
			}
			meta.Parked--
			meta.Discarded++
			if err := tx.Bucket(parkedBucket).Delete(parkedKey(head)); err != nil {
				return err
			}
			return store.WriteMeta(tx, meta)
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

// releaseNext applies the next parked events of a conversation. More is false
// once none is left or one has failed.
func (a *applier) releaseNext(ctx context.Context, s *store.Store, of DeadLetter) (more bool, err error) {
	var list []DeadLetter
	err = s.View(func(tx *store.Tx) error {
		err := eachParked(tx, store.Key(of.Page, of.Contact), func(l DeadLetter) error {
			if len(list) == decideBatch {
				return errNothing
			}
			list = append(list, l)
			return nil
		})
		if errors.Is(err, errNothing) {
			err = nil
		}
		return err
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
	if failure != nil && n > 0 { // the transaction is gone: those before it once more
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

// unpark applies parked events in one transaction. Failure is of the event at n,
// and then nothing was done.
func (a *applier) unpark(s *store.Store, list []DeadLetter, batch []streams.Stored) (n int, failure, err error) {
	err = s.Update(func(tx *store.Tx) error {
		meta, _, err := store.ReadMeta(tx)
		if err != nil {
			return err
		}
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
		return store.WriteMeta(tx, meta)
	})
	if errors.Is(err, errNothing) {
		err = nil
	}
	return n, failure, err
}

// stored reads a parked event again, or what stays of it if it was erased; with
// sequence 0 if nothing does.
func (a *applier) stored(ctx context.Context, l DeadLetter) (streams.Stored, error) {
	e, err := streams.Get(ctx, a.husks.js, a.husks.stream, l.Seq)
	if !errors.Is(err, streams.ErrNotFound) {
		return e, err
	}
	gone := &husks{js: a.husks.js, stream: a.husks.stream}
	list, err := gone.between(ctx, l.Seq-1, l.Seq+1)
	if err != nil || len(list) == 0 {
		return streams.Stored{}, err
	}
	return list[0], nil
}

// Redriven is what a decision came to.
type Redriven struct {
	// Decision is its sequence among all decisions.
	Decision uint64 `json:"decision"`
	// Heads is how many dead letters it was about; Applied how many events are in
	// the read model now that were not, Discarded how many were given up, and
	// Parked how many still are not in it.
	Heads     int    `json:"heads"`
	Applied   uint64 `json:"applied"`
	Discarded uint64 `json:"discarded"`
	Parked    uint64 `json:"parked"`
}

// ErrNoDeadLetter says that a decision is about nothing.
var ErrNoDeadLetter = errors.New("there is no such dead letter")

// DeadLetters returns the parked events, those of one conversation together and
// in order, at most limit after the given one.
func (r *Runner) DeadLetters(after DeadLetter, limit int) (out []DeadLetter, err error) {
	err = r.View(func(tx *store.Tx) error {
		c := tx.Bucket(parkedBucket).Cursor()
		k, _ := c.First()
		if after.Seq > 0 {
			if k, _ = c.Seek(parkedKey(after)); string(k) == string(parkedKey(after)) {
				k, _ = c.Next()
			}
		}
		for ; k != nil && len(out) < limit; k, _ = c.Next() {
			d, _, err := store.GetJSON[DeadLetter](tx.Bucket(parkedBucket), k)
			if err != nil {
				return err
			}
			d.Projection = r.Name()
			out = append(out, d)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	return out, nil
}

// About returns the dead letters that a decision would be about.
func (r *Runner) About(d streams.Decision) ([]DeadLetter, error) {
	heads, err := headsOf(r, d)
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	for i := range heads {
		heads[i].Projection = r.Name()
	}
	return heads, nil
}

// Decide stores a decision about dead letters and carries it out between two
// commits. A rebuild does so at the same place of the stream; another node when
// it starts next. It fails with [ErrNoDeadLetter] where there is nothing to
// decide about, and may be repeated.
func (r *Runner) Decide(ctx context.Context, d streams.Decision) (out Redriven, err error) {
	err = r.turn(ctx, func(ctx context.Context) error {
		heads, err := headsOf(r, d)
		if err != nil {
			return err
		}
		if len(heads) == 0 {
			return ErrNoDeadLetter
		}
		before, err := metaOf(r)
		if err != nil {
			return err
		}
		d.Projection, d.After = r.Name(), before.Seq
		d.At = r.opts.Now().UTC()
		limited, cancel := context.WithTimeout(ctx, headTimeout)
		defer cancel()
		if d, err = streams.Decide(limited, r.opts.JS, r.opts.Stream, d); err != nil {
			return err
		}
		r.decided.add(d)
		meta, _, err := r.applier().decide(ctx, r.store.Load(), before, before.Seq+1, d.Seq)
		if err != nil {
			return err
		}
		r.progress.committed(meta)
		out = Redriven{
			Decision: d.Seq, Heads: len(heads), Parked: meta.Parked, Discarded: meta.Discarded - before.Discarded,
			Applied: before.Parked - meta.Parked - (meta.Discarded - before.Discarded),
		}
		return nil
	})
	if err != nil {
		return out, fmt.Errorf("%s dead letters of %s: %w", d.Action, r.Name(), err)
	}
	return out, nil
}

// metaOf reads the position alone.
func metaOf(v Viewer) (meta store.Meta, err error) {
	err = v.View(func(tx *store.Tx) error {
		meta, _, err = store.ReadMeta(tx)
		return err
	})
	return meta, err
}
