package streams

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/internal/yield"
)

// Defaults of [PublisherOptions]. An atomic batch costs about 3 ms whatever its size, and a single
// publish costs one fsync, so a batch is cheaper from about 15 events on.
const (
	DefaultBatchThreshold = 16
	DefaultMaxBatch       = 1000 // JetStream's own limit
	DefaultQueueLimit     = 20_000
	DefaultQueueBytes     = 256 << 20
	DefaultAckTimeout     = 3 * time.Second
	DefaultRetryFor       = 15 * time.Second
)

const (
	// batchOverhead is how many bytes the headers of a batch, and those of a foreign event,
	// add to a message, at most.
	batchOverhead = 1024
	// maxHeaders is the most bytes of headers that JetStream accepts, less batchOverhead.
	maxHeaders = 64<<10 - 1 - batchOverhead
)

// SeenIndex looks up the ids of events that are already stored, however old they are.
type SeenIndex interface {
	// Seen returns for each id the sequence of the first event with that id, or 0 if there is none, and the sequence
	// up to which it had every id then. It may lag behind the stream: with a [Journal] the publisher remembers the ids
	// after that, without one JetStream's dedup window must cover them. While it is built again it returns what it
	// has, and an error that wraps [ErrIncomplete].
	Seen(ids []string) (seqs []uint64, upto uint64, err error)
}

// Duplicate says what recognised an event as already stored.
type Duplicate int

// The values of Duplicate. ByIndex is the SeenIndex. ByWindow is JetStream's own dedup window, or the
// publisher's memory of the ids that it has just stored, which only saves asking JetStream.
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

// Receipt says where an event is in the stream. For a duplicate, Seq is the sequence of the first
// event with its id. An event whose first acknowledgement was lost, and which was found to be stored
// when it was sent again, is not a duplicate.
type Receipt struct {
	Seq       uint64
	Duplicate Duplicate
	// Foreign reports whether the event was stored as [domain.ForeignReceived].
	Foreign bool
}

// BatchObservation describes one publish by the committer: how many events it published together, and
// how long it took until they were durable. Atomic is false for events that were published one by one.
type BatchObservation struct {
	Size   int
	Atomic bool
	Took   time.Duration
	Err    error
}

// Failed returns Err if it says that the stream does not take events now. It returns nil for what is about the
// events alone: ids that are stored already, and events that are too large.
func (o BatchObservation) Failed() error {
	var api *jetstream.APIError
	if errors.As(o.Err, &api) && slices.Contains(aboutEvent, api.ErrorCode) {
		return nil
	}
	return o.Err
}

// Full reports whether the stream refused events because there is no space for them.
func (o BatchObservation) Full() bool { return NoSpace(o.Err) }

// NoSpace reports whether an error says that there is no space for a message: on the disk, in the store, in the account
// or in a stream that does not delete others for it.
func NoSpace(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrNoRoom) || errors.As(err, &api) && slices.Contains(aboutSpace, api.ErrorCode)
}

// LargestEvent returns the size of the largest message that a delivery of body bytes can make: an event may
// have the body twice, as text and as raw item.
func LargestEvent(body int64) int64 { return 2*body + maxHeaders + batchOverhead }

// LargestBody returns the size of the largest body whose events are certain to fit into messages of size bytes.
func LargestBody(size int64) int64 { return max(0, size-LargestEvent(0)) / 2 }

// PublisherOptions configure a [Publisher]. Every field may be left at its zero value.
type PublisherOptions struct {
	// Stream is the stream's name, by default [Name].
	Stream string
	// Seen may be nil: then only JetStream's dedup window finds duplicates.
	Seen SeenIndex
	// Current, if not nil, returns an error unless Seen and what the publisher remembers are known to be of the stream
	// that there is now. Meanwhile an event that is found there is refused with [ErrUnavailable]: that it is stored would
	// be true of another stream only. It must not block.
	Current func() error
	// Journal, if not nil, makes the events durable; JetStream gets them from it. Without it, JetStream's
	// acknowledgement makes them so. The publisher does not close it.
	Journal *Journal
	// Judge, if not nil, decides which of the events that webhooks delivered are the
	// page's own.
	Judge Judge
	// Window is the stream's dedup window. It decides which events are stored while the index is
	// incomplete; 0 means none.
	Window time.Duration
	// Shared reports whether other processes append events to the stream as well, and whether servers may take turns in
	// leading it.
	Shared bool
	// BatchThreshold is how many events must wait for them to be published as one atomic batch.
	BatchThreshold int
	// MaxBatch is the most events in one batch, at most 1,000, which is JetStream's limit.
	MaxBatch int
	// QueueLimit is the most events that may wait or be in the process of being stored, QueueBytes
	// the most bytes of them. A single call that exceeds a limit is accepted when nothing else waits.
	QueueLimit int
	QueueBytes int64
	// AckTimeout bounds the wait for one acknowledgement of the server.
	AckTimeout time.Duration
	// RetryFor bounds how long events whose acknowledgement was lost are sent again. It must be well
	// below the stream's dedup window, which makes sending them again safe.
	RetryFor time.Duration
	// Observe is called by the committer after each publish; it must be quick.
	Observe func(BatchObservation)
	// Logger discards everything by default.
	Logger *slog.Logger
}

