package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
)

// The values of [Point].Grows.
const (
	growsStream   = "stream"
	growsPages    = "pages"
	growsContacts = "contacts"
)

const (
	// goalReady is the goal for a start, in seconds.
	goalReady = 3
	// goalHeap is how much the heap may change between the last two points.
	goalHeap = 0.10
	// heapFrom is the size of the stream from which goalHeap is a goal: at smaller
	// sizes the program's pools are not full yet.
	heapFrom = 1_000_000
	// costOver is how many events at the end of catching up determine the cost of an
	// event.
	costOver = 20_000
	// byServer is the start of the embedded server alone, with the same files.
	byServer = "server-start"
	// tries is how often a cost is measured at each point.
	tries = 3
	// wider is the factor by which the number of pages and of contacts is increased
	// and decreased.
	wider = 10
)

// growthSteps returns about how many steps the section has.
func (r *run) growthSteps() int {
	n := 6 * len(r.opts.Growth)
	if !r.opts.Short {
		n += 4 * 5
	}
	return n
}

// growthSection measures the cost of an event as the stream, the pages and the
// contacts grow, one at a time, and the cost of a start as the stream grows.
func (r *run) growthSection(ctx context.Context) error {
	bolt, err := r.bolt(ctx)
	if err != nil {
		return err
	}
	if err := r.growStream(ctx, bolt); err != nil {
		return err
	}
	if r.opts.Short {
		return nil
	}
	pages, contacts := r.opts.Pages, r.opts.Contacts
	middle, err := r.wide(ctx, pages, contacts)
	if err != nil {
		return err
	}
	for _, grows := range []string{growsPages, growsContacts} {
		var points []Point
		for _, times := range []float64{1. / wider, 1, wider} {
			p := middle
			switch {
			case times == 1:
			case grows == growsPages:
				p, err = r.wide(ctx, scaled(pages, times), contacts)
			default:
				p, err = r.wide(ctx, pages, scaled(contacts, times))
			}
			if err != nil {
				return err
			}
			p.Grows = grows
			points = append(points, p)
			r.cost(points, map[string]int{growsPages: p.Pages, growsContacts: p.Contacts}[grows])
		}
	}
	return nil
}

func scaled(n int, times float64) int { return max(1, int(float64(n)*times)) }

// cost adds the last of the points to the report, and its costs relative to those of
// the first point.
func (r *run) cost(points []Point, size int) {
	first, p := points[0], points[len(points)-1]
	r.report.Growth = append(r.report.Growth, p)
	if len(points) == 1 {
		return
	}
	for _, s := range series {
		f := figure(fmt.Sprintf("growth/%s/%d/%s", p.Grows, size, s.name), "us", s.of(p),
			"the first of "+p.Grows, s.of(first), Lower)
		f.Ungated = first.Events < costOver // too few events to measure a cost
		r.add(f)
	}
}

// wide measures a stream of a fixed size with the given numbers of pages and contacts.
func (r *run) wide(ctx context.Context, pages, contacts int) (p Point, err error) {
	contacts = max(contacts, pages)
	p = Point{Events: uint64(r.opts.Sample), Pages: pages, Contacts: contacts}
	dir := fmt.Sprintf("growth-%d-%d", pages, contacts)
	defer func() { err = errors.Join(err, os.RemoveAll(filepath.Join(r.opts.Dir, dir))) }()
	ids := newTraffic(pages, contacts)
	what := fmt.Sprintf("%d pages, %d contacts", pages, contacts)
	r.step("%s: fill", what)
	if err := r.fill(ctx, dir, ids, p.Events); err != nil {
		return p, err
	}
	r.step("%s: catch up", what)
	s, err := r.startBehind(ctx, dir, &p, 0, p.Events)
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, s.stop(ctx)) }()
	err = r.costs(ctx, s, ids, &p, what)
	return p, err
}

