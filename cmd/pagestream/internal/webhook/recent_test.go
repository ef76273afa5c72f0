package webhook_test

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/webhook"
)

var recentStart = time.Date(2026, 3, 1, 12, 0, 30, 0, time.UTC)

func TestRecentCountsByStatus(t *testing.T) {
	var r webhook.Recent
	assert.Zero(t, r.Sum(recentStart), "nothing was answered")
	for status, times := range map[int]int{
		http.StatusOK: 3, http.StatusUnauthorized: 2, http.StatusServiceUnavailable: 1,
		http.StatusBadRequest: 4, http.StatusRequestEntityTooLarge: 5, http.StatusNotFound: 6,
	} {
		for range times {
			r.Answered(recentStart, status, time.Millisecond)
		}
	}
	want := meta.Recent{Accepted: 3, BadSignatures: 2, NotStored: 1, P99: 10 * time.Millisecond}
	assert.Equal(t, want, r.Sum(recentStart))
}

func TestRecentBounds(t *testing.T) {
	for _, c := range []struct {
		took, bound time.Duration
		slow        uint64
	}{
		{0, 10 * time.Millisecond, 0},
		{10 * time.Millisecond, 10 * time.Millisecond, 0},
		{10*time.Millisecond + 1, 50 * time.Millisecond, 0},
		{700 * time.Millisecond, time.Second, 0},
		{meta.SlowAnswer, meta.SlowAnswer, 0},
		{meta.SlowAnswer + 1, 4 * time.Second, 1},
		{5 * time.Second, 5 * time.Second, 1},
		{time.Minute, 10 * time.Second, 1},
	} {
		var r webhook.Recent
		r.Answered(recentStart, http.StatusOK, c.took)
		want := meta.Recent{Accepted: 1, Slow: c.slow, P99: c.bound}
		assert.Equal(t, want, r.Sum(recentStart), c.took)
	}
}

func TestRecentP99(t *testing.T) {
	var r webhook.Recent
	for range 99 {
		r.Answered(recentStart, http.StatusOK, 40*time.Millisecond)
	}
	r.Answered(recentStart, http.StatusServiceUnavailable, 4*time.Second)
	assert.Equal(t, 50*time.Millisecond, r.Sum(recentStart).P99, "one of 100 is beyond")
	r.Answered(recentStart, http.StatusOK, 5*time.Second)
	assert.Equal(t, 4*time.Second, r.Sum(recentStart).P99, "two of 101 are beyond")
}

// TestRecentHour checks that a minute counts for an hour, and that its slot is then
// reused for a later minute.
func TestRecentHour(t *testing.T) {
	var r webhook.Recent
	for minute := range 60 {
		r.Answered(recentStart.Add(time.Duration(minute)*time.Minute), http.StatusOK, time.Second)
	}
	last := recentStart.Add(59 * time.Minute)
	assert.Equal(t, uint64(60), r.Sum(last).Accepted)
	assert.Equal(t, uint64(59), r.Sum(last.Add(time.Minute)).Accepted, "the first minute is over an hour ago")
	assert.Equal(t, uint64(1), r.Sum(last.Add(59*time.Minute)).Accepted)
	assert.Zero(t, r.Sum(last.Add(time.Hour)))

	r.Answered(recentStart.Add(time.Hour), http.StatusUnauthorized, time.Second)
	want := meta.Recent{Accepted: 59, BadSignatures: 1, P99: time.Second}
	assert.Equal(t, want, r.Sum(recentStart.Add(time.Hour)),
		"the slot of the first minute contains only the counts of the new one")
}

func TestRecentConcurrently(t *testing.T) {
	var r webhook.Recent
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				r.Answered(recentStart, http.StatusOK, time.Second)
				r.Sum(recentStart)
			}
		})
	}
	wg.Wait()
	assert.Equal(t, uint64(8000), r.Sum(recentStart).Accepted)
}
