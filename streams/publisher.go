package streams

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
)

// Defaults of [PublisherOptions]. An atomic batch costs about 3 ms whatever is
// in it, a single publish one fsync: a batch pays from about 15.
const (
	DefaultBatchThreshold = 16
	DefaultMaxBatch       = 1000 // JetStream's own limit
	DefaultQueueLimit     = 20_000
	DefaultQueueBytes     = 256 << 20
	DefaultAckTimeout     = 3 * time.Second
	DefaultRetryFor       = 15 * time.Second
)

const (
	// batchOverhead is what the headers of a batch add to a message.
	batchOverhead = 256
	// maxHeaders is what JetStream takes of headers, in bytes.
	maxHeaders = 64<<10 - 1 - batchOverhead
)

// SeenIndex knows the ids of events that were stored long ago.
type SeenIndex interface {
	// Seen returns for each id the sequence of the first event that has it, 0
	// where there is none. It may lag behind the stream: what it does not know
	// yet, JetStream's window has to.
	Seen(ids []string) ([]uint64, error)
}

// Duplicate says what recognised an event that is in the stream already.
type Duplicate int

// What may have recognised it. ByWindow is JetStream's own window, or the
// publisher's memory of what it has just stored, which only saves asking.
const (
	NotDuplicate Duplicate = iota
	ByIndex
	ByWindow
)

// String returns "none", "index" or "window".
func (d Duplicate) String() string {
	switch d {
	case ByIndex:
		return "index"
	case ByWindow:
		return "window"
	}
	return "none"
}

// Receipt says where an event is in the stream. For a duplicate it is the
// sequence of the first one. An event whose first answer was lost, and which
// was found stored when it was sent again, is no duplicate.
type Receipt struct {
	Seq       uint64
	Duplicate Duplicate
}

// BatchObservation describes one publish of the committer: how many events went
// together, and how long until they were durable. Atomic is false for events
// that went singly.
type BatchObservation struct {
	Size   int
	Atomic bool
	Took   time.Duration
	Err    error
}

// PublisherOptions configure a [Publisher]. Only Stream has no default.
type PublisherOptions struct {
	// Stream is the stream's name, by default [Name].
	Stream string
	// Seen may be nil: then only JetStream's window finds duplicates.
	Seen SeenIndex
	// BatchThreshold is from how many waiting events they go as one batch.
	BatchThreshold int
	// MaxBatch is the most events in one batch, at most 1000.
	MaxBatch int
	// QueueLimit is the most events that may wait or be under way, QueueBytes
	// the most bytes of them. A call that is larger by itself is let in when
	// nothing else waits.
	QueueLimit int
	QueueBytes int64
	// AckTimeout bounds the wait for one answer of the server.
	AckTimeout time.Duration
	// RetryFor bounds how long events whose answer was lost are sent again. It
	// has to be well below the stream's dedup window, which is what makes that
	// safe.
	RetryFor time.Duration
	// Observe is called by the committer after each publish; it must be quick.
	Observe func(BatchObservation)
	Logger  *slog.Logger
}

// Publisher makes events durable, each id once.
//
// One committer takes whatever events wait, looks their ids up, and publishes
// the rest: singly while they are few, as one atomic batch with one sync when
// they are many. It never waits for more to come.
//
// Order: what a Publish call acknowledged is before whatever is given later,
// and the events of one call are in the order given. The second does not hold
// where the server refused one of them or its answer was lost: the others are
// stored, and that one when it is sent again.
type Publisher struct {
	js    jetstream.JetStream
	async jetstream.JetStream // forgets what was not answered in time
	nc    *nats.Conn
	opts  PublisherOptions

	mu      sync.Mutex
	queue   []*request
	waiting int   // events in queue or under way
	bytes   int64 // of them
	closed  bool
	wake    chan struct{}
	done    chan struct{}

	abandoned context.Context //nolint:containedctx // ends when Close has waited long enough
	abandon   context.CancelFunc

	// The committer's alone.
	recent recent
	newest uint64 // the highest sequence that was acknowledged
}

// request is one Publish call. The committer alone changes it, and nobody reads
// it before done is closed.
type request struct {
	ctx      context.Context //nolint:containedctx // the caller's, to know whether anybody waits
	messages []*nats.Msg
	bytes    int64
	receipts []Receipt
	err      error
	open     int // events not settled
	done     chan struct{}
}