// startBehind starts a program whose read models are at event from, backlog events
// behind, and measures how fast they catch up.
func (r *run) startBehind(ctx context.Context, dir string, p *Point, from, backlog uint64) (*system, error) {
	began := time.Now()
	s, err := r.start(ctx, dir, r.pastWindow())
	if err != nil {
		return nil, err
	}
	_, marks, err := s.catchUp(ctx, catchUpStep)
	if err != nil {
		return nil, errors.Join(err, s.stop(ctx))
	}
	// A short backlog may be processed before the first mark.
	marks = append([]mark{{began, from}}, marks...)
	p.CatchUp = rateOf(marks, backlog)
	if rate := rateOf(marks, min(costOver, backlog*3/4)); rate > 0 {
		p.Project = 1e6 / rate
	}
	return s, nil
}

// costs measures the cost of reading a conversation, and the cost of an event in POSTs
// with one item on many connections.
func (r *run) costs(ctx context.Context, s *system, ids *traffic, p *Point, what string) (err error) {
	r.step("%s: read", what)
	p.Read, err = leastOf(func() (float64, error) {
		got, err := r.read(ctx, s, ids, latest, r.opts.Cell/2)
		return us(got.p50), err
	})
	if err != nil {
		return err
	}
	r.step("%s: ingest", what)
	p.Ingest, err = leastOf(func() (float64, error) {
		got, _, err := s.fire(ctx, loadConnections, r.opts.Cell/2,
			&blend{shots: ids.shots(s.Secret, r.fresh(1)/2+1, 1)})
		return 1e6 / got.rate, err
	})
	return err
}

// growStream measures a program as its stream grows.
func (r *run) growStream(ctx context.Context, bolt Baseline) (err error) {
	const dir = "growth"
	defer func() { err = errors.Join(err, os.RemoveAll(filepath.Join(r.opts.Dir, dir))) }()
	ids := newTraffic(r.opts.Pages, r.opts.Contacts)
	var points []Point
	for i, n := range r.opts.Growth {
		p, bare, err := r.grow(ctx, dir, ids, n)
		if err != nil {
			return fmt.Errorf("%d events: %w", n, err)
		}
		points = append(points, p)
		r.cost(points, n)
		r.add(figure(fmt.Sprintf("catch-up/%d", n), "events/s", p.CatchUp, bolt.Name, bolt.Value, Higher))
		r.add(figure(fmt.Sprintf("start/%d", n), "s", p.Ready, byServer, bare, Lower).below(goalReady))
		for _, m := range models() {
			r.add(figure(fmt.Sprintf("size/%d/%s", n, m.Name()), "bytes", float64(p.Models[m.Name()]),
				growsStream, float64(p.Stream), Lower))
		}
		if i > 0 {
			f := figure(fmt.Sprintf("heap/%d", n), "bytes", float64(p.Heap),
				fmt.Sprintf("heap/%d", r.opts.Growth[i-1]), float64(points[i-1].Heap), Lower)
			if i == len(r.opts.Growth)-1 && r.opts.Growth[i-1] >= heapFrom {
				f = f.withGoal(fmt.Sprintf("within %.0f %%", 100*goalHeap), math.Abs(f.Ratio-1) <= goalHeap)
			}
			r.add(f)
		}
	}
	return nil
}

