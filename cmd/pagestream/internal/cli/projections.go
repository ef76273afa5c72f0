package cli

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/projections"
)

// ProjectionsCommand groups the commands for the read models.
type ProjectionsCommand struct {
	List    ProjectionsListCommand    `cmd:"" help:"List the read models and their positions."`
	Verify  ProjectionsVerifyCommand  `cmd:"" help:"Compare read models with a replay of the stream."`
	Explain ProjectionsExplainCommand `cmd:"" help:"Show which events made a row."`
	Rebuild ProjectionsRebuildCommand `cmd:"" help:"Build read models from the stream again, next to the live ones."`
}

const projectionsPath = "/api/v1/projections"

// ProjectionsListCommand lists the read models.
type ProjectionsListCommand struct{}

// Run prints a table of the read models.
func (ProjectionsListCommand) Run(c *CLI) error {
	list, err := whole[projections.Status](c, projectionsPath)
	return c.answer(list, err, func() { writeProjections(c, list) })
}

func writeProjections(c *CLI, list []projections.Status) {
	writeTable(c, "PROJECTION, VERSION, STATE, SEQUENCE, LAG, DROPPED, PARKED, ERROR", list,
		func(s projections.Status) cells {
			return cells{s.Name, s.Version, s.State, s.Seq, s.Lag, s.Dropped, s.Parked, dash(s.LastError)}
		})
	for _, s := range list {
		switch {
		case s.Damaged == "":
		case s.Rebuild == nil:
			fmt.Fprintf(c.Out, "%s can't be read while its file is checked: %s\n", s.Name, s.Damaged)
		default:
			left := "not known yet how long it takes"
			if s.Rebuild.ETA > 0 {
				left = "about " + s.Rebuild.ETA.Round(time.Second).String() + " left"
			}
			fmt.Fprintf(c.Out, "%s can't be read until it has been built again, event %d of %d, %s: %s\n",
				s.Name, s.Seq, s.Rebuild.Target, left, s.Damaged)
		}
	}
}

// replayNames are the arguments that select read models.
type replayNames struct {
	Names []string `arg:"" optional:"" name:"name" help:"Projections, as shown by projections list."`
}

// resolve returns the given names, or those of all read models.
func (r replayNames) resolve(c *CLI, all bool) ([]string, error) {
	if !all {
		_, err := c.client() // before several replays use it
		return r.Names, err
	}
	list, err := whole[projections.Status](c, projectionsPath)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range list {
		names = append(names, s.Name)
	}
	return names, nil
}

// replay replays the stream for one read model and calls progress with its position.
type replay[R any] func(name string, progress func(projections.Rebuilding)) (R, error)

// serverReplay returns a replay that the server runs: rebuild or verify.
func serverReplay[R any](c *CLI, operation string) replay[R] {
	return func(name string, progress func(projections.Rebuilding)) (R, error) {
		return follow[projections.Rebuilding, R](c, projectionsPath+"/"+url.PathEscape(name)+"/"+operation, nil, progress)
	}
}

// replayAll replays all read models at the same time, so that the stream is read once, with a progress bar on a
// terminal. It shows each result when there is one, and returns all, by name. After an error it
// returns those that succeeded.
func replayAll[R any](c *CLI, names []string, do replay[R], show func(R)) ([]R, error) {
	slices.Sort(names)
	names = slices.Compact(names)
	var mu sync.Mutex // of all below, and of the output
	at, done, failed := make(map[string]projections.Rebuilding, len(names)), make([]*R, len(names)), error(nil)
	b := c.bar(1)
	var running sync.WaitGroup
	for i, name := range names {
		running.Go(func() {
			out, err := do(name, func(p projections.Rebuilding) {
				mu.Lock()
				defer mu.Unlock()
				at[name] = p
				name, p := furthestBehind(at)
				b.show(p.Seq, p.Target, "%s %s  %.0f events/s  %s left", name, p.Phase, p.Rate, p.ETA.Round(time.Second))
			})
			mu.Lock()
			defer mu.Unlock()
			delete(at, name)
			if err != nil {
				failed = errors.Join(failed, err)
				return
			}
			done[i] = &out
			if !c.machine() {
				c.redraw("")
				show(out)
			}
		})
	}
	running.Wait()
	c.redraw("")
	all := []R{}
	for _, out := range done {
		if out != nil {
			all = append(all, *out)
		}
	}
	if failed != nil {
		return all, failed
	}
	return all, c.Print(all, func() {})
}

// furthestBehind returns the read model that has the most left to do, the first by name of several.
func furthestBehind(at map[string]projections.Rebuilding) (name string, p projections.Rebuilding) {
	for _, n := range slices.Sorted(maps.Keys(at)) {
		if name == "" || at[n].Seq < p.Seq {
			name, p = n, at[n]
		}
	}
	return name, p
}

