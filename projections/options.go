package projections

import (
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// Defaults of [RunnerOptions]. A commit costs one fsync whatever is in it.
const (
	DefaultMaxBatch     = 4096
	DefaultHeadInterval = time.Second
	DefaultPace         = 50 * time.Millisecond
)

// RunnerOptions configure a [Runner]. Dir, JS and Identity are required.
type RunnerOptions struct {
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
	// MaxBatch is the most events in one transaction, by default 4096: the more
	// of them, the more change the same rows and pages.
	MaxBatch int
	// MaxInFlight bounds the events that are read ahead, by default twice
	// MaxBatch: while one batch is committed the next one gathers.
	MaxInFlight int
	// Pace is the least time from one transaction to the next, by default 50 ms;
	// negative is none. A transaction is synced, and every sync takes its turn
	// with those of the stream that deliveries wait for: a read model that
	// commits each event as it comes would slow down what it reads. The first
	// event after a pause does not wait, nor does a full batch.
	Pace time.Duration
	// HeadInterval is how often the stream is asked how far it is, by default
	// each second. Events don't wait for that, only Lag does.
	HeadInterval time.Duration
	// Tail may be shared by all the runners of a process; nil reads the stream
	// for this one alone.
	Tail *streams.Tail
	// Subscriber makes the subscriber; by default a streams.Subscriber.
	Subscriber func(streams.SubscriberOptions) message.Subscriber
	// Attempts is how often an event that can't be applied is tried before it is
	// parked (see [DeadLetter]); 0 is for ever: the read model then stands still at
	// it. An [Index] has to, since what it has not seen would look new.
	Attempts int
	// Store configures the file.
	Store  store.Options
	Now    func() time.Time
	Logger *slog.Logger
}

func (o RunnerOptions) withDefaults() RunnerOptions {
	if o.Stream == "" {
		o.Stream = streams.Name
	}
	if o.MaxBatch <= 0 {
		o.MaxBatch = DefaultMaxBatch
	}
	if o.MaxInFlight <= 0 {
		o.MaxInFlight = 2 * o.MaxBatch
	}
	if o.Pace == 0 {
		o.Pace = DefaultPace
	}
	if o.HeadInterval <= 0 {
		o.HeadInterval = DefaultHeadInterval
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Subscriber == nil {
		js := o.JS
		o.Subscriber = func(so streams.SubscriberOptions) message.Subscriber { return streams.NewSubscriber(js, so) }
	}
	return o
}

// bundle is how many events come through the router in one message at most: so
// few that several messages make a batch, and are decoded beside one another.
func (o RunnerOptions) bundle() int { return max(1, min(o.MaxBatch, o.MaxInFlight)/8) }
