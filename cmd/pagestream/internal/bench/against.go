package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/procfs"

	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/internal/disk"
)

// BareHandler is the subcommand of this program that calls [ServeBare] with its argument.
const BareHandler = "bare-handler"

const (
	// againstDuplicates is the percentage of POSTs that repeat an earlier one.
	againstDuplicates = 20
	// The state is grown with bodies of this many items, on this many connections.
	growItems       = 100
	growConnections = 16
	// growPosts is how many bodies are in memory while the state is grown.
	growPosts = 500
	// busyPause is the time before a POST that was answered 503 is sent again while the
	// state is grown.
	busyPause = 50 * time.Millisecond
	// A process is quiet if it has used less than this share of a processor for this
	// long. It may take settledIn after the read models have caught up.
	quietShare = 0.05
	quietFor   = 500 * time.Millisecond
	settledIn  = 30 * time.Second
	settleStep = 50 * time.Millisecond
	// idleFor is how long the use of a server without requests is measured at most.
	idleFor = 2 * time.Second
)

// againstCells are the cells of a comparison.
func againstCells() []cell {
	return []cell{
		{16, 1, againstDuplicates},
		{64, 1, againstDuplicates},
		{256, 1, againstDuplicates},
		{64, 10, againstDuplicates},
	}
}

// label returns the cell's name in a comparison.
func (c cell) label() string { return fmt.Sprintf("%dc/%di", c.connections, c.items) }

// The parts of a comparison that follow the cells.
const (
	partReadable = "readable"
	partCatchUp  = "catch-up"
	partRebuild  = "rebuild"
)

// restFor is how long a server without requests is left alone before its memory is measured after a catch-up, and at
// most restCells times as long as a cell.
const (
	restFor   = 30 * time.Second
	restCells = 10
)

// AgainstOptions configure a comparison. Dir, This and Against are required.
type AgainstOptions struct {
	// Dir is the scratch directory. The caller removes it.
	Dir string
	// This and Against are the files of the two programs. This one has the subcommand
	// [BareHandler].
	This, Against string
	// Rounds is how often each cell is measured; default 3. Cell is how long; default 3 s.
	Rounds int
	Cell   time.Duration
	// Events is how many events each server has before the first cell; default 200,000.
	Events int
	// Only selects cells, such as 64c/1i, and the parts readable, catch-up and rebuild; nil is all.
	Only *regexp.Regexp
	// Progress is called from one goroutine at the start of each step.
	Progress func(Progress)
}

// complete sets the defaults and checks the options.
func (o *AgainstOptions) complete() error {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("%w: --against needs Linux, for the processor time and the end of other processes", ErrOptions)
	}
	if o.Dir == "" || o.This == "" || o.Against == "" {
		return fmt.Errorf("%w: the directory or a program is missing", ErrOptions)
	}
	o.Rounds, o.Cell, o.Events = cmp.Or(o.Rounds, 3), cmp.Or(o.Cell, 3*time.Second), cmp.Or(o.Events, 200_000)
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	switch {
	case o.Rounds < 1 || o.Rounds > 100:
		return fmt.Errorf("%w: --rounds is 1 to 100", ErrOptions)
	case o.Cell < 100*time.Millisecond || o.Cell > 10*time.Minute:
		return fmt.Errorf("%w: --seconds is 0.1 to 600", ErrOptions)
	case o.Events < 100 || o.Events > maxValue:
		return fmt.Errorf("%w: --events is 100 to %d", ErrOptions, maxValue)
	}
	return nil
}

// comparing is the state of a comparison.
type comparing struct {
	*run
	o                   AgainstOptions
	out                 Comparison
	this, against, bare *contender
	cells               []cell
	readable            bool
	catchUp, rebuild    bool
}

