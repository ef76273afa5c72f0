package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/pagestream/pagestream/projections"
)

// replayNames are the read models that a command is about.
type replayNames struct {
	Names []string `arg:"" optional:"" name:"name" help:"Projections, as projections list shows them."`
}

// replayRun does one read model, telling how far it is, and returns the result in
// JSON.
type replayRun func(name string, progress func(projections.Rebuilding)) (json.RawMessage, error)

// replayOver runs do for each read model, one after the other, with a bar on a
// terminal, and shows each result.
func replayOver(c *CLI, names []string, do replayRun, show func(json.RawMessage) error) error {
	all := []json.RawMessage{}
	for _, name := range names {
		progress := func(projections.Rebuilding) {}
		if isTerminal(c.Err) {
			bar := progressbar.NewOptions64(1, progressbar.OptionSetWriter(c.Err), progressbar.OptionClearOnFinish(), progressbar.OptionSetPredictTime(false))
			progress = func(at projections.Rebuilding) {
				bar.ChangeMax64(int64(max(at.Target, 1)))
				bar.Describe(fmt.Sprintf("%s %s  %.0f events/s  %s left", name, at.Phase, at.Rate, at.ETA.Round(time.Second)))
				_ = bar.Set64(int64(min(at.Seq, at.Target)))
			}
		}
		out, err := do(name, progress)
		if isTerminal(c.Err) {
			fmt.Fprint(c.Err, "\r\x1b[K")
		}
		if err != nil {
			return err
		}
		all = append(all, out)
		if !c.JSON {
			if err := show(out); err != nil {
				return fmt.Errorf("read the server's answer: %w", err)
			}
		}
	}
	return c.Print(all, func() {})
}

// ask makes a replayRun of a verb of the server's.
func (r replayNames) ask(c *CLI, cl *client, verb string) replayRun {
	return func(name string, progress func(projections.Rebuilding)) (json.RawMessage, error) {
		return cl.run(c.ctx, "/api/v1/projections/"+url.PathEscape(name)+"/"+verb, nil, func(line json.RawMessage) error {
			var at projections.Rebuilding
			if err := json.Unmarshal(line, &at); err != nil {
				return err
			}
			progress(at)
			return nil
		})
	}
}

// resolve lists the names that were given, or all.
func (r replayNames) resolve(c *CLI, cl *client, all bool) ([]string, error) {
	if !all {
		return r.Names, nil
	}
	list, err := collect[projections.Status](c.ctx, cl, "/api/v1/projections", nil, 0)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range list {
		names = append(names, s.Name)
	}
	return names, nil
}

// ProjectionsRebuildCommand builds read models anew.
type ProjectionsRebuildCommand struct {
	replayNames

	All     bool `env:"PAGESTREAM_PROJECTIONS_REBUILD_ALL" help:"Every projection."`
	Offline bool `env:"PAGESTREAM_PROJECTIONS_REBUILD_OFFLINE" help:"Work on the data directory of a server that is stopped."`
}

// Run builds each read model beside the live one, which serves until the new one
// takes its place. To be canceled, or killed, leaves the live one as it is.
func (p ProjectionsRebuildCommand) Run(c *CLI) error {
	if len(p.Names) == 0 && !p.All {
		return fmt.Errorf("%w: which read models? Name them, or give --all", errUsage)
	}
	if p.Offline {
		return p.offline(c)
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	names, err := p.resolve(c, cl, p.All)
	if err != nil {
		return err
	}
	return replayOver(c, names, p.ask(c, cl, "rebuild"), func(raw json.RawMessage) error { return showRebuilt(c, raw) })
}

// offline runs the stream and the read models, and nothing else.
func (p ProjectionsRebuildCommand) offline(c *CLI) error {
	return c.offline(func(ctx context.Context, program *Program) error {
		if err := program.startProjections(ctx); err != nil {
			return err
		}
		names := p.Names
		if p.All {
			names = nil
			for _, r := range program.runners {
				names = append(names, r.Name())
			}
		}
		a := &actions{p: program}
		return replayOver(c, names, func(name string, progress func(projections.Rebuilding)) (json.RawMessage, error) {
			out, err := a.Rebuild(ctx, name, progress)
			if err != nil {
				return nil, err
			}
			return json.Marshal(out)
		}, func(raw json.RawMessage) error { return showRebuilt(c, raw) })
	})
}

func showRebuilt(c *CLI, raw json.RawMessage) error {
	var out projections.Rebuilt
	if err := json.Unmarshal(raw, &out); err != nil {
		return err
	}
	same := "the same as before"
	switch {
	case out.Was == "":
		same = "nothing to compare it with"
	case !out.Equal:
		same = "DIFFERENT from before; the old file is kept until the next rebuild"
	}
	fmt.Fprintf(c.Out, "%s: rebuilt to event %d in %s, %.0f events/s; at event %d its digest is %.12s, %s\n",
		out.Name, out.Seq, out.Took.Round(time.Millisecond), out.Rate, out.VerifiedSeq, out.Digest, same)
	return nil
}
