package webhook

import (
	"net/http"
	"sync"
	"time"
)

// recentMinutes is how far back [Recent] looks.
const recentMinutes = 60

// answerBounds are the upper ends of the ranges in which answer times are
// counted. A time over the last bound counts in the last range.
var answerBounds = [...]time.Duration{
	10 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 1500 * time.Millisecond, 2500 * time.Millisecond, 4 * time.Second, 5 * time.Second, 10 * time.Second,
}

// Recent counts how this process answered deliveries in the last hour, minute by
// minute, in memory of a fixed size. The zero value is ready for use. Its methods
// are safe for concurrent use.
type Recent struct {
	mu      sync.Mutex
	minutes [recentMinutes]recentMinute
}

// recentMinute has the counts of one minute.
type recentMinute struct {
	minute                        int64 // since 1970; says whether the counts are of the last hour
	accepted, unsigned, notStored uint64
	took                          [len(answerBounds)]uint64
}

// RecentSum is the last hour.
type RecentSum struct {
	// Accepted counts the answers 200, Unsigned those of 401, where the signature
	// was missing or wrong, and NotStored those of 503, where the events could not
	// be made durable in time.
	Accepted, Unsigned, NotStored uint64
	// Slow counts the answers that took longer than was asked for, as far as the
	// bounds of [Recent] tell: those up to the same bound count alike.
	Slow uint64
	// P99 is the bound that 99 of 100 answers kept, at most 10 s, and 0 where there
	// was no answer.
	P99 time.Duration
}

// Answered counts one answer to a delivery: 200, 401 or 503. Other statuses are
// not counted; they are no sign of anything that is wrong here.
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

// Sum adds up the last hour. An answer that took longer than slow is counted as
// slow.
func (r *Recent) Sum(now time.Time, slow time.Duration) (out RecentSum) {
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
		out.Unsigned += m.unsigned
		out.NotStored += m.notStored
		for i, n := range m.took {
			took[i] += n
			all += n
			if answerBounds[i] > slow {
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
