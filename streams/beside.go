package streams

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

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