// NewPublisher starts a publisher. The caller must close it; the connection
// stays the caller's.
func NewPublisher(js jetstream.JetStream, o PublisherOptions) (*Publisher, error) {
	o.Stream = cmp.Or(o.Stream, Name)
	o.BatchThreshold = cmp.Or(max(o.BatchThreshold, 0), DefaultBatchThreshold)
	if o.MaxBatch <= 0 || o.MaxBatch > DefaultMaxBatch {
		o.MaxBatch = DefaultMaxBatch
	}
	o.QueueLimit = cmp.Or(max(o.QueueLimit, 0), DefaultQueueLimit)
	o.QueueBytes = cmp.Or(max(o.QueueBytes, 0), DefaultQueueBytes)
	o.AckTimeout = cmp.Or(max(o.AckTimeout, 0), DefaultAckTimeout)
	o.RetryFor = cmp.Or(max(o.RetryFor, 0), DefaultRetryFor)
	if o.Observe == nil {
		o.Observe = func(BatchObservation) {}
	}
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	async, err := jetstream.New(js.Conn(),
		jetstream.WithPublishAsyncTimeout(o.AckTimeout), jetstream.WithPublishAsyncMaxPending(2*maxSingly))
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	abandoned, abandon := context.WithCancel(context.Background())
	p := &Publisher{
		js: js, async: async, nc: js.Conn(), opts: o,
		wake: make(chan struct{}, 1), done: make(chan struct{}), abandoned: abandoned, abandon: abandon,
	}
	go p.commit()
	return p, nil
}

// Publish stores the events and returns a receipt for each, in order. It
// returns without an error only when every one of them is durable; then each id
// is in the stream once. After an error some of them may be stored, and after
// the end of the context they may still be: calling again with the same events
// is safe. It is safe for concurrent use.
//
// Errors are [ErrUnavailable], [ErrOverloaded], [ErrTooLarge], [ErrInvalid],
// [ErrClosed], or the context's.
func (p *Publisher) Publish(ctx context.Context, events []domain.Event) ([]Receipt, error) {
	if len(events) == 0 {
		return nil, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("publish: %w", err)
	}
	r := &request{
		ctx:      ctx,
		messages: make([]*nats.Msg, len(events)),
		receipts: make([]Receipt, len(events)),
		open:     len(events),
		done:     make(chan struct{}),
	}
	for i, e := range events {
		m, err := p.encode(e)
		if err != nil {
			return nil, err
		}
		r.messages[i] = m
		r.bytes += int64(m.Size())
	}
	if err := p.enqueue(r); err != nil {
		return nil, err
	}
	select {
	case <-r.done:
		if r.err != nil {
			return nil, r.err
		}
		return r.receipts, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the stream: %w", ctx.Err())
	}
}

// encode makes the message and sees that the server will take it, alone and in
// a batch.
func (p *Publisher) encode(e domain.Event) (*nats.Msg, error) {
	m, err := Encode(e)
	if err != nil {
		return nil, err
	}
	if size, limit := int64(m.Size())+batchOverhead, p.nc.MaxPayload(); limit > 0 && size > limit {
		return nil, fmt.Errorf("event %s has %d bytes, the server takes %d: %w", e.ID, size, limit, ErrTooLarge)
	}
	if size := m.Size() - len(m.Data); size > maxHeaders {
		return nil, fmt.Errorf("event %s has %d bytes of headers, the server takes %d: %w", e.ID, size, maxHeaders, ErrTooLarge)
	}
	return m, nil
}

func (p *Publisher) enqueue(r *request) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return fmt.Errorf("publish: %w", ErrClosed)
	}
	if p.waiting > 0 && (p.waiting+len(r.messages) > p.opts.QueueLimit || p.bytes+r.bytes > p.opts.QueueBytes) {
		return fmt.Errorf("%d events of %d bytes wait: %w", p.waiting, p.bytes, ErrOverloaded)
	}
	p.waiting += len(r.messages)
	p.bytes += r.bytes
	p.queue = append(p.queue, r)
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return nil
}

// Close stops taking events, finishes those that wait, and stops the committer.
// When the context ends first, what was not stored fails. It is idempotent.
func (p *Publisher) Close(ctx context.Context) error {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.wake)
	}
	p.mu.Unlock()
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
	}
	p.abandon()
	return fmt.Errorf("drain publisher: %w", ctx.Err())
}
