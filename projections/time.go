package projections

import (
	"time"

	"github.com/pagestream/pagestream/streams"
)

// MaxMillis is the last Unix millisecond of the year 9999, the last one that a
// [time.Time] can be encoded to JSON with.
const MaxMillis = 253402300799999

// Clean returns t in UTC, truncated to milliseconds and limited to the years 1970
// to 9999, so that every read model can store it as JSON. The zero time stays zero.
func Clean(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return FromMillis(t.UnixMilli())
}

// FromMillis returns the time at ms Unix milliseconds, with the limits of [Clean].
func FromMillis(ms int64) time.Time {
	return time.UnixMilli(min(max(ms, 0), MaxMillis)).UTC()
}

// When returns the time of an event as [Clean] does. For an event without a time it
// returns the time at which the event was stored.
func When(e streams.Stored) time.Time {
	if e.Time.IsZero() || e.Time.UnixMilli() <= 0 {
		return Clean(e.At)
	}
	return Clean(e.Time)
}
