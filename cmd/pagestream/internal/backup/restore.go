package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/jsm.go"
	jsmapi "github.com/nats-io/jsm.go/api"
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

// codeRestoreExists is the code of the server's error when there is a stream of that name, or when it is being restored
// already. A server gives a restore up that has sent nothing for 5 s.
const codeRestoreExists = 10130

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
	// Replicas is how many copies a cluster keeps of each stream, if the backup's stream had fewer. A server that is
	// in no cluster keeps one.
	Replicas int
	// Journal reports that the stream of events gets a journal, as that of the embedded server has.
	Journal bool
	// Metadata is added to the configuration of each stream.
	Metadata map[string]string
	// ID, if not empty, marks the stream of events with [streams.RestoringKey].
	ID string
	// Begin, if not nil, is called after all checks, before the first stream is created.
	// If it fails, none is.
	Begin func() error
	// Progress, if not nil, is called with the number of bytes sent of a stream.
	Progress func(stream string, bytes uint64)
}

// Restore creates the streams and files of a backup, after it has checked the whole
// backup. Nothing is overwritten. The next start rebuilds the read models from the
// stream. A cluster fills the copies of a stream after the restore has returned. It fails with the errors of
// [Check], [ErrStreamExists], [ErrFileExists] or [ErrIncomplete].
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
		if err := absent(ctx, js, s.Name); err != nil {
			return m, err
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
		config, err := o.config(dir, s)
		if err != nil {
			return m, fmt.Errorf("restore stream %s: %w", s.Name, err)
		}
		_, state, err := mgr.RestoreSnapshotFromDirectory(ctx, s.Name, dir,
			jsm.RestoreNotify(notify), jsm.RestoreConfiguration(config))
		var refused jsmapi.ApiError
		if errors.As(err, &refused) && refused.ErrCode == codeRestoreExists {
			err = ErrStreamExists
		}
		if err != nil {
			return m, fmt.Errorf("restore stream %s: %w", s.Name, err)
		}
		if state == nil || state.LastSeq < s.Head {
			return m, fmt.Errorf("stream %s: %w", s.Name, ErrIncomplete)
		}
	}
	return m, nil
}

// config returns the configuration with which the stream of a directory is restored: its own, with the copies and the
// metadata that are wanted, and when it was created.
func (o RestoreOptions) config(dir string, s Stream) (c jsmapi.StreamConfig, err error) {
	b, err := os.ReadFile(filepath.Join(dir, jsm.SnapshotMetaFile))
	if err != nil {
		return c, err
	}
	var saved struct {
		Config jsmapi.StreamConfig `json:"config"`
	}
	if err := json.Unmarshal(b, &saved); err != nil {
		return c, fmt.Errorf("decode configuration: %w", err)
	}
	c = saved.Config
	if s.Name == streams.Name {
		if c, err = o.events(c); err != nil {
			return c, err
		}
	}
	if c.Replicas = max(1, c.Replicas, o.Replicas); o.Conn.ConnectedClusterName() == "" {
		c.Replicas = 1
	}
	if c.Metadata == nil {
		c.Metadata = map[string]string{}
	}
	if !s.Created.IsZero() {
		c.Metadata[streams.CreatedKey] = s.Created.UTC().Format(time.RFC3339Nano)
	}
	maps.Copy(c.Metadata, o.Metadata)
	delete(c.Metadata, streams.RestoringKey) // the backup may be of a stream that was being restored
	if s.Name == streams.Name && o.ID != "" {
		c.Metadata[streams.RestoringKey] = o.ID
	}
	return c, nil
}

// events sets on the configuration of the stream of events whether it has a journal.
func (o RestoreOptions) events(c jsmapi.StreamConfig) (jsmapi.StreamConfig, error) {
	var config jetstream.StreamConfig
	b, err := json.Marshal(c)
	if err == nil {
		err = json.Unmarshal(b, &config)
	}
	if err != nil {
		return c, fmt.Errorf("decode configuration: %w", err)
	}
	streams.SetJournal(&config, o.Journal, streams.DefaultWindow)
	if b, err = json.Marshal(config); err != nil {
		return c, fmt.Errorf("encode configuration: %w", err)
	}
	c = jsmapi.StreamConfig{}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("encode configuration: %w", err)
	}
	return c, nil
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

// absent returns [ErrStreamExists] if there is a stream of that name. It waits for the leader of one that the cluster has,
// or had until a moment ago.
func absent(ctx context.Context, js jetstream.JetStream, name string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	switch _, err := streams.AwaitInfo(ctx, js, name); {
	case err == nil:
		return fmt.Errorf("stream %s: %w", name, ErrStreamExists)
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return nil
	default:
		return err
	}
}
