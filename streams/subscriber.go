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
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/internal/backoff"
)

// Metadata keys of a [Subscriber]'s message with one event: the event's sequence, when it was stored
// (RFC 3339), and its subject. The event's headers are metadata too, under their own names.
const (
	MetaSeq     = "pagestream-seq"
	MetaAt      = "pagestream-at"
	MetaSubject = "pagestream-subject"
)

// DefaultMaxPause is the default of [SubscriberOptions].MaxPause.
const DefaultMaxPause = 5 * time.Second

const (
	// minPause is the first pause before a refused message is delivered again. Each further pause is
	// twice as long.
	minPause = 10 * time.Millisecond
	// batchBytes is the size in bytes, by arrival.size, from which a batch is complete. A batch has at
	// least one event.
	batchBytes = 16 << 20
)

// SubscriberOptions configure a [Subscriber].
type SubscriberOptions struct {
	// Stream is the stream's name, by default [Name].
	Stream string
	// From returns the last sequence that the reader has already read; the reader must store it
	// itself. Events after it are delivered. It is called at each Subscribe; nil starts at the
	// beginning.
	From func(ctx context.Context, topic string) (uint64, error)
	// Batch is the most events in one message. Such a message has no payload and no metadata:
	// [EventsOf] returns its events. With 0, the default, each message has one event as its payload
	// and metadata: see [FromMessage].
	Batch int
	// Pace is the least time between two messages, so that batches fill while events arrive one by
	// one. The first event after a pause does not wait, nor does a full batch.
	Pace time.Duration
	// MaxPause bounds the growing pause before a refused message is delivered again.
	MaxPause time.Duration
	// Tail, if not nil, provides the newest events from memory, so that many subscribers at the end of
	// the stream share one reader. Subscribers with batches that are further back share readers as well, if they are
	// at about the same place. It is used only if the topic is [All].
	Tail *Tail
	// Logger discards everything by default.
	Logger *slog.Logger
}

// Subscriber is a watermill subscriber that delivers the events of a stream in order, one message at a
// time: it sends the next message when the last one was acknowledged, and reads ahead meanwhile. A
// topic is a subject filter, such as [All].
//
// A message that is refused (Nack) is delivered again after a growing pause.
//
// Delivery is at least once. A subscription goes on after a restart of the server. Its channel is closed
// when the context ends, the subscriber or the connection is closed, or the stream is deleted. Closing
// the subscriber does not close the connection.
//
// A message that is not an event is delivered as well: [FromMessage] returns [ErrMalformed] for it, and
// in a batch its Replayed.Malformed is set.
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

// Subscribe delivers the messages of the topic on the returned channel until the context ends or the
// subscriber is closed; then the channel is closed. [ErrClosed] is returned when the subscriber is
// already closed.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	feed, err := s.newFeed(ctx, topic)
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
	sub := &subscription{
		opts: s.opts, feed: feed, prefetched: make(chan []*arrival), out: make(chan *message.Message),
	}
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

// feed provides the messages of a subscription.
type feed interface {
	// chunk waits for messages and returns those that are ready, in order. It may return some messages
	// together with an error; after an error it must not be called again.
	chunk(ctx context.Context) ([]*arrival, error)
	close()
}

// arrival is a message of the stream, with its decoded event once it was decoded. Several readers may
// share it, so they must not modify it.
type arrival struct {
	seq     uint64
	subject string
	header  nats.Header
	data    []byte
	at      time.Time // when the stream stored the message
	pending uint64    // how many messages followed when it was read
	event   *Replayed // nil until it is decoded
}

// arrivalKey tells whether two messages are the same one of the same stream.
type arrivalKey struct {
	seq uint64
	id  string
}

func (a *arrival) key() arrivalKey { return arrivalKey{a.seq, a.header.Get(HeaderID)} }

func (a *arrival) decode() Replayed {
	e, err := Decode(a.subject, a.header, a.data, a.seq, a.at)
	if err != nil {
		return Replayed{Stored: Stored{Seq: a.seq}, Malformed: err}
	}
	return Replayed{Stored: e}
}

// decodeAll decodes the messages that are not decoded yet.
func decodeAll(list []*arrival) {
	for _, a := range list {
		if a.event == nil {
			e := a.decode()
			a.event = &e
		}
	}
}

func (s *Subscriber) newFeed(ctx context.Context, topic string) (feed, error) {
	var after uint64
	if s.opts.From != nil {
		var err error
		if after, err = s.opts.From(ctx, topic); err != nil {
			return nil, fmt.Errorf("get start position: %w", err)
		}
	}
	src := newSource(s.js, s.opts.Stream, []string{topic}, after)
	if s.opts.Tail != nil && topic == All {
		f := &tailFeed{tail: s.opts.Tail, source: src}
		if s.opts.Batch > 0 { // one that takes single events is much slower than the others
			f.source = &sharedSource{source: src, passes: &s.opts.Tail.passes}
		}
		return f, nil
	}
	return src, nil
}

// subscription is one Subscribe call.
type subscription struct {
	opts       SubscriberOptions
	feed       feed
	prefetched chan []*arrival
	out        chan *message.Message

	rest      []*arrival // prefetched messages that are in no batch yet
	lastBatch time.Time  // when the last batch was complete
}

// run sends one batch after the other until the context or the feed ends.
func (s *subscription) run(ctx context.Context) {
	defer s.feed.close()
	defer close(s.out)
	var reading sync.WaitGroup
	chunks := make(chan []*arrival)
	reading.Go(func() { s.read(ctx, chunks) })
	reading.Go(func() { s.collect(ctx, chunks) })
	defer reading.Wait()
	for {
		batch := s.nextBatch(ctx)
		if len(batch) == 0 {
			return
		}
		pause := backoff.Backoff{Min: minPause, Max: s.opts.MaxPause}
		for !s.send(ctx, batch) {
			if pause.Wait(ctx) != nil {
				return
			}
		}
	}
}

