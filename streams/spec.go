package streams

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
)

// DefaultWindow is how long JetStream itself remembers a dedup id. It must cover the lag of the
// projections and races between nodes, but not Meta's retries. It costs about 122 bytes of memory per
// event.
const DefaultWindow = 10 * time.Minute

// Identity identifies a stream together with its creation time. It changes when the stream is deleted
// and made again, so that a position in the old stream is not used in the new one. That of a restored
// stream is the identity of the stream that was copied.
type Identity string

// CreatedKey is the key of a stream's metadata with the time at which the stream was created that this one
// is a restored copy of, in the format of [time.RFC3339Nano]. A server of a cluster gives a restored stream
// a creation time of its own, and another one may tell another time.
const CreatedKey = "pagestream-created"

// CreatedAt returns when the stream with that info was created; of a restored stream, when the one was that
// it is a copy of.
func CreatedAt(info *jetstream.StreamInfo) time.Time {
	if at, err := time.Parse(time.RFC3339Nano, info.Config.Metadata[CreatedKey]); err == nil {
		return at
	}
	return info.Created
}

// MigratingKey is the key of a stream's metadata while the stream is a copy that a migration has not verified
// yet. Its value is the identity of the stream that was copied.
const MigratingKey = "pagestream-migrating"

// ErrMigrating is returned when the stream is a copy that a migration has not verified yet.
var ErrMigrating = errors.New("a migration is copying it and has not finished; go on with: pagestream migrate, " +
	"or delete it with the NATS tools")

// RestoringKey is the key of a stream's metadata while a backup is restored to it, until what was erased since the backup
// is erased again. Its value is the id of the restore.
const RestoringKey = "pagestream-restoring"

// ErrRestoring is returned when a stream may have what was erased since the backup that it is restored from.
var ErrRestoring = errors.New("a restore has not erased yet what was erased since the backup; wait until pagestream " +
	"restore ends. If it was interrupted, start its node, which has the file RESTORE in data.dir: pagestream serve. If " +
	"that file is lost, delete the streams with the NATS tools and restore again")

// CheckRestoring returns [ErrRestoring] if the stream with that info is being restored by another restore than the one
// with the id, which may be empty.
func CheckRestoring(info *jetstream.StreamInfo, id string) error {
	if by := info.Config.Metadata[RestoringKey]; by != "" && by != id {
		return ErrRestoring
	}
	return nil
}

// Unmark removes a key from the metadata of the stream with that info, if it has it.
func Unmark(ctx context.Context, js jetstream.JetStream, info *jetstream.StreamInfo, key string) error {
	c := info.Config
	if _, marked := c.Metadata[key]; !marked {
		return nil
	}
	delete(c.Metadata, key)
	if _, err := js.UpdateStream(ctx, c); err != nil {
		return fmt.Errorf("release stream %s: %w", c.Name, err)
	}
	return nil
}

// Spec is the wanted configuration of the stream.
type Spec struct {
	// Name defaults to [Name]; tests use others.
	Name string
	// Window defaults to [DefaultWindow].
	Window time.Duration
	// Replicas is how many copies a new stream has; more than 1, the default, needs a NATS cluster. An existing
	// stream keeps the number that it has.
	Replicas int
	// Journal is for a stream that gets its events from a [Journal]: it syncs none itself, and has no deduplication
	// window of its own. It can't be changed.
	Journal bool
	// Create, if not nil, is called before the stream is made. Its error is returned, and nothing is made.
	Create func() error
	// MaxBytes bounds the size of the stream; 0 means no bound. A full stream refuses new events and
	// never deletes old ones.
	MaxBytes int64
	// Migrating accepts a copy that a migration has not verified yet.
	Migrating bool
	// Restore is the id of the restore that may use the stream before it is finished.
	Restore string
}

// apply sets on c what pagestream requires. It does not change the rest, such as placement and metadata,
// which the operator may set.
func (s Spec) apply(c *jetstream.StreamConfig) {
	c.Description = "Every webhook item and every decision about a page, once and in order."
	c.Subjects = []string{All}
	c.Discard = jetstream.DiscardNew // never delete acknowledged events to make room
	c.DiscardNewPerSubject = false
	c.MaxMsgs, c.MaxMsgsPerSubject, c.MaxConsumers, c.MaxMsgSize, c.MaxAge = -1, -1, -1, -1, 0
	c.MaxBytes = s.MaxBytes
	c.AllowDirect = direct(c.Replicas)
	c.NoAck = false
	SetJournal(c, s.Journal, s.Window)
}

// SetJournal sets on the configuration of a stream of events what depends on whether it gets them from a [Journal].
// Window is its deduplication window if not. The mode of an existing stream can't be changed.
func SetJournal(c *jetstream.StreamConfig, journal bool, window time.Duration) {
	if !journal {
		c.PersistMode, c.AllowAtomicPublish, c.Duplicates = jetstream.DefaultPersistMode, true, window
		c.Compression = jetstream.NoCompression // the server would compress a block for each event that is erased
		return
	}
	c.PersistMode, c.Compression = jetstream.AsyncPersistMode, jetstream.S2Compression
	c.AllowAtomicPublish = false // not possible with that mode
	c.Duplicates = noWindow
}

// noWindow is the shortest deduplication window that JetStream has; 0 would be its default of two minutes.
const noWindow = 100 * time.Millisecond

