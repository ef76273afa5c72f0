package bench

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files")

// sample returns a report with every kind of figure.
func sample() Report {
	met := figure("ingest/256c/1i/0d", "events/s", 12_000, "http/256c/1i", 20_000, Higher).atLeast(0.5)
	behind := uint64(12)
	met.P50, met.P99, met.Behind = 3.25, 41, &behind
	missed := figure("latency/readable/p99", "ms", 300, "http/64c/1i", 2, Lower).below(250)
	return Report{
		Version: "devel", At: time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC), Took: 61.4, Cell: 1.5,
		Machine: Machine{CPUs: 2, Go: "go1.26", OS: "linux", Arch: "amd64", FsyncP50: 150, FsyncP99: 900, EventBytes: 967},
		Baselines: []Baseline{
			{Name: "http/256c/1i", Unit: "POSTs/s", Value: 20_000, P50: 2, P99: 30},
			{Name: bySingle, Unit: "events/s", Value: 4321.5},
		},
		Figures: []Figure{met, missed, figure("nothing", "s", 1, "none", 0, Lower)},
		Growth: []Point{
			{
				Grows: growsStream, Events: 10_000, Pages: 50, Contacts: 5000, CatchUp: 9000, Ingest: 250, Project: 90, Read: 400,
				Ready: 0.02, Heap: 9_500_000, RSS: 60_000_000, Stream: 11_500_000, Models: map[string]int64{"pages": 16_800_000},
			},
			{
				Grows: growsStream, Events: 1_000_000, Pages: 50, Contacts: 5000, CatchUp: 8000, Ingest: 260, Project: 180,
				Read: 420, Ready: 0.06, Heap: 9_600_000, RSS: 90_000_000, Stream: 1_154_000_000,
				Models: map[string]int64{"pages": 16_800_000},
			},
			{Grows: growsPages, Events: 50_000, Pages: 5, Contacts: 5000, CatchUp: 9000, Ingest: 250, Project: 100, Read: 400},
			{
				Grows: growsPages, Events: 50_000, Pages: 500, Contacts: 5000, CatchUp: 9000, Ingest: 255, Project: 130,
				Read: 380,
			},
		},
	}
}

// golden compares got with a golden file.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(path, got, 0o600))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, string(want), string(got),
		"%s differs; if that is intended, run the test with -update and check the diff", path)
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, sample().WriteTable(&out))
	golden(t, "table.txt", out.Bytes())
}

func TestChart(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, sample().WriteChart(&out))
	golden(t, "chart.svg", out.Bytes())
	d := xml.NewDecoder(bytes.NewReader(out.Bytes()))
	for {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
	}
	for _, want := range []string{
		"prefers-color-scheme: dark", ">10k<", ">1M<", "events in the stream (logarithmic)", "times the cost",
		"ingest, an event",
	} {
		require.Contains(t, out.String(), want)
	}
	require.NotContains(t, out.String(), "<script", "the chart has a script")
	// Without measurements the chart has axes, and no NaN or Inf.
	out.Reset()
	err := Report{Growth: []Point{{Grows: growsStream}}}.WriteChart(&out)
	require.NoError(t, err)
	require.NotContains(t, out.String(), "NaN")
	require.NotContains(t, out.String(), "Inf")
}

// TestReportKeys pins the JSON keys that other programs read.
func TestReportKeys(t *testing.T) {
	raw, err := json.Marshal(sample())
	require.NoError(t, err)
	for _, key := range []string{
		`"version":`, `"at":`, `"machine":{"cpus":2`, `"fsync_p50_us":150`, `"fsync_p99_us":900`, `"figures":[`,
		`"name":"ingest/256c/1i/0d"`,
		`"unit":"events/s"`, `"value":12000`, `"baseline":20000`, `"ratio":0.6`, `"better":"higher"`,
		`"goal":"at least 0.5x"`, `"met":true`, `"growth":[`,
	} {
		require.Contains(t, string(raw), key)
	}
	var back Report
	require.NoError(t, json.Unmarshal(raw, &back))
	met, all := back.Goals()
	require.Equal(t, 1, met)
	require.Equal(t, 2, all)
}

