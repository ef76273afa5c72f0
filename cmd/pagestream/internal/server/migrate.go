package server

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/backup"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/datadir"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/internal/disk"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/streams"
)

// Errors of [Migrate].
var (
	// ErrMigrateFrom is returned when there is nothing that can be migrated.
	ErrMigrateFrom = errors.New("only an installation with the embedded server can be migrated: " +
		"name its configuration with --config")
	// ErrMigrateTo is returned when the new installation is not one that a migration can make.
	ErrMigrateTo = errors.New("the configuration of --to must name a NATS cluster in nats.url, and directories that " +
		"no installation uses")
	// ErrMigrateOther is returned when a migration to another installation has begun.
	ErrMigrateOther = errors.New("a migration to another installation has begun")
	// ErrMigrateDiffers is returned when the new installation is not the same as the old one. The next run copies
	// again.
	ErrMigrateDiffers = errors.New("the copy is not the same as the original; type the same again to copy once more")
)

// Phases of [Migrate].
const (
	MigrateModels   = "read models" // of the old installation: brought to the end of the stream
	MigrateBackup   = "copy"        // of the streams to a directory
	MigrateRestore  = "restore"     // into the cluster
	MigrateReplicas = "replicas"    // are filled by the cluster
	MigrateFiles    = "files"       // of read models
	MigrateVerify   = "verify"      // streams, and then read models
)

const (
	// migrationDir is in the new data directory while a migration is not complete.
	migrationDir = "migration"
	// stuckLimit is how long nothing may change while something is waited for.
	stuckLimit = 5 * time.Minute
	// giveUpLimit is in how much time the servers certainly give up a restore that sends nothing more.
	giveUpLimit = 30 * time.Second
	// electionLimit is how long a stream of the cluster may be without a leader.
	electionLimit = time.Minute
)

// MigrateOptions configure [Migrate].
type MigrateOptions struct {
	From, To Options
	// Plan only looks at both and changes nothing.
	Plan bool
	// Progress, if not nil, is called often.
	Progress func(MigrateProgress)
}

// MigrateProgress is what a migration is doing: Done of Total events, bytes or copies of Part. Total is 0 if it is
// not known.
type MigrateProgress struct {
	Phase string `json:"phase"`
	Part  string `json:"part"`
	Done  uint64 `json:"done"`
	Total uint64 `json:"total,omitempty"`
}

// Migrated is the result of [Migrate].
type Migrated struct {
	// Planned is set if nothing was done.
	Planned bool `json:"planned,omitempty"`
	// Resumed is set if an earlier run had copied the streams already.
	Resumed bool             `json:"resumed,omitempty"`
	From    string           `json:"from"`
	To      string           `json:"to"`
	Streams []MigratedStream `json:"streams"`
	Models  []MigratedModel  `json:"models"`
	// Endpoints is the number of outgoing webhooks whose positions were compared with the new stream.
	Endpoints int `json:"endpoints"`
	// Downtime is the time from when the old directory was closed until it was left. Took is that of each phase of
	// this run.
	Downtime time.Duration            `json:"downtime_ns"`
	Took     map[string]time.Duration `json:"took_ns"`
}

// MigratedStream is a stream that is the same in both installations.
type MigratedStream struct {
	Name string `json:"name"`
	streams.Extent
	// Replicas is how many copies the cluster keeps.
	Replicas int `json:"replicas"`
}

// MigratedModel is a read model that is the same in both installations.
type MigratedModel struct {
	Name   string `json:"name"`
	Seq    uint64 `json:"seq"`
	Digest string `json:"digest"`
}

// migrator is a migration that is under way.
type migrator struct {
	o        MigrateOptions
	from, to *Program
	config   string // the path of the new configuration
	record   datadir.Migration
	copied   bool
	out      Migrated
	names    []string
}

