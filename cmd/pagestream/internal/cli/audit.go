package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/audit"
)

// AuditCommand audits the stream and the read models of a running server.
type AuditCommand struct{}

// Run prints the report. It fails when the audit found a problem.
func (AuditCommand) Run(c *CLI) error {
	b := c.bar(1)
	r, err := follow[audit.Progress, audit.Report](c, "/api/v1/audit", nil, func(p audit.Progress) {
		b.show(p.Seq, p.Target, "pass %d of %d", p.Pass, p.Passes)
	})
	err = c.answer(r, err, func() { writeAudit(c, r) })
	if err == nil && !r.OK {
		return errors.New("the audit found problems")
	}
	return err
}

func writeAudit(c *CLI, r audit.Report) {
	s, d := r.Stream, r.Intake
	fmt.Fprintf(c.Out, "Stream to event %d: %d events, %d erased, %d malformed, %d missing, %d duplicated.\n",
		r.Seq, s.Events, s.Erased, s.Malformed, s.Missing, s.Repeated)
	fmt.Fprintf(c.Out,
		"Webhook endpoint since %s: %d deliveries accepted, %d items = %d stored + %d known already; %d unreadable.\n",
		d.Since.Format(time.RFC3339), d.Accepted, d.Items, d.Stored, d.Duplicates, d.Unreadable)
	fmt.Fprintf(c.Out, "Of %d webhook events, %d were not counted by this webhook endpoint.\n", s.Webhook, d.Uncounted)
	writeTable(c.Out, "PROJECTION, SEQUENCE, DUPLICATES, MALFORMED, PARKED", r.Models, func(m audit.ModelCounts) cells {
		return cells{m.Name, m.Seq, m.Repeated, m.Malformed, m.Parked}
	})
	for _, p := range r.Problems {
		fmt.Fprintf(c.Out, "PROBLEM: %s", p.What)
		if len(p.Examples) > 0 {
			fmt.Fprintf(c.Out, "; first sequences: %v", p.Examples)
		}
		fmt.Fprintln(c.Out)
	}
	if r.OK {
		fmt.Fprintf(c.Out, "No problems found, in %s.\n", r.Took.Round(time.Millisecond))
	}
}
