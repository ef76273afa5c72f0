package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/audit"
	"github.com/pagestream/pagestream/streams"
)

// AuditCommand proves what is promised, on a running server.
type AuditCommand struct{}

// Run prints the report. It fails where something is not as promised.
func (AuditCommand) Run(c *CLI) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	show := func(audit.Progress) {}
	if isTerminal(c.Err) {
		bar := progressbar.NewOptions64(1, progressbar.OptionSetWriter(c.Err), progressbar.OptionClearOnFinish())
		show = func(p audit.Progress) {
			bar.ChangeMax64(int64(max(p.Target, 1)))
			bar.Describe(fmt.Sprintf("pass %d of %d", p.Pass, p.Passes))
			_ = bar.Set64(int64(min(p.Seq, p.Target)))
		}
	}
	raw, err := cl.run(c.ctx, "/api/v1/audit", nil, func(line json.RawMessage) error {
		var p audit.Progress
		if err := json.Unmarshal(line, &p); err != nil {
			return err
		}
		show(p)
		return nil
	})
	if isTerminal(c.Err) {
		fmt.Fprint(c.Err, "\r\x1b[K")
	}
	if err != nil {
		return err
	}
	var r audit.Report
	if err := json.Unmarshal(raw, &r); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	if err := c.Print(r, func() { writeAudit(c, r) }); err != nil {
		return err
	}
	if !r.OK {
		return errors.New("the audit found problems")
	}
	return nil
}

func writeAudit(c *CLI, r audit.Report) {
	s, d := r.Stream, r.Door
	fmt.Fprintf(c.Out, "Stream to event %d: %d events, %d erased, %d not ours, %d missing, %d doubled.\n", r.Seq, s.Events, s.Erased, s.Malformed, s.Missing, s.Doubled)
	fmt.Fprintf(c.Out, "Door since %s: %d deliveries accepted, %d items = %d stored + %d known already; %d unreadable.\n",
		d.Since.Format(time.RFC3339), d.Accepted, d.Items, d.Stored, d.Duplicates, d.Unreadable)
	fmt.Fprintf(c.Out, "Of %d events of webhooks %d were not counted at this door.\n", s.Webhook, d.Uncounted)
	t := tabwriter.NewWriter(c.Out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "PROJECTION\tSEQUENCE\tDOUBLED\tNOT OURS\tPARKED")
	for _, m := range r.Models {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\n", m.Name, m.Seq, m.Doubled, m.Malformed, m.Parked)
	}
	_ = t.Flush()
	for _, p := range r.Problems {
		fmt.Fprintf(c.Out, "PROBLEM: %s", p.What)
		if len(p.Examples) > 0 {
			fmt.Fprintf(c.Out, "; the first: %v", p.Examples)
		}
		fmt.Fprintln(c.Out)
	}
	if r.OK {
		fmt.Fprintf(c.Out, "All is as promised, in %s.\n", r.Took.Round(time.Millisecond))
	}
}

// Audit proves the whole stream.
func (a *actions) Audit(ctx context.Context, progress func(any)) (any, error) {
	return a.p.audit(ctx, func(p audit.Progress) { progress(p) })
}

func (p *Program) audit(ctx context.Context, progress func(audit.Progress)) (audit.Report, error) {
	o := audit.Options{JS: p.js, Stream: streams.Name, Ledger: p.ledger.Counts}
	for _, r := range p.runners {
		o.Models = append(o.Models, r)
	}
	return audit.Run(ctx, o, progress)
}
