package cli

import (
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/backfill"
)

// BackfillCommand fills a gap in a page's messages.
type BackfillCommand struct {
	Page  string `arg:"" help:"Page id."`
	Since string `required:"" placeholder:"WHEN" env:"PAGESTREAM_BACKFILL_SINCE" help:"When the gap began: a time (2026-11-23T10:00:00Z) or how long ago (2h)."`
	Until string `placeholder:"WHEN" env:"PAGESTREAM_BACKFILL_UNTIL" help:"When it ended (default: now)."`
}

// when reads a time, or how long ago it was.
func when(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: %q is neither a time, as in 2026-11-23T10:00:00Z, nor a duration, as in 2h", errUsage, s)
	}
	return t, nil
}

// Run reads the page's conversations at Meta and prints what was missing.
func (b BackfillCommand) Run(c *CLI) error {
	now := time.Now()
	since, err := when(b.Since, now)
	if err != nil {
		return err
	}
	until, err := when(b.Until, now)
	if err != nil {
		return err
	}
	in := map[string]any{"since": since.UTC()}
	if !until.IsZero() {
		in["until"] = until.UTC()
	}
	sum, err := follow[backfill.Progress, *backfill.Sum](c, "/api/v1/pages/"+url.PathEscape(b.Page)+"/backfill", in, func(p backfill.Progress) {
		c.redraw("%s: back to %s, %d conversations, %d messages, %d were missing",
			p.Platform, p.Reached.Local().Format(time.DateTime), p.Conversations, p.Messages, p.Stored)
	})
	if sum == nil {
		return err
	}
	return errors.Join(err, c.Print(sum, func() {
		fmt.Fprintf(c.Out, "%d conversations, %d messages: %d were missing, %d were there",
			sum.Conversations, sum.Messages, sum.Stored, sum.Duplicates)
		if n := sum.Erased + sum.Unread + sum.Odd; n > 0 {
			fmt.Fprintf(c.Out, "; %d of erased contacts left out, %d conversations not readable, %d odd", sum.Erased, sum.Unread, sum.Odd)
		}
		fmt.Fprintln(c.Out)
	}))
}
