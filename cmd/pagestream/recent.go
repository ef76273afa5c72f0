package main

import (
	"sync"
	"time"
)

// recentMinutes is how far back [recent] looks.
const recentMinutes = 60

// recentBounds are the upper ends of the buckets of answer times; what takes
// longer than the last counts with it.
var recentBounds = [...]time.Duration{
	10 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 1500 * time.Millisecond, 2500 * time.Millisecond, 4 * time.Second, 5 * time.Second, 10 * time.Second,
}

// recent counts how deliveries were answered in the last hour, by the minute. It
// is this process's, in memory of a fixed size.
type recent struct {
	mu      sync.Mutex
	minutes [recentMinutes]recentMinute
}

type recentMinute struct {
	minute int64 // since 1970
	byWord [3]uint64
	took   [len(recentBounds)]uint64
}

// What is counted.
const (
	recentAccepted = iota
	recentUnsigned
	recentNotStored
)

// answered counts one answer: 200, 401 or 503. Others are nobody's symptom.
func (r *recent) answered(now time.Time, status int, took time.Duration) {
	word := 0
	switch status {
	case 200:
		word = recentAccepted
	case 401:
		word = recentUnsigned
	case 503:
		word = recentNotStored
	default:
		return
	}
	minute := now.Unix() / 60
	r.mu.Lock()
	defer r.mu.Unlock()
	m := &r.minutes[minute%recentMinutes]
	if m.minute != minute {
		*m = recentMinute{minute: minute}
	}
	m.byWord[word]++
	for i, bound := range recentBounds {
		if took <= bound || i == len(recentBounds)-1 {
			m.took[i]++
			break
		}
	}
}

// recentSum is the last hour.
type recentSum struct {
	accepted, unsigned, notStored uint64
	// p99 is the bound below which 99 of 100 answers were; slow counts those over
	// the given time.
	p99  time.Duration
	slow uint64
}

func (r *recent) sum(now time.Time, slow time.Duration) (out recentSum) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var took [len(recentBounds)]uint64
	var all uint64
	for _, m := range r.minutes {
		if m.minute <= now.Unix()/60-recentMinutes {
			continue
		}
		out.accepted += m.byWord[recentAccepted]
		out.unsigned += m.byWord[recentUnsigned]
		out.notStored += m.byWord[recentNotStored]
		for i, n := range m.took {
			took[i] += n
			all += n
			if recentBounds[i] > slow {
				out.slow += n
			}
		}
	}
	var seen uint64
	for i, n := range took {
		if seen += n; all > 0 && seen*100 >= all*99 {
			out.p99 = recentBounds[i]
			break
		}
	}
	return out
}
