package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nats-io/jsm.go"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Errors of a restore.
var (
	// ErrStream says that a stream is there already.
	ErrStream = errors.New("the stream is there already; restore into a new installation")
	// ErrFile says that a file is there already, and another one.
	ErrFile = errors.New("there is another file of that name; move it away")
	// ErrShort says that a restored stream lacks what the manifest promises.
	ErrShort = errors.New("the restored stream ends before the backup's head")
)

// RestoreOptions say where to.
type RestoreOptions struct {
	Conn *nats.Conn
	Dir  string
	// Files are where each file goes, by what it is; one without a place is left
	// out.
	Files    map[string]string
	Progress func(stream string, bytes uint64)
}

// Restore makes the streams and files of a backup, after it has checked all of it.
// Nothing is written over. Read models are built of the stream at the next start.
func Restore(ctx context.Context, o RestoreOptions) (Manifest, error) {
	m, err := Check(o.Dir)
	if err != nil {
		return m, err
	}
	js, err := jetstream.New(o.Conn)
	if err != nil {
		return m, fmt.Errorf("ask JetStream: %w", err)
	}
	for _, s := range m.Streams {
		if _, err := js.Stream(ctx, s.Name); !errors.Is(err, jetstream.ErrStreamNotFound) {
			if err == nil {
				err = ErrStream
			}
			return m, fmt.Errorf("stream %s: %w", s.Name, err)
		}
	}
	if err := File(m, o.Dir, o.Files); err != nil {
		return m, err
	}
	mgr, err := jsm.New(o.Conn, jsm.WithTimeout(requestTimeout))
	if err != nil {
		return m, fmt.Errorf("ask JetStream: %w", err)
	}
	for _, s := range m.Streams {
		notify := func(p jsm.RestoreProgress) {
			if o.Progress != nil {
				o.Progress(s.Name, p.BytesSent())
			}
		}
		_, state, err := mgr.RestoreSnapshotFromDirectory(ctx, s.Name, filepath.Join(o.Dir, s.Name), jsm.RestoreNotify(notify))
		if err != nil {
			return m, fmt.Errorf("restore stream %s: %w", s.Name, err)
		}
		if state == nil || state.LastSeq < s.Head {
			return m, fmt.Errorf("stream %s: %w", s.Name, ErrShort)
		}
	}
	return m, nil
}

// File restores the files of a backup that have a place. The same file there
// already is left as it is.
func File(m Manifest, dir string, places map[string]string) error {
	for what, to := range places {
		name, found := m.Files[what]
		if !found || to == "" {
			continue
		}
		want, err := os.ReadFile(filepath.Join(dir, filepath.Base(name)))
		if err != nil {
			return fmt.Errorf("read %s: %w", what, err)
		}
		have, err := os.ReadFile(to)
		switch {
		case err == nil && bytes.Equal(want, have):
		case err == nil:
			return fmt.Errorf("%s: %w", to, ErrFile)
		case !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("restore %s: %w", what, err)
		default:
			if err := writeFile(to, want); err != nil {
				return fmt.Errorf("restore %s: %w", what, err)
			}
		}
	}
	return nil
}
