package projections

import (
	"cmp"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// Defaults of [RunnerOptions]. A commit costs one fsync whatever is in it.
const (
	DefaultMaxBatch = 4096
	DefaultPace     = 50 * time.Millisecond
)

// RunnerOptions configure a [Runner]. Dir, JS and Identity are required.
type RunnerOptions struct {
	// What a runner works with.

	// Dir has one file a projection, <name>.db.
	Dir string
	JS  jetstream.JetStream
	// Stream is the stream's name, by default streams.Name.
	Stream string
	// Identity is what streams.Ensure returned. A read model of another
	// identity is rebuilt.
	Identity streams.Identity
	// Dedup names the first event of each id; an event that is not the first
	// is counted and left out. Nil for the index itself.
	Dedup Index
	// Tail may be shared by all the runners of a process; nil reads the stream
	// for this one alone.
	Tail   *streams.Tail
	Logger *slog.Logger

	// How it works. The zero values suit a server.

	// Attempts is how often an event that can't be applied is tried before it is
	// parked (see [DeadLetter]); 0 is for ever: the read model then stands still at
	// it. An [Index] has to, since what it has not seen would look new.
	Attempts int
	// MaxBatch is the most events in one transaction, by default 4096: the more
	// of them, the more change the same rows and pages.
	MaxBatch int
	// Pace is the least time from one transaction to the next, by default 50 ms;
	// negative is none. A transaction is synced, and every sync takes its turn
	// with those of the stream that deliveries wait for: a read model that
	// commits each event as it comes would slow down what it reads. The first
	// event after a pause does not wait, nor does a full batch.
	Pace time.Duration
	// Store configures the file.
	Store store.Options

	// headEvery is how often the stream is asked how far it is. Events don't wait
	// for that, only Lag does. Tests ask more often.
	headEvery time.Duration
}

func (o RunnerOptions) withDefaults() RunnerOptions {
	o.Stream = cmp.Or(o.Stream, streams.Name)
	o.MaxBatch = cmp.Or(max(o.MaxBatch, 0), DefaultMaxBatch)
	o.Pace = cmp.Or(o.Pace, DefaultPace)
	o.headEvery = cmp.Or(max(o.headEvery, 0), time.Second)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	return o
}
