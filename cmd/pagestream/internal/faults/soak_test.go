//go:build linux

package faults

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	soak       = flag.Duration("soak", 0, "how long TestSoak runs; 0 skips it")
	soakFault  = flag.Duration("soak-fault", time.Minute, "the time between two faults of TestSoak")
	soakPause  = flag.Duration("soak-pause", 150*time.Millisecond, "the time between two POSTs of a connection of TestSoak")
	soakSample = flag.Duration("soak-sample", time.Minute, "the time between two rows of TestSoak's table")
)

// sample is what the program uses at one time.
type sample struct {
	at              time.Duration
	fault           string // the last one before it
	events          int    // acknowledged messages
	heap, anon, rss int64  // bytes; anon is rss without mapped files
	goroutines      int
	disk            int64 // bytes of the data directory
}

// TestSoak runs mixed traffic for a long time, with a fault at regular intervals: deliveries of 1 to 10 items and
// repeated ones, and readers of events and conversations. It prints what the program uses. At the end it requires
// that nothing is lost or doubled, and that goroutines and memory have stopped growing.
func TestSoak(t *testing.T) {
	if *soak == 0 {
		t.Skip("to run it: task soak")
	}
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	t.Cleanup(stop)
	f := &trial{ctx: ctx, binary: build(t), result: &result{name: "soak"}}
	s := f.site(t, "")
	s.load.pause = *soakPause
	s.startLoaded(t)
	s.awaitAcks(t, 1)
	reading, end := context.WithCancel(ctx)
	read := make(chan struct{})
	go func() {
		defer close(read)
		s.readOften(reading)
	}()
	defer func() { end(); <-read }()

	var samples []sample
	began, last := time.Now(), "none"
	nextFault, nextSample := began.Add(*soakFault), began.Add(*soakSample/2) // samples are between faults
	for time.Since(began) < *soak && ctx.Err() == nil {
		s.stay(time.Until(slices.MinFunc([]time.Time{nextFault, nextSample, began.Add(*soak)}, time.Time.Compare)))
		if now := time.Now(); !now.Before(nextSample) {
			nextSample = now.Add(*soakSample)
			got, err := s.sample()
			require.NoError(t, err)
			got.at, got.fault = now.Sub(began), last
			samples = append(samples, got)
			t.Logf("%s: %d events, heap %d MB, rss %d MB", got.at.Round(time.Second), got.events, got.heap>>20, got.rss>>20)
		}
		if now := time.Now(); !now.Before(nextFault) {
			nextFault = now.Add(*soakFault)
			last = s.anyFault(t)
			f.done++
		}
	}
	printSamples(os.Stdout, samples)
	require.NoError(t, ctx.Err())
	s.check(t)
	printTable(os.Stdout, []*result{f.result})
	// The last quarter and the one before it. Memory grows until the dedup window of 10 minutes is full.
	if n := len(samples); n >= 12 && *soak >= 25*time.Minute {
		before, after := samples[n/2:n-n/4], samples[n-n/4:]
		most := func(list []sample, of func(sample) int64) (out int64) {
			for _, x := range list {
				out = max(out, of(x))
			}
			return out
		}
		for name, of := range map[string]func(sample) int64{
			"heap": func(x sample) int64 { return x.heap }, "memory without mapped files": func(x sample) int64 { return x.anon },
			"goroutines": func(x sample) int64 { return int64(x.goroutines) },
		} {
			assert.Less(t, most(after, of), most(before, of)*3/2, "%s grows", name)
		}
	}
}

// anyFault makes one fault, waits for the next 200 and returns the fault's name.
func (s *site) anyFault(t *testing.T) string {
	t.Helper()
	began := time.Now()
	name := []string{"kill", "sigterm", "sigstop", "restart during a rebuild"}[rand.IntN(4)]
	switch name {
	case "sigterm":
		s.terminate(t)
		s.start(t)
	case "sigstop":
		s.signal(t, syscall.SIGSTOP)
		s.stay(5 * time.Second)
		s.signal(t, syscall.SIGCONT)
	case "restart during a rebuild":
		ctx, cancel := context.WithTimeout(s.ctx, 500*time.Millisecond)
		if resp, err := s.api(ctx, http.MethodPost, "/api/v1/projections/conversations/rebuild"); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body) // until the time is over
			resp.Body.Close()
		}
		cancel()
		fallthrough
	default:
		s.kill()
		s.start(t)
	}
	s.fault(t, began)
	require.NoError(t, s.recovers(startLimit))
	return name
}

// readOften reads events and conversations until the context ends.
func (s *site) readOften(ctx context.Context) {
	for ctx.Err() == nil {
		var page struct {
			Items []struct{} `json:"items"`
		}
		path := fmt.Sprintf("/api/v1/conversations/%s/%s/messages", pageID(rand.IntN(pages)), contactID(rand.IntN(connections)))
		_ = s.get(path, url.Values{"limit": {"100"}}, &page) // it fails during a fault
		_ = s.get("/api/v1/events", url.Values{"limit": {"100"}}, &page)
		s.stay(100 * time.Millisecond)
	}
}

// sample measures what the program uses now.
func (s *site) sample() (out sample, err error) {
	out.events = s.load.count()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.process.cmd.Process.Pid))
	if err != nil {
		return out, fmt.Errorf("read status of the process: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		name, rest, _ := strings.Cut(line, ":")
		kilobytes, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		switch name {
		case "VmRSS":
			out.rss = kilobytes << 10
		case "RssAnon":
			out.anon = kilobytes << 10
		}
	}
	err = filepath.WalkDir(s.data, func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // files come and go
			return nil
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		if info, err := e.Info(); err == nil {
			out.disk += info.Size()
		}
		return nil
	})
	if err != nil {
		return out, fmt.Errorf("measure data directory: %w", err)
	}
	return out, s.metrics(func(name string, value float64) {
		switch name {
		case "go_memstats_heap_alloc_bytes":
			out.heap = int64(value)
		case "go_goroutines":
			out.goroutines = int(value)
		}
	})
}

// metrics calls f with each metric that has no labels.
func (s *site) metrics(f func(name string, value float64)) error {
	ctx, cancel := context.WithTimeout(s.ctx, 10*time.Second)
	defer cancel()
	resp, err := s.api(ctx, http.MethodGet, "/metrics")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, text, _ := strings.Cut(lines.Text(), " ")
		if value, err := strconv.ParseFloat(text, 64); err == nil {
			f(name, value)
		}
	}
	return lines.Err()
}

// printSamples prints a row for each sample, in Markdown.
func printSamples(w io.Writer, list []sample) {
	table := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	fmt.Fprintln(table, "| after\t| last fault\t| events\t| heap, MB\t| memory without mapped files, MB\t| RSS, MB\t"+
		"| goroutines\t| bytes on disk an event\t|")
	fmt.Fprintln(table, "|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|")
	for _, x := range list {
		fmt.Fprintf(table, "| %s\t| %s\t| %d\t| %d\t| %d\t| %d\t| %d\t| %d\t|\n", x.at.Round(time.Second), x.fault, x.events,
			x.heap>>20, x.anon>>20, x.rss>>20, x.goroutines, x.disk/int64(max(1, x.events)))
	}
	table.Flush() //nolint:errcheck // w is standard output
}
