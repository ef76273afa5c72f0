//go:build linux

package faults

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	set    = flag.String("faults", "quick", "the cases to run: quick or all")
	only   = flag.String("only", "", "run only these cases, separated by commas, whether quick or not")
	rounds = flag.Int("rounds", 0, "rounds of each case, in place of the case's own number")
	binary = flag.String("binary", "", "the absolute path of the binary under test (default: built from this module)")
	work   = flag.String("work", "", "keep logs and acknowledgements below this absolute path (default: they are deleted)")
)

// faultCase is one kind of fault.
type faultCase struct {
	name string
	// disk is true if the case needs a disk of its own, that is root and loop devices.
	disk bool
	// cluster is true if the case needs network namespaces, that is root.
	cluster bool
	// quick and all are the rounds in the quick half and in the whole suite. A case with quick 0 is not in the
	// quick half.
	quick, all int
	run        func(*testing.T, *trial)
}

var cases = []faultCase{
	{name: "kill", quick: 2, all: 20, run: killed},
	{name: "power", disk: true, quick: 1, all: 60, run: powerCut},
	{name: "power-control", disk: true, all: 60, run: powerControl},
	{name: "disk-lost", disk: true, all: 10, run: diskLost},
	{name: "stream-disk-lost", disk: true, all: 10, run: streamDiskLost},
	{name: "stream-torn", quick: 1, all: 20, run: streamTorn},
	{name: "journal-damaged", quick: 1, all: 20, run: journalDamaged},
	{name: "journal-replaced", all: 3, run: journalReplaced},
	{name: "sigterm", all: 5, run: terminated},
	{name: "sigstop", all: 2, run: stopped},
	{name: "limits", all: 1, run: limited},
	{name: "disk-full", disk: true, quick: 1, all: 8, run: diskFull},
	{name: "models-disk-full", disk: true, all: 2, run: modelsDiskFull},
	{name: "model-damaged", quick: 1, all: 5, run: modelDamaged},
	{name: "model-truncated", all: 2, run: modelTruncated},
	{name: "model-deleted", all: 2, run: modelDeleted},
	{name: "rollback", all: 2, run: rolledBack},
	{name: "rollback-grown", all: 2, run: rolledBackAndGrown},
	{name: "lost-block", all: 1, run: blockLost},
	{name: "clock", all: 2, run: clockSet},
	{name: "cluster-leader-killed", cluster: true, quick: 1, all: 6, run: leaderKilled},
	{name: "cluster-step-down", cluster: true, all: 4, run: steppedDown},
	{name: "cluster-server-killed", cluster: true, all: 3, run: memberKilled},
	{name: "cluster-node-killed", cluster: true, all: 4, run: nodeKilled},
	{name: "cluster-leader-cut-off", cluster: true, all: 6, run: leaderCutOff},
	{name: "cluster-follower-cut-off", cluster: true, all: 4, run: followerCutOff},
	{name: "cluster-sigstop", cluster: true, all: 2, run: memberStopped},
	{name: "cluster-quorum-lost", cluster: true, all: 2, run: quorumLost},
	{name: "cluster-all-killed", cluster: true, all: 3, run: allKilled},
	{name: "cluster-power", cluster: true, disk: true, all: 10, run: allPowerCut},
	{name: "cluster-rollback", cluster: true, all: 2, run: memberRolledBack},
	{name: "cluster-rollback-all", cluster: true, all: 2, run: allRolledBack},
}

// trial is one run of a case.
type trial struct {
	ctx    context.Context //nolint:containedctx // ends all waits of the case, when it is interrupted
	binary string
	rounds int
	*result
}

// result is a row of the table.
type result struct {
	name, note string
	done       int // rounds
	sites      []*site
	syncs      int           // of powerControl
	slowest    time.Duration // until the next 200 after a fault
	failed     bool
	took       time.Duration
	outages    []timing // of a cluster
	leads      int      // that the reactors of a cluster have read
}

// tell adds a sentence to the row.
func (r *result) tell(format string, args ...any) {
	if r.note != "" {
		r.note += "; "
	}
	r.note += fmt.Sprintf(format, args...)
}