func TestCheck(t *testing.T) {
	f := func(name string, ratio float64, better string) Figure {
		return Figure{Name: name, Section: "s", Ratio: ratio, Better: better}
	}
	ungated := f("tail", 1, Lower)
	ungated.Ungated = true
	for _, c := range []struct {
		name               string
		recorded, measured []Figure
		regressions        string
		compared           int
	}{
		{"the same", []Figure{f("a", 1, Higher)}, []Figure{f("a", 1, Higher)}, "", 1},
		{"just 30 % less", []Figure{f("a", 1, Higher)}, []Figure{f("a", 0.7, Higher)}, "", 1},
		{"more than 30 % less", []Figure{f("a", 1, Higher)}, []Figure{f("a", 0.699, Higher)}, "a", 1},
		{"much more", []Figure{f("a", 1, Higher)}, []Figure{f("a", 9, Higher)}, "", 1},
		{"just 30 % more where less is better", []Figure{f("a", 0.1, Lower)}, []Figure{f("a", 0.13, Lower)}, "", 1},
		{"more than 30 % more where less is better", []Figure{f("a", 0.1, Lower)}, []Figure{f("a", 0.1301, Lower)}, "a", 1},
		{"much less where less is better", []Figure{f("a", 1, Lower)}, []Figure{f("a", 0.01, Lower)}, "", 1},
		{
			"only what both have",
			[]Figure{f("a", 1, Higher), f("b", 1, Higher)},
			[]Figure{f("b", 0.1, Higher), f("c", 0.1, Higher)},
			"b", 1,
		},
		{"nothing in common", []Figure{f("a", 1, Higher)}, []Figure{f("b", 1, Higher)}, "", 0},
		{"ungated", []Figure{ungated}, []Figure{f("tail", 100, Lower)}, "", 0},
		{"no ratio recorded", []Figure{f("a", 0, Higher)}, []Figure{f("a", 1, Higher)}, "", 0},
		{"no ratio measured", []Figure{f("a", 1, Higher)}, []Figure{f("a", 0, Higher)}, "a", 1},
		{
			"two, in order",
			[]Figure{f("a", 1, Higher), f("b", 1, Lower)},
			[]Figure{f("b", 2, Lower), f("a", 0.5, Higher)},
			"b,a", 2,
		},
	} {
		regressions, compared := Check(Report{Figures: c.recorded}, Report{Figures: c.measured})
		var names []string
		for _, f := range regressions {
			names = append(names, f.Name)
		}
		got := strings.Join(names, ",")
		require.Equal(t, c.regressions, got, c.name)
		require.Equal(t, c.compared, compared, c.name)
	}
}

// TestTakeBetter checks that figures with a regression are replaced if they are better
// the second time, and that no other figure is.
func TestTakeBetter(t *testing.T) {
	f := func(name string, ratio float64, better string) Figure {
		return Figure{Name: name, Section: "s." + name, Ratio: ratio, Better: better}
	}
	recorded := Report{Figures: []Figure{f("a", 1, Higher), f("b", 1, Lower), f("c", 1, Higher), f("d", 1, Higher)}}
	measured := Report{Figures: []Figure{
		f("a", 0.5, Higher), f("b", 2, Lower), f("c", 0.9, Higher), f("d", 0.5, Higher),
	}}
	second := Report{Figures: []Figure{
		f("a", 0.95, Higher), f("b", 1.1, Lower), f("c", 2, Higher), f("d", 0.4, Higher),
	}}
	regressions, _ := Check(recorded, measured)
	measured.takeBetter(second, regressions)
	left, _ := Check(recorded, measured)
	require.Len(t, left, 1)
	require.Equal(t, "d", left[0].Name)
	require.InDelta(t, 0.5, left[0].Ratio, 0)
	require.InDelta(t, 0.9, measured.Figures[2].Ratio, 0)
	only, err := sectionsOf(regressions)
	require.NoError(t, err)
	require.True(t, only.MatchString("s.a"))
	require.True(t, only.MatchString("s.d"))
	require.False(t, only.MatchString("s.c"))
	require.False(t, only.MatchString("sxa"))
	var out bytes.Buffer
	require.NoError(t, WriteRegressions(&out, left))
	for _, want := range []string{"d  ", "1.000x", "0.500x"} {
		require.Contains(t, out.String(), want)
	}
}
