package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/projections"
)

// ProjectionsVerifyCommand compares read models with the stream.
type ProjectionsVerifyCommand struct{ replayNames }

// Run replays the stream beside each read model and compares. It fails where one
// differs, and names the first row and the events that make it.
func (p ProjectionsVerifyCommand) Run(c *CLI) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	names, err := p.resolve(c, cl, len(p.Names) == 0)
	if err != nil {
		return err
	}
	wrong := 0
	ask := p.ask(c, cl, "verify")
	err = replayOver(c, names, func(name string, progress func(projections.Rebuilding)) (json.RawMessage, error) {
		raw, err := ask(name, progress)
		var v projections.Verified
		if err == nil {
			err = json.Unmarshal(raw, &v)
		}
		if err == nil && !v.Equal {
			wrong++
		}
		return raw, err
	}, func(raw json.RawMessage) error { return showVerified(c, raw) })
	if err == nil && wrong > 0 {
		err = errors.New("a read model is not what its events make; type: pagestream projections rebuild NAME")
	}
	return err
}

func showVerified(c *CLI, raw json.RawMessage) error {
	var v projections.Verified
	if err := json.Unmarshal(raw, &v); err != nil {
		return err
	}
	if v.Equal {
		fmt.Fprintf(c.Out, "%s: equal at event %d, digest %.12s, in %s\n", v.Name, v.Seq, v.Digest, v.Took.Round(time.Millisecond))
		return nil
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
	return nil
}

// ProjectionsExplainCommand says which events made a row.
type ProjectionsExplainCommand struct {
	Name   string `arg:"" help:"Projection."`
	Bucket string `arg:"" help:"Bucket, as verify names it."`
	Key    string `arg:"" help:"Key in hex, as verify names it."`
}

// Run replays the stream and prints the sequences that changed the row.
func (p ProjectionsExplainCommand) Run(c *CLI) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	raw, err := cl.run(c.ctx, "/api/v1/projections/"+p.Name+"/explain", map[string]string{"bucket": p.Bucket, "key": p.Key},
		func(json.RawMessage) error { return nil })
	if err != nil {
		return err
	}
	var t projections.Trace
	if err := json.Unmarshal(raw, &t); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	return c.Print(t, func() {
		fmt.Fprintf(c.Out, "%d events changed the row: %v %v\n", t.Count, t.First, t.Last)
	})
}
