package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/jsm.go"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/internal/disk"
	"github.com/pagestream/pagestream/streams"
)

// Errors of [Take].
var (
	// ErrDirExists is returned when the directory for a new backup exists already.
	ErrDirExists = errors.New("the directory exists already; name a new one")
	// ErrPartial is returned when there is a directory or file with the name under which
	// the new backup would be written at first, and no earlier backup has made it.
	ErrPartial = errors.New("there is something of that name, which no backup has made; move it away")
	// ErrRunning is returned when another backup to the same directory is running.
	ErrRunning = errors.New("a backup to this directory is running")
)

const (
	requestTimeout = 30 * time.Second
	// markerFile is in the directory of an incomplete backup: only such a directory is
	// ever deleted.
	markerFile = ".pagestream-backup"
	// dirMode is the mode of the directories of a backup.
	dirMode = 0o700
)

// Options configure [Take]. Conn, Streams and Dir are required.
type Options struct {
	Conn *nats.Conn
	// Domain is the JetStream domain of the streams; empty is that of the server.
	Domain string
	// Streams are the names of the streams to copy. The first must exist; others are
	// skipped if they don't.
	Streams []string
	// Before are the names of streams that are copied before Streams, so that they have
	// nothing that Streams[0] does not have. They are skipped if they don't exist.
	Before []string
	// Files are the paths of the files to copy, by role ("keys", "config"). An empty
	// path is skipped.
	Files map[string]string
	// EncryptTo are the recipients that the files are encrypted to: public keys of age,
	// "age1…". Without any the files are copied as they are. Streams are not encrypted.
	EncryptTo []string
	// Dir is the backup's directory. It must not exist.
	Dir string
	// Progress, if not nil, is called with the number of bytes received of a stream.
	Progress func(stream string, bytes uint64)
}

// running has the directories that backups of this process are being written to.
var running sync.Map

// Take writes a backup to a new directory. It contains everything that was
// acknowledged before the call, and possibly some of what is stored in the meantime.
// The keys are copied after the streams, so that they decrypt every token in them.
// Only the owner can read the backup, whatever the umask: with its keys it gives access
// to every page. It fails with [ErrDirExists], [ErrPartial], [ErrRunning] or
// [ErrRecipient].
func Take(ctx context.Context, o Options) (m Manifest, err error) {
	recipients, err := parseRecipients(o.EncryptTo)
	if err != nil {
		return m, err
	}
	if _, err := os.Lstat(o.Dir); err == nil {
		return m, fmt.Errorf("%s: %w", o.Dir, ErrDirExists)
	}
	partial := filepath.Clean(o.Dir) + ".partial"
	if _, found := running.LoadOrStore(partial, true); found {
		return m, fmt.Errorf("%s: %w", o.Dir, ErrRunning)
	}
	defer running.Delete(partial)
	if err := makePartial(partial); err != nil {
		return m, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(partial))
		}
	}()
	m = Manifest{Format: format, Created: time.Now().UTC(), Files: map[string]string{}}
	if m.Streams, err = o.streams(ctx, partial); err != nil {
		return m, err
	}
	for role, path := range o.Files {
		if path == "" {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return m, fmt.Errorf("copy %s: %w", role, err)
		}
		m.Files[role] = role + filepath.Ext(path)
		if len(recipients) > 0 {
			m.Format, m.Files[role] = formatEncrypted, m.Files[role]+encrypted
			if b, err = encrypt(b, recipients); err != nil {
				return m, fmt.Errorf("encrypt %s: %w", role, err)
			}
		}
		if err := writeFile(filepath.Join(partial, m.Files[role]), b); err != nil {
			return m, fmt.Errorf("copy %s: %w", role, err)
		}
	}
	if m.Sums, err = sums(partial); err != nil {
		return m, err
	}
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return m, fmt.Errorf("encode manifest: %w", err)
	}
	if err := writeFile(filepath.Join(partial, manifestFile), b); err != nil {
		return m, fmt.Errorf("write manifest: %w", err)
	}
	if err := os.Remove(filepath.Join(partial, markerFile)); err != nil {
		return m, fmt.Errorf("finish backup: %w", err)
	}
	// A rename would replace an empty directory.
	if _, err := os.Lstat(o.Dir); err == nil {
		return m, fmt.Errorf("%s: %w", o.Dir, ErrDirExists)
	}
	if err := os.Rename(partial, o.Dir); err != nil {
		return m, fmt.Errorf("finish backup: %w", err)
	}
	return m, disk.SyncDir(filepath.Dir(o.Dir))
}

// makePartial makes the directory of an incomplete backup, and deletes one that an
// interrupted backup has left.
func makePartial(dir string) error {
	_, err := os.Lstat(dir)
	switch {
	case err == nil:
		if _, err := os.Lstat(filepath.Join(dir, markerFile)); err != nil {
			return fmt.Errorf("%s: %w", dir, ErrPartial)
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove incomplete backup: %w", err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("make directory: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	if err := os.Mkdir(dir, dirMode); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	err = errors.Join(os.Chmod(dir, dirMode), writeFile(filepath.Join(dir, markerFile), nil))
	if err != nil {
		return fmt.Errorf("make directory: %w", errors.Join(err, os.RemoveAll(dir)))
	}
	return nil
}

// streams copies the streams to dir, each to a directory of its name.
func (o Options) streams(ctx context.Context, dir string) (out []Stream, err error) {
	mgr, err := jsm.New(o.Conn, jsm.WithTimeout(requestTimeout), jsm.WithDomain(o.Domain))
	if err != nil {
		return nil, fmt.Errorf("connect to JetStream: %w", err)
	}
	js, err := streams.Open(o.Conn, o.Domain)
	if err != nil {
		return nil, fmt.Errorf("connect to JetStream: %w", err)
	}
	for i, name := range slices.Concat(o.Before, o.Streams) {
		st, err := js.Stream(ctx, name)
		if errors.Is(err, jetstream.ErrStreamNotFound) && i != len(o.Before) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read info of stream %s: %w", name, err)
		}
		info := st.CachedInfo()
		stream, err := mgr.LoadStream(name)
		if err != nil {
			return nil, fmt.Errorf("read info of stream %s: %w", name, err)
		}
		notify := func(p jsm.SnapshotProgress) {
			if o.Progress != nil {
				o.Progress(name, p.BytesReceived())
			}
		}
		to := filepath.Join(dir, name)
		_, err = stream.SnapshotToDirectory(ctx, to, jsm.SnapshotConsumers(), jsm.SnapshotNotify(notify))
		if err != nil {
			return nil, fmt.Errorf("copy stream %s: %w", name, err)
		}
		if err := makePrivate(to); err != nil {
			return nil, fmt.Errorf("copy stream %s: %w", name, err)
		}
		out = append(out, Stream{Name: name, Head: info.State.LastSeq, Created: streams.CreatedAt(info).UTC()})
	}
	return out, nil
}

// makePrivate gives dir mode 0700 and all files in it mode 0600.
func makePrivate(dir string) error {
	if err := os.Chmod(dir, dirMode); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Chmod(filepath.Join(dir, e.Name()), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// writeFile writes a new file with mode 0600, whatever the umask, and syncs it. It fails
// if the file exists.
func writeFile(path string, b []byte) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Chmod(0o600); err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		return err
	}
	return f.Sync()
}
