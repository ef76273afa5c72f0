package projections

import (
	"errors"
	"fmt"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// ErrUnfit is returned by a projection when it can never apply an event, although
// its store works. The event becomes a [DeadLetter], as does one that makes the
// projection panic.
var ErrUnfit = errors.New("event can't be applied")

// DefaultAttempts is how often an event is tried before it is parked.
const DefaultAttempts = 3

// parkedBucket has the events that are not in the state: page, contact, sequence ->
// [DeadLetter].
const parkedBucket = "_parked"

// DeadLetter is an event that a projection could not apply, or a later event of the
// same conversation that waits for it. Conversations don't wait for each other. The
// events of a page without a contact wait for each other.
type DeadLetter struct {
	Projection string           `json:"projection"`
	Seq        uint64           `json:"seq"`
	Page       domain.PageID    `json:"page"`
	Contact    domain.ContactID `json:"contact,omitempty"`
	Type       domain.Type      `json:"type"`
	// Behind is the sequence of the dead letter that it waits for, 0 if it failed
	// itself. In that case Error is the reason, without any text of a message, and
	// Attempts how often it was tried.
	Behind   uint64 `json:"behind,omitempty"`
	Error    string `json:"error,omitempty"`
	Attempts int    `json:"attempts,omitempty"`
}

// newDeadLetter returns the dead letter of an event that waits for another one, or
// failed itself if behind is 0.
func newDeadLetter(e streams.Stored, behind uint64) DeadLetter {
	return DeadLetter{Seq: e.Seq, Page: e.Page, Contact: e.Contact, Type: e.Type, Behind: behind}
}

// parkable reports whether a failure is caused by the event and not by the store, and
// events may be parked.
func (a *applier) parkable(failed *applyError) bool {
	byEvent := failed.panicked || errors.Is(failed, ErrUnfit)
	return a.attempts > 0 && byEvent && !errors.Is(failed, store.ErrCorrupt)
}

// parkFailed parks an event that failed, and returns the position after it.
func parkFailed(
	s *store.Store, w *streams.Replayed, failed *applyError, attempts int,
) (meta store.Meta, err error) {
	meta, err = changeMeta(s, func(tx *store.Tx, meta *store.Meta) error {
		meta.Seq, meta.Begun = w.Seq, 0
		meta.Parked++
		d := newDeadLetter(w.Stored, 0)
		d.Error, d.Attempts = errorText(failed.err), attempts
		return putDeadLetter(tx, d)
	})
	if err != nil {
		return meta, fmt.Errorf("park event %d: %w", w.Seq, err)
	}
	return meta, nil
}

// maxErrorText is the maximum length of a stored error text in bytes.
const maxErrorText = 500

func errorText(err error) string {
	text := err.Error()
	return text[:min(len(text), maxErrorText)]
}

func parkedKey(d DeadLetter) []byte { return store.Key(d.Page, d.Contact, d.Seq) }

func putDeadLetter(tx *store.Tx, d DeadLetter) error {
	return store.PutJSON(tx.Bucket(parkedBucket), parkedKey(d), d)
}

// parkedHead returns the sequence of the first parked event of a conversation, 0 if
// there is none.
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

// unparkErased replaces the parked events that an erasure lists by the events of their
// tombstones. These are events of the contact, and events without a contact.
func unparkErased(tx *store.Tx, meta *store.Meta, e streams.Stored, a *applier) error {
	ofAdmin := e.Type == domain.PageAdminErased
	if !ofAdmin && e.Type != domain.ContactErased || e.Data.Erasure == nil {
		return nil
	}
	var erased []DeadLetter
	err := eachParked(tx, store.Key(e.Page), func(d DeadLetter) error {
		if ofAdmin || d.Contact == "" || domain.ContactHash(d.Contact) == e.Data.Erasure.Contact {
			erased = append(erased, d)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, d := range erased {
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

// eachParked calls f with the dead letters whose keys begin with prefix, in order.
func eachParked(tx *store.Tx, prefix []byte, f func(DeadLetter) error) error {
	return tx.Bucket(parkedBucket).ForEachPrefix(prefix, func(k, _ []byte) error {
		d, _, err := store.GetJSON[DeadLetter](tx.Bucket(parkedBucket), k)
		if err != nil {
			return err
		}
		return f(d)
	})
}

// DeadLetters returns at most limit parked events after the given one, or from the
// first one if its Seq is 0. They are ordered by page, contact and sequence.
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

// changeMeta runs f in one transaction, stores the position as f has changed it, and
// returns it.
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

// metaOf reads the position of a read model.
func metaOf(v Viewer) (meta store.Meta, err error) {
	err = v.View(func(tx *store.Tx) error {
		meta, _, err = store.ReadMeta(tx)
		return err
	})
	return meta, err
}
