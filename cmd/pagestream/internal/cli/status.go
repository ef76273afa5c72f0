package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
)

// StatusCommand shows the state of a running server.
type StatusCommand struct {
	Cluster bool `env:"PAGESTREAM_STATUS_CLUSTER" help:"Show the NATS servers, and each stream's leader, copies and their lag instead."`
}

// Run prints the server's status and the pages that need attention, or with --cluster the copies of the streams.
func (s StatusCommand) Run(c *CLI) error {
	if s.Cluster {
		out, err := get[operate.Cluster](c, clusterPath, nil)
		return c.answer(out, err, func() { printCluster(c, out) })
	}
	return printStatus(c)
}

func printStatus(c *CLI) error {
	s, err := get[operate.Status](c, "/api/v1/status", nil)
	return c.answer(s, err, func() {
		ready := "ready"
		if !s.Ready {
			ready = c.paint(red, "NOT READY")
		}
		fmt.Fprintf(c.Out, "pagestream %s, up %s, %s\n", s.Version, time.Since(s.Started).Round(time.Second), ready)
		for _, r := range s.Reasons {
			fmt.Fprintf(c.Out, "  %s\n", r)
		}
		fmt.Fprintf(c.Out, "stream %s: %d events, sequence %d to %d, %s\n",
			s.Stream.Name, s.Stream.Events, s.Stream.FirstSeq, s.Stream.LastSeq, humanize.IBytes(s.Stream.Bytes))
		if j := s.Stream.Journal; j != nil && (j.Waiting > 0 || j.Error != "") {
			fmt.Fprintf(c.Out, "  %d events in the journal wait for it %s\n", j.Waiting, j.Error)
		}
		if lost := s.Stream.Lost; lost != nil {
			fmt.Fprintf(c.Out, "  LOST: %s; run: pagestream recover\n", lost)
		}
		if d := s.Durability; d != nil && len(d.Doubts) > 0 {
			fmt.Fprintf(c.Out, "  MAY BE LOST in NATS: %s; run: pagestream doctor\n", strings.Join(d.Doubts, "; "))
		}
		for _, l := range s.Space {
			fmt.Fprintf(c.Out, "space %s\n", l)
		}
		fmt.Fprintln(c.Out)
		writeProjections(c, s.Projections)
		writeProblemPages(c, s.Pages)
	})
}

// writeProblemPages prints the pages that have an error or a warning.
func writeProblemPages(c *CLI, p operate.PagesStatus) {
	all := 0
	for _, n := range p.States {
		all += n
	}
	fmt.Fprintf(c.Out, "\n%d pages: %d wrong, %d with a warning\n", all, p.Wrong, p.Warnings)
	if len(p.Unhealthy) == 0 {
		return
	}
	writeTable(c, "PAGE, NAME, COMPANY, SEVERITY, STATE, WHAT", p.Unhealthy, func(i operate.UnhealthyPage) cells {
		return cells{i.Page, dash(i.Name), dash(i.Company), toned{string(i.Severity), ofSeverity(i.Severity)}, i.State.Words(), i.Summary}
	})
	if more := p.Wrong + p.Warnings - len(p.Unhealthy); more > 0 {
		fmt.Fprintf(c.Out, "and %d more; run: pagestream pages list\n", more)
	}
}
