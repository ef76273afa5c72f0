package streams

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
)

// DefaultWindow is how long JetStream itself remembers a dedup id. It has to
// cover the projections' lag and races between nodes, not Meta's retries: it
// costs about 122 bytes of memory an event.
const DefaultWindow = 10 * time.Minute

// Identity tells one life of the stream from another: it changes when the
// stream is deleted and made again, so that a position in the old one is not
// taken for a position in the new.
type Identity string

// Spec is what the stream should be.
type Spec struct {
	// Name defaults to [Name]; tests use others.
	Name string
	// Window defaults to [DefaultWindow].
	Window time.Duration
	// Replicas defaults to 1; more need a cluster.
	Replicas int
	// MaxBytes bounds the stream; 0 is unbounded. A full stream refuses new
	// events, it never drops old ones.
	MaxBytes int64
}

// apply sets on c what the specification says. The rest, such as placement and
// metadata, is the operator's.
func (s Spec) apply(c *jetstream.StreamConfig) {
	c.Description = "Every webhook item and every decision about a page, once and in order."
	c.Subjects = []string{All}
	c.Discard = jetstream.DiscardNew // what was acknowledged is never pushed out
	c.DiscardNewPerSubject = false
	c.MaxMsgs, c.MaxMsgsPerSubject, c.MaxConsumers, c.MaxMsgSize, c.MaxAge = -1, -1, -1, -1, 0
	c.MaxBytes = s.MaxBytes
	c.Duplicates = s.Window
	c.Replicas = s.Replicas
	c.AllowAtomicPublish = true
	c.AllowDirect = true
	c.NoAck = false
}

func (s Spec) withDefaults() Spec {
	s.Name = cmp.Or(s.Name, Name)
	s.Window = cmp.Or(max(s.Window, 0), DefaultWindow)
	s.MaxBytes = cmp.Or(max(s.MaxBytes, 0), -1)
	s.Replicas = max(1, s.Replicas)
	return s
}

// Ensure creates the stream or updates it in place, and returns its identity.
// It is idempotent. It fails with [ErrMismatch], and the stream stays as it
// was, where the stream of that name is not one of ours or could become what
// it should be only by losing events.
func Ensure(ctx context.Context, js jetstream.JetStream, s Spec) (Identity, error) {
	s = s.withDefaults()
	want := jetstream.StreamConfig{Name: s.Name, Retention: jetstream.LimitsPolicy, Storage: jetstream.FileStorage}
	st, err := js.Stream(ctx, s.Name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		s.apply(&want)
		// Another node may be creating it too: the same configuration is no error.
		if st, err = js.CreateStream(ctx, want); err != nil {
			return "", fmt.Errorf("create stream: %w", err)
		}
		return identity(st), nil
	case err != nil:
		return "", fmt.Errorf("ask stream: %w", err)
	}
	info := st.CachedInfo()
	if err := s.fits(info); err != nil {
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

func identity(st jetstream.Stream) Identity {
	info := st.CachedInfo()
	return Identity(info.Config.Name + "@" + info.Created.UTC().Format(time.RFC3339Nano))
}

// fits reports why the stream can't be made what it should be.
func (s Spec) fits(info *jetstream.StreamInfo) error {
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
	case c.Sealed:
		return fmt.Errorf("it is sealed: %w", ErrMismatch)
	case s.MaxBytes > 0 && info.State.Bytes > uint64(s.MaxBytes):
		return fmt.Errorf("it holds %d bytes, more than the %d allowed; raise streams.max_bytes: %w", info.State.Bytes, s.MaxBytes, ErrMismatch)
	}
	return nil
}

// Last returns the sequence of the newest event, 0 when there was none.
func Last(ctx context.Context, js jetstream.JetStream, stream string) (uint64, error) {
	st, err := js.Stream(ctx, stream)
	if err != nil {
		return 0, fmt.Errorf("ask stream: %w", err)
	}
	return st.CachedInfo().State.LastSeq, nil
}

// Has reports whether the stream has an event of any of the types. A stream
// that does not exist has none.
func Has(ctx context.Context, js jetstream.JetStream, stream string, types ...domain.Type) (bool, error) {
	st, err := js.Stream(ctx, stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask stream: %w", err)
	}
	for _, subject := range Filter("", types...) {
		_, err := st.GetLastMsgForSubject(ctx, subject)
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, jetstream.ErrMsgNotFound) {
			return false, fmt.Errorf("look for %s: %w", subject, err)
		}
	}
	return false, nil
}