// Migrate moves a stopped installation with the embedded server to a NATS cluster: all its streams with their
// sequences, gaps, times and consumers, and the files of its read models, with the counts of deliveries and the
// positions of webhooks. The keys and the erasures are copied if the new configuration names other files.
//
// It holds the lock of the old directory, which is marked before anything is copied, and can't be started from then
// on. It only reads it. When the new installation was compared with the old one, message by message, by the digests
// of the read models and the fingerprints of their positions, the new directory is complete and the old one is
// left. A run that was interrupted at any time may be repeated: it goes on if the streams were copied, and otherwise
// begins again. Streams that are in the cluster already are never replaced, unless a migration of the same
// installation has made them and has not finished; no node starts on those.
func Migrate(ctx context.Context, o MigrateOptions) (out Migrated, err error) {
	if o.Progress == nil {
		o.Progress = func(MigrateProgress) {}
	}
	m := &migrator{o: o, out: Migrated{Took: map[string]time.Duration{}}}
	if err := m.check(); err != nil {
		return m.out, err
	}
	old, found, err := datadir.ReadMigration(m.out.From)
	if err != nil {
		return m.out, err
	}
	if err := m.resume(old, found); err != nil {
		return m.out, err
	}
	m.from, m.to = m.program(o.From), m.program(o.To)
	defer func() {
		for _, p := range []*Program{m.to, m.from} {
			closing, cancel := context.WithTimeout(context.Background(), p.cfg.HTTP.ShutdownTimeout)
			err = errors.Join(err, p.Close(closing))
			cancel()
		}
	}()
	if !old.Done.IsZero() { // it was interrupted after the last look
		if err := m.to.openStream(ctx); err != nil {
			return m.out, err
		}
		return m.out, m.finish(ctx)
	}
	err = m.run(ctx)
	if errors.Is(err, streams.ErrNotSame) || errors.Is(err, hooks.ErrPosition) {
		err = fmt.Errorf("%w: %w", ErrMigrateDiffers, err)
	}
	if errors.Is(err, ErrMigrateDiffers) {
		err = errors.Join(err, m.forget())
	}
	return m.out, err
}

// program returns a program that is a part of the migration.
func (m *migrator) program(o Options) *Program {
	o.Config.NATS.Listen = "" // no consumer reads meanwhile
	p := New(o)
	p.migration = m.record.ID
	return p
}

// check looks at the settings.
func (m *migrator) check() (err error) {
	from, to := m.o.From.Config, m.o.To.Config
	if from.NATS.URL != "" {
		return ErrMigrateFrom
	}
	if to.NATS.URL == "" {
		return ErrMigrateTo
	}
	for _, path := range []struct {
		of  string
		abs *string
	}{{from.Data.Dir, &m.out.From}, {to.Data.Dir, &m.out.To}, {m.o.To.ConfigFile, &m.config}} {
		if *path.abs, err = filepath.Abs(path.of); err != nil {
			return err
		}
	}
	if _, err := os.Stat(m.out.From); err != nil {
		return fmt.Errorf("%w (%w)", ErrMigrateFrom, err)
	}
	inUse := func(key, dir string) error { return fmt.Errorf("%w: %s: %s", ErrMigrateTo, key, dir) }
	if config.Inside(m.out.From, m.out.To) || config.Inside(m.out.To, m.out.From) {
		return inUse("data.dir", m.out.To)
	}
	if config.Inside(from.ProjectionsDir(), to.ProjectionsDir()) || config.Inside(to.ProjectionsDir(), from.ProjectionsDir()) {
		return inUse("projections.dir", to.ProjectionsDir())
	}
	if to.Keys.File == from.Keys.File {
		return nil
	}
	was, err := os.ReadFile(from.Keys.File)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read keys.file: %w", err)
	}
	is, err := os.ReadFile(to.Keys.File)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("read keys.file: %w", err)
	case !bytes.Equal(was, is):
		return fmt.Errorf("keys.file %s: %w", to.Keys.File, backup.ErrFileExists)
	}
	return nil
}