// ProjectionsRebuildCommand builds read models from the stream again.
type ProjectionsRebuildCommand struct {
	replayNames

	All     bool `env:"PAGESTREAM_PROJECTIONS_REBUILD_ALL" help:"All projections."`
	Offline bool `env:"PAGESTREAM_PROJECTIONS_REBUILD_OFFLINE" help:"Work on the data directory of a stopped server."`
}

// Run builds each read model next to the live one, which serves reads until the new one
// replaces it. If it is canceled or killed, the live one is unchanged.
func (p ProjectionsRebuildCommand) Run(c *CLI) error {
	if len(p.Names) == 0 && !p.All {
		return fmt.Errorf("%w: no read models given; give names or --all", errUsage)
	}
	if p.Offline {
		return c.offline(func(o *operate.Offline) error {
			names, err := p.Names, error(nil)
			if p.All {
				names, err = o.Names()
			}
			if err != nil {
				return err
			}
			rebuild := func(name string, progress func(projections.Rebuilding)) (projections.Rebuilt, error) {
				return o.Rebuild(c.ctx, name, progress)
			}
			_, err = replayAll(c, names, rebuild, c.showRebuilt)
			return err
		})
	}
	names, err := p.resolve(c, p.All)
	if err == nil {
		_, err = replayAll(c, names, serverReplay[projections.Rebuilt](c, "rebuild"), c.showRebuilt)
	}
	return err
}

func (c *CLI) showRebuilt(out projections.Rebuilt) {
	same := "the same as before"
	switch {
	case out.Was == "":
		same = "nothing to compare it with"
	case !out.Equal:
		same = "DIFFERENT from before; the old file is kept until the next rebuild"
	}
	fmt.Fprintf(c.Out, "%s: rebuilt to event %d in %s, %.0f events/s; at event %d its digest is %.12s, %s\n",
		out.Name, out.Seq, out.Took.Round(time.Millisecond), out.Rate, out.VerifiedSeq, out.Digest, same)
}

// ProjectionsVerifyCommand compares read models with the stream.
type ProjectionsVerifyCommand struct{ replayNames }

// Run replays the stream next to each read model and compares the two. It fails if one differs,
// and prints the first row that differs and the events that make it.
func (p ProjectionsVerifyCommand) Run(c *CLI) error {
	names, err := p.resolve(c, len(p.Names) == 0)
	if err != nil {
		return err
	}
	list, err := replayAll(c, names, serverReplay[projections.Verified](c, "verify"), c.showVerified)
	for _, v := range list {
		switch {
		case err != nil || v.Equal:
		case v.Stream != "":
			err = errors.New(v.Stream)
		default:
			err = errors.New("a read model differs from a replay of its events; run: pagestream projections rebuild NAME")
		}
	}
	return err
}

func (c *CLI) showVerified(v projections.Verified) {
	if v.Equal {
		fmt.Fprintf(c.Out, "%s: equal at event %d, digest %.12s, in %s\n",
			v.Name, v.Seq, v.Digest, v.Took.Round(time.Millisecond))
		return
	}
	fmt.Fprintf(c.Out, "%s: DIFFERENT at event %d: the live digest is %.12s, a replay gives %.12s\n",
		v.Name, v.Seq, v.Live, v.Digest)
	if d := v.Difference; d != nil {
		fmt.Fprintf(c.Out, "  the first row is %s %s, which in the live read model %s\n", d.Bucket, d.Key, map[string]string{
			"missing": "is missing", "extra": "should not exist", "differs": "differs",
		}[d.What])
		if d.Events.Count > 0 {
			fmt.Fprintf(c.Out, "  %d events make it: %v %v\n", d.Events.Count, d.Events.First, d.Events.Last)
		}
	}
}

// ProjectionsExplainCommand shows which events made a row.
type ProjectionsExplainCommand struct {
	Name   string `arg:"" help:"Projection."`
	Bucket string `arg:"" help:"Bucket, as shown by verify."`
	Key    string `arg:"" help:"Key in hex, as shown by verify."`
}

// Run replays the stream and prints the sequences that changed the row.
func (p ProjectionsExplainCommand) Run(c *CLI) error {
	in := map[string]string{"bucket": p.Bucket, "key": p.Key}
	path := projectionsPath + "/" + url.PathEscape(p.Name) + "/explain"
	t, err := follow[projections.Rebuilding, projections.Trace](c, path, in, func(projections.Rebuilding) {})
	return c.answer(t, err, func() {
		fmt.Fprintf(c.Out, "%d events changed the row: %v %v\n", t.Count, t.First, t.Last)
	})
}