// TestFaults runs the quick half of the cases, or those of the flags, and prints a table.
func TestFaults(t *testing.T) {
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	t.Cleanup(stop)
	chosen := choose(t)
	program := build(t)
	var results []*result
	for _, c := range chosen {
		t.Run(c.name, func(t *testing.T) {
			began, r := time.Now(), &result{name: c.name}
			results = append(results, r)
			t.Cleanup(func() { r.failed, r.took = t.Failed(), time.Since(began) })
			if reason := reasonToSkip(t, c); reason != "" {
				r.tell("skipped: %s", reason)
				t.Skip(reason)
			}
			n := c.all
			switch {
			case *rounds > 0:
				n = *rounds
			case *set == "quick" && *only == "":
				n = c.quick
			}
			c.run(t, &trial{ctx: ctx, binary: program, rounds: n, result: r})
		})
	}
	printTable(os.Stdout, results)
}

// choose returns the cases that the flags select.
func choose(t *testing.T) []faultCase {
	t.Helper()
	require.Contains(t, []string{"quick", "all"}, *set, "-faults")
	if *only != "" {
		var out []faultCase
		for name := range strings.SplitSeq(*only, ",") {
			i := slices.IndexFunc(cases, func(c faultCase) bool { return c.name == name })
			var names []string
			for _, c := range cases {
				names = append(names, c.name)
			}
			require.NotEqual(t, -1, i, "-only: there is no case %q; choose from %s", name, strings.Join(names, ", "))
			out = append(out, cases[i])
		}
		return out
	}
	return slices.DeleteFunc(slices.Clone(cases), func(c faultCase) bool { return *set == "quick" && c.quick == 0 })
}

// reasonToSkip returns why a case can't run here, or "".
func reasonToSkip(t *testing.T, c faultCase) string {
	t.Helper()
	if c.cluster {
		if reason := reasonWithoutNetworks(); reason != "" {
			return reason
		}
	}
	if !c.disk {
		return ""
	}
	if os.Geteuid() != 0 {
		return "disks are mounted by root only"
	}
	d := &disk{image: filepath.Join(t.TempDir(), "probe.img"), dir: t.TempDir()}
	defer d.remove()
	if err := errors.Join(d.format(8), d.mount()); err != nil {
		return err.Error()
	}
	return ""
}

// build returns the path of the program under test.
func build(t *testing.T) string {
	t.Helper()
	if *binary != "" {
		require.True(t, filepath.IsAbs(*binary), "-binary: go test changes the directory; write an absolute path")
		return *binary
	}
	path := filepath.Join(t.TempDir(), "pagestream")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, "../..")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "build the program under test: %s", out)
	return path
}

// printTable prints a row for each case, in Markdown.
func printTable(w io.Writer, results []*result) {
	table := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	fmt.Fprintln(table, "| case\t| rounds\t| tried\t| acknowledged\t| lost\t| doubled\t| seconds to the next 200\t"+
		"| result\t| took\t| notes\t|")
	fmt.Fprintln(table, "|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|")
	for _, r := range results {
		tried, acked, lost, doubled := r.syncs, r.syncs, 0, 0
		for _, s := range r.sites {
			tried, acked = tried+s.load.tried, acked+len(s.load.acked)
			lost, doubled = lost+len(s.lost), doubled+len(s.doubled)
		}
		if len(r.outages) > 0 {
			var most timing
			for _, at := range r.outages {
				most = timing{max(most.outage, at.outage), max(most.down, at.down), max(most.up, at.up)}
			}
			r.tell("200 again %.1f s after the fault at most, not ready %.1f s and ready %.1f s after POSTs at most",
				most.outage.Seconds(), most.down.Seconds(), most.up.Seconds())
		}
		if r.leads > 0 {
			r.tell("%d leads read once", r.leads)
		}
		outcome := "ok"
		switch {
		case r.done == 0 && !r.failed:
			outcome = "not run"
		case r.failed:
			outcome = "FAILED"
		}
		fmt.Fprintf(table, "| %s\t| %d\t| %d\t| %d\t| %d\t| %d\t| %.1f\t| %s\t| %s\t| %s\t|\n",
			r.name, r.done, tried, acked, lost, doubled, r.slowest.Seconds(), outcome,
			r.took.Round(time.Second), r.note)
	}
	_ = table.Flush()
}

// TestReliabilityHasTheCases checks that RELIABILITY.md has a row for each case.
func TestReliabilityHasTheCases(t *testing.T) {
	text, err := os.ReadFile("../../RELIABILITY.md")
	require.NoError(t, err)
	for _, c := range cases {
		require.Contains(t, string(text), "| `"+c.name+"`", "RELIABILITY.md has no row for the case")
	}
}