// resume finds out whether an earlier run is gone on with. old is on record in the old directory.
func (m *migrator) resume(old datadir.Migration, found bool) error {
	into, begun, err := datadir.ReadMigration(m.out.To)
	if err != nil {
		return err
	}
	if begun && (!into.Into || into.Other != m.out.From) {
		return &datadir.MigrationError{Dir: m.out.To, Migration: into}
	}
	switch {
	case found && (old.Into || !old.Done.IsZero() && (!begun || into.ID != old.ID)):
		return &datadir.MigrationError{Dir: m.out.From, Migration: old}
	case found && old.Other != m.out.To:
		return fmt.Errorf("%w: %w", ErrMigrateOther, &datadir.MigrationError{Dir: m.out.From, Migration: old})
	}
	if !begun {
		for _, dir := range []string{m.o.To.Config.ProjectionsDir(), filepath.Join(m.out.To, "nats")} {
			entries, err := os.ReadDir(dir)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("look into new directory: %w", err)
			}
			if len(entries) > 0 {
				return fmt.Errorf("%w: %s", ErrMigrateTo, dir)
			}
		}
	}
	m.record = datadir.Migration{ID: nuid.Next(), Config: m.config, Began: time.Now().UTC()}
	if found && begun && into.ID == old.ID { // nothing was stored in the old directory since
		m.record, m.copied = old, into.Copied
	}
	return nil
}

// run does everything but the end of an interrupted migration.
func (m *migrator) run(ctx context.Context) (err error) {
	if err := m.from.openStream(ctx); err != nil {
		return err
	}
	if _, found, err := m.from.readRestore(); err != nil || found {
		return cmp.Or(err, fmt.Errorf("%w: start the old installation once more", ErrRestore))
	}
	if err := m.to.openNATS(ctx); err != nil {
		return err
	}
	if m.names, err = streams.Names(ctx, m.from.js, streams.Name); err != nil {
		return err
	}
	identity, err := m.identity(ctx)
	if err != nil {
		return err
	}
	if !m.copied {
		if err := m.clear(ctx, identity, true); err != nil {
			return err
		}
	}
	if m.o.Plan {
		return m.plan(ctx)
	}
	if err := m.begin(); err != nil {
		return err
	}
	if err := m.from.settle(ctx); err != nil {
		return err
	}
	want, err := m.models(ctx, m.from, MigrateModels)
	if err != nil {
		return err
	}
	if m.copied {
		m.out.Resumed = true
	} else if err := m.copyStreams(ctx, identity); err != nil {
		return err
	}
	if err := m.phase(MigrateReplicas, func() error { return m.awaitReplicas(ctx) }); err != nil {
		return err
	}
	if err := m.phase(MigrateFiles, func() error { return m.copyFiles(ctx) }); err != nil {
		return err
	}
	if err := m.phase(MigrateVerify, func() error { return m.verify(ctx, want) }); err != nil {
		return err
	}
	return m.finish(ctx)
}

// settle returns when all that was acknowledged is in the streams.
func (p *Program) settle(ctx context.Context) error {
	if p.journal == nil {
		return nil
	}
	return p.journal.Settle(ctx)
}

// phase measures a phase.
func (m *migrator) phase(name string, do func() error) error {
	began := time.Now()
	defer func() { m.out.Took[name] = time.Since(began) }()
	return do()
}

// identity returns the identity of the old stream of events.
func (m *migrator) identity(ctx context.Context) (streams.Identity, error) {
	st, err := m.from.js.Stream(ctx, streams.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return "", fmt.Errorf("%w: %s has no events", ErrMigrateFrom, m.out.From)
	}
	if err != nil {
		return "", fmt.Errorf("get stream: %w", err)
	}
	return streams.IdentityOf(st.CachedInfo()), nil
}

// info returns the info of a stream of the cluster. One that was just made or restored has no leader yet, and one
// whose restore was interrupted has none until it is gone.
func (m *migrator) info(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, electionLimit)
	defer cancel()
	return streams.AwaitInfo(ctx, m.to.js, name)
}

// clear deletes the streams of the cluster that an earlier run has copied, and fails if there are others. With dry
// it only looks.
func (m *migrator) clear(ctx context.Context, identity streams.Identity, dry bool) error {
	names, err := streams.Names(ctx, m.to.js, streams.Name)
	if err != nil {
		return err
	}
	for _, name := range names {
		info, err := m.info(ctx, name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if info.Config.Metadata[streams.MigratingKey] != string(identity) {
			return fmt.Errorf("stream %s: %w", name, backup.ErrStreamExists)
		}
		if dry {
			continue
		}
		if err := m.to.js.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("delete incomplete copy of stream %s: %w", name, err)
		}
	}
	return nil
}

