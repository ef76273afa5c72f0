// Package bench measures how fast pagestream is, and holds every figure against
// a baseline that was measured in the same run, on the same disk, in the same
// process: a rate alone says as much about the machine as about the program.
//
// It measures the real program, which it is given a way to start, through its
// HTTP listeners, and the parts below it through their own packages. Everything
// happens in a scratch directory and on loopback.
package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"regexp"
	"runtime"
	"slices"
	"time"
)

// Errors of a run.
var (
	// ErrOptions says that a run can't be made of these options.
	ErrOptions = errors.New("bench can't be run")
	// ErrAnswer says that a POST was not answered 200.
	ErrAnswer = errors.New("not answered 200")
)

// Bounds, so that nothing waits for ever.
const (
	requestTimeout = 30 * time.Second
	storeTimeout   = 20 * time.Second
	startTimeout   = 5 * time.Minute
	stopTimeout    = time.Minute
	// maxValue bounds each option that is a number of things.
	maxValue = 100_000_000
)

// StartOptions say how the program is to be started.
type StartOptions struct {
	// Dir has all files of the program. One that ran there before is gone on with.
	Dir string
	// Window is how long JetStream remembers ids, where the stream was filled while
	// no program ran; 0 is the program's default. What works through history one
	// event at a time is left out with it: in a program that was there all along it
	// is done with that.
	Window time.Duration
	// Queue is how many events may wait to be stored, so that the most connections
	// with the most items are not told to come back; 0 is the program's default.
	Queue int
	// Timeout is how long a delivery may wait for durability: so much that a slow
	// machine gives a slow figure, and not none.
	Timeout time.Duration
}

// System is a program that runs.
type System struct {
	// Public and Private are the addresses of its listeners.
	Public, Private string
	// Token is the admin token, Secret the app secret that signs deliveries.
	Token, Secret string
	// Close stops it.
	Close func(context.Context) error
}

// Options configure a run. Dir, Start, Streams and Models are required.
type Options struct {
	// Dir is the scratch directory. The caller removes it.
	Dir string
	// Start starts a program and returns when it listens.
	Start func(context.Context, StartOptions) (*System, error)
	// Streams and Models are where a program has its embedded server's files and
	// its read models, below its directory.
	Streams, Models string
	// Prepare makes the data directory of a program whose streams are filled before
	// its first start; nil where a program takes any directory.
	Prepare func(dataDir string) error
	// Only chooses sections by name; nil is all.
	Only *regexp.Regexp
	// Cell is how long each measurement lasts.
	Cell time.Duration
	// Connections, Items a POST, and Duplicates in percent make the cells of ingest.
	Connections, Items, Duplicates []int
	// Pages and Contacts (of all pages together) spread the events.
	Pages, Contacts int
	// Growth are sizes of the stream, ascending.
	Growth []int
	// Sample is how many events the projections are measured with, and how many
	// the stream has while pages and contacts grow.
	Sample int
	// Forget is how many ids the program may keep in memory: what comes again in
	// full has that many new ones in between, so that the index has to find it.
	Forget int
	// Short leaves out what a check does not compare: pages and contacts growing.
	Short bool
	// Progress is called from one goroutine at the start of each step.
	Progress func(Progress)
}

// Progress is where a run stands.
type Progress struct {
	Section, Step string
	// Done of about Total steps are over.
	Done, Total int
}

// Shorten makes the options those of a check: fewer cells, a smaller stream. What
// it still measures it measures in the same manner.
func (o *Options) Shorten() {
	o.Short = true
	o.Connections, o.Items, o.Duplicates = []int{64, 256}, []int{1, 100}, []int{0, 20, 100}
	o.Growth = []int{10_000, 100_000}
}

