package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dustin/go-humanize"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/backup"
	"github.com/pagestream/pagestream/streams"
)

// What the files of a backup are.
const (
	backupKeys   = "keys"
	backupConfig = "config"
)

// BackupCommand copies streams, keys and configuration while the server runs.
type BackupCommand struct {
	Dir string `arg:"" help:"A new directory, on the server's machine."`
}

// Run takes a backup. It has the keys that open every page's token: keep it as
// carefully as those.
func (b BackupCommand) Run(c *CLI) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(b.Dir)
	if err != nil {
		return err
	}
	raw, err := cl.run(c.ctx, "/api/v1/backup", map[string]string{"dir": dir}, func(line json.RawMessage) error {
		var p struct {
			Stream string
			Bytes  uint64
		}
		if err := json.Unmarshal(line, &p); err != nil {
			return err
		}
		showCopied(c, p.Stream, p.Bytes)
		return nil
	})
	clearLine(c)
	if err != nil {
		return err
	}
	var m backup.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	return c.Print(m, func() { writeManifest(c, "backed up", m) })
}

func showCopied(c *CLI, stream string, n uint64) {
	if isTerminal(c.Err) {
		fmt.Fprintf(c.Err, "\r\x1b[K%s %s", stream, humanize.IBytes(n))
	}
}

func clearLine(c *CLI) {
	if isTerminal(c.Err) {
		fmt.Fprint(c.Err, "\r\x1b[K")
	}
}

func writeManifest(c *CLI, done string, m backup.Manifest) {
	for _, s := range m.Streams {
		fmt.Fprintf(c.Out, "%s: stream %s to event %d\n", done, s.Name, s.Head)
	}
	for what, name := range m.Files {
		fmt.Fprintf(c.Out, "%s: %s (%s)\n", done, what, name)
	}
}

// RestoreCommand makes an installation of a backup.
type RestoreCommand struct {
	Dir string `arg:"" help:"The backup."`
}

// Run checks the whole backup and then makes the streams and the key file, and the
// file that --config names if it is not there. Nothing is written over.
func (r RestoreCommand) Run(c *CLI) (err error) {
	m, err := backup.Check(r.Dir)
	if err != nil {
		return err
	}
	if _, err := os.Stat(c.ConfigFile); c.ConfigFile != "" && errors.Is(err, fs.ErrNotExist) {
		if err := backup.File(m, r.Dir, map[string]string{backupConfig: c.ConfigFile}); err != nil {
			return err
		}
	}
	return c.offline(func(ctx context.Context, p *Program) error {
		m, err := backup.Restore(ctx, backup.RestoreOptions{
			Conn: p.conn, Dir: r.Dir, Files: map[string]string{backupKeys: p.cfg.Keys.File},
			Progress: func(stream string, n uint64) { showCopied(c, stream, n) },
		})
		clearLine(c)
		if err != nil {
			return err
		}
		return c.Print(m, func() {
			writeManifest(c, "restored", m)
			fmt.Fprintln(c.Out, "The read models are built at the next start: pagestream serve")
		})
	})
}

// Backup copies what can't be made again to a directory of the server's machine.
func (a *actions) Backup(ctx context.Context, dir string, progress func(any)) (any, error) {
	m, err := backup.Take(ctx, backup.Options{
		Conn: a.p.conn, Streams: []string{streams.Name, streams.DecisionsOf(streams.Name), streams.ParkedOf(streams.Name)}, Dir: dir,
		Files:    map[string]string{backupKeys: a.p.cfg.Keys.File, backupConfig: a.p.configFile},
		Progress: func(stream string, n uint64) { progress(map[string]any{"stream": stream, "bytes": n}) },
	})
	if errors.Is(err, backup.ErrThere) {
		err = fmt.Errorf("%w: %w", api.ErrRefused, err)
	}
	return m, err
}
