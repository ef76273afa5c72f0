package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/server"
	"github.com/pagestream/pagestream/config"
)

// MigrateCommand moves a stopped installation to a NATS cluster.
type MigrateCommand struct {
	To     string `required:"" placeholder:"CONFIG" env:"PAGESTREAM_MIGRATE_TO" help:"Configuration of the new installation: nats.url, nats.replicas, and a data.dir that no installation uses. Only this file counts, not the environment."`
	DryRun bool   `env:"PAGESTREAM_MIGRATE_DRY_RUN" help:"Look at both, and show what would be moved."`
}

// Run moves streams, read models, counts and positions, and compares them. It may be repeated after an interruption.
func (m MigrateCommand) Run(c *CLI) error {
	from, err := c.serverOptions(nil)
	if err != nil {
		return err
	}
	to := from
	if to.Config, err = config.Load(config.Options{File: m.To}); err != nil {
		return fmt.Errorf("--to: %w", err)
	}
	to.ConfigFile = m.To
	out, err := server.Migrate(c.ctx, server.MigrateOptions{
		From: from, To: to, Plan: m.DryRun, Progress: c.showMigrating,
	})
	c.redraw("")
	return c.answer(out, err, func() { writeMigrated(c, out, m.To) })
}

func (c *CLI) showMigrating(p server.MigrateProgress) {
	switch p.Phase {
	case server.MigrateBackup, server.MigrateRestore, server.MigrateFiles:
		done := humanize.IBytes(p.Done)
		if p.Total > 0 {
			done += " of " + humanize.IBytes(p.Total)
		}
		c.redraw("%s: %s %s", p.Phase, p.Part, done)
	default:
		c.redraw("%s: %s %s of %s", p.Phase, p.Part, humanize.Comma(int64(p.Done)), humanize.Comma(int64(p.Total)))
	}
}

// writeMigrated prints what was moved, and what is left to do.
func writeMigrated(c *CLI, out server.Migrated, to string) {
	writeTable(c, "STREAM, MESSAGES, FIRST, LAST, CONSUMERS, REPLICAS", out.Streams, func(s server.MigratedStream) cells {
		return cells{s.Name, s.Messages, s.First, s.Last, s.Consumers, s.Replicas}
	})
	if out.Planned {
		fmt.Fprintf(c.Out, "Nothing was changed. Without --dry-run these are moved from %s to the servers of %s and %s.\n",
			out.From, to, out.To)
		return
	}
	outboxes := false
	for _, s := range out.Streams {
		outboxes = outboxes || strings.Contains(s.Name, "_OUT_")
	}
	for _, m := range out.Models {
		fmt.Fprintf(c.Out, "%s: the same at event %d, digest %.12s\n", m.Name, m.Seq, m.Digest)
	}
	fmt.Fprintf(c.Out, "Moved to %s. The old installation was closed for %s.\n", out.To, out.Downtime.Round(time.Millisecond))
	fmt.Fprintf(c.Out, "Type: pagestream --config %s serve. The admin token is in the file that http.token_file names there.\n", to)
	if outboxes {
		fmt.Fprintln(c.Out, "Consumers keep their keys: write their accounts for the servers with: pagestream consumers nats-config DIR")
	}
	fmt.Fprintf(c.Out, "%s is kept, and can't be started. What is erased from now on stays in it: delete it when you don't need it any more.\n",
		out.From)
}
