package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
)

// Goals of ingest, as ratios.
const (
	goalBySingle   = 3.0
	goalByHTTP     = 0.5
	goalByBatches  = 0.6
	goalSomeDouble = 0.8
	goalAllDouble  = 1.5
	// The goals of single items apply to many connections, the others to a moderate
	// number, as Meta has under load.
	goalConnections = 256
	goalModerate    = 64
	goalItems       = 100
)

// mostEvents and mostPosts limit the events and POSTs per second that are generated for
// a cell: more than a machine of this kind can accept. A cell that has used them up
// ends early.
const (
	mostEvents = 80_000
	mostPosts  = 40_000
)

// cell is a combination of connections, items per POST and percentage of duplicates.
type cell struct{ connections, items, duplicates int }

func (c cell) String() string {
	return fmt.Sprintf("ingest/%dc/%di/%dd", c.connections, c.items, c.duplicates)
}

// fresh returns how many POSTs are generated for a cell.
func (r *run) fresh(items int) int { return r.enough(min(mostPosts, mostEvents/float64(items))) }

// ingestSection measures durable ingest while every read model follows the stream.
func (r *run) ingestSection(ctx context.Context) (err error) {
	s, err := r.start(ctx, "ingest", 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop(ctx), os.RemoveAll(s.dir)) }()

	// The POSTs of the cells with 100 % duplicates are stored first.
	duplicates := map[int][]shot{}
	before := uint64(0)
	if slices.Contains(r.opts.Duplicates, 100) {
		for _, items := range r.opts.Items {
			duplicates[items] = r.ids.shots(s.Secret, max(8, min(r.fresh(items), 20_000/items)), items)
			if err := s.store(ctx, duplicates[items]); err != nil {
				return err
			}
		}
		if before, _, err = s.head(ctx); err != nil {
			return err
		}
	}
	none := map[cell]float64{}
	for _, d := range slices.Sorted(slices.Values(r.opts.Duplicates)) {
		if d == 100 {
			if err := r.forget(ctx, s, before); err != nil {
				return err
			}
		}
		for _, items := range r.opts.Items {
			for _, connections := range r.opts.Connections {
				c := cell{connections, items, d}
				b := &blend{shots: duplicates[items], cycle: true}
				if d < 100 {
					b = &blend{shots: r.ids.shots(s.Secret, r.fresh(items), items), percent: d}
				}
				f, err := r.ingest(ctx, s, c, b)
				if err != nil {
					return fmt.Errorf("%s: %w", c, err)
				}
				r.add(f)
				if d == 0 {
					none[c] = f.Value
				}
				if err := r.compare(ctx, c, f, none[cell{connections, items, 0}]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// ingest measures a cell and then waits for the read models.
func (r *run) ingest(ctx context.Context, s *system, c cell, b *blend) (Figure, error) {
	base, err := r.answers(ctx, c.connections, c.items)
	if err != nil {
		return Figure{}, err
	}
	r.step("%s", c)
	p, behind, err := s.fire(ctx, c.connections, r.opts.Cell, b)
	if err != nil {
		return Figure{}, err
	}
	n := float64(c.items)
	f := figure(c.String(), "events/s", p.rate*n, base.Name, base.Value*n, Higher)
	f.Posts, f.P50, f.P99, f.Behind = p.rate, ms(p.p50), ms(p.p99), &behind
	if c == (cell{goalConnections, 1, 0}) {
		f = f.atLeast(goalByHTTP)
	}
	return f, nil
}

// compare adds the cell's figure relative to another baseline than HTTP. none is the
// value of the same cell without duplicates.
func (r *run) compare(ctx context.Context, c cell, f Figure, none float64) (err error) {
	var base Baseline
	var goal float64
	switch {
	case c.duplicates == 0 && c.items == 1 && c.connections == slices.Max(r.opts.Connections):
		base, err = r.single(ctx)
		if c.connections == goalConnections {
			goal = goalBySingle
		}
	case c.duplicates == 0 && c.items == slices.Max(r.opts.Items):
		base, err = r.batches(ctx)
		if c.items == goalItems && c.connections == goalModerate {
			goal = goalByBatches
		}
	case c.duplicates > 0 && none > 0:
		base = Baseline{Name: byNone, Value: none}
		if c.items == 1 && c.connections == goalModerate {
			goal = map[int]float64{20: goalSomeDouble, 100: goalAllDouble}[c.duplicates]
		}
	default:
		return nil
	}
	if err != nil {
		return err
	}
	by := figure(f.Name+"/by-"+base.Name, f.Unit, f.Value, base.Name, base.Value, Higher)
	if goal > 0 {
		by = by.atLeast(goal)
	}
	r.add(by)
	return nil
}

// store sends each POST once, without measuring.
func (s *system) store(ctx context.Context, shots []shot) error {
	if _, _, err := s.fire(ctx, loadConnections, startTimeout, &blend{shots: shots}); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// forget stores events until Options.Forget of them follow event before, so that the
// program no longer has the ids up to it in memory.
func (r *run) forget(ctx context.Context, s *system, before uint64) error {
	head, _, err := s.head(ctx)
	if err != nil {
		return err
	}
	if left := r.opts.Forget - int(head-before); left > 0 {
		return s.store(ctx, r.ids.shots(s.Secret, left/100+1, 100))
	}
	return nil
}
