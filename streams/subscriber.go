package streams

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/internal/backoff"
)

// Metadata of a message of one event that a [Subscriber] gives, besides the
// event's headers under their own names.
const (
	MetaSeq     = "pagestream-seq"
	MetaAt      = "pagestream-at"
	MetaSubject = "pagestream-subject"
)

// DefaultMaxPause is the default of SubscriberOptions.MaxPause.
const DefaultMaxPause = 5 * time.Second

const (
	// minPause is the first pause before a refused message is given again; each
	// further one is twice as long.
	minPause = 10 * time.Millisecond
	// batchBytes ends a batch, which has one event at least. Sizes are those of
	// arrival.size.
	batchBytes = 16 << 20
)

// SubscriberOptions configure a [Subscriber].
type SubscriberOptions struct {
	// Stream is the stream's name, by default [Name].
	Stream string
	// From returns the last sequence that the reader has, who keeps the position;
	// what follows is given. Asked at each Subscribe; nil starts at the beginning.
	From func(ctx context.Context, topic string) (uint64, error)
	// Batch is the most events in one message. Such a message has no payload and
	// no metadata: [EventsOf] returns its events. 0, the default, is one event in
	// each message, as payload and metadata: see [FromMessage].
	Batch int
	// Pace is the least time from one message to the next, so that batches fill
	// while events come one by one. The first event after a pause does not wait, nor
	// does a full batch.
	Pace time.Duration
	// MaxPause bounds the growing pause before a refused message is given again.
	MaxPause time.Duration
	// Tail, if there is one, gives a reader at the stream's end what it has in
	// memory, so that many readers cost one. It is used where the topic is [All].
	Tail   *Tail
	Logger *slog.Logger
}

// Subscriber is a watermill subscriber that gives the stream in its order, one
// message at a time: the next one comes when the last was acknowledged. It is
// read ahead meanwhile. A topic is a subject filter, such as [All].
//
// A message that is refused (Nack) is given again after a growing pause.
//
// Delivery is at least once. A subscription outlives the server's restarts; its
// channel is closed when the context ends, the subscriber or the connection is
// closed, or the stream is gone. Closing it leaves the connection open.
//
// A message that is no event is given like any other: [FromMessage] refuses it,
// and in a batch it has its place with Replayed.Malformed.
type Subscriber struct {
	js   jetstream.JetStream
	opts SubscriberOptions

	mu      sync.Mutex
	closed  bool
	closing chan struct{}
	running sync.WaitGroup
}

var _ message.Subscriber = (*Subscriber)(nil)

// NewSubscriber returns a subscriber on the stream.
func NewSubscriber(js jetstream.JetStream, o SubscriberOptions) *Subscriber {
	o.Stream = cmp.Or(o.Stream, Name)
	o.MaxPause = cmp.Or(max(o.MaxPause, 0), DefaultMaxPause)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	return &Subscriber{js: js, opts: o, closing: make(chan struct{})}
}

// Subscribe gives the messages of the topic until the context ends or the
// subscriber is closed; then the channel is closed.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	feed, err := s.feed(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", topic, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		feed.close()
		return nil, fmt.Errorf("subscribe to %s: %w", topic, ErrClosed)
	}
	ctx, cancel := context.WithCancel(ctx)
	sub := &subscription{opts: s.opts, feed: feed, ahead: make(chan []arrival), out: make(chan *message.Message)}
	s.running.Go(func() {
		defer cancel()
		sub.run(ctx)
	})
	s.running.Go(func() {
		select {
		case <-s.closing:
			cancel()
		case <-ctx.Done():
		}
	})
	return sub.out, nil
}

// Close ends every subscription and waits for them. It is idempotent.
func (s *Subscriber) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.closing)
	}
	s.mu.Unlock()
	s.running.Wait()
	return nil
}

// feed is where a subscription's messages come from.
type feed interface {
	// chunk waits for messages and returns those that are there, in order. It may
	// return some together with the error that ended it.
	chunk(ctx context.Context) ([]arrival, error)
	close()
}

