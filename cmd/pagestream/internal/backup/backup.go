package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/jsm.go"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrThere says that the directory has something in it.
var ErrThere = errors.New("the directory is there already; name a new one")

const requestTimeout = 30 * time.Second

// Options say what to copy where.
type Options struct {
	Conn *nats.Conn
	// Streams are copied if they are there; the first has to be.
	Streams []string
	// Files are copied by what they are ("keys", "config"); an empty path is left
	// out.
	Files map[string]string
	Dir   string
	// Progress, if not nil, is told how many bytes of which stream have come.
	Progress func(stream string, bytes uint64)
}

// Take writes a backup to a new directory. Everything that was acknowledged when
// it is called is in it; of what comes meanwhile some is. The keys are copied
// after the streams, so that they open every token in them. It is readable by the
// owner alone: together with its keys it opens every page.
func Take(ctx context.Context, o Options) (m Manifest, err error) {
	if _, err := os.Lstat(o.Dir); err == nil {
		return m, fmt.Errorf("%s: %w", o.Dir, ErrThere)
	}
	partial := o.Dir + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return m, fmt.Errorf("remove half a backup: %w", err)
	}
	if err := os.MkdirAll(partial, 0o700); err != nil {
		return m, fmt.Errorf("make directory: %w", err)
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
	for what, path := range o.Files {
		if path == "" {
			continue
		}
		m.Files[what] = what + filepath.Ext(path)
		if err := copyFile(filepath.Join(partial, m.Files[what]), path); err != nil {
			return m, fmt.Errorf("copy %s: %w", what, err)
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
	if err := os.Rename(partial, o.Dir); err != nil {
		return m, fmt.Errorf("finish backup: %w", err)
	}
	return m, syncDir(filepath.Dir(o.Dir))
}

func (o Options) streams(ctx context.Context, dir string) (out []Stream, err error) {
	mgr, err := jsm.New(o.Conn, jsm.WithTimeout(requestTimeout))
	if err != nil {
		return nil, fmt.Errorf("ask JetStream: %w", err)
	}
	js, err := jetstream.New(o.Conn)
	if err != nil {
		return nil, fmt.Errorf("ask JetStream: %w", err)
	}
	for i, name := range o.Streams {
		st, err := js.Stream(ctx, name)
		if errors.Is(err, jetstream.ErrStreamNotFound) && i > 0 {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("ask stream %s: %w", name, err)
		}
		head := st.CachedInfo().State.LastSeq
		one, err := mgr.LoadStream(name)
		if err != nil {
			return nil, fmt.Errorf("ask stream %s: %w", name, err)
		}
		notify := func(p jsm.SnapshotProgress) {
			if o.Progress != nil {
				o.Progress(name, p.BytesReceived())
			}
		}
		if _, err := one.SnapshotToDirectory(ctx, filepath.Join(dir, name), jsm.SnapshotConsumers(), jsm.SnapshotNotify(notify)); err != nil {
			return nil, fmt.Errorf("copy stream %s: %w", name, err)
		}
		out = append(out, Stream{Name: name, Head: head})
	}
	return out, nil
}

func copyFile(to, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return writeFile(to, b)
}

// writeFile writes a new file and syncs it. It fails if there is one.
func writeFile(path string, b []byte) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(b); err != nil {
		return err
	}
	return f.Sync()
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !errors.Is(err, fs.ErrInvalid) {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}