// direct reports whether any server may answer a read of one message of a stream with so many copies. A copy that is
// behind would say that there is none, so with several the leader answers.
func direct(replicas int) bool { return replicas <= 1 }

func (s Spec) withDefaults() Spec {
	s.Name = cmp.Or(s.Name, Name)
	s.Window = cmp.Or(max(s.Window, 0), DefaultWindow)
	s.MaxBytes = cmp.Or(max(s.MaxBytes, 0), -1)
	s.Replicas = max(1, s.Replicas)
	return s
}

// Ensure creates the stream or updates its configuration, and returns its identity. It is idempotent.
// [ErrMismatch] is returned when the stream of that name was not made by pagestream or can't be
// changed to the specification without losing events; the stream is not changed then.
func Ensure(ctx context.Context, js jetstream.JetStream, s Spec) (Identity, error) {
	s = s.withDefaults()
	want := jetstream.StreamConfig{Name: s.Name, Retention: jetstream.LimitsPolicy, Storage: jetstream.FileStorage}
	st, err := js.Stream(ctx, s.Name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		if s.Create != nil {
			if err := s.Create(); err != nil {
				return "", err
			}
		}
		want.Replicas = s.Replicas
		s.apply(&want)
		// Another node may create it at the same time; with the same configuration that is no error.
		if st, err = js.CreateStream(ctx, want); err != nil {
			return "", fmt.Errorf("create stream: %w", err)
		}
		return identity(st), nil
	case err != nil:
		return "", fmt.Errorf("get stream: %w", err)
	}
	info := st.CachedInfo()
	if err := s.check(info); err != nil {
		return "", fmt.Errorf("stream %s: %w", s.Name, err)
	}
	want = info.Config
	s.apply(&want)
	if reflect.DeepEqual(want, info.Config) {
		return identity(st), nil
	}
	if st, err = js.UpdateStream(ctx, want); err != nil {
		return "", fmt.Errorf("update stream: %w", err)
	}
	return identity(st), nil
}

func identity(st jetstream.Stream) Identity { return IdentityOf(st.CachedInfo()) }

// IdentityOf returns the identity of the stream with that info.
func IdentityOf(info *jetstream.StreamInfo) Identity {
	return Identity(info.Config.Name + "@" + CreatedAt(info).UTC().Format(time.RFC3339Nano))
}

// Name returns the stream's name.
func (id Identity) Name() string {
	name, _, _ := strings.Cut(string(id), "@")
	return name
}

// check returns an error if the stream can't be changed to the specification without losing events.
func (s Spec) check(info *jetstream.StreamInfo) error {
	c := info.Config
	switch {
	case len(c.Subjects) != 1 || c.Subjects[0] != All:
		return fmt.Errorf("it has the subjects %q, not %q: %w", c.Subjects, All, ErrMismatch)
	case c.Retention != jetstream.LimitsPolicy:
		return fmt.Errorf("its retention is %s, not limits: %w", c.Retention, ErrMismatch)
	case c.Storage != jetstream.FileStorage:
		return fmt.Errorf("its storage is %s, not file: %w", c.Storage, ErrMismatch)
	case c.Mirror != nil || len(c.Sources) > 0 || c.SubjectTransform != nil:
		return fmt.Errorf("it is a copy of another stream: %w", ErrMismatch)
	case c.Metadata[MigratingKey] != "" && !s.Migrating:
		return ErrMigrating
	case CheckRestoring(info, s.Restore) != nil:
		return ErrRestoring
	case c.Sealed:
		return fmt.Errorf("it is sealed: %w", ErrMismatch)
	case s.Journal != (c.PersistMode == jetstream.AsyncPersistMode):
		return fmt.Errorf("its persist mode is %s: it was made for %s; export and import its events: %w", c.PersistMode,
			map[bool]string{true: "an external NATS, or by an older version", false: "the embedded server"}[s.Journal],
			ErrMismatch)
	case s.MaxBytes > 0 && info.State.Bytes > uint64(s.MaxBytes):
		return fmt.Errorf("it has %d bytes, more than the %d allowed; raise streams.max_bytes: %w",
			info.State.Bytes, s.MaxBytes, ErrMismatch)
	}
	return nil
}

// Open returns JetStream on a connection, in a domain; empty is the domain of the connection's server.
func Open(nc *nats.Conn, domain string, o ...jetstream.JetStreamOpt) (js jetstream.JetStream, err error) {
	if domain == "" {
		js, err = jetstream.New(nc, o...)
	} else {
		js, err = jetstream.NewWithDomain(nc, domain, o...)
	}
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	return js, nil
}

// Last returns the sequence of the newest event, 0 if there never was one.
func Last(ctx context.Context, js jetstream.JetStream, stream string) (uint64, error) {
	info, err := Info(ctx, js, stream)
	if err != nil {
		return 0, err
	}
	return info.State.LastSeq, nil
}

// Has reports whether the stream has an event of any of the types. It returns false for a stream that
// does not exist.
func Has(ctx context.Context, js jetstream.JetStream, stream string, types ...domain.Type) (bool, error) {
	st, err := js.Stream(ctx, stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("get stream: %w", err)
	}
	for _, subject := range Filter("", types...) {
		_, err := st.GetLastMsgForSubject(ctx, subject)
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, jetstream.ErrMsgNotFound) {
			return false, fmt.Errorf("find last event on %s: %w", subject, err)
		}
	}
	return false, nil
}