// arrival is a message of the stream, and the event that it is if somebody has
// decoded it already. It belongs to all who were given it: nobody changes it.
type arrival struct {
	msg   jetstream.Msg
	meta  *jetstream.MsgMetadata
	event *Replayed // nil until then
}

func (a arrival) seq() uint64 { return a.meta.Sequence.Stream }

func (a arrival) decode() Replayed {
	e, err := Decode(a.msg.Subject(), a.msg.Headers(), a.msg.Data(), a.seq(), a.meta.Timestamp)
	if err != nil {
		return Replayed{Stored: Stored{Seq: a.seq()}, Malformed: err}
	}
	return Replayed{Stored: e}
}

// decodeAll decodes the messages that nobody has decoded.
func decodeAll(list []arrival) {
	for i := range list {
		if list[i].event == nil {
			e := list[i].decode()
			list[i].event = &e
		}
	}
}

func (s *Subscriber) feed(ctx context.Context, topic string) (feed, error) {
	var after uint64
	if s.opts.From != nil {
		var err error
		if after, err = s.opts.From(ctx, topic); err != nil {
			return nil, fmt.Errorf("find the position: %w", err)
		}
	}
	own := newSource(s.js, s.opts.Stream, []string{topic}, after)
	if s.opts.Tail != nil && topic == All {
		return &tailed{tail: s.opts.Tail, own: own}, nil
	}
	return own, nil
}

// subscription is one Subscribe call.
type subscription struct {
	opts  SubscriberOptions
	feed  feed
	ahead chan []arrival
	out   chan *message.Message

	left     []arrival // of a chunk, what no batch has yet
	gathered time.Time // when the last batch was
}

// run gives one batch after the other until the context or the feed ends.
func (s *subscription) run(ctx context.Context) {
	defer s.feed.close()
	defer close(s.out)
	var reading sync.WaitGroup
	chunks := make(chan []arrival)
	reading.Go(func() { s.read(ctx, chunks) })
	reading.Go(func() { s.collect(ctx, chunks) })
	defer reading.Wait()
	for {
		batch := s.gather(ctx)
		if len(batch) == 0 {
			return
		}
		pause := backoff.Backoff{Min: minPause, Max: s.opts.MaxPause}
		for !s.give(ctx, batch) {
			if pause.Wait(ctx) != nil {
				return
			}
		}
	}
}

// read reads and decodes for as long as the subscription lives.
func (s *subscription) read(ctx context.Context, chunks chan<- []arrival) {
	defer close(chunks)
	for {
		list, err := s.feed.chunk(ctx)
		if s.opts.Batch > 0 {
			decodeAll(list)
		}
		if len(list) > 0 {
			select {
			case chunks <- list:
			case <-ctx.Done():
				return
			}
		}
		if err != nil {
			if ctx.Err() == nil {
				s.opts.Logger.Error("subscription ended", "err", err)
			}
			return
		}
	}
}

// collect holds what is read ahead, about one batch, until gather takes it.
func (s *subscription) collect(ctx context.Context, chunks <-chan []arrival) {
	defer close(s.ahead)
	var held []arrival
	for size := 0; chunks != nil || len(held) > 0; {
		from, to := chunks, s.ahead
		if len(held) >= max(1, s.opts.Batch) || size >= batchBytes {
			from = nil
		}
		if len(held) == 0 {
			to = nil
		}
		select {
		case list, open := <-from:
			if !open {
				chunks = nil
			}
			held = append(held, list...)
			for _, a := range list {
				size += a.size()
			}
		case to <- held:
			held, size = nil, 0
		case <-ctx.Done():
			return
		}
	}
}

// gather waits for an event, then until the pace allows a message or the batch
// is full, and adds what else is there by then. It returns none when the feed
// or the context ends.
func (s *subscription) gather(ctx context.Context) (batch []arrival) {
	paced, cancel := context.WithDeadline(ctx, s.gathered.Add(s.opts.Pace))
	defer cancel()
	until := ctx
	for size := 0; len(batch) < max(1, s.opts.Batch) && size < batchBytes; until = paced {
		if len(s.left) == 0 && !s.refill(until) {
			break
		}
		batch = append(batch, s.left[0])
		size += s.left[0].size()
		s.left = s.left[1:]
	}
	s.gathered = time.Now()
	return batch
}

