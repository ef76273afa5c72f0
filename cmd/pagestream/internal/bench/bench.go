// Package bench measures how fast pagestream is. It compares every figure with a
// baseline that is measured in the same run, on the same disk, in the same process,
// because a rate alone depends on the machine as much as on the program.
//
// It measures the real program, which [Options].Start starts, through its HTTP
// listeners, and the lower layers through their packages. It uses a scratch
// directory and the loopback interface only.
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
	// ErrOptions is returned when the options are not valid.
	ErrOptions = errors.New("bench can't be run")
	// ErrAnswer is returned when a request was not answered 200.
	ErrAnswer = errors.New("not answered 200")
)

// Timeouts, so that nothing waits forever.
const (
	requestTimeout = 30 * time.Second
	storeTimeout   = 20 * time.Second
	startTimeout   = 5 * time.Minute
	stopTimeout    = time.Minute
	// maxValue is the maximum of each option that is a count.
	maxValue = 100_000_000
)

// StartOptions are the options with which the program is started.
type StartOptions struct {
	// Dir is the directory of all files of the program. If the program ran there
	// before, it continues with its data.
	Dir string
	// Window is JetStream's deduplication window if the stream was filled while the
	// program was not running; 0 is the program's default. If it is set, workers that
	// process the history event by event must not be started: a program that had been
	// running all the time would be done with that.
	Window time.Duration
	// Queue is how many events may wait to be stored. It is large enough that no POST
	// is rejected with the highest number of connections and items; 0 is the
	// program's default.
	Queue int
	// Timeout is how long a delivery may wait until it is durable. It is long, so that
	// a slow machine has a slow figure instead of an error.
	Timeout time.Duration
}

// System is a running program.
type System struct {
	// Public and Private are the addresses of its listeners.
	Public, Private string
	// Token is the admin token, Secret the app secret that signs deliveries.
	Token, Secret string
	// Close stops the program.
	Close func(context.Context) error
}

// Options configure a run. Dir, Start, Streams and Models are required.
type Options struct {
	// Dir is the scratch directory. The caller removes it.
	Dir string
	// Start starts a program and returns when it listens.
	Start func(context.Context, StartOptions) (*System, error)
	// Streams and Models are the paths of the embedded server's files and of the read
	// models, relative to the program's directory.
	Streams, Models string
	// Prepare creates the data directory of a program whose stream is filled before
	// its first start; nil if that is not necessary.
	Prepare func(dataDir string) error
	// Only selects sections by name; nil is all.
	Only *regexp.Regexp
	// Cell is how long each measurement lasts; default 1.5 s.
	Cell time.Duration
	// Connections, Items per POST, and Duplicates in percent: ingest is measured for
	// every combination, which is called a cell.
	Connections, Items, Duplicates []int
	// Pages and Contacts (of all pages together) are the number of pages and contacts
	// of the events; default 50 and 5000.
	Pages, Contacts int
	// Growth lists sizes of the stream in events, ascending.
	Growth []int
	// Sample is the number of events with which projections are measured, and of the
	// stream while pages and contacts grow; default 50,000.
	Sample int
	// Forget is how many ids the program may keep in memory; default 65,536. At least
	// that many new events are stored before the duplicates of the cells with 100 %,
	// so that they must be found in the index.
	Forget int
	// Short skips what a check does not compare: growth by pages and contacts.
	Short bool
	// Progress is called from one goroutine at the start of each step.
	Progress func(Progress)
}

// Progress is the progress of a run.
type Progress struct {
	Section, Step string
	// Done is the number of completed steps, Total about the number of all steps.
	Done, Total int
}

// Shorten sets the options of a check: fewer cells and a smaller stream. The method
// of measurement is the same.
func (o *Options) Shorten() {
	o.Short = true
	o.Connections, o.Items, o.Duplicates = []int{64, 256}, []int{1, 100}, []int{0, 20, 100}
	o.Growth = []int{10_000, 100_000}
}

// complete sets the defaults and checks the options.
func (o *Options) complete() error {
	if o.Dir == "" || o.Start == nil || o.Streams == "" || o.Models == "" {
		return fmt.Errorf("%w: the directory, the program or the paths of its files are missing", ErrOptions)
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
	case !within(o.Growth, 100, maxValue) || !slices.IsSorted(o.Growth) ||
		len(slices.Compact(slices.Clone(o.Growth))) < len(o.Growth):
		return fmt.Errorf("%w: --events and --growth are 100 to %d, and --growth ascends", ErrOptions, maxValue)
	case !within([]int{o.Pages, o.Contacts, o.Sample, o.Forget}, 1, maxValue):
		return fmt.Errorf("%w: pages, contacts and events are 1 to %d", ErrOptions, maxValue)
	}
	return nil
}

// run is the state of a run.
type run struct {
	opts   Options
	report Report
	http   *httptest.Server // the HTTP baseline
	ids    *traffic

	section     string
	done, total int
}

// Run measures the selected sections. An error is returned if something could not be
// measured, together with the report so far; it wraps [ErrOptions] if the options
// are not valid. A goal that is not met is not an error.
func Run(ctx context.Context, o Options) (Report, error) {
	if err := o.complete(); err != nil {
		return Report{}, err
	}
	r := &run{opts: o, http: newHTTPBaseline(), ids: newTraffic(o.Pages, o.Contacts), report: Report{
		At:        time.Now().UTC(),
		Machine:   Machine{CPUs: runtime.GOMAXPROCS(0), Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH},
		Cell:      o.Cell.Seconds(),
		Baselines: []Baseline{}, // not nil, so that it is a list in JSON
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
	selected := sections[:0]
	for _, s := range sections {
		if o.Only == nil || o.Only.MatchString(s.name) {
			selected = append(selected, s)
			r.total += s.steps
		}
	}
	if len(selected) == 0 {
		return Report{}, fmt.Errorf("%w: --only %s matches no section", ErrOptions, o.Only)
	}
	if err := r.machine(ctx); err != nil {
		return Report{}, err
	}
	for _, s := range selected {
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

// step reports what is measured next.
func (r *run) step(format string, a ...any) {
	r.opts.Progress(Progress{
		Section: r.section, Step: fmt.Sprintf(format, a...), Done: r.done, Total: max(r.total, r.done+1),
	})
	r.done++
}

// cleanUp calls f with a context that is not canceled with the run's, but has a
// timeout.
func cleanUp(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	return f(ctx)
}