// RunAgainst compares two versions of the program, each of which runs as a process of
// its own with its own defaults. One client drives both in turns, with the same bodies.
// An error is returned if a cell could not be measured, together with the comparison so
// far; it wraps [ErrOptions] if the options are not valid, and is the context's if that has
// ended. What else could not be measured is in the notes. All processes have ended when
// it returns.
func RunAgainst(ctx context.Context, o AgainstOptions) (Comparison, error) {
	if err := o.complete(); err != nil {
		return Comparison{}, err
	}
	a := &comparing{
		o: o, run: &run{opts: Options{Dir: o.Dir, Cell: o.Cell, Progress: o.Progress}, ids: newTraffic(50, 5000)},
		this:    &contender{who: whoThis, program: o.This, dir: filepath.Join(o.Dir, whoThis)},
		against: &contender{who: whoAgainst, program: o.Against, dir: filepath.Join(o.Dir, whoAgainst)},
		bare:    &contender{who: whoBare, program: o.This, dir: filepath.Join(o.Dir, whoBare)},
	}
	selected := func(name string) bool { return o.Only == nil || o.Only.MatchString(name) }
	for _, c := range againstCells() {
		if selected(c.label()) {
			a.cells = append(a.cells, c)
		}
	}
	a.readable, a.catchUp, a.rebuild = selected(partReadable), selected(partCatchUp), selected(partRebuild)
	if len(a.cells) == 0 && !a.readable && !a.catchUp && !a.rebuild {
		return Comparison{}, fmt.Errorf("%w: --only %s matches no cell and no part", ErrOptions, o.Only)
	}
	a.out = Comparison{
		Binary: o.Against, At: time.Now().UTC(), Cell: o.Cell.Seconds(), Rounds: o.Rounds, Events: o.Events,
		Pages: a.ids.pages, Contacts: a.ids.contacts, Duplicates: againstDuplicates,
		Syncs: "not counted", Rows: []Row{}, Notes: []string{}, // not nil, so that they are lists in JSON
	}
	a.total = 1 + 2*(o.Events/(growItems*growPosts)+1) + 3*o.Rounds*len(a.cells) + 4*2 // about
	err := a.measure(ctx)
	if ctx.Err() != nil {
		err = ctx.Err() // not what the end of the processes has caused
	}
	for _, c := range a.contenders() {
		err = errors.Join(err, c.end(ctx))
	}
	a.out.Took = time.Since(a.out.At).Seconds()
	return a.out, err
}

func (a *comparing) contenders() []*contender { return []*contender{a.this, a.against, a.bare} }

// turn returns the contenders in the order of a turn, which every other one reverses, so
// that a drift of the machine does not favor one of them.
func (a *comparing) turn(n int) []*contender {
	order := a.contenders()
	if n%2 == 1 {
		slices.Reverse(order)
	}
	return order
}

// servers returns the two servers in the order of a turn.
func (a *comparing) servers(turn int) []*contender {
	return slices.DeleteFunc(a.turn(turn), (*contender).bare)
}

