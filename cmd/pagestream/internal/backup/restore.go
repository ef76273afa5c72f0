package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/jsm.go"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/streams"
)

// Errors of a restore.
var (
	// ErrStreamExists is returned when a stream of the backup exists already.
	ErrStreamExists = errors.New("the stream exists already; restore into a new installation")
	// ErrFileExists is returned when a file exists already with other contents.
	ErrFileExists = errors.New("there is another file of that name; move it away")
	// ErrIncomplete is returned when a restored stream ends before the head that the
	// manifest records.
	ErrIncomplete = errors.New("the restored stream ends before the backup's head")
)

// RestoreOptions configure [Restore]. Conn and Dir are required.
type RestoreOptions struct {
	Conn *nats.Conn
	// Domain is the JetStream domain of the streams; empty is that of the server.
	Domain string
	// Dir is the backup's directory.
	Dir string
	// Files are the target paths of the files, by role. A file without a path is not
	// restored.
	Files map[string]string
	// Identity is the path of a file with the identities of age that open encrypted
	// files.
	Identity string
	// Begin, if not nil, is called after all checks, before the first stream is created.
	// If it fails, none is.
	Begin func() error
	// Progress, if not nil, is called with the number of bytes sent of a stream.
	Progress func(stream string, bytes uint64)
}

// Restore creates the streams and files of a backup, after it has checked the whole
// backup. Nothing is overwritten. The next start rebuilds the read models from the
// stream. It fails with the errors of [Check], [ErrStreamExists], [ErrFileExists] or
// [ErrIncomplete].
func Restore(ctx context.Context, o RestoreOptions) (Manifest, error) {
	m, err := Check(o.Dir)
	if err != nil {
		return m, err
	}
	js, err := streams.Open(o.Conn, o.Domain)
	if err != nil {
		return m, fmt.Errorf("connect to JetStream: %w", err)
	}
	for _, s := range m.Streams {
		if _, err := js.Stream(ctx, s.Name); !errors.Is(err, jetstream.ErrStreamNotFound) {
			if err == nil {
				err = ErrStreamExists
			}
			return m, fmt.Errorf("stream %s: %w", s.Name, err)
		}
	}
	if err := RestoreFiles(m, o.Dir, o.Files, o.Identity); err != nil {
		return m, err
	}
	if o.Begin != nil {
		if err := o.Begin(); err != nil {
			return m, err
		}
	}
	mgr, err := jsm.New(o.Conn, jsm.WithTimeout(requestTimeout), jsm.WithDomain(o.Domain))
	if err != nil {
		return m, fmt.Errorf("connect to JetStream: %w", err)
	}
	for _, s := range m.Streams {
		notify := func(p jsm.RestoreProgress) {
			if o.Progress != nil {
				o.Progress(s.Name, p.BytesSent())
			}
		}
		dir := filepath.Join(o.Dir, s.Name)
		_, state, err := mgr.RestoreSnapshotFromDirectory(ctx, s.Name, dir, jsm.RestoreNotify(notify))
		if err != nil {
			return m, fmt.Errorf("restore stream %s: %w", s.Name, err)
		}
		if state == nil || state.LastSeq < s.Head {
			return m, fmt.Errorf("stream %s: %w", s.Name, ErrIncomplete)
		}
	}
	return m, nil
}

// RestoreFiles restores the files of a backup for which targets has a path, by role.
// An existing file with the same contents is left as it is; one with other contents
// fails with [ErrFileExists]. Encrypted ones are decrypted with the identities in the
// file identity; it fails with [ErrIdentity] if they can't be.
func RestoreFiles(m Manifest, dir string, targets map[string]string, identity string) error {
	for role, to := range targets {
		name, found := m.Files[role]
		if !found || to == "" {
			continue
		}
		want, err := os.ReadFile(filepath.Join(dir, filepath.Base(name)))
		if err != nil {
			return fmt.Errorf("read %s: %w", role, err)
		}
		if strings.HasSuffix(name, encrypted) {
			if want, err = decrypt(want, identity); err != nil {
				return fmt.Errorf("restore %s: %w", role, err)
			}
		}
		have, err := os.ReadFile(to)
		switch {
		case err == nil && bytes.Equal(want, have):
		case err == nil:
			return fmt.Errorf("%s: %w", to, ErrFileExists)
		case !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("restore %s: %w", role, err)
		default:
			if err := writeFile(to, want); err != nil {
				return fmt.Errorf("restore %s: %w", role, err)
			}
		}
	}
	return nil
}
