package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/backfill"
)

// BackfillCommand fills a gap in a page's messages from Meta's Conversations API.
type BackfillCommand struct {
	Page  PageRef `arg:"" help:"Page, by its id or name."`
	Since string  `required:"" placeholder:"WHEN" env:"PAGESTREAM_BACKFILL_SINCE" help:"Start of the gap: a time (2026-11-23T10:00:00Z) or a duration before now (2h, 24h)."`
	Until string  `placeholder:"WHEN" env:"PAGESTREAM_BACKFILL_UNTIL" help:"End of the gap (default: now)."`
}

// Run reads the page's conversations from Meta, stores the missing messages and prints their number.
func (b BackfillCommand) Run(c *CLI) error {
	now := time.Now()
	since, err := parseTime(b.Since, now)
	if err != nil {
		return err
	}
	until, err := parseTime(b.Until, now)
	if err != nil {
		return err
	}
	in := map[string]any{"since": since.UTC()}
	if !until.IsZero() {
		in["until"] = until.UTC()
	}
	path := pagePath(b.Page) + "/backfill"
	sum, err := follow[backfill.Progress, *backfill.Sum](c, path, in, func(p backfill.Progress) {
		c.redraw("%s: back to %s, %d conversations, %d messages, %d were missing",
			p.Platform, p.Reached.Local().Format(time.DateTime), p.Conversations, p.Messages, p.Stored)
	})
	if sum == nil {
		return err
	}
	return errors.Join(err, c.Print(sum, func() {
		fmt.Fprintf(c.Out, "%d conversations, %d messages: %d were missing, %d were stored already",
			sum.Conversations, sum.Messages, sum.Stored, sum.Duplicates)
		if n := sum.Erased + sum.Unreadable + sum.Unusable; n > 0 {
			fmt.Fprintf(c.Out, "; skipped: %d of erased contacts, %d unreadable conversations, %d malformed messages",
				sum.Erased, sum.Unreadable, sum.Unusable)
		}
		fmt.Fprintln(c.Out)
	}))
}