// complete fills in the defaults and says what is wrong.
func (o *Options) complete() error {
	if o.Dir == "" || o.Start == nil || o.Streams == "" || o.Models == "" {
		return fmt.Errorf("%w: no directory, no program, or not where its files are", ErrOptions)
	}
	o.Pages, o.Contacts = cmp.Or(o.Pages, 50), cmp.Or(o.Contacts, 5000)
	o.Sample, o.Forget = cmp.Or(o.Sample, 50_000), cmp.Or(o.Forget, 64<<10)
	o.Cell = cmp.Or(o.Cell, 1500*time.Millisecond)
	for v, d := range map[*[]int][]int{
		&o.Connections: {1, 16, 64, 256}, &o.Items: {1, 10, 100}, &o.Duplicates: {0, 20, 100},
		&o.Growth: {10_000, 100_000, 1_000_000},
	} {
		if len(*v) == 0 {
			*v = d
		}
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	within := func(list []int, low, high int) bool {
		return !slices.ContainsFunc(list, func(n int) bool { return n < low || n > high })
	}
	switch {
	case o.Cell < 10*time.Millisecond || o.Cell > 10*time.Minute:
		return fmt.Errorf("%w: --cell is 10ms to 10m", ErrOptions)
	case !within(o.Connections, 1, 10_000):
		return fmt.Errorf("%w: --connections are 1 to 10000", ErrOptions)
	case !within(o.Items, 1, 1000):
		return fmt.Errorf("%w: --items are 1 to 1000", ErrOptions)
	case !within(o.Duplicates, 0, 100) || !slices.Contains(o.Duplicates, 0):
		return fmt.Errorf("%w: --duplicates are 0 to 100 percent, and 0 is one of them", ErrOptions)
	case !within(o.Growth, 100, maxValue) || !slices.IsSorted(o.Growth) || len(slices.Compact(slices.Clone(o.Growth))) < len(o.Growth):
		return fmt.Errorf("%w: --events and --growth are 100 to %d, and --growth ascends", ErrOptions, maxValue)
	case !within([]int{o.Pages, o.Contacts, o.Sample, o.Forget}, 1, maxValue):
		return fmt.Errorf("%w: pages, contacts and events are 1 to %d", ErrOptions, maxValue)
	}
	return nil
}

// run is one run under way.
type run struct {
	opts   Options
	report Report
	http   *httptest.Server // the HTTP baseline
	ids    *traffic

	section     string
	done, total int
}

// Run measures the sections that the options choose. An error says that
// something could not be measured, and the report has what could until then; a
// goal that is not met is no error.
func Run(ctx context.Context, o Options) (Report, error) {
	if err := o.complete(); err != nil {
		return Report{}, err
	}
	r := &run{opts: o, http: newHTTPBaseline(), ids: newTraffic(o.Pages, o.Contacts), report: Report{
		At:        time.Now().UTC(),
		Machine:   Machine{CPUs: runtime.GOMAXPROCS(0), Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH},
		Cell:      o.Cell.Seconds(),
		Baselines: []Baseline{}, // in JSON a list, also where none was needed
	}}
	defer r.http.Close()
	sections := []struct {
		name  string
		steps int
		run   func(context.Context) error
	}{
		{"baseline", 4, r.baselineSection},
		{"ingest", len(o.Connections) * len(o.Items) * (len(o.Duplicates) + 1), r.ingestSection},
		{"latency", 2, r.latencySection},
		{"projections", 1 + 2*len(models()), r.projectionsSection},
		{"reads", 1 + len(readPaths), r.readsSection},
		{"growth", r.growthSteps(), r.growthSection},
	}
	chosen := sections[:0]
	for _, s := range sections {
		if o.Only == nil || o.Only.MatchString(s.name) {
			chosen = append(chosen, s)
			r.total += s.steps
		}
	}
	if len(chosen) == 0 {
		return Report{}, fmt.Errorf("%w: --only %s is none of its sections", ErrOptions, o.Only)
	}
	if err := r.machine(ctx); err != nil {
		return Report{}, err
	}
	for _, s := range chosen {
		r.section = s.name
		began := time.Now()
		err := s.run(ctx)
		r.report.Sections = append(r.report.Sections, Section{Name: s.name, Took: time.Since(began).Seconds()})
		r.report.Took = time.Since(r.report.At).Seconds()
		if err != nil {
			return r.report, fmt.Errorf("measure %s: %w", s.name, err)
		}
	}
	return r.report, nil
}

// step says what is measured next.
func (r *run) step(format string, a ...any) {
	r.opts.Progress(Progress{Section: r.section, Step: fmt.Sprintf(format, a...), Done: r.done, Total: max(r.total, r.done+1)})
	r.done++
}

// atLast runs f also where the run was interrupted, but not for ever.
func atLast(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	return f(ctx)
}
