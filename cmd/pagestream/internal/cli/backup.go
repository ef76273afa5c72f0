package cli

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/backup"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/erasures"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
)

// BackupCommand copies streams, keys and configuration while the server runs.
type BackupCommand struct {
	Dir           string   `arg:"" help:"A new directory on the server's machine."`
	WithoutKeys   bool     `help:"Leave the key ring out; a restore then needs a copy of it."`
	WithoutConfig bool     `help:"Leave the configuration out."`
	EncryptTo     []string `placeholder:"age1…" sep:"none" help:"Encrypt keys and configuration to this public key of age; may be repeated. Events are not encrypted."`
}

// Run makes a backup. Unless they are left out or encrypted, the backup contains the keys that
// open every page's token: protect it like the key file.
func (b BackupCommand) Run(c *CLI) error {
	dir, err := filepath.Abs(b.Dir)
	if err != nil {
		return err
	}
	m, err := follow[operate.CopyProgress, backup.Manifest](c, "/api/v1/backup", operate.BackupRequest{
		Dir: dir, WithoutKeys: b.WithoutKeys, WithoutConfig: b.WithoutConfig, EncryptTo: b.EncryptTo,
	}, c.showCopied)
	return c.answer(m, err, func() {
		writeManifest(c, "backed up", m)
		fmt.Fprintf(c.Out, "%s has the erasures until now; of people who connected pages, those of this node. A restore needs "+
			"those until then: the server's erasures.file, or the newest copy beside a backup.\n", operate.ErasuresOf(dir))
	})
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
	Dir      string `arg:"" help:"Directory of the backup."`
	Erasures string `placeholder:"FILE" help:"Erase again what was erased since the backup: the server's erasures.file or the newest copy of it, or \"none\". Required."`
	Identity string `placeholder:"FILE" help:"File with the identity of age that opens encrypted keys and configuration."`
}

// Run checks the whole backup. Then it creates the streams, the key file and the file
// that --config names, if that does not exist, and erases what was erased since the backup.
// It overwrites nothing.
func (r RestoreCommand) Run(c *CLI) error {
	if r.Erasures == "" {
		return fmt.Errorf("%w: persons whose data were erased since the backup are in it: add --erasures FILE with the "+
			"server's erasures.file, or the newest copy beside a backup, to erase them again; or --erasures none to keep them",
			errUsage)
	}
	request := operate.RestoreRequest{Dir: r.Dir, Identity: r.Identity}
	if r.Erasures != noErasures {
		var err error
		if request.Erasures, err = erasures.Read(r.Erasures); err != nil {
			return err
		}
	}
	if err := operate.RestoreConfig(r.Dir, c.ConfigFile, r.Identity); err != nil {
		return err
	}
	return c.offline(func(o *operate.Offline) error {
		out, err := o.Restore(c.ctx, request, c.showCopied)
		c.redraw("")
		return c.answer(out, err, func() {
			writeManifest(c, "restored", out.Manifest)
			if r.Erasures == noErasures {
				fmt.Fprintf(c.Out, "Nothing was erased again (--erasures none): what was erased since %s is there.\n",
					out.Created.Format(time.DateTime+" MST"))
			} else {
				fmt.Fprintf(c.Out, "erased again: %d events of %d contacts and %d admins\n",
					out.Applied.Events, out.Applied.Contacts, out.Applied.Admins)
			}
			fmt.Fprintln(c.Out, "The read models are built at the next start: pagestream serve")
		})
	})
}

// noErasures stands for no erasures file.
const noErasures = "none"