// read reads messages from the feed, and decodes them for batches, until the context or the feed ends.
func (s *subscription) read(ctx context.Context, chunks chan<- []*arrival) {
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

// collect buffers the messages that are read ahead, about one batch, until nextBatch takes them.
func (s *subscription) collect(ctx context.Context, chunks <-chan []*arrival) {
	defer close(s.prefetched)
	var buffer []*arrival
	for size := 0; chunks != nil || len(buffer) > 0; {
		from, to := chunks, s.prefetched
		if len(buffer) >= max(1, s.opts.Batch) || size >= batchBytes {
			from = nil
		}
		if len(buffer) == 0 {
			to = nil
		}
		select {
		case list, open := <-from:
			if !open {
				chunks = nil
			}
			buffer = append(buffer, list...)
			for _, a := range list {
				size += a.size()
			}
		case to <- buffer:
			buffer, size = nil, 0
		case <-ctx.Done():
			return
		}
	}
}

// nextBatch waits for a message, and then until Pace allows the next batch or the batch is full. It
// returns the messages that are ready at that time, or none when the feed or the context ends.
func (s *subscription) nextBatch(ctx context.Context) (batch []*arrival) {
	paced, cancel := context.WithDeadline(ctx, s.lastBatch.Add(s.opts.Pace))
	defer cancel()
	until := ctx
	for size := 0; len(batch) < max(1, s.opts.Batch) && size < batchBytes; until = paced {
		if len(s.rest) == 0 && !s.refill(until) {
			break
		}
		batch = append(batch, s.rest[0])
		size += s.rest[0].size()
		s.rest = s.rest[1:]
	}
	s.lastBatch = time.Now()
	return batch
}

// refill takes the prefetched messages, and waits for them until the context ends. It reports whether
// there are any.
func (s *subscription) refill(until context.Context) bool {
	select {
	case s.rest = <-s.prefetched:
		return len(s.rest) > 0
	default:
	}
	select {
	case s.rest = <-s.prefetched:
	case <-until.Done():
	}
	return len(s.rest) > 0
}

// send sends one message and reports whether it was acknowledged.
func (s *subscription) send(ctx context.Context, batch []*arrival) bool {
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

// message returns the watermill message of a batch. Without batches it has the event's data as its
// payload, and the first value of each header, the sequence, the time and the subject as metadata.
func (s *subscription) message(batch []*arrival) *message.Message {
	a := batch[0]
	seq := strconv.FormatUint(a.seq, 10)
	if s.opts.Batch > 0 {
		return message.NewMessage(seq, nil)
	}
	h := a.header
	id := cmp.Or(h.Get(HeaderWatermillID), h.Get(HeaderID))
	if id == "" {
		id = uuid.NewString()
	}
	m := message.NewMessage(id, a.data)
	m.Metadata = make(message.Metadata, len(h)+3)
	for k, v := range h {
		// These headers were instructions to the server that stored the event. They must not reach
		// another server if this message is published there.
		if len(v) > 0 && !strings.HasPrefix(k, "Nats-Batch-") && !strings.HasPrefix(k, "Nats-Expected-") {
			m.Metadata[k] = v[0]
		}
	}
	m.Metadata[MetaSeq] = seq
	m.Metadata[MetaAt] = a.at.UTC().Format(time.RFC3339Nano)
	m.Metadata[MetaSubject] = a.subject
	return m
}

// batchKey is the context key of a message's batch.
type batchKey struct{}

// EventsOf returns the events of a batch, at least one, in stream order. Other subscribers may share
// them: callers must not modify them or what they point to, but copy first. [ErrMalformed] is returned
// when the message is not a batch of a [Subscriber].
func EventsOf(m *message.Message) ([]*Replayed, error) {
	batch, ok := m.Context().Value(batchKey{}).([]*arrival)
	if !ok {
		return nil, fmt.Errorf("message has no batch of events: %w", ErrMalformed)
	}
	events := make([]*Replayed, len(batch))
	for i, a := range batch {
		events[i] = a.event
	}
	return events, nil
}

// FromMessage decodes the event of a message with one event. [ErrMalformed] is returned when the message
// is not an event.
func FromMessage(m *message.Message) (Stored, error) {
	seq, at, err := positionOf(m)
	if err != nil {
		return Stored{}, err
	}
	return decode(m.Metadata[MetaSubject], m.Metadata.Get, m.Payload, seq, at)
}

// Envelope is like [FromMessage], but does not decode the event's data, which is most of the work. It is
// for a handler that can decide by page, contact and type that it has nothing to do.
func Envelope(m *message.Message) (Stored, error) {
	seq, at, err := positionOf(m)
	if err != nil {
		return Stored{}, err
	}
	return decodeEnvelope(m.Metadata[MetaSubject], m.Metadata.Get, seq, at)
}

// positionOf returns the sequence and time from a message's metadata.
func positionOf(m *message.Message) (seq uint64, at time.Time, err error) {
	if seq, err = metadataUint(m, MetaSeq); err != nil {
		return 0, at, err
	}
	if at, err = time.Parse(time.RFC3339Nano, m.Metadata[MetaAt]); err != nil {
		return 0, at, fmt.Errorf("metadata %s: %w", MetaAt, ErrMalformed)
	}
	return seq, at, nil
}

func metadataUint(m *message.Message, key string) (uint64, error) {
	n, err := strconv.ParseUint(m.Metadata[key], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("metadata %s: %w", key, ErrMalformed)
	}
	return n, nil
}