// plan returns what would be copied.
func (m *migrator) plan(ctx context.Context) error {
	m.out.Planned, m.out.Streams, m.out.Models = true, []MigratedStream{}, []MigratedModel{}
	for _, name := range m.names {
		st, err := m.from.js.Stream(ctx, name)
		if err != nil {
			return fmt.Errorf("get stream %s: %w", name, err)
		}
		info := st.CachedInfo()
		m.out.Streams = append(m.out.Streams, MigratedStream{
			Name: name, Replicas: max(1, m.to.cfg.NATS.Replicas), Extent: streams.Extent{
				Messages: info.State.Msgs, First: info.State.FirstSeq, Last: info.State.LastSeq,
				Consumers: info.State.Consumers,
			},
		})
	}
	return nil
}

// begin marks both directories, so that neither can be started.
func (m *migrator) begin() error {
	if err := os.MkdirAll(m.out.To, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	if err := m.recordInto(); err != nil {
		return err
	}
	if err := datadir.CheckMigrating(m.out.To, m.record.ID); err != nil {
		return err
	}
	m.record.Other, m.record.Config = m.out.To, m.config
	return datadir.WriteMigration(m.out.From, m.record)
}

// recordInto writes the record of the new directory.
func (m *migrator) recordInto() error {
	into := m.record
	into.Other, into.Config, into.Into, into.Copied, into.Done = m.out.From, m.config, true, m.copied, time.Time{}
	return datadir.WriteMigration(m.out.To, into)
}

// forget makes the next run copy everything again.
func (m *migrator) forget() error {
	m.copied = false
	return errors.Join(m.recordInto(), os.RemoveAll(filepath.Join(m.out.To, migrationDir)))
}

// beside returns a program that uses the server and the connection of another.
func (p *Program) beside() *Program {
	q := New(p.opts)
	q.migration, q.server, q.journal, q.conn, q.js = p.migration, p.server, p.journal, p.conn, p.js
	return q
}

// models starts the read models of an installation, waits until they are at the end of the stream, and returns what
// they are then. They are closed when it returns.
func (m *migrator) models(ctx context.Context, of *Program, phase string) (out []MigratedModel, err error) {
	err = m.phase(phase, func() (err error) {
		p := of.beside()
		defer func() { err = errors.Join(err, p.end()) }()
		if err := p.startModels(ctx); err != nil {
			return err
		}
		for _, r := range p.models {
			if err := m.await(ctx, r, p.headAtStart, phase); err != nil {
				return err
			}
			digest, at, err := r.Digest()
			if err != nil {
				return fmt.Errorf("digest of %s: %w", r.Name(), err)
			}
			out = append(out, MigratedModel{Name: r.Name(), Seq: at.Seq, Digest: digest})
		}
		return nil
	})
	return out, err
}

// await waits until a read model is at the end of the stream, and can be read.
func (m *migrator) await(ctx context.Context, r *projections.Runner, head uint64, phase string) error {
	last, since := uint64(0), time.Now()
	for {
		s := r.Status()
		if s.Seq >= head && s.Damaged == "" && s.Stale == 0 {
			return nil
		}
		m.o.Progress(MigrateProgress{Phase: phase, Part: r.Name(), Done: s.Seq, Total: head})
		at := s.Seq
		if s.Rebuild != nil {
			at = s.Rebuild.Seq
		}
		if at != last {
			last, since = at, time.Now()
		}
		if time.Since(since) > stuckLimit {
			return fmt.Errorf("read model %s stays at event %d of %d: %s", r.Name(), at, head,
				cmp.Or(s.LastError, s.Damaged, string(s.State)))
		}
		if err := backoff.Sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// copyStreams copies all streams to a directory, and from there to the cluster. The stream of events is the last
// one: no node starts before.
func (m *migrator) copyStreams(ctx context.Context, identity streams.Identity) error {
	dir := filepath.Join(m.out.To, migrationDir)
	progress := func(phase string) func(string, uint64) {
		return func(stream string, n uint64) { m.o.Progress(MigrateProgress{Phase: phase, Part: stream, Done: n}) }
	}
	err := m.phase(MigrateBackup, func() error {
		_, err := backup.Check(dir)
		if err == nil { // an earlier run has made it, and the old directory has not changed
			return nil
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove incomplete copy: %w", err)
		}
		_, err = backup.Take(ctx, backup.Options{
			Conn: m.from.conn, Before: m.names[1:], Streams: m.names[:1], Dir: dir, Progress: progress(MigrateBackup),
		})
		return err
	})
	if err != nil {
		return err
	}
	err = m.phase(MigrateRestore, func() error { return m.restore(ctx, identity, dir, progress(MigrateRestore)) })
	if err != nil {
		return err
	}
	m.copied = true
	return m.recordInto()
}

// restore restores the streams of a directory into the cluster. The servers don't notice at once that an earlier
// run was killed while it did that.
func (m *migrator) restore(
	ctx context.Context, identity streams.Identity, dir string, progress func(string, uint64),
) error {
	for end := time.Now().Add(giveUpLimit); ; {
		if err := m.clear(ctx, identity, false); err != nil {
			return err
		}
		_, err := backup.Restore(ctx, backup.RestoreOptions{
			Conn: m.to.conn, Domain: m.to.cfg.NATS.Domain, Dir: dir, Replicas: m.to.cfg.NATS.Replicas,
			Metadata: map[string]string{streams.MigratingKey: string(identity)}, Progress: progress,
		})
		if !errors.Is(err, backup.ErrStreamExists) || time.Now().After(end) {
			return err
		}
		if err := backoff.Sleep(ctx, time.Second); err != nil {
			return err
		}
	}
}

// awaitReplicas waits until all copies of the streams are current, and have all messages.
func (m *migrator) awaitReplicas(ctx context.Context) error {
	if err := m.awaitCurrent(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, operate.CopiesLimit)
	defer cancel()
	for _, name := range m.names {
		from, err := streams.Info(ctx, m.from.js, name)
		if err != nil {
			return fmt.Errorf("stream %s: %w", name, err)
		}
		err = streams.AwaitCopies(ctx, m.to.js, name, from.State.LastSeq, func(n int) {
			m.o.Progress(MigrateProgress{Phase: MigrateReplicas, Part: name, Total: uint64(n)})
		})
		if err != nil {
			return fmt.Errorf("%w; type the same again to go on waiting", err)
		}
	}
	return nil
}

// awaitCurrent waits until all copies of the streams take part in what is stored.
func (m *migrator) awaitCurrent(ctx context.Context) error {
	since := time.Now()
	for pause := (backoff.Backoff{Min: 50 * time.Millisecond, Max: time.Second}); ; {
		var behind []string
		for _, name := range m.names {
			info, err := m.info(ctx, name)
			if err != nil {
				return err
			}
			c := info.Cluster
			if c == nil {
				continue
			}
			for _, r := range c.Replicas {
				if !r.Current {
					behind = append(behind, name+" on "+r.Name)
				}
			}
		}
		if len(behind) == 0 {
			return nil
		}
		m.o.Progress(MigrateProgress{Phase: MigrateReplicas, Part: behind[0], Total: uint64(len(behind))})
		if time.Since(since) > stuckLimit {
			return fmt.Errorf("copies are not current: %s; type the same again to go on waiting", strings.Join(behind, ", "))
		}
		if err := pause.Wait(ctx); err != nil {
			return err
		}
	}
}

// copyFiles copies the files of the read models, and the keys and erasures if they are in other files.
func (m *migrator) copyFiles(ctx context.Context) error {
	from, to := m.o.From.Config, m.o.To.Config
	if err := os.RemoveAll(to.ProjectionsDir()); err != nil {
		return fmt.Errorf("remove incomplete copy: %w", err)
	}
	if err := os.MkdirAll(to.ProjectionsDir(), 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	entries, err := os.ReadDir(from.ProjectionsDir())
	if err != nil {
		return fmt.Errorf("list read models: %w", err)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || filepath.Ext(e.Name()) != ".db" {
			continue
		}
		path := filepath.Join(from.ProjectionsDir(), e.Name())
		if err := m.copyFile(ctx, path, filepath.Join(to.ProjectionsDir(), e.Name())); err != nil {
			return fmt.Errorf("copy %s: %w", e.Name(), err)
		}
	}
	if err := disk.SyncDir(to.ProjectionsDir()); err != nil {
		return err
	}
	if err := m.copyKeys(from, to); err != nil {
		return err
	}
	if to.ErasuresFile() == from.ErasuresFile() {
		return nil
	}
	list, err := m.from.erasures().List()
	if err != nil || len(list) == 0 {
		return err
	}
	return m.to.erasures().Merge(list)
}

// copyKeys copies the key ring, unless it is there.
func (m *migrator) copyKeys(from, to config.Config) error {
	if to.Keys.File == from.Keys.File {
		return nil
	}
	b, err := os.ReadFile(from.Keys.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to.Keys.File), 0o700)
	}
	if err == nil {
		err = disk.Replace(to.Keys.File, b) // check has found no other one
	}
	if err != nil {
		return fmt.Errorf("copy keys.file: %w", err)
	}
	return nil
}

// copyFile copies a file to a new one and syncs it.
func (m *migrator) copyFile(ctx context.Context, path, to string) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	for done := int64(0); done < info.Size(); {
		n, err := io.CopyN(out, in, min(16<<20, info.Size()-done))
		if err := cmp.Or(err, ctx.Err()); err != nil {
			return err
		}
		done += n
		m.o.Progress(MigrateProgress{MigrateFiles, filepath.Base(path), uint64(done), uint64(info.Size())})
	}
	return out.Sync()
}

// verify compares the new installation with the old one.
func (m *migrator) verify(ctx context.Context, want []MigratedModel) (err error) {
	m.out.Streams = nil
	for _, name := range m.names {
		info, err := m.info(ctx, name)
		if err != nil {
			return err
		}
		extent, err := streams.Same(ctx, m.from.js, m.to.js, name, func(seq uint64) {
			m.o.Progress(MigrateProgress{MigrateVerify, name, seq, info.State.LastSeq})
		})
		if err != nil {
			return err
		}
		m.out.Streams = append(m.out.Streams, MigratedStream{Name: name, Extent: extent, Replicas: info.Config.Replicas})
	}
	if m.out.Models, err = m.models(ctx, m.to, MigrateVerify); err != nil {
		return err
	}
	for i, was := range want {
		if i >= len(m.out.Models) || m.out.Models[i] != was {
			return fmt.Errorf("%w: read model %s", ErrMigrateDiffers, was.Name)
		}
	}
	m.out.Endpoints, err = hooks.CheckPositions(ctx,
		filepath.Join(m.to.cfg.ProjectionsDir(), "hooks.db"), m.to.js, streams.Name)
	return err
}

// finish leaves the old directory, and then lets the new installation be started. It is idempotent.
func (m *migrator) finish(ctx context.Context) error {
	if m.record.Done.IsZero() {
		m.record.Done = time.Now().UTC()
		if err := datadir.WriteMigration(m.out.From, m.record); err != nil {
			return err
		}
	}
	m.out.Downtime = m.record.Done.Sub(m.record.Began)
	names, err := streams.Names(ctx, m.to.js, streams.Name)
	if err != nil {
		return err
	}
	for _, name := range slices.Backward(names) { // that of events is the last one
		info, err := m.info(ctx, name)
		if err != nil {
			return err
		}
		if err := streams.Unmark(ctx, m.to.js, info, streams.MigratingKey); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(filepath.Join(m.out.To, migrationDir)); err != nil {
		return fmt.Errorf("remove copy of the streams: %w", err)
	}
	return datadir.EndMigration(m.out.To)
}
