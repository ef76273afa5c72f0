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

// Buckets. A count is 8 bytes, so that an event changes a few numbers and
// rewrites no record.
const (
	// seenBucket: the id's domain.IDKey -> sequence of the first.
	seenBucket = "seen"
	// totalsBucket: field -> count. pagesBucket: page, field -> count.
	totalsBucket = "totals"
	pagesBucket  = "pages"
	// daysBucket: page, day -> count. Days are in UTC, by the stream's clock.
	daysBucket = "days"
	// timesBucket: page, or nothing for all -> first and last stored time, in
	// Unix milliseconds.
	timesBucket = "times"
)

// Fields that are not event types; types have a dot.
const (
	fieldTest      = "test"
	fieldDuplicate = "duplicate"
	fieldPages     = "pages"
	// typeUnknown counts the types of a newer pagestream or another publisher.
	typeUnknown = domain.Type("unknown.unknown")
)

const dayFormat = "2006-01-02"

// Projection counts stored events and remembers the first event of each id.
type Projection struct{}

var _ projections.Projection = (*Projection)(nil)

// New returns the projection.
func New() *Projection { return &Projection{} }

// Name returns [Name].
func (*Projection) Name() string { return Name }

// Version returns the version of the state's form.
func (*Projection) Version() int { return version }

// Apply counts the event, as a duplicate if its id is known.
func (*Projection) Apply(tx *store.Tx, e streams.Stored) error {
	seen, key, page := tx.Bucket(seenBucket), domain.IDKey(e.ID), textKey(string(e.Page))
	if seen.Has(key) {
		return count(tx, page, fieldDuplicate)
	}
	if err := seen.Put(key, store.Uint64(e.Seq)); err != nil {
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
	if err := tx.Bucket(daysBucket).Add(store.AppendText(page, e.At.UTC().Format(dayFormat)), 1); err != nil {
		return err
	}
	fresh, err := stamp(tx, page, e.At)
	if err != nil {
		return err
	}
	if fresh {
		if err := tx.Bucket(totalsBucket).Add(textKey(fieldPages), 1); err != nil {
			return err
		}
	}
	_, err = stamp(tx, allKey, e.At)
	return err
}

// allKey is no page's key: those end in two bytes.
var allKey = []byte{0}

// textKey is a key of one string, with room for another.
func textKey(s string) []byte { return store.AppendText(make([]byte, 0, 64), s) }

// count adds one to a field, in all and for the page of that key.
func count(tx *store.Tx, page []byte, field string) error {
	if err := tx.Bucket(totalsBucket).Add(textKey(field), 1); err != nil {
		return err
	}
	return tx.Bucket(pagesBucket).Add(store.AppendText(page, field), 1)
}

// span is the first and the latest stored time, in Unix milliseconds.
type span struct{ first, last uint64 }

// AppendBinary appends both.
func (s *span) AppendBinary(b []byte) ([]byte, error) {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, s.first), s.last), nil
}

// UnmarshalBinary reads them.
func (s *span) UnmarshalBinary(b []byte) error {
	if len(b) != 16 {
		return store.ErrCorrupt
	}
	s.first, s.last = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	return nil
}

// stamp keeps the first and the latest time, and says whether it was the first.
func stamp(tx *store.Tx, key []byte, at time.Time) (first bool, err error) {
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
