package cli

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/bench"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/dev"
)

// TestBench runs the whole bench against the real program, at a size that is too small
// for meaningful figures. It checks that each figure is present.
func TestBench(t *testing.T) {
	command := BenchCommand{
		Cell: 50 * time.Millisecond, Connections: []int{1, 4}, Items: []int{1, 3}, Duplicates: []int{0, 20, 100},
		Growth: []int{200, 400}, Sample: 300,
	}
	o, err := command.options()
	if err != nil {
		t.Fatal(err)
	}
	c := &CLI{Out: io.Discard, Err: io.Discard}
	o.Dir, o.Forget, o.Pages, o.Contacts = t.TempDir(), 1, 10, 50
	o.Start = func(ctx context.Context, so bench.StartOptions) (*bench.System, error) {
		return dev.StartBench(ctx, so, slog.New(slog.DiscardHandler))
	}
	steps := 0
	o.Progress = func(bench.Progress) { steps++ }
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	report, err := bench.Run(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Figures {
		if !(f.Value > 0 && f.Baseline > 0 && f.Ratio > 0) || math.IsInf(f.Ratio, 0) {
			t.Errorf("figure %+v", f)
		}
		if f.Section == "" || f.By == "" || f.Better != bench.Higher && f.Better != bench.Lower {
			t.Errorf("figure %+v", f)
		}
	}
	for _, b := range report.Baselines {
		if b.Value <= 0 {
			t.Errorf("baseline %+v", b)
		}
	}
	for _, p := range report.Growth {
		incomplete := p.Grows == "stream" && (p.Ready <= 0 || p.Heap == 0 || p.Stream == 0 || len(p.Models) != 4)
		if p.CatchUp <= 0 || p.Ingest <= 0 || p.Project <= 0 || p.Read <= 0 || incomplete {
			t.Errorf("point %+v", p)
		}
	}
	if len(report.Growth) != 2+3+3 || len(report.Sections) != 6 || steps == 0 ||
		report.Machine.FsyncP50 <= 0 || report.Machine.EventBytes < 500 {
		t.Errorf("%d points, %d sections, %d steps, %+v", len(report.Growth), len(report.Sections), steps, report.Machine)
	}
	if left, err := os.ReadDir(o.Dir); err != nil || len(left) > 0 {
		t.Errorf("files left in the scratch directory: %v %v", left, err)
	}
	if falls, compared := bench.Check(report, report); len(falls) > 0 || compared < 30 {
		t.Errorf("compared with itself: falls %v, compared %d", falls, compared)
	}

	report.Version = "test"
	var out bytes.Buffer
	c.Out = &out
	command.Out, command.Chart = filepath.Join(t.TempDir(), "report.json"), filepath.Join(t.TempDir(), "chart.svg")
	if err := command.print(c, report); err != nil || !strings.Contains(out.String(), "goals met") {
		t.Errorf("%v\n%s", err, out.String())
	}
	command.Check = command.Out
	if back, err := command.recorded(); err != nil || len(back.Figures) != len(report.Figures) {
		t.Errorf("%d figures of %d came back, %v", len(back.Figures), len(report.Figures), err)
	}
	if svg, err := os.ReadFile(command.Chart); err != nil || !bytes.Contains(svg, []byte("<svg")) {
		t.Errorf("chart: %v", err)
	}
}
