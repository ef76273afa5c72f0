package projections

import (
	"errors"
	"fmt"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// ErrUnfit is returned when a projection can't ever apply an event while its
// store is fine. The event becomes a [DeadLetter], as does one that makes the
// projection panic.
var ErrUnfit = errors.New("event can't be applied")

// DefaultAttempts is how often an event is tried before it is parked.
const DefaultAttempts = 3

// parkedBucket has what is not in the state: page, contact, sequence ->
// [DeadLetter].
const parkedBucket = "_parked"

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

func parkFailed(s *store.Store, w *streams.Replayed, failed *applyError, attempts int) (meta store.Meta, err error) {
	meta, err = changeMeta(s, func(tx *store.Tx, meta *store.Meta) error {
		meta.Seq = w.Seq
		meta.Parked++
		d := waiting(w.Stored, 0)
		d.Error, d.Attempts = errorText(failed.err), attempts
		return putDeadLetter(tx, d)
	})
	if err != nil {
		return meta, fmt.Errorf("park event %d: %w", w.Seq, err)
	}
	return meta, nil
}

// maxErrorText bounds what is kept of an error, in bytes.
const maxErrorText = 500

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
			if err := a.applyOne(tx, OfTombstone(e.Page, h)); err != nil {
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

// changeMeta is one transaction that changes the position, and with it the rest.
func changeMeta(s *store.Store, f func(tx *store.Tx, meta *store.Meta) error) (meta store.Meta, err error) {
	err = s.Update(func(tx *store.Tx) error {
		if meta, _, err = store.ReadMeta(tx); err != nil {
			return err
		}
		if err := f(tx, &meta); err != nil {
			return err
		}
		return store.WriteMeta(tx, meta)
	})
	return meta, err
}

// metaOf reads the position alone.
func metaOf(v Viewer) (meta store.Meta, err error) {
	err = v.View(func(tx *store.Tx) error {
		meta, _, err = store.ReadMeta(tx)
		return err
	})
	return meta, err
}
