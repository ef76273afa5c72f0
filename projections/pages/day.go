package pages

import (
	"fmt"
	"time"

	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
)

// DayHours is the number of hours in a [Day].
const DayHours = 24

// Day has the numbers of events that deliveries contained for a page in each of the
// last 24 hours, the oldest hour first. The last hour is not complete.
type Day [DayHours]Hour

// Hour is one hour of a page, in UTC.
type Hour struct {
	// Start is the beginning of the hour, Events the number of events in it.
	Start  time.Time
	Events uint32
	// Usual is the mean of the same hour in the weeks before, at most 7 of them. It
	// is 0 as well for a page that had no event a week earlier.
	Usual float64
}

// EachDay is [Each] with the [Day] of each page up to now. It costs 24 reads of
// short rows per page; [ReadRhythm] returns the whole rhythm.
func EachDay(v projections.Viewer, now time.Time, fn func(Page, Day) error) error {
	return Each(v, func(p Page) error {
		d, err := ReadDay(v, p, now)
		if err != nil {
			return fmt.Errorf("read days: %w", err)
		}
		return fn(p, d)
	})
}

// ReadDay returns the [Day] of one page up to now.
func ReadDay(v projections.Viewer, p Page, now time.Time) (d Day, err error) {
	err = v.View(func(tx *store.Tx) error {
		d = readDay(tx, p, now)
		return nil
	})
	return d, err
}

func readDay(tx *store.Tx, p Page, now time.Time) (d Day) {
	bucket := tx.Bucket(bucketRhythm)
	first := p.Traffic.FirstInboundAt.Unix() / 3600
	for i := range d {
		at := now.Unix()/3600 - int64(DayHours-1-i)
		d[i].Start = time.Unix(at*3600, 0).UTC()
		if p.Traffic.FirstInboundAt.IsZero() || at < 0 {
			continue
		}
		week, before := at/weekHours, 0.0
		row := bucket.Get(store.Key(string(p.ID), uint64(at%weekHours)))
		for ; len(row) >= weekCell; row = row[weekCell:] {
			switch w, n := cell(row); {
			case int64(w) == week:
				d[i].Events = n
			case int64(w) < week && int64(w) > week-rhythmWeeks:
				before += float64(n)
			}
		}
		if weeks := min((at-first)/weekHours, rhythmWeeks-1); weeks > 0 {
			d[i].Usual = before / float64(weeks)
		}
	}
	return d
}
