package deliveries

import (
	"encoding/binary"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// Name is the projection's name.
const Name = "deliveries"

const version = 1

// Buckets. A count is a separate row of 8 bytes, so that an event changes a few
// numbers and does not rewrite larger rows.
const (
	// seenBucket: domain.IDKey of an id -> sequence of the first event with it.
	seenBucket = "seen"
	// totalsBucket: field -> count. pagesBucket: page, field -> count.
	totalsBucket = "totals"
	pagesBucket  = "pages"
	// daysBucket: page, day -> count. Days are in UTC, by the time of storing.
	daysBucket = "days"
	// timesBucket: page, or allKey for all pages -> times at which the first and the
	// last event was stored, in Unix milliseconds.
	timesBucket = "times"
)

// Fields that are not event types. They have no dot, as types have.
const (
	fieldTest      = "test"
	fieldDuplicate = "duplicate"
	fieldPages     = "pages"
	// typeUnknown is the type under which all unknown types are counted: those of a
	// newer version or of another publisher.
	typeUnknown = domain.Type("unknown.unknown")
)

const dayFormat = "2006-01-02"

// Projection counts stored events and stores the first event with each id.
type Projection struct{}

var (
	_ projections.Projection = (*Projection)(nil)
	_ projections.Rememberer = (*Projection)(nil)
	_ projections.Filtered   = (*Projection)(nil)
)

// New returns the projection.
func New() *Projection { return &Projection{} }

// Name returns [Name].
func (*Projection) Name() string { return Name }

// Version returns the version of the rules and of the stored format. When it changes,
// the read model is rebuilt.
func (*Projection) Version() int { return version }

// PagedBuckets implements [projections.Paged]. The totals of all pages are left out.
func (*Projection) PagedBuckets() (byPage, byKey []string) {
	return []string{pagesBucket, daysBucket, timesBucket}, []string{seenBucket}
}

// FilteredBucket implements [projections.Filtered]: most ids that are looked up are new.
func (*Projection) FilteredBucket() string { return seenBucket }

// Apply counts an event, as a duplicate if an earlier one has its id.
func (*Projection) Apply(tx *store.Tx, e streams.Stored) error {
	seen, key, page := tx.Bucket(seenBucket), domain.IDKey(e.ID), textKey(string(e.Page))
	if seen.Has(key) {
		return count(tx, page, fieldDuplicate)
	}
	var seq [8]byte // on the stack, in the form of store.Uint64
	binary.BigEndian.PutUint64(seq[:], e.Seq)
	if err := seen.Put(key, seq[:]); err != nil {
		return err
	}
	t := e.Type
	if !t.Known() {
		t = typeUnknown
	}
	if err := count(tx, page, string(t)); err != nil {
		return err
	}
	if e.Data.Test {
		if err := count(tx, page, fieldTest); err != nil {
			return err
		}
	}
	var room [len(dayFormat)]byte
	day := e.At.UTC().AppendFormat(room[:0], dayFormat)
	if err := tx.Bucket(daysBucket).Add(store.AppendText(page, string(day)), 1); err != nil {
		return err
	}
	firstOfPage, err := updateSpan(tx, page, e.At)
	if err != nil {
		return err
	}
	if firstOfPage {
		if err := tx.Bucket(totalsBucket).Add(textKey(fieldPages), 1); err != nil {
			return err
		}
	}
	_, err = updateSpan(tx, allKey, e.At)
	return err
}

// Remembers reports whether the event, or an earlier one with its id, is in the read model.
func (*Projection) Remembers(tx *store.Tx, e streams.Stored) bool {
	first := store.ToUint64(tx.Bucket(seenBucket).Get(domain.IDKey(e.ID)))
	return first > 0 && first <= e.Seq
}

// allKey is the key for all pages. It differs from the key of every page: those have
// at least two bytes.
var allKey = []byte{0}

// textKey returns the key of one string, with capacity for another one.
func textKey(s string) []byte { return store.AppendText(make([]byte, 0, 64), s) }

// count adds one to a field of the totals and of the page with that key.
func count(tx *store.Tx, page []byte, field string) error {
	key := store.AppendText(page, field)
	if err := tx.Bucket(totalsBucket).Add(key[len(page):], 1); err != nil {
		return err
	}
	return tx.Bucket(pagesBucket).Add(key, 1)
}

// span has the times at which the first and the last event was stored, in Unix
// milliseconds.
type span struct{ first, last uint64 }

// AppendBinary appends both times.
func (s *span) AppendBinary(b []byte) ([]byte, error) {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, s.first), s.last), nil
}

// UnmarshalBinary reads what AppendBinary appended.
func (s *span) UnmarshalBinary(b []byte) error {
	if len(b) != 16 {
		return store.ErrCorrupt
	}
	s.first, s.last = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	return nil
}

// updateSpan stores the time of an event and reports whether it is the first one.
func updateSpan(tx *store.Tx, key []byte, at time.Time) (first bool, err error) {
	b, now := tx.Bucket(timesBucket), uint64(at.UnixMilli())
	s, found, err := store.GetRow[span](b, key)
	if err != nil {
		return false, err
	}
	if !found {
		s.first = now
	}
	s.last = now
	return !found, store.PutRow(b, key, s)
}