func (a *comparing) measure(ctx context.Context) (err error) {
	if a.out.Against, err = versionOf(ctx, a.o.Against); err != nil {
		return err
	}
	if a.out.Version, err = versionOf(ctx, a.o.This); err != nil {
		return err
	}
	if err := a.machine(ctx); err != nil {
		return err
	}
	a.out.Machine = Machine{CPUs: runtime.GOMAXPROCS(0), Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	a.out.Machine.FsyncP50, a.out.Machine.FsyncP99 = a.report.Machine.FsyncP50, a.report.Machine.FsyncP99
	a.out.Machine.EventBytes = a.report.Machine.EventBytes
	for _, c := range a.contenders() {
		if err := c.start(ctx, ""); err != nil {
			return err
		}
	}
	if err := a.grow(ctx); err != nil {
		return fmt.Errorf("grow the state: %w", err)
	}
	for _, c := range a.cells {
		a.declare(c)
	}
	for round := range a.o.Rounds {
		for i, c := range a.cells {
			if err := a.round(ctx, c, round, round+i); err != nil {
				return fmt.Errorf("measure %s: %w", c.label(), err)
			}
		}
	}
	if a.readable {
		if err := a.each(ctx, partReadable, a.measureReadable); err != nil {
			return err
		}
	}
	if len(a.cells) > 0 {
		if err := a.countSyncs(ctx); err != nil {
			return err
		}
	}
	if a.catchUp {
		if err := a.each(ctx, partCatchUp, a.measureCatchUp); err != nil {
			return err
		}
	}
	if a.rebuild {
		return a.each(ctx, partRebuild, a.measureRebuild)
	}
	return nil
}

// each measures a part for both servers. If that is not possible for one of them, the
// reason becomes a note: the rest is still worth its time.
func (a *comparing) each(ctx context.Context, part string, measure func(context.Context, *contender) error) error {
	a.section = part
	for _, c := range a.servers(0) {
		a.step("%s", c.who)
		if err := measure(ctx, c); err != nil {
			if ctx.Err() != nil {
				return err
			}
			a.out.note("%s of %s was not measured: %s", part, c.who, err)
		}
	}
	return nil
}

// grow stores the same events in both servers, in turns, and then measures them at rest.
func (a *comparing) grow(ctx context.Context) error {
	a.section = "grow"
	limit := time.Minute + time.Duration(a.o.Events)*time.Second/catchUpRate
	took, began := map[string]time.Duration{}, map[string]usage{}
	for _, c := range a.servers(0) {
		var err error
		if began[c.who], err = c.usage(); err != nil {
			return err
		}
	}
	for stored, turn := 0, 0; stored < a.o.Events; turn++ {
		n := min(growPosts, (a.o.Events-stored+growItems-1)/growItems)
		shots := a.ids.shots(againstSecret, n, growItems)
		for _, c := range a.servers(turn) {
			a.step("%s: %d events", c.who, stored)
			start := time.Now()
			if err := c.fill(ctx, limit, shots); err != nil {
				return fmt.Errorf("%s: %w", c.who, err)
			}
			took[c.who] += time.Since(start)
			c.events += n * growItems
		}
		stored += n * growItems
	}
	for _, c := range a.servers(0) {
		if err := a.settle(ctx, c); err != nil {
			return fmt.Errorf("%s: %w", c.who, err)
		}
		if err := a.weigh(ctx, c, took[c.who], began[c.who]); err != nil {
			return fmt.Errorf("%s: %w", c.who, err)
		}
	}
	return nil
}

// fill stores each POST. One that is answered 503 is sent again.
func (c *contender) fill(ctx context.Context, limit time.Duration, shots []shot) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	h := newClient(growConnections)
	defer h.close()
	_, err := h.drive(ctx, 2*limit, func(ctx context.Context, n int) (bool, error) {
		if n >= len(shots) {
			return false, nil
		}
		for {
			err := h.post(ctx, c.webhook(), shots[n])
			if !errors.Is(err, errBusy) {
				return true, err
			}
			if ctxErr := backoff.Sleep(ctx, busyPause); ctxErr != nil {
				return false, fmt.Errorf("%w (%w)", ctxErr, err)
			}
		}
	})
	return err
}

// weigh adds what the grown state cost, takes and does at rest.
func (a *comparing) weigh(ctx context.Context, c *contender, took time.Duration, before usage) error {
	grown, err := c.usage()
	if err != nil {
		return err
	}
	head, _, err := c.head(ctx)
	if err != nil {
		return err
	}
	if head < uint64(c.events) {
		return fmt.Errorf("acknowledged %d events, and the stream has %d", c.events, head)
	}
	n := float64(c.events)
	add := func(name, unit, better string, value float64) {
		a.out.add(Row{Name: "grow/" + name, Unit: unit, Better: better}, c.who, value)
	}
	add("rate", "events/s", Higher, n/took.Seconds())
	add("cpu", "us/event", Lower, us(grown.cpu-before.cpu)/n)
	add("disk", "bytes/event", Lower, float64(disk.Used(filepath.Join(c.dir, "data")))/n)
	add("rss", "MB", Lower, float64(grown.rss)/1e6)
	share, err := c.share(ctx, min(idleFor, a.o.Cell))
	if err != nil {
		return err
	}
	add("idle", "% of a CPU", Lower, 100*share)
	return nil
}

// share returns which share of a processor a process uses for the time d.
func (c *contender) share(ctx context.Context, d time.Duration) (float64, error) {
	before, err := c.usage()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := backoff.Sleep(ctx, d); err != nil {
		return 0, err
	}
	after, err := c.usage()
	return float64(after.cpu-before.cpu) / float64(time.Since(began)), err
}

// settle waits until every read model has the stream's last event and the process is
// quiet, because reactors follow the stream too. If it does not become quiet, that is a
// note.
func (a *comparing) settle(ctx context.Context, c *contender) error {
	if c.bare() {
		return nil // everything is done when it answers
	}
	if _, _, err := c.catchUp(ctx, settleStep); err != nil {
		return err
	}
	for deadline := time.Now().Add(settledIn); ; {
		share, err := c.share(ctx, min(quietFor, a.o.Cell))
		if err != nil || share < quietShare {
			return err
		}
		if time.Now().After(deadline) {
			a.out.note("%s: still used %.0f %% of a CPU %s after its read models had caught up; "+
				"what it did later is in no figure", c.who, 100*share, settledIn)
			return nil
		}
	}
}