// refill takes what was read ahead, and waits for it until the context ends.
func (s *subscription) refill(until context.Context) bool {
	select {
	case s.left = <-s.ahead:
		return len(s.left) > 0
	default:
	}
	select {
	case s.left = <-s.ahead:
	case <-until.Done():
	}
	return len(s.left) > 0
}

// give sends one message and reports whether it was acknowledged.
func (s *subscription) give(ctx context.Context, batch []arrival) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m := s.message(batch)
	if s.opts.Batch > 0 {
		m.SetContext(context.WithValue(ctx, batchKey{}, batch))
	} else {
		m.SetContext(ctx)
	}
	select {
	case s.out <- m:
	case <-ctx.Done():
		return false
	}
	select {
	case <-m.Acked():
		return true
	case <-m.Nacked():
	case <-ctx.Done():
	}
	return false
}

// message is what a handler sees. That of one event has the data as payload, the
// first value of each header and where the message stands as metadata.
func (s *subscription) message(batch []arrival) *message.Message {
	a := batch[0]
	seq := strconv.FormatUint(a.seq(), 10)
	if s.opts.Batch > 0 {
		return message.NewMessage(seq, nil)
	}
	h := a.msg.Headers()
	id := cmp.Or(h.Get(HeaderWatermillID), h.Get(HeaderID))
	if id == "" {
		id = uuid.NewString()
	}
	m := message.NewMessage(id, a.msg.Data())
	m.Metadata = make(message.Metadata, len(h)+3)
	for k, v := range h {
		// What was said to the server when the event was published would be
		// said again by whoever publishes this message elsewhere.
		if len(v) > 0 && !strings.HasPrefix(k, "Nats-Batch-") && !strings.HasPrefix(k, "Nats-Expected-") {
			m.Metadata[k] = v[0]
		}
	}
	m.Metadata[MetaSeq] = seq
	m.Metadata[MetaAt] = a.meta.Timestamp.UTC().Format(time.RFC3339Nano)
	m.Metadata[MetaSubject] = a.msg.Subject()
	return m
}

// batchKey finds the events of a message in its context.
type batchKey struct{}

// EventsOf returns the events of a batch in stream order; it has at least one.
// They may be others' too: whoever changes one, or what it points to, copies it
// first. It fails with [ErrMalformed] for a message that is no batch of a
// [Subscriber].
func EventsOf(m *message.Message) ([]*Replayed, error) {
	batch, ok := m.Context().Value(batchKey{}).([]arrival)
	if !ok {
		return nil, fmt.Errorf("message has no batch of events: %w", ErrMalformed)
	}
	events := make([]*Replayed, len(batch))
	for i, a := range batch {
		events[i] = a.event
	}
	return events, nil
}

// FromMessage decodes the event of a message of one event. It fails with
// [ErrMalformed].
func FromMessage(m *message.Message) (Stored, error) {
	seq, at, err := placeOf(m)
	if err != nil {
		return Stored{}, err
	}
	return decode(m.Metadata[MetaSubject], m.Metadata.Get, m.Payload, seq, at)
}

// Envelope is [FromMessage] without the event's data, which are most of the
// work: for a handler that can tell by page, contact and type that it has
// nothing to do.
func Envelope(m *message.Message) (Stored, error) {
	seq, at, err := placeOf(m)
	if err != nil {
		return Stored{}, err
	}
	return envelope(m.Metadata[MetaSubject], m.Metadata.Get, seq, at)
}

func placeOf(m *message.Message) (seq uint64, at time.Time, err error) {
	if seq, err = number(m, MetaSeq); err != nil {
		return 0, at, err
	}
	if at, err = time.Parse(time.RFC3339Nano, m.Metadata[MetaAt]); err != nil {
		return 0, at, fmt.Errorf("metadata %s: %w", MetaAt, ErrMalformed)
	}
	return seq, at, nil
}

func number(m *message.Message, key string) (uint64, error) {
	n, err := strconv.ParseUint(m.Metadata[key], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("metadata %s: %w", key, ErrMalformed)
	}
	return n, nil
}