// Publisher stores events durably, each id once.
//
// One goroutine, the committer, works in rounds. In each it takes events that wait, looks up their ids,
// and publishes those that are new: one by one if they are few, or as one atomic batch with one disk
// sync if they are many. It never waits for more events to arrive.
//
// The apps take turns in a round, and so do the pages of an app, where a call belongs to the page of most
// of its events. A turn is bounded, so a page with many events waits for itself and not the others for it:
// a large call is stored in several rounds. An event whose caller has gone before its turn is not stored.
//
// Order: the events of a Publish call that has returned without an error are before those of any later
// call, and the events of one call are in the order given. The second is not promised if the server
// refused one of the events or its acknowledgement was lost: then the others are stored first, and
// that one when it is sent again. With Shared the events of one call for one page are in order even then, unless one is
// too large.
type Publisher struct {
	js    jetstream.JetStream
	async jetstream.JetStream // for asynchronous publishes, which time out after AckTimeout
	nc    *nats.Conn
	opts  PublisherOptions

	journal *Journal // nil without one

	mu     sync.Mutex
	queue  queue
	round  time.Time // since when the committer stores a round; zero while it waits
	closed bool
	wake   chan struct{}
	done   chan struct{}

	// encoding is held while the events of a large call are encoded, so that many such calls do not
	// keep all processors from those that store.
	encoding chan struct{}

	abandoned context.Context //nolint:containedctx // ends when Close stops waiting
	abandon   context.CancelFunc

	pageOrder pageOrder

	// answers ends when the answers to what was sent are lost: see Resend.
	answers     context.Context //nolint:containedctx // of all that is sent until then
	loseAnswers context.CancelFunc

	remembered atomic.Uint64
	// forget is set by Forget, to one more than the sequence.
	forget atomic.Uint64

	// The fields below are used by the committer only.
	recent recent
	newest uint64 // the highest sequence that was acknowledged
	primed bool   // recent has what the index did not have at the start
	window window
}

// request is one Publish call. Next belongs to the queue; the rest is changed by the committer only, and
// the caller reads it only after done is closed.
type request struct {
	ctx      context.Context //nolint:containedctx // the caller's: it shows whether the caller still waits
	key      flowKey
	at       time.Time
	items    []item
	next     int // the first item that was not taken from the queue yet
	receipts []Receipt
	err      error
	pending  int // events without a result
	done     chan struct{}
}

// NewPublisher starts a publisher. The caller must close it. Closing it does not close the connection.
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
	async, err := Open(js.Conn(), js.Options().Domain,
		jetstream.WithPublishAsyncTimeout(o.AckTimeout), jetstream.WithPublishAsyncMaxPending(2*maxSingly))
	if err != nil {
		return nil, err
	}
	abandoned, abandon := context.WithCancel(context.Background())
	p := &Publisher{
		js: js, async: async, nc: js.Conn(), opts: o, journal: o.Journal,
		wake: make(chan struct{}, 1), done: make(chan struct{}), abandoned: abandoned, abandon: abandon,
		encoding: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
	}
	p.answers, p.loseAnswers = context.WithCancel(abandoned)
	p.window = newWindow(o.Window, o.RetryFor, time.Now())
	go p.runCommitter()
	return p, nil
}

// Publish stores the events and returns a receipt for each, in order. It returns without an error only
// when every event is durable; then each id is in the stream once. After an error some of the events
// may be stored, and after the end of the context those whose turn has come may still be stored later.
// Calling Publish again with the same events is safe. It does not keep the bytes of the events after it
// has returned, but readers may get what their other fields point to, which must not be changed. It is safe for
// concurrent use.
//
// Its errors are [ErrUnavailable], [ErrOverloaded], [ErrTooLarge], [ErrInvalid], [ErrClosed],
// [domain.ErrBadData], or the context's.
func (p *Publisher) Publish(ctx context.Context, events []domain.Event) ([]Receipt, error) {
	if len(events) == 0 {
		return nil, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("publish: %w", err)
	}
	key := flowOf(events)
	if err := p.admit(key, len(events)); err != nil {
		return nil, err
	}
	r, err := p.request(ctx, key, events)
	return p.wait(ctx, r, key, len(events), err)
}

// wait stores a request of n events that were admitted, and returns the result. err is the error of making it.
func (p *Publisher) wait(ctx context.Context, r *request, key flowKey, n int, err error) ([]Receipt, error) {
	if err == nil {
		err = p.enqueue(r)
	}
	if err != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.queue.give(key, n)
		return nil, err
	}
	select {
	case <-r.done:
		if r.err != nil {
			return nil, r.err
		}
		return r.receipts, nil
	case <-ctx.Done():
		p.mu.Lock()
		defer p.mu.Unlock()
		if r.next < len(r.items) {
			p.queue.leave(r)
		}
		return nil, fmt.Errorf("wait for the stream: %w", ctx.Err())
	}
}

