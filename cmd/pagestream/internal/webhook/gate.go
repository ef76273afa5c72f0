package webhook

import (
	"bytes"
	"context"
	"sync"
)

// largeBody is from how many bytes on a body takes long enough to parse that it delays others.
const largeBody = 16 << 10

// door identifies the origin of a delivery: an app and a page.
type door struct{ app, page string }

// gate lets a bounded number of large deliveries be parsed at the same time, so that many of them leave the
// processors to the others. Pages take turns.
type gate struct {
	mu      sync.Mutex
	free    int
	waiting map[door][]chan struct{}
	ring    []door // those that wait, in the order of their turns
}

func newGate(n int) *gate { return &gate{free: n, waiting: map[door][]chan struct{}{}} }

// enter waits for a turn, which leave ends. It fails with the context's error.
func (g *gate) enter(ctx context.Context, d door) error {
	g.mu.Lock()
	if g.free > 0 {
		g.free--
		g.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	if g.waiting[d] == nil {
		g.ring = append(g.ring, d)
	}
	g.waiting[d] = append(g.waiting[d], turn)
	g.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	for i, c := range g.waiting[d] {
		if c == turn {
			g.waiting[d] = append(g.waiting[d][:i:i], g.waiting[d][i+1:]...)
			g.mu.Unlock()
			return ctx.Err()
		}
	}
	g.mu.Unlock()
	g.leave() // the turn came at the same time
	return ctx.Err()
}

// leave gives the turn to the next page.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.ring) > 0 {
		d := g.ring[0]
		g.ring = g.ring[1:]
		list := g.waiting[d]
		if len(list) == 0 {
			delete(g.waiting, d)
			continue
		}
		close(list[0])
		if list = list[1:]; len(list) == 0 {
			delete(g.waiting, d)
			return
		}
		g.waiting[d] = list
		g.ring = append(g.ring, d)
		return
	}
	g.free++
}

// pageOf returns the id of the first entry without parsing the body. It is only good for taking turns: another
// id may be found, or none.
func pageOf(body []byte) string {
	_, rest, _ := bytes.Cut(body[:min(len(body), 4<<10)], []byte(`"entry"`))
	_, rest, _ = bytes.Cut(rest, []byte(`"id"`))
	rest = bytes.TrimLeft(rest, " \t\r\n:\"")
	for i, c := range rest {
		if c < '0' || c > '9' {
			return string(rest[:i])
		}
	}
	return ""
}
