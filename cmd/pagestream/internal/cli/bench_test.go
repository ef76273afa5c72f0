package cli

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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
	require.NoError(t, err)
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
	require.NoError(t, err)
	for _, f := range report.Figures {
		require.True(t, f.Value > 0 && f.Baseline > 0 && f.Ratio > 0)
		require.False(t, math.IsInf(f.Ratio, 0))
		require.NotEmpty(t, f.Section)
		require.NotEmpty(t, f.By)
		require.Contains(t, []string{bench.Higher, bench.Lower}, f.Better)
	}
	for _, b := range report.Baselines {
		require.Positive(t, b.Value)
	}
	for _, p := range report.Growth {
		incomplete := p.Grows == "stream" && (p.Ready <= 0 || p.Heap == 0 || p.Stream == 0 || len(p.Models) != 5)
		require.Positive(t, p.CatchUp)
		require.Positive(t, p.Ingest)
		require.Positive(t, p.Project)
		require.Positive(t, p.Read)
		require.False(t, incomplete)
	}
	require.Len(t, report.Growth, 2+3+3)
	require.Len(t, report.Sections, 6)
	require.NotZero(t, steps)
	require.Positive(t, report.Machine.FsyncP50)
	require.GreaterOrEqual(t, report.Machine.EventBytes, 500)
	left, err := os.ReadDir(o.Dir)
	require.NoError(t, err)
	require.Empty(t, left, "files left in the scratch directory")
	falls, compared := bench.Check(report, report)
	require.Empty(t, falls, "compared with itself")
	require.GreaterOrEqual(t, compared, 30, "compared with itself")

	report.Version = "test"
	var out bytes.Buffer
	c.Out = &out
	command.Out, command.Chart = filepath.Join(t.TempDir(), "report.json"), filepath.Join(t.TempDir(), "chart.svg")
	err = command.print(c, report)
	require.NoError(t, err)
	require.Contains(t, out.String(), "goals met")
	command.Check = command.Out
	back, err := command.recorded()
	require.NoError(t, err)
	require.Len(t, back.Figures, len(report.Figures))
	svg, err := os.ReadFile(command.Chart)
	require.NoError(t, err)
	require.Contains(t, string(svg), "<svg")
}