// largeCall is from how many events on the encoding of a call takes long enough to delay others.
const largeCall = 64

// longCall is from how many events on a call lets others run while it is encoded. A shorter one is encoded in a
// millisecond, and other large calls wait for it.
const longCall = 200

// request encodes the events of a call.
func (p *Publisher) request(ctx context.Context, key flowKey, events []domain.Event) (*request, error) {
	if len(events) >= largeCall {
		select {
		case p.encoding <- struct{}{}:
			defer func() { <-p.encoding }()
		case <-ctx.Done():
			return nil, fmt.Errorf("publish: %w", ctx.Err())
		}
	}
	r := &request{
		ctx:      ctx,
		key:      key,
		items:    make([]item, len(events)),
		receipts: make([]Receipt, len(events)),
		pending:  len(events),
		done:     make(chan struct{}),
	}
	var loop yield.Loop
	for i, e := range events {
		if len(events) > longCall {
			loop.Step()
		}
		m, size, err := p.encode(&e)
		if err != nil {
			return nil, err
		}
		r.items[i] = item{req: r, index: i, msg: m, id: e.ID, size: size, page: e.Page, time: e.Time}
		if p.opts.Judge != nil {
			r.items[i].claim = claimOf(e)
		}
		if p.journal != nil {
			if d, same := e.Data.Decoded(m.Data); same {
				e.Data = d
				r.items[i].event = &Replayed{Stored: Stored{Event: e}}
			}
		}
	}
	r.at = time.Now()
	return r, nil
}

// encode makes the message and checks that it is not too large for the server, alone and in a batch. It also
// returns the message's size, for which the client goes through all headers.
func (p *Publisher) encode(e *domain.Event) (*nats.Msg, int, error) {
	m, err := encode(e)
	if err != nil {
		return nil, 0, err
	}
	size := m.Size()
	if whole, limit := int64(size)+batchOverhead, p.nc.MaxPayload(); limit > 0 && whole > limit {
		return nil, 0, fmt.Errorf("event %s has %d bytes, the server accepts %d: %w", e.ID, whole, limit, ErrTooLarge)
	}
	if headers := size - len(m.Data); headers > maxHeaders {
		return nil, 0, fmt.Errorf("event %s has %d bytes of headers, the server accepts %d: %w",
			e.ID, headers, maxHeaders, ErrTooLarge)
	}
	return m, size, nil
}

// admit reserves room in the queue, before anything is encoded.
func (p *Publisher) admit(key flowKey, n int) error {
	if p.journal != nil {
		if err := p.journal.Refuses(); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return fmt.Errorf("publish: %w", ErrClosed)
	}
	return p.queue.admit(key, n, p.opts.QueueLimit)
}

// enqueue adds a request that was admitted.
func (p *Publisher) enqueue(r *request) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return fmt.Errorf("publish: %w", ErrClosed)
	}
	q := &p.queue
	if q.bytes > 0 && q.bytes+r.bytes() > p.opts.QueueBytes {
		return fmt.Errorf("%d events of %d bytes are waiting: %w", q.waiting, q.bytes, ErrOverloaded)
	}
	q.add(r)
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return nil
}

// Remembered returns the sequence from which on the publisher still has the ids of the events that it has
// stored itself, and so finds duplicates of them without the index. It does not have those that were stored
// by others, or before it was made.
func (p *Publisher) Remembered() uint64 { return p.remembered.Load() + 1 }

// Delay estimates how long new events of a page that an app delivered would wait until their turn. With an
// empty page, it is the time for a page that has no events waiting. It is RetryFor where they would be refused.
func (p *Publisher) Delay(app string, page domain.PageID) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.queue.waiting >= p.opts.QueueLimit {
		return p.opts.RetryFor
	}
	now, delay := time.Now(), time.Duration(0)
	if !p.round.IsZero() {
		delay = now.Sub(p.round)
	}
	key := flowKey{app, page}
	if p.queue.of(key) >= p.opts.QueueLimit/2*9/10 { // the rest would not suffice for a usual delivery
		return p.opts.RetryFor
	}
	if f := p.queue.flows[key]; f != nil {
		delay = max(delay, f.delay(now))
	}
	return delay
}

// Forget forgets which events were stored after a sequence, since the stream was replaced by one that has
// other events from there on. The index of ids must forget them before the next Publish.
func (p *Publisher) Forget(after uint64) {
	p.forget.Store(after + 1)
	p.pageOrder.Lock()
	defer p.pageOrder.Unlock()
	p.pageOrder.last, p.pageOrder.known = 0, false
}

// Resend gives up waiting for the answers to events that were sent before, and sends them again. It is for when they
// are known to be lost, because the stream has another leader.
func (p *Publisher) Resend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loseAnswers()
	p.answers, p.loseAnswers = context.WithCancel(p.abandoned)
}

// answering returns a context that ends when the answers to what is sent from now on are lost.
func (p *Publisher) answering() context.Context {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answers
}

// Close stops accepting events, stores those that wait, and stops the committer. If the context ends
// first, it returns the context's error, and Publish calls that still wait fail. It is idempotent.
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
