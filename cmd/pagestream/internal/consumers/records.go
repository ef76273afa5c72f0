package consumers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/streams"
)

const (
	// bucket is the key-value bucket with a record of each consumer, by name, and copies of their positions.
	bucket = "PAGESTREAM_OUTBOXES"
	// Bucket is the name of the JetStream stream that stores the bucket.
	Bucket = "KV_" + bucket
	// legacyPrefix and legacyKey are of the durable consumers on the stream of all
	// events that consumers were before they had outboxes: their names, and the key of
	// the [Spec] in their metadata.
	legacyPrefix = "consumer-"
	legacyKey    = "pagestream-consumer"
)

// record is what is stored about a consumer. Its position is in its outbox.
type record struct {
	Spec
	// After is the sequence after which the first event is looked for.
	After uint64 `json:"after,omitempty"`
}

// setAll sets All in a Spec that was stored when there was no such field: every page was
// meant by a Spec without pages and company, and by one with an empty page id.
func (s *Spec) setAll() {
	if len(s.Pages) == 0 && s.Company == "" || slices.Contains(s.Pages, "") {
		s.Pages, s.Company, s.Known, s.All = nil, "", nil, true
	}
}

// records reads the record of every consumer.
func (c *Consumers) records(ctx context.Context) (out []record, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	kv, err := c.opts.JS.KeyValue(ctx, bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, nil // no consumer was added yet
	}
	if err != nil {
		return nil, fmt.Errorf("open records of consumers: %w", err)
	}
	watcher, err := kv.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("read records of consumers: %w", err)
	}
	defer func() { err = errors.Join(err, watcher.Stop()) }()
	for {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("read records of consumers: %w", ctx.Err())
		case entry, open := <-watcher.Updates():
			if entry == nil { // all records were read
				if !open {
					return nil, fmt.Errorf("read records of consumers: %w", jetstream.ErrNoMessages)
				}
				return out, nil
			}
			if !validName.MatchString(entry.Key()) {
				continue // a kept position
			}
			r, err := decodeRecord(entry.Value())
			if err != nil {
				return nil, fmt.Errorf("record of consumer %s: %w", entry.Key(), err)
			}
			out = append(out, r)
		}
	}
}

// find reads the record of one consumer. It fails with [ErrUnknown].
func (c *Consumers) find(ctx context.Context, name string) (record, error) {
	kv, err := c.opts.JS.KeyValue(ctx, bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) || !validName.MatchString(name) {
		return record{}, ErrUnknown
	}
	if err != nil {
		return record{}, fmt.Errorf("open records of consumers: %w", err)
	}
	entry, err := kv.Get(ctx, name)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return record{}, ErrUnknown
	}
	if err != nil {
		return record{}, fmt.Errorf("read record of consumer %s: %w", name, err)
	}
	return decodeRecord(entry.Value())
}

func decodeRecord(b []byte) (r record, err error) {
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("decode: %w", err)
	}
	return r, nil
}

// make stores the record of a new consumer, and makes its outbox. It fails with
// [ErrExists] if another node stored one of that name first.
func (c *Consumers) make(ctx context.Context, r record) error {
	kv, err := streams.EnsureBucket(ctx, c.opts.JS, streams.Name, jetstream.KeyValueConfig{
		Bucket: bucket, Description: "What each consumer gets.", History: 1, Storage: jetstream.FileStorage,
		Replicas: c.opts.Replicas,
	})
	if err != nil {
		return fmt.Errorf("make bucket of consumers: %w", err)
	}
	value, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode consumer: %w", err)
	}
	if err := kv.Delete(ctx, keptKey(r.Name)); err != nil { // of a consumer whose removal did not end
		return fmt.Errorf("forget position: %w", err)
	}
	_, err = kv.Create(ctx, r.Name, value)
	if errors.Is(err, jetstream.ErrKeyExists) {
		return ErrExists
	}
	if err != nil {
		return fmt.Errorf("store consumer: %w", err)
	}
	b := c.outbox(r)
	err = c.opts.JS.DeleteStream(ctx, b.stream) // of a consumer whose removal did not end
	if err == nil || errors.Is(err, jetstream.ErrStreamNotFound) {
		err = b.ensure(ctx)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("make outbox: %w", err), c.drop(context.WithoutCancel(ctx), r.Name))
	}
	return nil
}

// drop deletes the record of a consumer, and then its outbox.
func (c *Consumers) drop(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	kv, err := c.opts.JS.KeyValue(ctx, bucket)
	if err != nil {
		return fmt.Errorf("open records of consumers: %w", err)
	}
	if err := kv.Delete(ctx, name); err != nil {
		return fmt.Errorf("remove consumer: %w", err)
	}
	c.stop(name)
	if err := kv.Delete(ctx, keptKey(name)); err != nil {
		return fmt.Errorf("forget position: %w", err)
	}
	err = c.opts.JS.DeleteStream(ctx, StreamOf(name))
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("remove outbox: %w", err)
	}
	return nil
}

// convert gives an outbox to each consumer of before there were outboxes, which was a
// durable consumer on the stream of all events. It goes on after the event up to which
// everything was acknowledged; what was acknowledged after that is delivered again. The
// user keeps its key.
func (c *Consumers) convert(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	st, err := c.opts.JS.Stream(ctx, c.opts.Stream)
	if err != nil {
		return fmt.Errorf("get stream: %w", err)
	}
	var old []record
	lister := st.ListConsumers(ctx)
	for info := range lister.Info() {
		raw, managed := info.Config.Metadata[legacyKey]
		r := record{After: info.AckFloor.Stream}
		if !managed || json.Unmarshal([]byte(raw), &r.Spec) != nil || info.Name != legacyPrefix+r.Name {
			continue
		}
		r.setAll()
		r.Known = nil
		old = append(old, r)
	}
	if err := lister.Err(); err != nil {
		return fmt.Errorf("list consumers: %w", err)
	}
	for _, r := range old {
		if err := c.make(ctx, r); err != nil && !errors.Is(err, ErrExists) {
			return fmt.Errorf("convert consumer %s: %w", r.Name, err)
		}
		err := st.DeleteConsumer(ctx, legacyPrefix+r.Name)
		if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return fmt.Errorf("convert consumer %s: delete old consumer: %w", r.Name, err)
		}
		c.opts.Logger.Info("consumer reads from a stream of its own now", "consumer", r.Name, "stream", StreamOf(r.Name))
	}
	return nil
}
