package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/audit"
)

// AuditCommand audits the stream and the read models of a running server.
type AuditCommand struct {
	Full bool `env:"PAGESTREAM_AUDIT_FULL" help:"Compare all rows with a replay, also of a long stream."`
}

// Run prints the report. It fails when the audit found a problem.
func (a AuditCommand) Run(c *CLI) error {
	b := c.bar(1)
	path := "/api/v1/audit"
	if a.Full {
		path += "?full=true"
	}
	r, err := follow[audit.Progress, audit.Report](c, path, nil, func(p audit.Progress) {
		if p.Model != "" {
			b.show(p.Seq, p.Target, "rows of %s", p.Model)
			return
		}
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
	if len(r.Others) == 0 {
		fmt.Fprintf(c.Out, "Of %d webhook events, %d were not counted by this webhook endpoint.\n", s.Webhook, d.Uncounted)
	} else {
		writeTable(c, "OTHER ENDPOINT, LEDGER, DELIVERIES, ITEMS, STORED, KNOWN, UNREADABLE, AS OF", r.Others,
			func(o audit.Door) cells {
				return cells{
					dash(o.Node), o.Ledger, o.Accepted, o.Items, o.Stored, o.Duplicates, o.Unreadable, ago(o.At),
				}
			})
		fmt.Fprintf(c.Out, "Of %d webhook events, %d were not counted by any of %d webhook endpoints.\n",
			s.Webhook, d.Uncounted, len(r.Others)+1)
	}
	writeTable(c, "PROJECTION, SEQUENCE, DUPLICATES, MALFORMED, PARKED, ROWS COMPARED WITH A REPLAY", r.Models,
		func(m audit.ModelCounts) cells {
			return cells{m.Name, m.Seq, m.Repeated, m.Malformed, m.Parked, m.Rows}
		})
	for _, m := range r.Models {
		if len(m.Rows.Pages) > 0 {
			fmt.Fprintf(c.Out, "A sample, because %s.\n", m.Rows.Why)
			break
		}
	}
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
