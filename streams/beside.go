package streams

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/internal/backoff"
)

// Names returns the names of the stream of events and of all streams that belong to it, that of events first and the
// others in order. It fails if the server does not answer, but not if there is no stream of events.
func Names(ctx context.Context, js jetstream.JetStream, events string) ([]string, error) {
	out := []string{}
	all := js.StreamNames(ctx)
	for name := range all.Name() {
		if strings.HasPrefix(strings.TrimPrefix(name, "KV_"), events+"_") {
			out = append(out, name)
		}
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("list streams: %w", err)
	}
	slices.Sort(out)
	return append([]string{events}, out...), nil
}

// infoTimeout bounds one request for the info of a stream.
const infoTimeout = 2 * time.Second

// streamOffline is the error code of a stream none of whose servers can be reached.
const streamOffline = jetstream.ErrorCode(10118)

// AwaitInfo returns the info of a stream. While the stream has no leader, which answers for it, AwaitInfo asks again
// until the context ends, and then fails with the context's error.
func AwaitInfo(ctx context.Context, js jetstream.JetStream, name string) (*jetstream.StreamInfo, error) {
	for pause := (backoff.Backoff{Min: 100 * time.Millisecond, Max: time.Second}); ; {
		try, cancel := context.WithTimeout(ctx, infoTimeout)
		st, err := js.Stream(try, name)
		cancel()
		if err == nil {
			return st.CachedInfo(), nil
		}
		var api *jetstream.APIError
		offline := errors.As(err, &api) && api.ErrorCode == streamOffline
		switch {
		case !offline && !errors.Is(err, context.DeadlineExceeded):
			return nil, fmt.Errorf("stream %s: get info: %w", name, err)
		case pause.Wait(ctx) != nil:
			return nil, fmt.Errorf("stream %s: get info: %w (%w)", name, ctx.Err(), err)
		}
	}
}

// copyIdle is how long the server keeps a consumer of AwaitCopies that could not be deleted.
const copyIdle = 10 * time.Second

// AwaitCopies waits until a stream has the sequence head, and each server that keeps a copy of it has all messages that
// the stream has then. A server counts as current as soon as it takes part in what is stored next, while it is still
// filled with what was stored before; so what each has is counted: a consumer without copies of its own is put on any of
// them. A stream that deletes what was read is not looked at. behind, if not nil, is called with how many copies are not
// complete yet.
func AwaitCopies(ctx context.Context, js jetstream.JetStream, stream string, head uint64, behind func(copies int)) error {
	info, err := awaitHead(ctx, js, stream, head)
	if err != nil {
		return err
	}
	if info.Cluster == nil || info.Config.Replicas < 2 || info.Config.Retention != jetstream.LimitsPolicy {
		return nil
	}
	missing := map[string]bool{info.Cluster.Leader: true}
	for _, r := range info.Cluster.Replicas {
		missing[r.Name] = true
	}
	for pause := (backoff.Backoff{Min: 20 * time.Millisecond, Max: time.Second}); len(missing) > 0; {
		if behind != nil {
			behind(len(missing))
		}
		server, n, err := countOnAnyCopy(ctx, js, stream)
		switch {
		case err != nil && ctx.Err() == nil: // there may be no leader at the moment
		case n >= info.State.Msgs: // also if it was counted before: the next one is put on any server again
			delete(missing, server)
			pause.Reset()
		}
		if waitErr := pause.Wait(ctx); waitErr != nil {
			return fmt.Errorf("wait for %d copies of stream %s: %w", len(missing), stream, cmp.Or(err, waitErr))
		}
	}
	return nil
}

// awaitHead waits until a stream has a sequence, and returns its info then. A server that lacks it may lead the stream
// for a while after a restore.
func awaitHead(ctx context.Context, js jetstream.JetStream, stream string, head uint64) (*jetstream.StreamInfo, error) {
	for pause := (backoff.Backoff{Min: 20 * time.Millisecond, Max: time.Second}); ; {
		info, err := AwaitInfo(ctx, js, stream)
		if err != nil {
			return nil, err
		}
		if info.State.LastSeq >= head {
			return info, nil
		}
		if err := pause.Wait(ctx); err != nil {
			return nil, fmt.Errorf("stream %s ends at %d, before %d: %w", stream, info.State.LastSeq, head, err)
		}
	}
}

// countOnAnyCopy returns the name of a server that has a copy of a stream, and how many messages its copy has.
func countOnAnyCopy(ctx context.Context, js jetstream.JetStream, stream string) (server string, n uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, infoTimeout)
	defer cancel()
	c, err := js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, InactiveThreshold: copyIdle, Replicas: 1, MemoryStorage: true,
	})
	if err != nil {
		return "", 0, fmt.Errorf("create consumer: %w", err)
	}
	info := c.CachedInfo()
	if info.Cluster != nil {
		server = info.Cluster.Leader
	}
	_ = js.DeleteConsumer(ctx, stream, info.Name) // or the server deletes it
	return server, info.NumPending, nil
}

// EnsureBeside creates a stream that belongs to the stream of events, or updates its configuration. An existing
// stream keeps its replicas, whatever c says. A new one has those of c, or those of the stream of events if these are
// more. It is idempotent.
func EnsureBeside(ctx context.Context, js jetstream.JetStream, events string, c jetstream.StreamConfig) (
	_ jetstream.Stream, err error,
) {
	if c.Replicas, err = replicas(ctx, js, events, c.Name, c.Replicas); err != nil {
		return nil, err
	}
	c.AllowDirect = c.AllowDirect && direct(c.Replicas)
	return js.CreateOrUpdateStream(ctx, c)
}

// EnsureBucket creates a key-value bucket that belongs to the stream of events, or updates its configuration. Its
// replicas are as [EnsureBeside] says. It is idempotent.
func EnsureBucket(ctx context.Context, js jetstream.JetStream, events string, c jetstream.KeyValueConfig) (
	_ jetstream.KeyValue, err error,
) {
	if c.Replicas, err = replicas(ctx, js, events, "KV_"+c.Bucket, c.Replicas); err != nil {
		return nil, err
	}
	return js.CreateOrUpdateKeyValue(ctx, c)
}

// replicas returns how many replicas a stream keeps, or gets if there is no stream of that name.
func replicas(ctx context.Context, js jetstream.JetStream, events, name string, wanted int) (int, error) {
	for _, stream := range []string{name, events} {
		st, err := js.Stream(ctx, stream)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
		case err != nil:
			return 0, fmt.Errorf("get stream %s: %w", stream, err)
		case stream == name:
			return st.CachedInfo().Config.Replicas, nil
		default:
			return max(1, wanted, st.CachedInfo().Config.Replicas), nil
		}
	}
	return max(1, wanted), nil
}
