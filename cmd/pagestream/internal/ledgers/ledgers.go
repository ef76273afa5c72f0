// Package ledgers publishes the counts of a node's webhook endpoint to the other nodes of a cluster, so that an audit
// on any node knows what all of them have acknowledged.
package ledgers

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/streams"
)

const (
	// bucket is the key-value bucket with the counts of each ledger, by its id.
	bucket = "PAGESTREAM_LEDGERS"
	// Stream is the name of the JetStream stream that stores the bucket.
	Stream = "KV_" + bucket
	// DefaultEvery is how often changed counts are published.
	DefaultEvery = 2 * time.Second
	timeout      = 5 * time.Second
	closeTimeout = 2 * time.Second
)

// ErrShared is returned when another process publishes the counts of the same ledger.
var ErrShared = errors.New("another process uses a copy of this ledger: each node needs a data.dir of its own, and " +
	"none that was copied from a node that still runs; stop one of them and remove its ledger.db")

// Options configure [Ledgers]. JS and Ledger are required.
type Options struct {
	JS jetstream.JetStream
	// Ledger is that of this node.
	Ledger *deliveries.Ledger
	// Replicas of the bucket when it is made; see [streams.EnsureBucket].
	Replicas int
	// Every is how often changed counts are published, by default [DefaultEvery].
	Every  time.Duration
	Logger *slog.Logger
}

// Ledgers publishes the counts of a ledger, and reads those of all ledgers. Its methods are safe for concurrent use.
// Make one with [Open].
//
// Only counts that are in the ledger's file are published. So after a crash the file has at least what was published,
// and what was published is never more than what was stored in the stream: an audit that reads it first raises no
// false alarm. What a node has acknowledged in the last seconds before an audit, or before it was lost with its disk,
// may be missing, so the loss of exactly these events can't be proved by the counts.
type Ledgers struct {
	opts Options
	kv   jetstream.KeyValue
	node string
	run  string // id of this process, in the row

	mu       sync.Mutex // serializes Publish
	revision uint64     // of the row that this process has written, or found at its start
	last     deliveries.Counts
	shared   bool
}

// row is a ledger in the bucket.
type row struct {
	deliveries.Published
	// Run is the id of the process that has written it.
	Run string `json:"run"`
}

// Open opens the bucket and makes it if there is none. A ledger whose file is an older copy of itself goes on from what
// it has published. It must be called before the first delivery.
func Open(ctx context.Context, o Options) (*Ledgers, error) {
	o.Every = cmp.Or(max(o.Every, 0), DefaultEvery)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	l := &Ledgers{opts: o, run: nuid.Next()}
	l.node, _ = os.Hostname() // empty if it is not known
	var err error
	l.kv, err = streams.EnsureBucket(ctx, o.JS, streams.Name, jetstream.KeyValueConfig{
		Bucket: bucket, Description: "What the webhook endpoint of each node has counted.", History: 1,
		Storage: jetstream.FileStorage, Replicas: o.Replicas,
	})
	if err != nil {
		return nil, fmt.Errorf("make bucket of ledgers: %w", err)
	}
	was, revision, err := l.read(ctx)
	if err != nil {
		return nil, err
	}
	l.revision = revision
	if revision > 0 && o.Ledger.Raise(was.Counts) {
		o.Logger.Warn("the counts of the webhook endpoint go on from those that were published: "+
			"the file is an older copy", "ledger", o.Ledger.ID())
	}
	return l, nil
}

// read returns the row of this ledger and its revision, 0 if there is none.
func (l *Ledgers) read(ctx context.Context) (r row, revision uint64, err error) {
	entry, err := l.kv.Get(ctx, l.opts.Ledger.ID())
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return r, 0, nil
	}
	if err == nil {
		revision, err = entry.Revision(), json.Unmarshal(entry.Value(), &r)
	}
	if err != nil {
		return r, 0, fmt.Errorf("read published counts: %w", err)
	}
	return r, revision, nil
}

// Run publishes the counts when they have changed, until the context ends, and then once more.
func (l *Ledgers) Run(ctx context.Context) {
	tick := time.NewTicker(l.opts.Every)
	defer tick.Stop()
	for failing := false; ctx.Err() == nil; {
		err := l.publish(timeout)
		if err != nil && !failing {
			l.opts.Logger.Warn("the counts of the webhook endpoint can't be published; trying again", "err", err)
		}
		failing = err != nil
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	if err := cmp.Or(l.opts.Ledger.Flush(), l.publish(closeTimeout)); err != nil {
		l.opts.Logger.Warn("the last counts of the webhook endpoint were not published", "err", err)
	}
}

// publish is Publish within a time.
func (l *Ledgers) publish(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return l.Publish(ctx)
}

// Publish publishes the counts that are in the ledger's file, if they have changed. [ErrShared] is returned when another
// process publishes the same ledger; what it has published is not replaced.
func (l *Ledgers) Publish(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := l.opts.Ledger.Written()
	if counts.Posts == l.last.Posts && l.revision > 0 {
		return nil
	}
	value, err := json.Marshal(row{Run: l.run, Published: deliveries.Published{
		Ledger: l.opts.Ledger.ID(), Node: l.node, At: time.Now().UTC(), Counts: counts,
	}})
	if err != nil {
		return fmt.Errorf("encode counts: %w", err)
	}
	if l.shared {
		return ErrShared
	}
	revision, err := l.put(ctx, value)
	if errors.Is(err, jetstream.ErrKeyExists) { // its answer was lost, the bucket was made again, or it is not alone
		was, now, readErr := l.read(ctx)
		switch {
		case readErr != nil:
			return readErr
		case now > 0 && was.Run != l.run:
			l.shared = true
			l.opts.Logger.Error("the counts of the webhook endpoint are not published", "err", ErrShared)
			return ErrShared
		}
		l.revision = now
		revision, err = l.put(ctx, value)
	}
	if err != nil {
		return fmt.Errorf("publish counts: %w", err)
	}
	l.revision, l.last = revision, counts
	return nil
}

// put writes the row, if its revision is the expected one.
func (l *Ledgers) put(ctx context.Context, value []byte) (uint64, error) {
	if l.revision == 0 {
		return l.kv.Create(ctx, l.opts.Ledger.ID(), value)
	}
	return l.kv.Update(ctx, l.opts.Ledger.ID(), value, l.revision)
}

// Others returns what all other ledgers have published, in the order of their nodes. Those of nodes that are gone are
// among them: what these have acknowledged stays acknowledged.
func (l *Ledgers) Others(ctx context.Context) (out []deliveries.Published, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	watcher, err := l.kv.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("read published counts: %w", err)
	}
	defer func() { err = errors.Join(err, watcher.Stop()) }()
	for {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("read published counts: %w", ctx.Err())
		case entry, open := <-watcher.Updates():
			if entry == nil { // all were read
				if !open {
					return nil, fmt.Errorf("read published counts: %w", jetstream.ErrNoMessages)
				}
				slices.SortFunc(out, func(a, b deliveries.Published) int {
					return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Ledger, b.Ledger))
				})
				return out, nil
			}
			var r row
			if err := json.Unmarshal(entry.Value(), &r); err != nil {
				return nil, fmt.Errorf("decode published counts of %s: %w", entry.Key(), err)
			}
			if r.Ledger != l.opts.Ledger.ID() {
				out = append(out, r.Published)
			}
		}
	}
}
