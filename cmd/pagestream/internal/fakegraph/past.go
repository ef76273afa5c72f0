package fakegraph

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Past generates what the people of a page did at earlier times, and returns for each time the
// body of the POST that Meta sent then. Nothing is delivered now. The messages are in the
// Conversations API. The times must not decrease. [ErrUnknown] is returned when there is no such
// app or page.
func (g *Graph) Past(app, page string, seed uint64, times []time.Time) ([][]byte, error) {
	a, ok := g.apps[app]
	if !ok || g.pages[page].ID == "" {
		return nil, fmt.Errorf("past of page %s: %w", page, ErrUnknown)
	}
	gen := &generator{
		graph: g, app: a, opts: EngineOptions{RunID: "past"}, rng: rand.New(rand.NewPCG(seed, 3)),
		threads: map[string]*thread{},
	}
	bodies := make([][]byte, 0, len(times))
	for _, at := range times {
		items := gen.next(page, at)
		for _, i := range items {
			if i.stored != nil {
				g.storeMessage(*i.stored)
			}
		}
		bodies = append(bodies, []byte(encode(items, at.UnixMilli())))
	}
	return bodies, nil
}
