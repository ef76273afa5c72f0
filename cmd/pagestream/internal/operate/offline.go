package operate

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/backup"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/export"
	"github.com/pagestream/pagestream/projections"
)

// Offline has the verbs on the streams of a server that is stopped.
type Offline struct {
	Conn   *nats.Conn
	JS     jetstream.JetStream
	Stream string
	// KeyFile is where the key ring belongs.
	KeyFile string
	// Ensure makes the stream if it is not there; Models starts the read models, once
	// however often it is called.
	Ensure func(context.Context) error
	Models func() (Models, error)
}

// Import stores the events of an export in an installation that has none. Each
// keeps its sequence and its time.
func (o *Offline) Import(ctx context.Context, r io.Reader, progress func(seq uint64)) (export.Imported, error) {
	if err := o.Ensure(ctx); err != nil {
		return export.Imported{}, err
	}
	return export.Read(ctx, export.ImportOptions{JS: o.JS, Stream: o.Stream, Progress: progress}, r)
}

// Restore makes the streams and the key file of a backup. Nothing is written over.
func (o *Offline) Restore(ctx context.Context, dir string, progress func(Copied)) (backup.Manifest, error) {
	return backup.Restore(ctx, backup.RestoreOptions{
		Conn: o.Conn, Dir: dir, Files: map[string]string{backupKeys: o.KeyFile},
		Progress: func(stream string, n uint64) { progress(Copied{stream, n}) },
	})
}

// RestoreConfig checks a whole backup and, where there is no file at path yet,
// restores the configuration to it. An empty path only checks.
func RestoreConfig(dir, path string) error {
	m, err := backup.Check(dir)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); path != "" && errors.Is(err, fs.ErrNotExist) {
		return backup.RestoreFiles(m, dir, map[string]string{backupConfig: path})
	}
	return nil
}

// Names are the names of all read models.
func (o *Offline) Names() (names []string, err error) {
	models, err := o.Models()
	for _, r := range models {
		names = append(names, r.Name())
	}
	return names, err
}

// Rebuild builds a read model from the stream. It fails with [ErrUnknown] where
// there is none of that name.
func (o *Offline) Rebuild(ctx context.Context, name string, progress func(projections.Rebuilding)) (projections.Rebuilt, error) {
	models, err := o.Models()
	if err != nil {
		return projections.Rebuilt{}, err
	}
	return (&Operator{Parts: Parts{Models: models, Logger: slog.New(slog.DiscardHandler)}}).Rebuild(ctx, name, progress)
}
