package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime/pprof"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/bench"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/datadir"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/dev"
	"github.com/pagestream/pagestream/config"
)

// BenchCommand measures the performance of this program on this machine, or compares it with another
// version.
type BenchCommand struct {
	Dir         string        `placeholder:"DIR" env:"PAGESTREAM_BENCH_DIR" help:"Parent of the scratch directory, which is removed at the end (default: the system's)."`
	Cell        time.Duration `placeholder:"TIME" env:"PAGESTREAM_BENCH_CELL" help:"Duration of each measurement (default: 1.5s)."`
	Connections []int         `placeholder:"N" env:"PAGESTREAM_BENCH_CONNECTIONS" help:"Numbers of connections (default: 1,16,64,256)."`
	Items       []int         `placeholder:"N" env:"PAGESTREAM_BENCH_ITEMS" help:"Items per POST (default: 1,10,100)."`
	Duplicates  []int         `placeholder:"PERCENT" env:"PAGESTREAM_BENCH_DUPLICATES" help:"Percentages of duplicates (default: 0,20,100)."`
	Events      int           `placeholder:"N" env:"PAGESTREAM_BENCH_EVENTS" help:"Size up to which the stream grows, measured at three points (default: 1000000; with --against 200000, before the first cell)."`
	Growth      []int         `placeholder:"N" env:"PAGESTREAM_BENCH_GROWTH" help:"The points, for example 100000,1000000,5000000."`
	Sample      int           `placeholder:"N" env:"PAGESTREAM_BENCH_SAMPLE" help:"Events for measuring read models (default: 50000)."`
	Only        string        `placeholder:"REGEXP" env:"PAGESTREAM_BENCH_ONLY" help:"Run only these sections: baseline, ingest, latency, projections, reads, growth. With --against these cells and parts: 16c/1i, 64c/1i, 256c/1i, 64c/10i, readable, catch-up, rebuild."`
	Check       string        `placeholder:"FILE" env:"PAGESTREAM_BENCH_CHECK" help:"Run a shorter version and fail if a ratio is more than 30 % worse than in this report."`
	Out         string        `placeholder:"FILE" env:"PAGESTREAM_BENCH_OUT" help:"Write the report to this file as JSON."`
	Chart       string        `placeholder:"FILE" env:"PAGESTREAM_BENCH_CHART" help:"Write a chart of growth to this file as SVG."`
	CPUProfile  string        `name:"cpuprofile" placeholder:"FILE" env:"PAGESTREAM_BENCH_CPUPROFILE" help:"Write a CPU profile of the run to this file."`
	Against     string        `placeholder:"BINARY" env:"PAGESTREAM_BENCH_AGAINST" help:"Compare this program with another version of it, each as a process of its own."`
	Rounds      int           `placeholder:"N" env:"PAGESTREAM_BENCH_ROUNDS" help:"With --against: how often each cell is measured (default: 3)."`
	Seconds     float64       `placeholder:"N" env:"PAGESTREAM_BENCH_SECONDS" help:"With --against: duration of each cell in seconds (default: 3)."`
}

