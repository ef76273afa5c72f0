package fakegraph

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// maxUpdates is Meta's bound on one POST.
	maxUpdates = 1000
	// maxTick bounds what one flush makes, after a pause too.
	maxTick = 5000
)

// planner decides what goes into which POST. It belongs to Run's goroutine.
type planner struct {
	e     *Engine
	rng   *rand.Rand
	last  time.Time
	owed  float64
	round int64
	known map[string]bool // pages that the app was ever subscribed to
	// kept are items for a later flush, again whole deliveries for one.
	kept  []later[item]
	again []later[delivery]
}

// flush returns the POSTs that are to be made now.
func (p *planner) flush() []delivery {
	now := p.e.opts.Now()
	p.owed += min(now.Sub(p.last).Seconds()*p.e.opts.Rate, maxTick)
	p.last = now
	p.round++
	round, nanos, off := p.round, now.UnixNano(), p.e.outage.Load()
	if off { // then nothing is kept for later either
		round, nanos = math.MaxInt64, math.MaxInt64
	}
	items := take(&p.kept, round)
	p.e.mu.Lock()
	items = append(items, take(&p.e.queue, nanos)...)
	p.e.mu.Unlock()
	for _, page := range p.e.graph.subscribedPages(p.e.app.ID) {
		p.known[page] = true
	}
	// People go on writing to a page that has lost its subscription.
	pages := slices.Sorted(maps.Keys(p.known))
	if len(pages) == 0 {
		p.owed = 0
	}
	for ; p.owed >= 1; p.owed-- {
		page := pages[p.rng.IntN(len(pages))]
		if p.e.has(p.e.quiet, page) {
			continue
		}
		for n, i := range p.e.talk.next(page, now) {
			switch {
			case !p.e.made(&i):
			case n > 0: // a message after its edit
				p.kept = append(p.kept, later[item]{i, p.round + 1})
			case p.rng.IntN(100) < p.e.opts.Reorder:
				p.kept = append(p.kept, later[item]{i, p.late()})
			default:
				items = append(items, i)
			}
		}
	}
	if off {
		p.e.count(items, func(c *Counters) { c.Lost++ })
		p.again = nil
		return nil
	}
	out := p.split(items)
	for _, d := range out {
		if p.rng.IntN(100) < p.e.opts.Duplicates {
			p.again = append(p.again, later[delivery]{delivery{d.items, true}, p.late()})
		}
	}
	return append(out, take(&p.again, p.round)...)
}

// late is one of the next four flushes.
func (p *planner) late() int64 { return p.round + 1 + int64(p.rng.IntN(4)) }

// split makes POSTs of a flush's items, each about one object. All of a page's
// go into one POST, so that their order holds; several pages may share it.
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
