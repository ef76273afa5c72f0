package fakegraph

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// maxUpdates is Meta's maximum number of items in a POST.
	maxUpdates = 1000
	// maxTick is the maximum number of events that one flush generates, also after a
	// pause.
	maxTick = 5000
)

// planner decides which items go into which POST. It is used by one goroutine at a
// time: that of Run or Step.
type planner struct {
	e     *Engine
	rng   *rand.Rand
	last  time.Time
	due   float64
	round int64
	known map[string]bool // pages that the app was ever subscribed to
	// delayed are items for a later flush, repeats are deliveries to send again.
	delayed []later[item]
	repeats []later[delivery]
}

// flush returns the POSTs to send now.
func (p *planner) flush() []delivery {
	now := p.e.opts.Now()
	p.due += min(now.Sub(p.last).Seconds()*p.e.opts.Rate, maxTick)
	p.last = now
	p.round++
	round, nanos, off := p.round, now.UnixNano(), p.e.outage.Load()
	if off { // what was kept for later is lost, too
		round, nanos = math.MaxInt64, math.MaxInt64
	}
	items := takeDue(&p.delayed, round)
	p.e.mu.Lock()
	items = append(items, takeDue(&p.e.queue, nanos)...)
	p.e.mu.Unlock()
	for _, page := range p.e.graph.subscribedPages(p.e.app.ID) {
		if p.known[page] {
			continue
		}
		p.known[page] = true
		for range p.e.opts.Opening {
			items = append(items, p.generate(page, now)...)
		}
	}
	// People keep writing to a page that has lost its subscription.
	pages := slices.Sorted(maps.Keys(p.known))
	if len(pages) == 0 {
		p.due = 0
	}
	for ; p.due >= 1; p.due-- {
		items = append(items, p.generate(pages[p.rng.IntN(len(pages))], now)...)
	}
	if off {
		p.e.count(items, func(c *Counters) { c.Lost++ })
		p.repeats = nil
		return nil
	}
	out := p.split(items)
	for _, d := range out {
		if p.rng.IntN(100) < int(p.e.duplicates.Load()) {
			p.repeats = append(p.repeats, later[delivery]{delivery{d.items, true}, p.laterRound()})
		}
	}
	return append(out, takeDue(&p.repeats, p.round)...)
}

// generate generates the next event of a page, and returns its items that are due now.
func (p *planner) generate(page string, now time.Time) (items []item) {
	if p.e.has(p.e.quiet, page) {
		return nil
	}
	for n, i := range p.e.gen.next(page, now) {
		switch {
		case !p.e.record(&i):
		case n > 0: // the second item is a message after its edit
			p.delayed = append(p.delayed, later[item]{i, p.round + 1})
		case p.rng.IntN(100) < int(p.e.reorder.Load()):
			p.delayed = append(p.delayed, later[item]{i, p.laterRound()})
		default:
			items = append(items, i)
		}
	}
	return items
}

// laterRound returns the round of one of the next four flushes.
func (p *planner) laterRound() int64 { return p.round + 1 + int64(p.rng.IntN(4)) }

// split distributes the items of a flush to POSTs of one object each. All items of a
// page go into one POST, up to its maximum, so that they keep their order; several
// pages may share a POST.
func (p *planner) split(items []item) []delivery {
	byEntry := map[string][]item{}
	for _, i := range items {
		byEntry[i.entry] = append(byEntry[i.entry], i)
	}
	entries := slices.Sorted(maps.Keys(byEntry))
	p.rng.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
	var out []delivery
	for _, entry := range entries {
		for chunk := range slices.Chunk(byEntry[entry], maxUpdates) {
			last := len(out) - 1
			if last >= 0 && out[last].items[0].object == chunk[0].object &&
				len(out[last].items)+len(chunk) <= maxUpdates && p.rng.IntN(100) < 70 {
				out[last].items = append(out[last].items, chunk...)
				continue
			}
			out = append(out, delivery{items: slices.Clone(chunk)})
		}
	}
	return out
}
