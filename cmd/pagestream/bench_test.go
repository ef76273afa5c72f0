package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/bench"
	"github.com/pagestream/pagestream/domain/messenger"
	"github.com/pagestream/pagestream/streams"
)

// TestBench runs the whole bench against the real program, so small that its
// figures say nothing: only that each is there.
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
	o.Start = func(ctx context.Context, so bench.StartOptions) (*bench.System, error) { return startBench(ctx, c, so) }
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
		if p.CatchUp <= 0 || p.Ingest <= 0 || p.Project <= 0 || p.Read <= 0 || p.Grows == "stream" && (p.Ready <= 0 || p.Heap == 0 || p.Stream == 0 || len(p.Models) != 4) {
			t.Errorf("point %+v", p)
		}
	}
	if len(report.Growth) != 2+3+3 || len(report.Sections) != 6 || steps == 0 || report.Machine.FsyncP50 <= 0 || report.Machine.EventBytes < 500 {
		t.Errorf("%d points, %d sections, %d steps, %+v", len(report.Growth), len(report.Sections), steps, report.Machine)
	}
	if left, err := os.ReadDir(o.Dir); err != nil || len(left) > 0 {
		t.Errorf("left in the scratch directory: %v %v", left, err)
	}
	if falls, compared := bench.Check(report, report); len(falls) > 0 || compared < 30 {
		t.Errorf("against itself: %v, compared %d", falls, compared)
	}

	report.Version = "test"
	var out bytes.Buffer
	c.Out = &out
	command.Out, command.Chart = filepath.Join(t.TempDir(), "report.json"), filepath.Join(t.TempDir(), "chart.svg")
	if err := command.tell(c, report); err != nil || !strings.Contains(out.String(), "goals met") {
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

// TestBenchInterrupted: Ctrl-C ends it, and nothing is left behind.
func TestBenchInterrupted(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	dir := t.TempDir()
	began := time.Now()
	code, _, stderr := run(t, ctx, "bench", "--dir", dir, "--only", "ingest")
	if code != exitFailed || !strings.Contains(stderr, "context deadline exceeded") || time.Since(began) > time.Minute {
		t.Errorf("exit %d after %s: %s", code, time.Since(began), stderr)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// connections is how many clients the ingest benchmark has.
const connections = 64

// BenchmarkIngest measures durable ingest of single-item deliveries over HTTP
// with every projection live, against single synced publishes of the same
// events, in one run on one server. It reports both rates and their ratio.
func BenchmarkIngest(b *testing.B) {
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = connections
	cfg := testConfig(b.TempDir())
	p := NewProgram(cfg, slog.New(slog.DiscardHandler))
	if err := p.Run(b.Context()); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = p.Close(context.Background()) }()
	run := int64(0)
	body := func(i int64) []byte {
		return message("700", fmt.Sprint(30+i%500), fmt.Sprintf("m_%d_%d", run, i), "a message of an ordinary length, as people write them", 1790000000000+i)
	}
	for b.Loop() {
		run++
		const n = 20_000
		ingest := clocked(n, func(i int64) error {
			if got, err := trySend(p.PublicAddr(), body(i)); err != nil || got != http.StatusOK {
				return fmt.Errorf("answered %d: %w", got, err)
			}
			return nil
		})
		run++
		single := clocked(n/4, func(i int64) error {
			m, err := streams.Encode(messenger.Split(body(i), messenger.Options{App: "main"}).Events[0])
			if err != nil {
				return err
			}
			_, err = p.js.PublishMsg(context.Background(), m, jetstream.WithExpectStream(streams.Name))
			return err
		})
		if ingest.err != nil || single.err != nil {
			b.Fatal(ingest.err, single.err)
		}
		b.ReportMetric(ingest.rate, "ingest/s")
		b.ReportMetric(single.rate, "single/s")
		b.ReportMetric(ingest.rate/single.rate, "ratio")
	}
}

type rate struct {
	rate float64
	err  error
}

// clocked does n things from as many goroutines as there are connections.
func clocked(n int64, do func(int64) error) rate {
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	start := time.Now()
	for range connections {
		wg.Go(func() {
			for i := next.Add(1); i <= n; i = next.Add(1) {
				if err := do(i); err != nil {
					failed.Store(&err)
					return
				}
			}
		})
	}
	wg.Wait()
	r := rate{rate: float64(n) / time.Since(start).Seconds()}
	if err := failed.Load(); err != nil {
		r.err = *err
	}
	return r
}
