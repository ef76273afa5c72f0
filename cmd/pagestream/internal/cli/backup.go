package cli

import (
	"fmt"
	"path/filepath"

	"github.com/dustin/go-humanize"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/backup"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
)

// BackupCommand copies streams, keys and configuration while the server runs.
type BackupCommand struct {
	Dir string `arg:"" help:"A new directory on the server's machine."`
}

// Run makes a backup. The backup contains the keys that open every page's token:
// protect it like the key file.
func (b BackupCommand) Run(c *CLI) error {
	dir, err := filepath.Abs(b.Dir)
	if err != nil {
		return err
	}
	m, err := follow[operate.CopyProgress, backup.Manifest](c, "/api/v1/backup", map[string]string{"dir": dir}, c.showCopied)
	return c.answer(m, err, func() { writeManifest(c, "backed up", m) })
}

func (c *CLI) showCopied(p operate.CopyProgress) {
	c.redraw("%s %s", p.Stream, humanize.IBytes(p.Bytes))
}

func writeManifest(c *CLI, done string, m backup.Manifest) {
	for _, s := range m.Streams {
		fmt.Fprintf(c.Out, "%s: stream %s to event %d\n", done, s.Name, s.Head)
	}
	for what, name := range m.Files {
		fmt.Fprintf(c.Out, "%s: %s (%s)\n", done, what, name)
	}
}

// RestoreCommand creates an installation from a backup.
type RestoreCommand struct {
	Dir string `arg:"" help:"Directory of the backup."`
}

// Run checks the whole backup. Then it creates the streams, the key file and the file
// that --config names, if that does not exist. It overwrites nothing.
func (r RestoreCommand) Run(c *CLI) error {
	if err := operate.RestoreConfig(r.Dir, c.ConfigFile); err != nil {
		return err
	}
	return c.offline(func(o *operate.Offline) error {
		m, err := o.Restore(c.ctx, r.Dir, c.showCopied)
		c.redraw("")
		return c.answer(m, err, func() {
			writeManifest(c, "restored", m)
			fmt.Fprintln(c.Out, "The read models are built at the next start: pagestream serve")
		})
	})
}