// grow fills the stream up to n events and measures the program with it. bare is how
// long the embedded server alone takes to start with the same files, in seconds.
func (r *run) grow(ctx context.Context, dir string, ids *traffic, n int) (p Point, bare float64, err error) {
	p = Point{Grows: growsStream, Events: uint64(n), Pages: r.opts.Pages, Contacts: r.opts.Contacts}
	// The read models have all events but the backlog before the program starts, so
	// that they catch up with the same number of events at each point.
	backlog := min(p.Events/2, costOver+costOver/2)
	var from uint64
	r.step("%d events: fill", n)
	err = r.offline(ctx, dir, func(s *server) error {
		if err := s.fillTo(ctx, ids, p.Events-backlog); err != nil {
			return err
		}
		r.step("%d events: read models", n)
		if err := r.prepare(ctx, dir, s); err != nil {
			return err
		}
		// The measurements of the previous point may have stored more events than that.
		if from, err = streams.Last(ctx, s.js, streams.Name); err != nil {
			return err
		}
		p.Events = max(p.Events, from+backlog)
		return s.fillTo(ctx, ids, p.Events)
	})
	if err != nil {
		return p, 0, err
	}
	filled := time.Now()
	r.step("%d events: catch up", n)
	s, err := r.startBehind(ctx, dir, &p, from, backlog)
	if err != nil {
		return p, 0, err
	}
	if err := s.stop(ctx); err != nil {
		return p, 0, err
	}

	// All events have left the dedup window, as nearly all have in a program that has
	// been running for years.
	if err := backoff.Sleep(ctx, time.Until(filled.Add(r.pastWindow()+r.pastWindow()/2))); err != nil {
		return p, 0, err
	}
	r.step("%d events: start", n)
	bare, err = leastOf(func() (float64, error) {
		began := time.Now()
		s, err := open(ctx, filepath.Join(r.opts.Dir, dir, r.opts.Streams), embedded.SyncInterval, r.pastWindow())
		if err != nil {
			return 0, err
		}
		took := time.Since(began).Seconds()
		return took, s.stop(ctx)
	})
	if err != nil {
		return p, 0, err
	}
	for i := range tries {
		began := time.Now()
		if s, err = r.start(ctx, dir, r.pastWindow()); err != nil {
			return p, bare, err
		}
		err := s.ready(ctx)
		if took := time.Since(began).Seconds(); i == 0 || took < p.Ready {
			p.Ready = took
		}
		if last := i == tries-1; err != nil || !last {
			err = errors.Join(err, s.stop(ctx))
		}
		if err != nil {
			return p, bare, err
		}
	}
	defer func() { err = errors.Join(err, s.stop(ctx)) }()
	if err := r.weigh(ctx, s, &p); err != nil {
		return p, bare, err
	}
	if err := r.costs(ctx, s, ids, &p, fmt.Sprintf("%d events", n)); err != nil {
		return p, bare, err
	}
	err = r.weighHeap(ctx, &p)
	return p, bare, err
}

// leastOf measures a cost several times and returns the least: disturbances only
// increase a measured cost.
func leastOf(measure func() (float64, error)) (float64, error) {
	least := math.Inf(1)
	for range tries {
		cost, err := measure()
		if err != nil {
			return 0, err
		}
		least = min(least, cost)
	}
	return least, nil
}

// weigh measures the program's memory and disk usage.
func (r *run) weigh(ctx context.Context, s *system, p *Point) (err error) {
	if _, p.Stream, err = s.head(ctx); err != nil {
		return err
	}
	p.Models = map[string]int64{}
	for _, m := range models() {
		info, err := os.Stat(filepath.Join(s.dir, r.opts.Models, m.Name()+".db"))
		if err != nil {
			return fmt.Errorf("measure read model: %w", err)
		}
		p.Models[m.Name()] = info.Size()
	}
	return r.weighHeap(ctx, p)
}

// weighHeap measures the least heap and resident set within some seconds: JetStream
// keeps 8 MB blocks that it has just read or written for about that long, and they do
// not depend on the size of the stream.
func (r *run) weighHeap(ctx context.Context, p *Point) error {
	for until := time.Now().Add(r.pastWindow()); ; {
		debug.FreeOSMemory() // also runs a garbage collection
		var mem runtime.MemStats
		runtime.ReadMemStats(&mem)
		if p.Heap == 0 || mem.HeapAlloc < p.Heap {
			p.Heap = mem.HeapAlloc
		}
		if rss := resident(); p.RSS == 0 || rss < p.RSS {
			p.RSS = rss
		}
		if time.Now().After(until) {
			return nil
		}
		if err := backoff.Sleep(ctx, r.pastWindow()/10); err != nil {
			return err
		}
	}
}

// resident returns the resident set of the process in bytes, 0 if the system does not
// report it.
func resident() uint64 {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, pages uint64
	_, _ = fmt.Sscan(string(statm), &size, &pages)
	return pages * uint64(os.Getpagesize())
}

// latest requests the last message of a conversation: the answer has the same size no
// matter how long the conversation is.
var latest = readPath{"latest", func(page, contact string) string {
	return messagesPath(page, contact) + "?order=newest&limit=1"
}}
