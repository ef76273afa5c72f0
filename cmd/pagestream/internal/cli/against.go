package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/bench"
)

// BareHandlerCommand serves what a webhook costs at least. `bench --against` starts it.
type BareHandlerCommand struct {
	Addr string `arg:"" help:"The listen address."`
}

// Run serves until the context ends.
func (h BareHandlerCommand) Run(c *CLI) error { return bench.ServeBare(c.ctx, h.Addr) }

// compare compares this program with that of --against.
func (b BenchCommand) compare(c *CLI) (err error) {
	o, err := b.againstOptions()
	if err != nil {
		return err
	}
	if o.Dir, err = os.MkdirTemp(b.Dir, "pagestream-bench-"); err != nil {
		return fmt.Errorf("make scratch directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.Dir)) }()
	bar := c.bar(1)
	defer bar.end()
	o.Progress = func(p bench.Progress) { bar.show(uint64(p.Done), uint64(p.Total), "%s  %s", p.Section, p.Step) }
	report, err := bench.RunAgainst(c.ctx, o)
	bar.end()
	if errors.Is(err, bench.ErrOptions) {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	if err != nil {
		if len(report.Rows) > 0 && !c.machine() {
			_ = report.WriteTable(c.Err) // the partial comparison
		}
		return fmt.Errorf("bench: %w", err)
	}
	if err := b.write(report); err != nil {
		return err
	}
	var failed error
	err = c.Print(report, func() { failed = report.WriteTable(c.Out) })
	return errors.Join(err, failed)
}

// againstOptions returns the options of a comparison without Dir and Progress. Flags that only a run
// without --against has are refused.
func (b BenchCommand) againstOptions() (o bench.AgainstOptions, err error) {
	for _, f := range []struct {
		name  string
		given bool
	}{
		{"--cell", b.Cell != 0},
		{"--connections", len(b.Connections) > 0},
		{"--items", len(b.Items) > 0},
		{"--duplicates", len(b.Duplicates) > 0},
		{"--growth", len(b.Growth) > 0},
		{"--sample", b.Sample != 0},
		{"--check", b.Check != ""},
		{"--chart", b.Chart != ""},
		{"--cpuprofile", b.CPUProfile != ""},
	} {
		if f.given {
			return o, fmt.Errorf("%w: %s and --against exclude each other; --against has --rounds, --seconds, --events, "+
				"--only, --out and --dir", errUsage, f.name)
		}
	}
	o = bench.AgainstOptions{Rounds: b.Rounds, Cell: time.Duration(b.Seconds * float64(time.Second)), Events: b.Events}
	if o.Only, err = b.only(); err != nil {
		return o, err
	}
	if o.Against, err = filepath.Abs(b.Against); err != nil {
		return o, fmt.Errorf("find --against: %w", err)
	}
	if o.This, err = os.Executable(); err != nil {
		return o, fmt.Errorf("find this program: %w", err)
	}
	return o, nil
}