// Run measures, prints the report and writes the files. It fails if a ratio fell below that of the
// --check report.
func (b BenchCommand) Run(c *CLI) (err error) {
	if b.Against != "" {
		return b.compare(c)
	}
	if b.Rounds != 0 || b.Seconds != 0 {
		return fmt.Errorf("%w: --rounds and --seconds are for --against; without it, give --cell", errUsage)
	}
	o, err := b.options()
	if err != nil {
		return err
	}
	logs := config.Default().Log
	logs.Level = cmp.Or(c.LogLevel, "error")
	log, err := c.logger(logs)
	if err != nil {
		return err
	}
	recorded, err := b.recorded()
	if err != nil {
		return err
	}
	if o.Dir, err = os.MkdirTemp(b.Dir, "pagestream-bench-"); err != nil {
		return fmt.Errorf("make scratch directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.Dir)) }()
	o.Start = func(ctx context.Context, so bench.StartOptions) (*bench.System, error) {
		return dev.StartBench(ctx, so, log)
	}

	if b.CPUProfile != "" {
		f, err := os.Create(b.CPUProfile)
		if err != nil {
			return fmt.Errorf("write CPU profile: %w", err)
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return fmt.Errorf("write CPU profile: %w", err)
		}
		defer pprof.StopCPUProfile()
	}
	bar := c.bar(1)
	defer bar.end()
	o.Progress = func(p bench.Progress) { bar.show(uint64(p.Done), uint64(p.Total), "%s  %s", p.Section, p.Step) }
	var report bench.Report
	var regressions []bench.Regression
	if b.Check == "" {
		report, err = bench.Run(c.ctx, o)
	} else {
		report, regressions, err = bench.Gate(c.ctx, o, recorded)
	}
	if errors.Is(err, bench.ErrOptions) {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	report.Version = c.build.read().Version
	if err != nil {
		if len(report.Figures) > 0 && !c.machine() {
			_ = report.WriteTable(c.Err) // the partial report
		}
		return fmt.Errorf("bench: %w", err)
	}
	if err := b.print(c, report); err != nil || len(regressions) == 0 {
		return err
	}
	if err := bench.WriteRegressions(c.Err, regressions); err != nil {
		return err
	}
	return fmt.Errorf("%d figures: %w", len(regressions), bench.ErrSlower)
}

// recorded reads the report of --check. It returns an empty report without --check.
func (b BenchCommand) recorded() (r bench.Report, err error) {
	if b.Check == "" {
		return r, nil
	}
	raw, err := os.ReadFile(b.Check)
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil {
		err = fmt.Errorf("read recorded report: %w", err)
	}
	return r, err
}

// options returns the options of the run without Dir, Start and Progress.
func (b BenchCommand) options() (bench.Options, error) {
	o := bench.Options{
		Cell: b.Cell, Prepare: datadir.Check,
		Streams: filepath.Join("data", "nats"), Models: filepath.Join("data", "projections"),
	}
	if b.Check != "" {
		o.Shorten()
	}
	for to, from := range map[*[]int][]int{
		&o.Connections: b.Connections, &o.Items: b.Items, &o.Duplicates: b.Duplicates, &o.Growth: b.Growth,
	} {
		if len(from) > 0 {
			*to = from
		}
	}
	o.Sample = b.Sample
	if b.Events != 0 && len(b.Growth) > 0 {
		return o, fmt.Errorf("%w: --events and --growth exclude each other; give one of them", errUsage)
	}
	if b.Events != 0 {
		o.Growth = []int{b.Events / 100, b.Events / 10, b.Events}
	}
	var err error
	o.Only, err = b.only()
	return o, err
}

// only returns the expression of --only, or nil without it.
func (b BenchCommand) only() (*regexp.Regexp, error) {
	if b.Only == "" {
		return nil, nil //nolint:nilnil // no expression selects everything
	}
	only, err := regexp.Compile(b.Only)
	if err != nil {
		return nil, fmt.Errorf("%w: --only: %w", errUsage, err)
	}
	return only, nil
}

// write writes a report to the file of --out.
func (b BenchCommand) write(report any) error {
	if b.Out == "" {
		return nil
	}
	err := writeAtomic(b.Out, 0o644, func(w io.Writer) error {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(report)
	})
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// print prints the report and writes the files of --out and --chart.
func (b BenchCommand) print(c *CLI, report bench.Report) error {
	if err := b.write(report); err != nil {
		return err
	}
	if b.Chart != "" {
		if err := writeAtomic(b.Chart, 0o644, report.WriteChart); err != nil {
			return fmt.Errorf("write chart: %w", err)
		}
	}
	var failed error
	err := c.Print(report, func() { failed = report.WriteTable(c.Out) })
	return errors.Join(err, failed)
}

// writeAtomic writes a file through a temporary one: after an error the file is unchanged.
func writeAtomic(name string, mode os.FileMode, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".pagestream-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	err = errors.Join(write(f), f.Chmod(mode), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
