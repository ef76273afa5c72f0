package streams

import (
	"context"
	"errors"
	"fmt"
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

func (s Spec) config() jetstream.StreamConfig {
	if s.Name == "" {
		s.Name = Name
	}
	if s.Window <= 0 {
		s.Window = DefaultWindow
	}
	if s.MaxBytes <= 0 {
		s.MaxBytes = -1
	}
	return jetstream.StreamConfig{
		Name:        s.Name,
		Description: "Every webhook item and every decision about a page, once and in order.",
		Subjects:    []string{All},
		Retention:   jetstream.LimitsPolicy,
		Storage:     jetstream.FileStorage,
		Discard:     jetstream.DiscardNew, // what was acknowledged is never pushed out
		MaxMsgs:     -1, MaxBytes: s.MaxBytes, MaxMsgsPerSubject: -1, MaxConsumers: -1, MaxMsgSize: -1,
		Duplicates:         s.Window,
		Replicas:           max(1, s.Replicas),
		AllowAtomicPublish: true,
		AllowDirect:        true,
	}
}

// Ensure creates the stream or updates it in place, and returns its identity.
// It is idempotent. What can't be changed in place is an error, and the stream
// stays as it was.
func Ensure(ctx context.Context, js jetstream.JetStream, s Spec) (Identity, error) {
	st, err := js.CreateOrUpdateStream(ctx, s.config())
	if err != nil {
		return "", fmt.Errorf("create or update stream: %w", err)
	}
	info := st.CachedInfo()
	return Identity(info.Config.Name + "@" + info.Created.UTC().Format(time.RFC3339Nano)), nil
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
