package bench

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// The values of [Figure].Better.
const (
	Higher = "higher"
	Lower  = "lower"
)

// Report is the result of a run.
type Report struct {
	Version string    `json:"version"`
	At      time.Time `json:"at"`
	// Took and Cell are in seconds.
	Took     float64   `json:"took_s"`
	Cell     float64   `json:"cell_s"`
	Machine  Machine   `json:"machine"`
	Sections []Section `json:"sections"`
	// Load is the load during the measurement of latency, in POSTs per second.
	Load float64 `json:"load_posts_s,omitempty"`
	// Baselines are the baselines that were needed for the figures.
	Baselines []Baseline `json:"baselines"`
	Figures   []Figure   `json:"figures"`
	Growth    []Point    `json:"growth"`
}

// Machine describes the machine of a run.
type Machine struct {
	CPUs int    `json:"cpus"`
	Go   string `json:"go"`
	OS   string `json:"os"`
	Arch string `json:"arch"`
	// FsyncP50 and FsyncP99 are how long it takes to append 4 KiB to a file in the
	// scratch directory and sync it, in microseconds.
	FsyncP50 float64 `json:"fsync_p50_us"`
	FsyncP99 float64 `json:"fsync_p99_us"`
	// EventBytes is the size of one event of the run as stored, headers included.
	EventBytes int `json:"event_bytes"`
}

// Section is a part of the run and how long it took, in seconds.
type Section struct {
	Name string  `json:"name"`
	Took float64 `json:"took_s"`
}

// Baseline is a measured value with which figures are compared.
type Baseline struct {
	Name  string  `json:"name"`
	Unit  string  `json:"unit"`
	Value float64 `json:"value"`
	// P50 and P99 are the latencies of its answers in milliseconds, 0 if it has no
	// answers.
	P50 float64 `json:"p50_ms,omitempty"`
	P99 float64 `json:"p99_ms,omitempty"`
}

// Figure is a measurement and its baseline.
type Figure struct {
	// Name is the same in every run. Section is the section that measures the figure.
	Name    string `json:"name"`
	Section string `json:"section"`
	Unit    string `json:"unit"`
	// Ratio is Value divided by Baseline, whose name is By.
	Value    float64 `json:"value"`
	Baseline float64 `json:"baseline"`
	By       string  `json:"by"`
	Ratio    float64 `json:"ratio"`
	// Better is [Higher] or [Lower].
	Better string `json:"better"`
	// Goal describes the goal, and Met is whether it was met; empty and nil if there
	// is none.
	Goal string `json:"goal,omitempty"`
	Met  *bool  `json:"met,omitempty"`
	// Ungated figures are reported but not compared: a single disturbance of the
	// machine changes them too much, such as a maximum.
	Ungated bool `json:"ungated,omitempty"`
	// Posts is the number of POSTs per second; P50 and P99 are the latencies of the
	// answers, in milliseconds.
	Posts float64 `json:"posts_s,omitempty"`
	P50   float64 `json:"p50_ms,omitempty"`
	P99   float64 `json:"p99_ms,omitempty"`
	// Behind is the number of events that the slowest read model was behind at the end.
	Behind *uint64 `json:"behind,omitempty"`
}

// Point is the state of a program at one size.
type Point struct {
	// Grows is the quantity that grows: "stream", "pages" or "contacts".
	Grows    string `json:"grows"`
	Events   uint64 `json:"events"`
	Pages    int    `json:"pages"`
	Contacts int    `json:"contacts"`
	// CatchUp is the rate at which the read models caught up with the stream, all at
	// the same time, in events per second.
	CatchUp float64 `json:"catch_up_events_s"`
	// Ingest, Project and Read are the costs at that size in microseconds: of
	// accepting an event over HTTP, of applying an event to all read models, and of
	// reading a conversation.
	Ingest  float64 `json:"ingest_us"`
	Project float64 `json:"project_us"`
	Read    float64 `json:"read_p50_us"`
	// Ready is the time from the start of the program until /readyz succeeds, in
	// seconds. It and the fields below are measured with the same program, and only if
	// the stream grows.
	Ready float64 `json:"ready_s,omitempty"`
	// Heap is the heap in use after a garbage collection, RSS the resident set of the
	// process (0 if the system does not report it), Stream the size of the stream, and
	// Models the sizes of the read models by name, all in bytes.
	Heap   uint64           `json:"heap_bytes,omitempty"`
	RSS    uint64           `json:"rss_bytes,omitempty"`
	Stream uint64           `json:"stream_bytes,omitempty"`
	Models map[string]int64 `json:"model_bytes,omitempty"`
}

