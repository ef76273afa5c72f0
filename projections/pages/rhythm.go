package pages

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
)

// Bounds of a rhythm.
const (
	weekHours   = 7 * 24
	rhythmWeeks = 8
	// Below these spans, an hour of the week, or of the day, has occurred too rarely
	// to have its own rate.
	byWeekFrom = 2 * weekHours * time.Hour
	byDayFrom  = 2 * 24 * time.Hour
	// minSpan is the minimum span of a rate, so that a burst on the first day does
	// not make it too high.
	minSpan = 24 * time.Hour
	// minEvents is the minimum number of events of a rhythm.
	minEvents = 20
	weekCell  = 8 // bytes per week in a row: week, count
)

// Rhythm is the rate of the events that deliveries contain for one page, by the hour
// of the week in UTC. It is computed from the page's history up to its last event, so
// that a silence does not lower it, and from at most the last 8 weeks.
type Rhythm struct {
	// From and To are the bounds of the history, in the stream's time. Events is the
	// number of events in it.
	From, To time.Time
	Events   uint64
	// Enough reports whether there are enough events to expect more of them.
	Enough bool

	rates [weekHours]float64 // events per hour
}

// Silence is how long a page has had no events, compared with its rhythm.
type Silence struct {
	// Since is when the last event was stored, when the page was connected, or
	// Watch.From, the latest of them that is not after Watch.Now: a time in the future was
	// stored while the clock was wrong, and says nothing.
	Since time.Time `json:"since,omitzero"`
	// Events is the number of the page's delivered events.
	Events uint64 `json:"-"`
	// Expected is the number of events to expect since then by the page's rhythm.
	Expected float64 `json:"expected"`
	// Silent reports whether Expected has reached the threshold, so that the silence
	// is not by chance.
	Silent bool `json:"silent"`
	// Enough is that of the rhythm. Without it, Silent is always false.
	Enough bool `json:"enough"`
}

// Watch has the parameters of [Quiet].
type Watch struct {
	// Now is the end of the time to check.
	Now time.Time
	// From is when deliveries could be received, for example the start of the
	// process: earlier silence does not count. It may be zero.
	From time.Time
	// Threshold is the number of missing events that make a page silent.
	Threshold float64
}

// countHour counts one delivered event in its hour of the week, by the time of storing. The row has a count for each of
// the last 8 weeks with an event in this hour. The key is that of the page.
func countHour(tx *store.Tx, page []byte, at time.Time) error {
	hour := uint64(max(0, projections.Clean(at).Unix())) / 3600
	week := uint32(hour / weekHours)
	bucket := tx.Bucket(bucketRhythm)
	key := binary.BigEndian.AppendUint64(page, hour%weekHours)
	row, _, err := store.GetRow[hourRow](bucket, key)
	if err != nil {
		return err
	}
	row.count(week)
	if err := store.PutRow(bucket, key, row); err != nil {
		return fmt.Errorf("count hour: %w", err)
	}
	return nil
}

// hourRow is the row of one page and hour of the week: cells of weeks and their counts.
type hourRow struct{ cells []byte }

// AppendBinary appends the cells.
func (r *hourRow) AppendBinary(b []byte) ([]byte, error) { return append(b, r.cells...), nil }

// UnmarshalBinary copies the cells.
func (r *hourRow) UnmarshalBinary(b []byte) error {
	r.cells = slices.Clone(b)
	return nil
}

// count counts one event of a week. A new week replaces the oldest one, if there are 8.
func (r *hourRow) count(week uint32) {
	oldest := 0
	for i := 0; i+weekCell <= len(r.cells); i += weekCell {
		w, n := cell(r.cells[i:])
		if w == week {
			binary.BigEndian.PutUint32(r.cells[i+4:], n+1)
			return
		}
		if first, _ := cell(r.cells[oldest:]); w < first {
			oldest = i
		}
	}
	if len(r.cells) < rhythmWeeks*weekCell {
		r.cells = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(r.cells, week), 1)
	} else if first, _ := cell(r.cells[oldest:]); first < week {
		binary.BigEndian.PutUint32(r.cells[oldest:], week)
		binary.BigEndian.PutUint32(r.cells[oldest+4:], 1)
	}
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

// Quiet returns a page's silence as of w.Now, or fails with [ErrNotFound]. A page that
// is not connected is never silent.
func Quiet(v projections.Viewer, page domain.PageID, w Watch) (s Silence, err error) {
	err = v.View(func(tx *store.Tx) error {
		p, err := assemble(tx, pageKey(string(page)))
		if err != nil {
			return err
		}
		s.Events = p.Traffic.Events
		for _, t := range []time.Time{p.Traffic.LastInboundAt, p.StateSince, w.From} {
			if !t.After(w.Now) {
				s.Since = latest(s.Since, t)
			}
		}
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

// rate computes the rates from the counts of the hours first to last. The shorter the
// history is, the more hours of the week share one rate.
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

// Expected returns how many events are to be expected between two times by the page's
// history. It returns 0 if from is not before to.
func (r Rhythm) Expected(from, to time.Time) float64 {
	const week = weekHours * time.Hour
	if !from.Before(to) {
		return 0
	}
	span, sum := to.Sub(from), 0.0 // Sub is limited to 292 years
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