// Rows of a cell.
func (c cell) row(figure string) Row {
	units := map[string]string{"rate": "events/s", "p50": "ms", "p99": "ms", "cpu": "us/event", "syncs": "per event"}
	better := Lower
	if figure == "rate" {
		better = Higher
	}
	return Row{Name: c.label() + "/" + figure, Unit: units[figure], Better: better}
}

// declare adds the rows of a cell, since the last one is measured later than the others.
func (a *comparing) declare(c cell) {
	for _, figure := range []string{"rate", "p50", "p99", "cpu", "syncs"} {
		a.out.Rows = append(a.out.Rows, c.row(figure))
	}
}

// round measures a cell once for each contender, with the same POSTs, in an order that
// depends on the turn.
func (a *comparing) round(ctx context.Context, c cell, round, turn int) error {
	a.section = "cells"
	shots := a.ids.shots(againstSecret, a.fresh(c.items), c.items)
	for _, who := range a.turn(turn) {
		a.step("round %d of %d, %s, %s", round+1, a.o.Rounds, c.label(), who.who)
		s, err := a.cell(ctx, who, c, shots)
		if err != nil {
			return fmt.Errorf("%s: %w", who.who, err)
		}
		a.out.add(c.row("rate"), who.who, s.rate)
		a.out.add(c.row("p50"), who.who, ms(s.pace.p50))
		a.out.add(c.row("p99"), who.who, ms(s.pace.p99))
		a.out.add(c.row("cpu"), who.who, us(s.cpu)/float64(s.events))
	}
	return nil
}

// result is one measurement of a cell.
type result struct {
	pace   pace
	events int     // new ones that were acknowledged
	rate   float64 // of these, per second
	cpu    time.Duration
}

// cell measures a cell: the client sends for a while, and then the server settles. The
// processor time is that of both, and the rate that of the sending.
func (a *comparing) cell(ctx context.Context, who *contender, c cell, shots []shot) (s result, err error) {
	h := newClient(c.connections)
	defer h.close()
	if err := h.warm(ctx, "http://"+who.Public); err != nil {
		return s, err
	}
	before, err := who.usage()
	if err != nil {
		return s, err
	}
	// The bare handler is so fast that it gets the same POSTs several times.
	b := &blend{shots: shots, percent: c.duplicates, cycle: who.bare(), tolerant: true}
	if s.pace, err = h.fire(ctx, who.webhook(), a.o.Cell, b); err != nil {
		return s, err
	}
	s.events = b.stored() * c.items
	if s.events == 0 {
		return s, errors.New("no event was stored in time; give more --seconds")
	}
	if b.refused > 0 {
		a.out.note("%s refused POSTs of %s with 503: they count as answers, not as events", who.who, c.label())
	}
	s.rate = s.pace.rate * float64(s.events) / float64(s.pace.n)
	who.events += s.events
	if err := a.settle(ctx, who); err != nil {
		return s, err
	}
	after, err := who.usage()
	s.cpu = after.cpu - before.cpu
	return s, err
}

// readableCell is the cell whose rate determines the load of [comparing.measureReadable].
var readableCell = cell{loadConnections, 1, againstDuplicates}

// measureReadable measures how long it takes from sending a message until the API shows
// it, at a share of the server's own rate.
func (a *comparing) measureReadable(ctx context.Context, c *contender) error {
	rate := a.out.of(readableCell.row("rate").Name, c.who)
	if rate == 0 { // the cell was not selected
		s, err := a.cell(ctx, c, readableCell, a.ids.shots(againstSecret, a.fresh(1), 1))
		if err != nil {
			return err
		}
		rate = s.rate
	}
	p, err := a.probe(ctx, c.system, loadShare*rate, 2*a.o.Cell)
	if err != nil {
		return err
	}
	for _, v := range []struct {
		name, unit, better string
		value              float64
	}{
		{"load", "events/s", Higher, loadShare * rate}, {"p50", "ms", Lower, ms(p.p50)}, {"p99", "ms", Lower, ms(p.p99)},
	} {
		a.out.add(Row{Name: partReadable + "/" + v.name, Unit: v.unit, Better: v.better}, c.who, v.value)
	}
	return a.settle(ctx, c)
}

