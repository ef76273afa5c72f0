package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/pagestream/pagestream/projections"
)

// ProjectionsCommand groups what concerns the read models.
type ProjectionsCommand struct {
	List    ProjectionsListCommand    `cmd:"" help:"Show where each read model stands."`
	Verify  ProjectionsVerifyCommand  `cmd:"" help:"Compare read models with a replay of the stream."`
	Explain ProjectionsExplainCommand `cmd:"" help:"Say which events made a row."`
	Rebuild ProjectionsRebuildCommand `cmd:"" help:"Build read models anew from the stream, beside the live ones."`
}

// ProjectionsListCommand lists the read models.
type ProjectionsListCommand struct{}

// Run prints a table.
func (ProjectionsListCommand) Run(c *CLI) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	list, err := collect[projections.Status](c.ctx, cl, "/api/v1/projections", nil, 0)
	if err != nil {
		return err
	}
	return c.Print(list, func() { writeProjections(c, list) })
}

func writeProjections(c *CLI, list []projections.Status) {
	t := tabwriter.NewWriter(c.Out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "PROJECTION\tVERSION\tSTATE\tSEQUENCE\tLAG\tDROPPED\tPARKED\tERROR")
	for _, s := range list {
		fmt.Fprintf(t, "%s\t%d\t%s\t%d\t%d\t%d\t%d\t%s\n", s.Name, s.Version, s.State, s.Seq, s.Lag, s.Dropped, s.Parked, dash(s.LastError))
	}
	_ = t.Flush()
}
