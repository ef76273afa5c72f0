package pages

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// Bounds of a rhythm.
const (
	weekHours   = 7 * 24
	rhythmWeeks = 8
	// Below these spans an hour of the week, or of the day, was seen too rarely
	// to have a rate of its own.
	byWeekFrom = 2 * weekHours * time.Hour
	byDayFrom  = 2 * 24 * time.Hour
	// minSpan keeps a burst on the first day from passing for a rate.
	minSpan = 24 * time.Hour
	// minEvents is how few events are no rhythm.
	minEvents = 20
	weekCell  = 8 // bytes a week in a row: week, count
)

// Rhythm is how often deliveries bring events of one page, by the hour of the
// week in UTC. It is the page's own history up to its last event, so a silence
// does not water it down. At most the last 8 weeks count.
type Rhythm struct {
	// From and To span what was seen, Events came in it. Times are the stream's.
	From, To time.Time
	Events   uint64
	// Enough says that the page has been seen for long enough to expect
	// anything of it.
	Enough bool

	rates [weekHours]float64 // events an hour
}

// Silence is how long a page has brought nothing, against its own rhythm.
type Silence struct {
	// Since is when the page fell silent, or when it was begun to be watched.
	Since time.Time `json:"since,omitzero"`
	// Expected is how many events should have come since by the page's rhythm.
	Expected float64 `json:"expected"`
	// Silent says that so many should have come that it is not by chance.
	Silent bool `json:"silent"`
	// Enough is the rhythm's: without it nothing can be said.
	Enough bool `json:"enough"`
}

// Watch says what a silence is measured by.
type Watch struct {
	// Now is the end of what is looked at.
	Now time.Time
	// From is when somebody began to listen, for example the start of the
	// process: earlier silence does not count. It may be zero.
	From time.Time
	// Threshold is how many events have to be missing.
	Threshold float64
}

// beat counts one delivered event in its hour of the week. The row has a count
// for each of the last weeks in which any came.
func beat(tx *store.Tx, e streams.Stored) error {
	hour := uint64(max(0, projections.Clean(e.At).Unix())) / 3600
	week := uint32(hour / weekHours)
	bucket, key := tx.Bucket(bucketRhythm), binary.BigEndian.AppendUint64(pageKey(string(e.Page)), hour%weekHours)
	row := bucket.Get(key)
	found, oldest := false, 0
	for i := 0; i+weekCell <= len(row); i += weekCell {
		w, n := cell(row[i:])
		if w == week {
			binary.BigEndian.PutUint32(row[i+4:], n+1)
			found = true
			break
		}
		if first, _ := cell(row[oldest:]); w < first {
			oldest = i
		}
	}
	if !found {
		added := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, week), 1)
		if len(row) < rhythmWeeks*weekCell {
			row = append(row, added...)
		} else if first, _ := cell(row[oldest:]); first < week {
			copy(row[oldest:], added)
		}
	}
	if err := bucket.Put(key, row); err != nil {
		return fmt.Errorf("count an hour: %w", err)
	}
	return nil
}

func cell(b []byte) (week, count uint32) {
	return binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
}

// ReadRhythm returns a page's rhythm, or fails with [ErrNotFound]. It costs one
// read of a short row for each hour of the week that ever had an event.
func ReadRhythm(v projections.Viewer, page domain.PageID) (r Rhythm, err error) {
	err = v.View(func(tx *store.Tx) error {
		p, err := assemble(tx, pageKey(string(page)))
		if err != nil {
			return err
		}
		r, err = readRhythm(tx, p)
		return err
	})
	return r, err
}

// Quiet tells a page's silence by w, or fails with [ErrNotFound]. A page that
// is not connected is never silent.
func Quiet(v projections.Viewer, page domain.PageID, w Watch) (s Silence, err error) {
	err = v.View(func(tx *store.Tx) error {
		p, err := assemble(tx, pageKey(string(page)))
		if err != nil {
			return err
		}
		s.Since = latest(latest(p.Traffic.LastInboundAt, p.StateSince), w.From)
		if p.State != Connected || p.Traffic.Events < minEvents {
			return nil
		}
		r, err := readRhythm(tx, p)
		if err != nil {
			return err
		}
		s.Enough, s.Expected = r.Enough, r.Expected(s.Since, w.Now)
		s.Silent = s.Enough && s.Expected >= w.Threshold
		return nil
	})
	return s, err
}

func readRhythm(tx *store.Tx, p Page) (Rhythm, error) {
	r := Rhythm{From: p.Traffic.FirstInboundAt, To: p.Traffic.LastInboundAt}
	if r.To.IsZero() || r.To.Before(r.From) {
		return r, nil
	}
	r.From = latest(r.From, r.To.Add(-rhythmWeeks*weekHours*time.Hour))
	first, last := r.From.Unix()/3600, r.To.Unix()/3600
	var counts [weekHours]float64
	prefix := pageKey(string(p.ID))
	err := tx.Bucket(bucketRhythm).ForEachPrefix(prefix, func(key, row []byte) error {
		hour := store.ToUint64(key[len(prefix):])
		for ; hour < weekHours && len(row) >= weekCell; row = row[weekCell:] {
			week, n := cell(row)
			if at := int64(week)*weekHours + int64(hour); at >= first && at <= last {
				counts[hour] += float64(n)
				r.Events += uint64(n)
			}
		}
		return nil
	})
	if err != nil {
		return Rhythm{}, fmt.Errorf("read rhythm: %w", err)
	}
	r.Enough = r.Events >= minEvents
	r.rate(counts, first, last)
	return r, nil
}

// rate spreads the counts over the hours first to last in which they came. The
// fewer hours were seen, the more of them share one rate.
func (r *Rhythm) rate(counts [weekHours]float64, first, last int64) {
	period := 1
	switch span := r.To.Sub(r.From); {
	case span >= byWeekFrom:
		period = weekHours
	case span >= byDayFrom:
		period = 24
	}
	events, hours := make([]float64, period), make([]float64, period)
	for h, n := range counts {
		events[h%period] += n
	}
	for h := first; h <= last; h++ {
		hours[h%int64(period)]++
	}
	if period == 1 {
		hours[0] = max(hours[0], minSpan.Hours())
	}
	for h := range r.rates {
		if of := h % period; hours[of] > 0 {
			r.rates[h] = events[of] / hours[of]
		}
	}
}

// Expected returns how many events the page's history lets one expect between
// two times; 0 if there are none between them.
func (r Rhythm) Expected(from, to time.Time) float64 {
	const week = weekHours * time.Hour
	if !from.Before(to) {
		return 0
	}
	span, sum := to.Sub(from), 0.0 // Sub stops at 292 years
	for _, rate := range r.rates {
		sum += rate
	}
	sum *= float64(span / week)
	for left := span % week; left > 0; {
		step := min(from.Truncate(time.Hour).Add(time.Hour).Sub(from), left)
		hour := (from.Unix()/3600%weekHours + weekHours) % weekHours
		sum += r.rates[hour] * step.Hours()
		from, left = from.Add(step), left-step
	}
	return sum
}
