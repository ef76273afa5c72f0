package projections

import (
	"time"

	"github.com/pagestream/pagestream/streams"
)

// MaxMillis is the last Unix millisecond that JSON has a form for, in year 9999.
const MaxMillis = 253402300799999

// Clean returns t in UTC, cut to milliseconds and to years that JSON has a form
// for, so that every read model can store it. The zero time stays zero.
func Clean(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return FromMillis(t.UnixMilli())
}

// FromMillis is the clean time at ms.
func FromMillis(ms int64) time.Time {
	return time.UnixMilli(min(max(ms, 0), MaxMillis)).UTC()
}

// When is an event's clean time; one that has none happened when it was stored.
func When(e streams.Stored) time.Time {
	if e.Time.IsZero() || e.Time.UnixMilli() <= 0 {
		return Clean(e.At)
	}
	return Clean(e.Time)
}
