package deliveries

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
)

// Totals has counts of stored events.
type Totals struct {
	// Events counts all events except duplicates, ByType those of each type.
	Events uint64                 `json:"events"`
	ByType map[domain.Type]uint64 `json:"by_type,omitempty"`
	// Test counts the events of the dashboard's Test button, Unreadable deliveries that
	// could not be parsed, and Unrecognized items of an unknown kind. All are included
	// in Events.
	Test         uint64 `json:"test"`
	Unreadable   uint64 `json:"unreadable"`
	Unrecognized uint64 `json:"unrecognized"`
	// Duplicates counts the events in the stream with the id of an earlier one. No
	// other count has them.
	Duplicates uint64 `json:"duplicates"`
	// First and Last are when the first and the last event was stored, by the
	// stream's clock, to the millisecond; zero if there is none.
	First time.Time `json:"first,omitzero"`
	Last  time.Time `json:"last,omitzero"`
}

// Summary has the totals of all pages, as of event Seq. Pages is the number of pages
// with events.
type Summary struct {
	Seq   uint64 `json:"seq"`
	Pages uint64 `json:"pages"`
	Totals
}

// Page has the totals of one page.
type Page struct {
	Page domain.PageID `json:"page"`
	Totals
}

// Day is the number of events of one page that were stored on one day in UTC.
type Day struct {
	// Day is the date, such as 2006-01-02.
	Day    string `json:"day"`
	Events uint64 `json:"events"`
}

// Read returns the summary.
func Read(v projections.Viewer) (Summary, error) {
	var s Summary
	err := v.View(func(tx *store.Tx) error {
		meta, _, err := store.ReadMeta(tx)
		if err != nil {
			return err
		}
		totals := tx.Bucket(totalsBucket)
		s = Summary{Seq: meta.Seq, Pages: store.ToUint64(totals.Get(store.Key(fieldPages)))}
		s.First, s.Last = times(tx, allKey)
		return readFields(totals, nil, &s.Totals)
	})
	if err != nil {
		return Summary{}, fmt.Errorf("read deliveries: %w", err)
	}
	return s, nil
}

// ReadPage returns one page's totals. It returns false if the page never had an event.
func ReadPage(v projections.Viewer, page domain.PageID) (p Page, found bool, err error) {
	err = v.View(func(tx *store.Tx) error {
		p, found, err = readPage(tx, page)
		return err
	})
	if err != nil {
		return Page{}, false, fmt.Errorf("read deliveries of page: %w", err)
	}
	return p, found, nil
}

// PerPage returns the totals of at most limit pages in the order of their ids, those
// after the given page; start with "". There are no more when it returns none.
func PerPage(v projections.Viewer, after domain.PageID, limit int) ([]Page, error) {
	var out []Page
	err := v.View(func(tx *store.Tx) error {
		c := tx.Bucket(timesBucket).Cursor()
		seek := store.Key(after)
		for k, _ := c.Seek(seek); k != nil && len(out) < limit; k, _ = c.Next() {
			var page domain.PageID
			if !store.ParseKey(k, &page) || page == after {
				continue
			}
			p, _, err := readPage(tx, page)
			if err != nil {
				return err
			}
			out = append(out, p)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read deliveries per page: %w", err)
	}
	return out, nil
}

// Days returns the page's latest days with an event, newest first, at most limit of
// them.
func Days(v projections.Viewer, page domain.PageID, limit int) ([]Day, error) {
	var out []Day
	err := v.View(func(tx *store.Tx) error {
		out = nil
		return tx.Bucket(daysBucket).ForEachPrefix(store.Key(page), func(k, n []byte) error {
			d := Day{Events: store.ToUint64(n)}
			if !store.ParseKey(k, &page, &d.Day) {
				return nil
			}
			out = append(out, d)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read days of page: %w", err)
	}
	slices.Reverse(out)
	return out[:min(len(out), max(0, limit))], nil
}

func readPage(tx *store.Tx, page domain.PageID) (p Page, found bool, err error) {
	p.Page = page
	p.First, p.Last = times(tx, store.Key(page))
	if err := readFields(tx.Bucket(pagesBucket), store.Key(page), &p.Totals); err != nil {
		return Page{}, false, err
	}
	return p, p.Events > 0, nil
}

// readFields reads the counts under a prefix into t.
func readFields(b *store.Bucket, prefix []byte, t *Totals) error {
	t.ByType = make(map[domain.Type]uint64)
	err := b.ForEachPrefix(prefix, func(k, v []byte) error {
		var field string
		if !store.ParseKey(k[len(prefix):], &field) {
			return nil
		}
		n := store.ToUint64(v)
		switch {
		case field == fieldTest:
			t.Test = n
		case field == fieldDuplicate:
			t.Duplicates = n
		case strings.Contains(field, "."):
			t.ByType[domain.Type(field)] = n
			t.Events += n
		}
		return nil
	})
	t.Unreadable = t.ByType[domain.DeliveryUnreadable]
	t.Unrecognized = t.ByType[domain.DeliveryUnrecognized]
	return err
}

// times returns the times at which the first and the last event was stored, zero if
// there is none.
func times(tx *store.Tx, key []byte) (first, last time.Time) {
	v := tx.Bucket(timesBucket).Get(key)
	if len(v) != 16 {
		return time.Time{}, time.Time{}
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(v[:8]))).UTC(),
		time.UnixMilli(int64(binary.BigEndian.Uint64(v[8:]))).UTC()
}
