package console

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/projections/pages"
)

// rateSeconds is the number of seconds in the chart of incoming events.
const rateSeconds = 120

// rates are the numbers of incoming items in each of the last seconds.
type rates struct {
	mu     sync.Mutex
	before deliveries.Counts
	began  bool
	// stored and repeated are ring buffers; next is the index for the next second.
	stored, repeated [rateSeconds]uint64
	next             int
}

// add adds one second: the difference between the counts and the previous ones.
func (r *rates) add(now deliveries.Counts) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.began {
		r.stored[r.next] = now.Stored - min(r.before.Stored, now.Stored)
		r.repeated[r.next] = now.Duplicates() - min(r.before.Duplicates(), now.Duplicates())
		r.next = (r.next + 1) % rateSeconds
	}
	r.before, r.began = now, true
}

// last returns the seconds in order, the oldest first.
func (r *rates) last() (stored, repeated []uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	inOrder := func(ring []uint64) []uint64 { return slices.Concat(ring[r.next:], ring[:r.next]) }
	return inOrder(r.stored[:]), inOrder(r.repeated[:])
}

// sample adds the counts of the webhook endpoint to the rates every second.
func (c *Console) sample() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		c.rates.add(c.opts.Operator.Received())
		select {
		case <-tick.C:
		case <-c.ctx.Done():
			return
		}
	}
}

// rateChart is the chart of incoming items: two SVG paths in a box of [rateSeconds] by
// 100.
type rateChart struct {
	Stored, Repeated string
	// Now is the mean of the last 5 seconds, Peak the maximum of all seconds.
	Now  float64
	Peak uint64
}

func (r *rates) chart() (c rateChart) {
	stored, repeated := r.last()
	for i := range stored {
		c.Peak = max(c.Peak, stored[i]+repeated[i])
	}
	for _, n := range stored[rateSeconds-5:] {
		c.Now += float64(n) / 5
	}
	line := func(of func(int) uint64) string {
		var b strings.Builder
		for i := range rateSeconds {
			fmt.Fprintf(&b, "%s%d %.1f", stepTo(i), i, 100-96*float64(of(i))/float64(max(c.Peak, 1)))
		}
		return b.String()
	}
	c.Stored = line(func(i int) uint64 { return stored[i] })
	c.Repeated = line(func(i int) uint64 { return stored[i] + repeated[i] })
	return c
}

// stepTo returns the SVG path command for point i: move for the first, then line.
func stepTo(i int) string {
	if i == 0 {
		return "M"
	}
	return "L"
}

// spark is the sparkline of a page's last 24 hours: SVG paths in a box of 24 by 10,
// bars for the events of each hour and a line for the usual number.
type spark struct {
	Bars, Usual string
	// Label is the text alternative.
	Label string
}

func sparkOf(d pages.Day) (s spark) {
	most, events, usual := 1.0, uint64(0), 0.0
	for _, h := range d {
		most = max(most, float64(h.Events), h.Usual)
		events += uint64(h.Events)
		usual += h.Usual
	}
	var bars, line strings.Builder
	for i, h := range d {
		if h.Events > 0 {
			fmt.Fprintf(&bars, "M%d.5 10V%.1f", i, 10-max(0.6, 9.5*float64(h.Events)/most))
		}
		fmt.Fprintf(&line, "%s%d.5 %.1f", stepTo(i), i, 10-9.5*h.Usual/most)
	}
	s.Bars = bars.String()
	s.Label = fmt.Sprintf("%d events in 24 h", events)
	if usual > 0 {
		s.Usual = line.String()
		s.Label += fmt.Sprintf(", usually %.0f", usual)
	}
	return s
}
