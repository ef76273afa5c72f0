package operate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/backup"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/export"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/streams"
)

// Offline has the verbs on the streams of a stopped server.
type Offline struct {
	Conn   *nats.Conn
	JS     jetstream.JetStream
	Stream string
	// KeyFile is the path of the key ring.
	KeyFile string
	// Replicas is how many copies of each stream a cluster keeps.
	Replicas int
	// Journal reports that the stream of events has a journal.
	Journal bool
	// Ensure creates the stream if it does not exist, and makes it ready for events that come from nowhere else.
	Ensure func(context.Context) error
	// NewStream creates the stream if it does not exist, also in place of one that is gone, and puts that on record. It
	// returns whether it did.
	NewStream func(context.Context) (bool, error)
	// Secrets opens the bucket of secrets, and creates it if it does not exist.
	Secrets func(context.Context) (*connect.Bucket, error)
	// Begin records that a restore with an id and these erasures has begun, Copied that its
	// streams are complete. Finish carries out the erasures of the restore that has begun, and
	// lets every node use the stream of events.
	Begin  func(id string, list []meta.Erasure) error
	Copied func() error
	Finish func(context.Context) (Applied, error)
	// Models starts the read models. Further calls return the same ones.
	Models func() (Models, error)
}

// Import stores the events of an export in an installation that has no events. Each
// keeps its sequence and its time. The sealed tokens in the events of an earlier version
// become secrets. Nothing is created unless the whole file can be stored. maxGaps is how many
// sequences may be missing in it, 0 for the default. See [export.Read].
func (o *Offline) Import(ctx context.Context, r io.ReadSeeker, maxGaps uint64, progress func(seq uint64)) (
	export.Imported, error,
) {
	var secrets *connect.Bucket
	return export.Read(ctx, export.ImportOptions{
		JS: o.JS, Stream: o.Stream, MaxGaps: maxGaps, Progress: progress,
		Open: func(ctx context.Context) (err error) {
			if err = o.Ensure(ctx); err == nil {
				secrets, err = o.Secrets(ctx)
			}
			return err
		},
		Secret: func(ctx context.Context, page domain.PageID, t export.Tokens) (string, error) {
			return secrets.Import(ctx, connect.Secret{
				Page: page, ConnectionID: t.ConnectionID, Token: t.Token, VerifyToken: t.VerifyToken,
			})
		},
	}, r)
}

// RestoreRequest is a request to restore a backup.
type RestoreRequest struct {
	// Dir is the directory of the backup.
	Dir string
	// Erasures are those that have to be carried out again.
	Erasures []meta.Erasure
	// Identity is the path of a file that opens encrypted files; see [backup.RestoreOptions].
	Identity string
}

// Restored is the result of a restore.
type Restored struct {
	backup.Manifest
	Applied Applied `json:"applied"`
}

// Applied is what was erased again after a restore.
type Applied struct {
	// Contacts and Admins count the persons whose data the backup had, Events the
	// deleted events.
	Contacts int `json:"contacts"`
	Admins   int `json:"admins"`
	Events   int `json:"events"`
}

// Restore creates the streams, the secrets and the key file of a backup, waits until a cluster has filled their copies,
// and then carries out the erasures. It overwrites nothing. If it is interrupted, the next start of the server
// carries out the erasures before it serves anything, or is refused if the copy was not
// complete. Until then no other node uses the stream of events: see [streams.RestoringKey] and [backup.Restore].
func (o *Offline) Restore(
	ctx context.Context, r RestoreRequest, progress func(CopyProgress),
) (out Restored, err error) {
	id := nuid.Next()
	out.Manifest, err = backup.Restore(ctx, backup.RestoreOptions{
		Domain: o.JS.Options().Domain,
		Conn:   o.Conn, Dir: r.Dir, Files: map[string]string{backupKeys: o.KeyFile}, Identity: r.Identity,
		Replicas: o.Replicas, Journal: o.Journal, ID: id,
		Begin:    func() error { return o.Begin(id, r.Erasures) },
		Progress: func(stream string, n uint64) { progress(CopyProgress{stream, n}) },
	})
	if err != nil {
		return out, err
	}
	if err := o.awaitCopies(ctx, out.Manifest); err != nil {
		return out, err
	}
	if err := o.Copied(); err != nil {
		return out, err
	}
	out.Applied, err = o.Finish(ctx)
	return out, err
}

// CopiesLimit bounds how long a restore or a migration waits until a cluster has filled all copies.
const CopiesLimit = 12 * time.Hour

// awaitCopies waits until each server that keeps a stream of a backup has all of it: until then the cluster could
// make a server without it the stream's leader.
func (o *Offline) awaitCopies(ctx context.Context, m backup.Manifest) error {
	ctx, cancel := context.WithTimeout(ctx, CopiesLimit)
	defer cancel()
	for _, s := range m.Streams {
		if err := streams.AwaitCopies(ctx, o.JS, s.Name, s.Head, nil); err != nil {
			return fmt.Errorf("wait for the copies of the restored streams: %w", err)
		}
	}
	return nil
}

// RestoreConfig checks a whole backup and restores the configuration to path if no
// file exists there and the backup has one. With an empty path it only checks.
func RestoreConfig(dir, path, identity string) error {
	m, err := backup.Check(dir)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); path != "" && errors.Is(err, fs.ErrNotExist) {
		return backup.RestoreFiles(m, dir, map[string]string{backupConfig: path}, identity)
	}
	return nil
}

// Names returns the names of all read models.
func (o *Offline) Names() (names []string, err error) {
	models, err := o.Models()
	for _, r := range models {
		names = append(names, r.Name())
	}
	return names, err
}

// Rebuild builds a read model from the stream. It fails with [ErrUnknown].
func (o *Offline) Rebuild(ctx context.Context, name string, progress func(projections.Rebuilding)) (
	projections.Rebuilt, error,
) {
	models, err := o.Models()
	if err != nil {
		return projections.Rebuilt{}, err
	}
	op := &Operator{Parts: Parts{Models: models, Logger: slog.New(slog.DiscardHandler)}}
	return op.Rebuild(ctx, name, progress)
}
