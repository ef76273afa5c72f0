//go:build linux

package server_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/bench"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// TestBenchAgainst compares the program with itself, at a size that is too small for
// meaningful figures, and checks that each figure is present and nothing is left.
func TestBenchAgainst(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	out := filepath.Join(t.TempDir(), "report.json")
	ctx, cancel := context.WithTimeout(t.Context(), 4*streamstest.Limit)
	defer cancel()
	code, stdout, stderr := run(t, ctx, "bench", "--against", self, "--dir", dir, "--events", "500", "--rounds", "2",
		"--seconds", "0.1", "--only", "64c/1i|readable|catch-up|rebuild", "--out", out, "--json")
	require.Equal(t, cli.ExitOK, code, stderr)
	var report bench.Comparison
	require.NoError(t, json.Unmarshal([]byte(stdout), &report))
	written, err := os.ReadFile(out)
	require.NoError(t, err)
	require.JSONEq(t, stdout, string(written))

	require.Equal(t, self, report.Binary)
	require.Equal(t, report.Version, report.Against)
	require.NotContains(t, strings.Join(report.Notes, "\n"), "was not measured")
	_, err = exec.LookPath("strace")
	straced := err == nil
	require.Equal(t, straced, strings.HasPrefix(report.Syncs, "counted"), report.Syncs)
	var names []string
	for _, r := range report.Rows {
		names = append(names, r.Name)
		rounds := 1
		if strings.HasPrefix(r.Name, "64c/1i/") && r.Name != "64c/1i/syncs" {
			rounds = 2
			require.NotNil(t, r.Bare, r.Name)
			require.Len(t, r.Bare.Rounds, rounds, r.Name)
			require.GreaterOrEqual(t, r.Bare.Median, 0., r.Name) // of so little time a process may have used none
		}
		if r.Name == "64c/1i/syncs" && !straced {
			continue
		}
		for _, m := range []*bench.Measured{r.This, r.Against} {
			require.NotNil(t, m, r.Name)
			require.Len(t, m.Rounds, rounds, r.Name)
			if r.Name != "grow/idle" && r.Name != "grow/cpu" {
				assert.Positive(t, m.Median, r.Name)
			}
		}
	}
	require.Equal(t, []string{
		"grow/rate", "grow/cpu", "grow/disk", "grow/rss", "grow/idle",
		"64c/1i/rate", "64c/1i/p50", "64c/1i/p99", "64c/1i/cpu", "64c/1i/syncs",
		"readable/load", "readable/p50", "readable/p99", "catch-up/rate", "catch-up/took",
		"catch-up/rss", "rebuild/rate", "rebuild/took",
	}, names)
	requireNothingLeft(t, dir)
}

// TestBenchAgainstInterrupted checks that an interrupted comparison ends soon, and
// leaves neither processes nor files.
func TestBenchAgainstInterrupted(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		defer cancel()
		assert.Eventually(t, func() bool { return processesOf(dir) == 3 }, time.Minute, 5*time.Millisecond)
	}()
	code, _, stderr := run(t, ctx, "bench", "--against", self, "--dir", dir)
	require.Equal(t, cli.ExitFailed, code)
	require.Contains(t, stderr, "context canceled")
	requireNothingLeft(t, dir)
}

// requireNothingLeft checks that a directory is empty and that no process uses it.
func requireNothingLeft(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left, "files left")
	require.Zero(t, processesOf(dir), "processes left")
}

// processesOf returns how many processes have a log below a directory as their output.
func processesOf(dir string) (n int) {
	outputs, _ := filepath.Glob("/proc/[0-9]*/fd/1")
	for _, out := range outputs {
		if target, err := os.Readlink(out); err == nil && strings.HasPrefix(target, dir) {
			n++
		}
	}
	return n
}
