package webhook

import (
	"net/http"
	"sync"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
)

// recentMinutes is how far back [Recent] looks.
const recentMinutes = 60

// answerBounds are the upper bounds of the histogram buckets for answer times. A
// time over the last bound counts in the last bucket.
var answerBounds = [...]time.Duration{
	10 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond,
	500 * time.Millisecond, time.Second, 1500 * time.Millisecond, 2500 * time.Millisecond,
	4 * time.Second, 5 * time.Second, 10 * time.Second,
}

// Recent counts how this process answered deliveries in the last hour, minute by
// minute, in a fixed amount of memory. The zero value is ready for use. Its
// methods are safe for concurrent use.
type Recent struct {
	mu      sync.Mutex
	minutes [recentMinutes]recentMinute
}

// recentMinute contains the counts of one minute.
type recentMinute struct {
	minute                        int64 // since 1970; shows whether the counts are of the last hour
	accepted, unsigned, notStored uint64
	took                          [len(answerBounds)]uint64
}

// Answered counts one answer to a delivery: 200, 401 or 503. Other statuses are
// not counted, because they do not indicate a problem on this side.
func (r *Recent) Answered(now time.Time, status int, took time.Duration) {
	minute := now.Unix() / 60
	r.mu.Lock()
	defer r.mu.Unlock()
	m := &r.minutes[minute%recentMinutes]
	if m.minute != minute {
		*m = recentMinute{minute: minute}
	}
	switch status {
	case http.StatusOK:
		m.accepted++
	case http.StatusUnauthorized:
		m.unsigned++
	case http.StatusServiceUnavailable:
		m.notStored++
	default:
		return
	}
	for i, bound := range answerBounds {
		if took <= bound || i == len(answerBounds)-1 {
			m.took[i]++
			return
		}
	}
}

// Sum returns the totals of the last hour. P99 is the upper bound of the bucket
// that contains the 99th percentile of the answer times.
func (r *Recent) Sum(now time.Time) (out meta.Recent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	oldest := now.Unix()/60 - recentMinutes + 1
	var took [len(answerBounds)]uint64
	var all uint64
	for _, m := range r.minutes {
		if m.minute < oldest {
			continue
		}
		out.Accepted += m.accepted
		out.BadSignatures += m.unsigned
		out.NotStored += m.notStored
		for i, n := range m.took {
			took[i] += n
			all += n
			if answerBounds[i] > meta.SlowAnswer {
				out.Slow += n
			}
		}
	}
	var seen uint64
	for i, n := range took {
		if seen += n; all > 0 && seen*100 >= all*99 {
			out.P99 = answerBounds[i]
			break
		}
	}
	return out
}
