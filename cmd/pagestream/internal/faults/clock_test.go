//go:build linux

package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// clockEnv names the environment variable with the name of the file of a [clock].
const clockEnv = "FAULTS_CLOCK"

// The clock of the program under test is that of package time, whose source is replaced for the build: its wall
// clock is ahead by the number of seconds in a file, its monotonic clock is as it is. So it is for a program
// whose machine has its clock set. The kernel's time namespaces don't change the wall clock.
const (
	nowReads     = "\tsec, nsec, mono := runtimeNow()\n\tif mono == 0 {"
	nowReadsThis = "\tsec, nsec, mono := runtimeNow()\n\tsec += ahead.Load()\n\tif mono == 0 {"
	clockOfTime  = `package time

import "sync/atomic"

var ahead atomic.Int64

func SetAhead(seconds int64) { ahead.Store(seconds) }
`
	clockOfMain = `package main

import (
	"os"
	"strconv"
	"time"
)

func init() {
	read := func() {
		b, err := os.ReadFile(os.Getenv("` + clockEnv + `"))
		if n, parse := strconv.ParseInt(string(b), 10, 64); err == nil && parse == nil {
			time.SetAhead(n)
		}
	}
	read()
	go func() {
		for ; ; time.Sleep(10 * time.Millisecond) {
			read()
		}
	}()
}
`
)

// buildClocked builds the program under test with a clock that can be set. It compiles the standard library, which
// takes a minute or two.
func buildClocked(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	root, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	require.NoError(t, err)
	of := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	source, err := os.ReadFile(filepath.Join(of, "time.go"))
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(source), nowReads), "time.Now is written differently in this version of Go")
	program, err := filepath.Abs("../..")
	require.NoError(t, err)
	overlay := map[string]string{}
	for name, text := range map[string]string{
		filepath.Join(of, "time.go"):         strings.Replace(string(source), nowReads, nowReadsThis, 1),
		filepath.Join(of, "ahead.go"):        clockOfTime,
		filepath.Join(program, "clocked.go"): clockOfMain,
	} {
		overlay[name] = filepath.Join(dir, filepath.Base(name))
		require.NoError(t, os.WriteFile(overlay[name], []byte(text), 0o600))
	}
	list, err := json.Marshal(map[string]any{"Replace": overlay})
	require.NoError(t, err)
	file, path := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "pagestream")
	require.NoError(t, os.WriteFile(file, list, 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "go", "build", "-overlay", file, "-o", path, program).CombinedOutput()
	require.NoError(t, err, "build the program with a clock that can be set: %s", out)
	return path
}

// clockSet sets the clock back by an hour and forward by a day under load, and back to what it was, each with and
// without a restart after it. Deliveries are answered all the time, and repeated ones are recognized.
func clockSet(t *testing.T, f *trial) {
	f.binary = buildClocked(t)
	s := f.site(t, "")
	clock := filepath.Join(s.dir, "clock")
	set := func(ahead time.Duration) {
		t.Helper()
		text := strconv.FormatInt(int64(ahead.Seconds()), 10)
		require.NoError(t, os.WriteFile(clock+".new", []byte(text), 0o600))
		require.NoError(t, os.Rename(clock+".new", clock))
	}
	set(0)
	s.limits = fmt.Sprintf("export %s=%q", clockEnv, clock)
	s.startLoaded(t)
	for range f.rounds {
		for _, ahead := range []time.Duration{-time.Hour, 24 * time.Hour, 0} {
			for _, restart := range []bool{false, true} {
				s.awaitAcks(t, 50+rand.IntN(1000))
				began := time.Now()
				set(ahead)
				if restart {
					s.kill()
					s.start(t)
				} else {
					require.NoError(t, s.eventually(healLimit, s.clockAhead(ahead)))
				}
				s.fault(t, began)
				require.NoError(t, s.recovers(startLimit))
				require.NoError(t, s.eventually(healLimit, func() error {
					if !s.ready() {
						return fmt.Errorf("not ready with the clock set by %s", ahead)
					}
					return nil
				}))
				require.NoError(t, s.clockAhead(ahead)())
				s.check(t)
			}
		}
		f.done++
	}
}

// clockAhead returns a condition on the program's clock.
func (s *site) clockAhead(want time.Duration) func() error {
	return func() error {
		ctx, cancel := context.WithTimeout(s.ctx, deliveryTimeout)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.public+"/healthz", http.NoBody)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		at, err := http.ParseTime(resp.Header.Get("Date"))
		if err != nil {
			return fmt.Errorf("date of an answer: %w", err)
		}
		if ahead := time.Until(at); (ahead - want).Abs() > 10*time.Second {
			return fmt.Errorf("the program's clock is ahead by %s, not by %s", ahead, want)
		}
		return nil
	}
}