// measureCatchUp measures how fast all read models are built from the stream: from the
// start of a process that has none until the last of them has the stream's last event; and
// the memory that the process has kept when it has rested.
func (a *comparing) measureCatchUp(ctx context.Context, c *contender) error {
	if err := c.end(ctx); err != nil {
		return err
	}
	if _, err := os.Stat(c.models()); err != nil {
		return fmt.Errorf("find read models: %w", err)
	}
	if err := os.RemoveAll(c.models()); err != nil {
		return fmt.Errorf("remove read models: %w", err)
	}
	began := time.Now()
	if err := c.start(ctx, ""); err != nil {
		return err
	}
	if _, _, err := c.catchUp(ctx, settleStep); err != nil {
		return err
	}
	took := time.Since(began)
	head, _, err := c.head(ctx)
	if err != nil {
		return err
	}
	a.out.add(Row{Name: partCatchUp + "/rate", Unit: "events/s", Better: Higher}, c.who, float64(head)/took.Seconds())
	a.out.add(Row{Name: partCatchUp + "/took", Unit: "s", Better: Lower}, c.who, took.Seconds())
	if err := backoff.Sleep(ctx, min(restFor, restCells*a.o.Cell)); err != nil {
		return err
	}
	rested, err := c.usage()
	if err != nil {
		return err
	}
	a.out.add(Row{Name: partCatchUp + "/rss", Unit: "MB", Better: Lower}, c.who, float64(rested.rss)/1e6)
	return c.end(ctx)
}

// measureRebuild measures how long a server without requests takes to build all of its
// read models anew, from the start to the end of the command.
func (a *comparing) measureRebuild(ctx context.Context, c *contender) error {
	if err := c.end(ctx); err != nil {
		return err
	}
	if err := c.start(ctx, ""); err != nil {
		return err
	}
	if err := a.settle(ctx, c); err != nil {
		return err
	}
	head, _, err := c.head(ctx)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, time.Minute+time.Duration(head)*time.Second/catchUpRate)
	defer cancel()
	began := time.Now()
	if _, err := output(limited, c.program, "projections", "rebuild", "--all", "--config", c.config()); err != nil {
		return fmt.Errorf("rebuild: %w", err)
	}
	took := time.Since(began)
	a.out.add(Row{Name: partRebuild + "/rate", Unit: "events/s", Better: Higher}, c.who, float64(head)/took.Seconds())
	a.out.add(Row{Name: partRebuild + "/took", Unit: "s", Better: Lower}, c.who, took.Seconds())
	return c.end(ctx)
}

// countSyncs starts each server below strace and sends each cell once more. Its rate is
// not measured.
func (a *comparing) countSyncs(ctx context.Context) error {
	if _, err := exec.LookPath(straceProgram); err != nil {
		a.out.Syncs = "not counted, since strace is not installed: apt install strace"
		return nil
	}
	a.out.Syncs = "counted by strace in cells of their own: fsync, fdatasync, sync_file_range, syncfs, sync, msync, " +
		"and files opened with O_SYNC or O_DSYNC"
	return a.each(ctx, "syncs", func(ctx context.Context, c *contender) error {
		if err := c.end(ctx); err != nil {
			return err
		}
		trace := filepath.Join(a.o.Dir, "strace-"+c.who)
		if err := c.start(ctx, trace); err != nil {
			return err
		}
		for _, cell := range a.cells {
			if err := a.settle(ctx, c); err != nil {
				return err
			}
			before, err := syncsIn(trace)
			if err != nil {
				return err
			}
			s, err := a.cell(ctx, c, cell, a.ids.shots(againstSecret, a.fresh(cell.items), cell.items))
			if err != nil {
				return err
			}
			after, err := syncsIn(trace)
			if err != nil {
				return err
			}
			a.out.add(cell.row("syncs"), c.who, float64(after-before)/float64(s.events))
		}
		n, err := syncedFiles(procfs.DefaultMountPoint, c.pid)
		if err != nil {
			return err
		}
		if n > 0 {
			a.out.note("%s keeps %d files open with O_SYNC or O_DSYNC: writes to them are not in its syncs", c.who, n)
		}
		return c.end(ctx)
	})
}