// figure returns a figure with a value and its baseline.
func figure(name, unit string, value float64, by string, baseline float64, better string) Figure {
	f := Figure{Name: name, Unit: unit, Value: value, By: by, Baseline: baseline, Better: better}
	if baseline != 0 {
		f.Ratio = value / baseline
	}
	return f
}

// withGoal sets a goal and whether it was met.
func (f Figure) withGoal(goal string, met bool) Figure {
	f.Goal, f.Met = goal, &met
	return f
}

// atLeast sets a minimum for the ratio as the goal.
func (f Figure) atLeast(ratio float64) Figure {
	return f.withGoal(fmt.Sprintf("at least %gx", ratio), f.Ratio >= ratio)
}

// below sets a maximum for the value as the goal.
func (f Figure) below(value float64) Figure {
	return f.withGoal(fmt.Sprintf("below %g %s", value, f.Unit), f.Value < value)
}

func (r *run) add(f Figure) {
	f.Section = r.section
	r.report.Figures = append(r.report.Figures, f)
}

// Goals returns how many goals were met, and how many there are.
func (r Report) Goals() (met, all int) {
	for _, f := range r.Figures {
		if f.Met != nil {
			all++
			if *f.Met {
				met++
			}
		}
	}
	return met, all
}

// WriteTable writes the report as text tables.
func (r Report) WriteTable(w io.Writer) error {
	m := r.Machine
	fmt.Fprintf(w, "%d CPUs, %s/%s, %s; append and fsync of 4 KiB: p50 %.0f us, p99 %.0f us; an event is %d bytes\n\n",
		m.CPUs, m.OS, m.Arch, m.Go, m.FsyncP50, m.FsyncP99, m.EventBytes)
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0) // an empty line ends a table
	fmt.Fprintln(t, "BASELINE\tVALUE\tUNIT\tP50 MS\tP99 MS")
	for _, b := range r.Baselines {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", b.Name, number(b.Value), b.Unit, optional(b.P50), optional(b.P99))
	}
	fmt.Fprintln(t, "\nFIGURE\tVALUE\tUNIT\tRATIO\tBY\tGOAL\tP50 MS\tP99 MS\tBEHIND")
	for _, f := range r.Figures {
		behind := "-"
		if f.Behind != nil {
			behind = fmt.Sprint(*f.Behind)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%sx\t%s\t%s\t%s\t%s\t%s\n", f.Name, number(f.Value), f.Unit,
			number(f.Ratio), f.By, f.verdict(), optional(f.P50), optional(f.P99), behind)
	}
	if len(r.Growth) > 0 {
		r.writeGrowth(t)
	}
	met, all := r.Goals()
	fmt.Fprintf(t, "\n%d of %d goals met, in %s\n", met, all,
		time.Duration(r.Took*float64(time.Second)).Round(time.Second))
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

func (r Report) writeGrowth(w io.Writer) {
	fmt.Fprintln(w, "\nGROWS\tEVENTS\tPAGES\tCONTACTS\tINGEST US\tPROJECT US\tREAD P50 US\tCATCH-UP/S\tREADY S\t"+
		"HEAP MB\tRSS MB\tSTREAM MB\tREAD MODELS MB")
	for _, p := range r.Growth {
		var models int64
		for _, n := range p.Models {
			models += n
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%.1f\t%.1f\t%.0f\t%s\t%s\t%s\t%s\t%s\t%s\n",
			p.Grows, p.Events, p.Pages, p.Contacts, p.Ingest, p.Project, p.Read,
			number(p.CatchUp), optional(p.Ready), megabytes(p.Heap), megabytes(p.RSS), megabytes(p.Stream),
			megabytes(uint64(models)))
	}
}

// verdict returns the goal and whether it was met.
func (f Figure) verdict() string {
	switch {
	case f.Met == nil:
		return "-"
	case *f.Met:
		return f.Goal + ": met"
	}
	return f.Goal + ": NOT MET"
}

// number formats a value with the significant digits only.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 0.1 || v == 0:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.4f", v)
}

func optional(v float64) string {
	if v == 0 {
		return "-"
	}
	return number(v)
}

func megabytes(n uint64) string {
	if n == 0 {
		return "-"
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(n)/1e6), ".0")
}
