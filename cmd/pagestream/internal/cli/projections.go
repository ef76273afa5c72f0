package cli

import (
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/projections"
)

// ProjectionsCommand groups what concerns the read models.
type ProjectionsCommand struct {
	List    ProjectionsListCommand    `cmd:"" help:"Show where each read model stands."`
	Verify  ProjectionsVerifyCommand  `cmd:"" help:"Compare read models with a replay of the stream."`
	Explain ProjectionsExplainCommand `cmd:"" help:"Say which events made a row."`
	Rebuild ProjectionsRebuildCommand `cmd:"" help:"Build read models from the stream again, beside the live ones."`
}

const projectionsPath = "/api/v1/projections"

// ProjectionsListCommand lists the read models.
type ProjectionsListCommand struct{}

// Run prints a table.
func (ProjectionsListCommand) Run(c *CLI) error {
	list, err := collect[projections.Status](c, projectionsPath, nil, 0)
	return c.answer(list, err, func() { writeProjections(c, list) })
}

func writeProjections(c *CLI, list []projections.Status) {
	writeTable(c.Out, "PROJECTION, VERSION, STATE, SEQUENCE, LAG, DROPPED, PARKED, ERROR", list,
		func(s projections.Status) cells {
			return cells{s.Name, s.Version, s.State, s.Seq, s.Lag, s.Dropped, s.Parked, dash(s.LastError)}
		})
}

// replayNames are the read models that a command is about.
type replayNames struct {
	Names []string `arg:"" optional:"" name:"name" help:"Projections, as projections list shows them."`
}

// resolve lists the names that were given, or all.
func (r replayNames) resolve(c *CLI, all bool) ([]string, error) {
	if !all {
		return r.Names, nil
	}
	list, err := collect[projections.Status](c, projectionsPath, nil, 0)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range list {
		names = append(names, s.Name)
	}
	return names, nil
}

// replay replays the stream for one read model and reports how far it is.
type replay[R any] func(name string, progress func(projections.Rebuilding)) (R, error)

// ask is a replay by the server.
func ask[R any](c *CLI, verb string) replay[R] {
	return func(name string, progress func(projections.Rebuilding)) (R, error) {
		return follow[projections.Rebuilding, R](c, projectionsPath+"/"+url.PathEscape(name)+"/"+verb, nil, progress)
	}
}

// replayOver does one read model after the other, with a bar on a terminal, and shows
// each result.
func replayOver[R any](c *CLI, names []string, do replay[R], show func(R)) ([]R, error) {
	all := []R{}
	for _, name := range names {
		b := c.bar(1)
		out, err := do(name, func(at projections.Rebuilding) {
			b.show(at.Seq, at.Target, "%s %s  %.0f events/s  %s left", name, at.Phase, at.Rate, at.ETA.Round(time.Second))
		})
		c.redraw("")
		if err != nil {
			return all, err
		}
		all = append(all, out)
		if !c.JSON {
			show(out)
		}
	}
	return all, c.Print(all, func() {})
}

// ProjectionsRebuildCommand builds read models from the stream again.
type ProjectionsRebuildCommand struct {
	replayNames

	All     bool `env:"PAGESTREAM_PROJECTIONS_REBUILD_ALL" help:"Every projection."`
	Offline bool `env:"PAGESTREAM_PROJECTIONS_REBUILD_OFFLINE" help:"Work on the data directory of a server that is stopped."`
}

// Run builds each read model beside the live one, which serves until the new one
// takes its place. Canceling or killing it leaves the live one as it is.
func (p ProjectionsRebuildCommand) Run(c *CLI) error {
	if len(p.Names) == 0 && !p.All {
		return fmt.Errorf("%w: which read models? Name them, or give --all", errUsage)
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
			_, err = replayOver(c, names, func(name string, progress func(projections.Rebuilding)) (projections.Rebuilt, error) {
				return o.Rebuild(c.ctx, name, progress)
			}, c.showRebuilt)
			return err
		})
	}
	names, err := p.resolve(c, p.All)
	if err == nil {
		_, err = replayOver(c, names, ask[projections.Rebuilt](c, "rebuild"), c.showRebuilt)
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

// Run replays the stream beside each read model and compares. It fails where one
// differs, and names the first row and the events that make it.
func (p ProjectionsVerifyCommand) Run(c *CLI) error {
	names, err := p.resolve(c, len(p.Names) == 0)
	if err != nil {
		return err
	}
	list, err := replayOver(c, names, ask[projections.Verified](c, "verify"), c.showVerified)
	for _, v := range list {
		if err == nil && !v.Equal {
			err = errors.New("a read model is not what its events make; type: pagestream projections rebuild NAME")
		}
	}
	return err
}

func (c *CLI) showVerified(v projections.Verified) {
	if v.Equal {
		fmt.Fprintf(c.Out, "%s: equal at event %d, digest %.12s, in %s\n", v.Name, v.Seq, v.Digest, v.Took.Round(time.Millisecond))
		return
	}
	fmt.Fprintf(c.Out, "%s: DIFFERENT at event %d: the live digest is %.12s, a replay gives %.12s\n", v.Name, v.Seq, v.Live, v.Digest)
	if d := v.Difference; d != nil {
		fmt.Fprintf(c.Out, "  the first row is %s %s, which in the live read model %s\n", d.Bucket, d.Key, map[string]string{
			"missing": "is missing", "extra": "should not be", "differs": "differs",
		}[d.What])
		if d.Events.Count > 0 {
			fmt.Fprintf(c.Out, "  %d events make it: %v %v\n", d.Events.Count, d.Events.First, d.Events.Last)
		}
	}
}

// ProjectionsExplainCommand says which events made a row.
type ProjectionsExplainCommand struct {
	Name   string `arg:"" help:"Projection."`
	Bucket string `arg:"" help:"Bucket, as verify names it."`
	Key    string `arg:"" help:"Key in hex, as verify names it."`
}

// Run replays the stream and prints the sequences that changed the row.
func (p ProjectionsExplainCommand) Run(c *CLI) error {
	in := map[string]string{"bucket": p.Bucket, "key": p.Key}
	t, err := follow[projections.Rebuilding, projections.Trace](c, projectionsPath+"/"+url.PathEscape(p.Name)+"/explain", in,
		func(projections.Rebuilding) {})
	return c.answer(t, err, func() {
		fmt.Fprintf(c.Out, "%d events changed the row: %v %v\n", t.Count, t.First, t.Last)
	})
}
