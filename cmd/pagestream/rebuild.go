package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/pagestream/pagestream/projections"
)

// ProjectionsRebuildCommand builds read models anew.
type ProjectionsRebuildCommand struct {
	Names   []string `arg:"" optional:"" name:"name" help:"Projections, as projections list shows them."`
	All     bool     `env:"PAGESTREAM_PROJECTIONS_REBUILD_ALL" help:"Every projection."`
	Offline bool     `env:"PAGESTREAM_PROJECTIONS_REBUILD_OFFLINE" help:"Work on the data directory of a server that is stopped."`
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
	names := p.Names
	if p.All {
		list, err := collect[projections.Status](c.ctx, cl, "/api/v1/projections", nil, 0)
		if err != nil {
			return err
		}
		names = nil
		for _, s := range list {
			names = append(names, s.Name)
		}
	}
	return p.each(c, names, func(name string, progress func(projections.Rebuilding)) (out projections.Rebuilt, err error) {
		raw, err := cl.run(c.ctx, "/api/v1/projections/"+url.PathEscape(name)+"/rebuild", nil, func(line json.RawMessage) error {
			var at projections.Rebuilding
			if err := json.Unmarshal(line, &at); err != nil {
				return err
			}
			progress(at)
			return nil
		})
		if err != nil {
			return out, err
		}
		if err := json.Unmarshal(raw, &out); err != nil {
			return out, fmt.Errorf("read the server's answer: %w", err)
		}
		return out, nil
	})
}

// offline runs the stream and the read models, and nothing else.
func (p ProjectionsRebuildCommand) offline(c *CLI) (err error) {
	cfg, err := c.load(nil)
	if err != nil {
		return err
	}
	log, err := newLogger(cfg.Log, c.Err)
	if err != nil {
		return err
	}
	program := NewProgram(cfg, log)
	defer func() {
		closing, cancel := context.WithTimeout(context.Background(), cfg.HTTP.ShutdownTimeout)
		defer cancel()
		err = errors.Join(err, program.Close(closing))
	}()
	if err := program.runOffline(c.ctx); err != nil {
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
	return p.each(c, names, func(name string, progress func(projections.Rebuilding)) (projections.Rebuilt, error) {
		return a.Rebuild(c.ctx, name, progress)
	})
}

// each rebuilds one after the other, with a bar on a terminal.
func (p ProjectionsRebuildCommand) each(c *CLI, names []string, rebuild func(string, func(projections.Rebuilding)) (projections.Rebuilt, error)) error {
	var all []projections.Rebuilt
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
		out, err := rebuild(name, progress)
		if isTerminal(c.Err) {
			fmt.Fprint(c.Err, "\r\x1b[K")
		}
		if err != nil {
			return err
		}
		all = append(all, out)
		if !c.JSON {
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
	}
	return c.Print(all, func() {})
}
