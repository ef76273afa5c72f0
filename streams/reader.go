package streams

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ReadOptions say what to read.
type ReadOptions struct {
	// Stream is the stream's name, by default [Name].
	Stream string
	// From is the first sequence, by default 1.
	From uint64
	// To is the last sequence; 0 is the head at the time of the call. Follow
	// has no end and ignores it.
	To uint64
	// Filters are subjects as [Filter] makes them; none means every event.
	Filters []string
	// Malformed is called for a message that is no event of ours. Without it
	// such a message ends the read with its error.
	Malformed func(seq uint64, err error) error
}

func (o ReadOptions) withDefaults() ReadOptions {
	if o.Stream == "" {
		o.Stream = Name
	}
	if o.From == 0 {
		o.From = 1
	}
	return o
}

// Get returns the event at one sequence, or [ErrNotFound].
func Get(ctx context.Context, js jetstream.JetStream, stream string, seq uint64) (Stored, error) {
	st, err := js.Stream(ctx, stream)
	if err != nil {
		return Stored{}, fmt.Errorf("ask stream: %w", err)
	}
	m, err := st.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Stored{}, fmt.Errorf("sequence %d: %w", seq, ErrNotFound)
	}
	if err != nil {
		return Stored{}, fmt.Errorf("get sequence %d: %w", seq, err)
	}
	return Decode(m.Subject, m.Header, m.Data, m.Sequence, m.Time)
}

// Read calls f with every event from From to To, in order, each once, and
// returns the last sequence it went past. It survives a lost connection by
// going on from where it was. An error of f ends it and is returned as it is.
func Read(ctx context.Context, js jetstream.JetStream, o ReadOptions, f func(Stored) error) (uint64, error) {
	o = o.withDefaults()
	head, err := Last(ctx, js, o.Stream)
	if err != nil {
		return 0, err
	}
	if o.To == 0 || o.To > head {
		o.To = head
	}
	if o.From > o.To {
		return o.To, nil
	}
	src := newSource(js, o.Stream, o.Filters, o.From-1)
	defer src.close()
	for {
		if src.empty(ctx) {
			return o.To, nil
		}
		m, meta, err := src.next(ctx)
		if err != nil {
			return src.last, err
		}
		seq := meta.Sequence.Stream
		if seq > o.To {
			return o.To, nil
		}
		if err := deliver(m, meta, o, f); err != nil {
			return seq, err
		}
		if seq == o.To || meta.NumPending == 0 {
			return o.To, nil
		}
	}
}

// Follow calls f with every event from From on, in order, each once, as they
// are stored, until the context ends or f fails.
func Follow(ctx context.Context, js jetstream.JetStream, o ReadOptions, f func(Stored) error) error {
	o = o.withDefaults()
	src := newSource(js, o.Stream, o.Filters, o.From-1)
	defer src.close()
	for {
		m, meta, err := src.next(ctx)
		if err != nil {
			return err
		}
		if err := deliver(m, meta, o, f); err != nil {
			return err
		}
	}
}

func deliver(m jetstream.Msg, meta *jetstream.MsgMetadata, o ReadOptions, f func(Stored) error) error {
	s, err := Decode(m.Subject(), m.Headers(), m.Data(), meta.Sequence.Stream, meta.Timestamp)
	if err != nil {
		if o.Malformed == nil {
			return err
		}
		return o.Malformed(meta.Sequence.Stream, err)
	}
	return f(s)
}

// Bounds of a source.
const (
	sourceRetryMin = 50 * time.Millisecond
	sourceRetryMax = 2 * time.Second
	// sourceIdle is how long the server keeps a consumer that nobody pulls.
	sourceIdle = time.Minute
	// sourceHeartbeat is how often an idle server says that it is there; after
	// twice that the consumer is taken for lost.
	sourceHeartbeat = 2 * time.Second
	// sourceFetch is how many messages are asked for at once.
	sourceFetch = 500
	// sourceBytes is the least that is asked for at once, in bytes.
	sourceBytes = 8 << 20
)

// errGap says that a message of the consumer was lost on its way.
var errGap = errors.New("message lost between server and reader")

// fetch are the options of a pull: many messages, but no more bytes than the
// server lets wait for one connection, and never less than the largest message.
func fetch(nc *nats.Conn, messages int) []jetstream.PullMessagesOpt {
	bytes := int(max(sourceBytes, 2*nc.MaxPayload()))
	return []jetstream.PullMessagesOpt{
		jetstream.PullMaxMessagesWithBytesLimit(messages, bytes), jetstream.PullHeartbeat(sourceHeartbeat),
	}
}

// source gives the messages of a stream in order, each once. It makes a new
// consumer after its position whenever it has lost the last one: the position
// is the reader's, the server keeps nothing that matters. It does what
// [jetstream.OrderedConsumer] does, but every wait ends with the context.
type source struct {
	js      jetstream.JetStream
	stream  string
	filters []string
	last    uint64 // the last sequence given

	consumer  jetstream.Consumer
	messages  jetstream.MessagesContext
	delivered uint64 // by this consumer
	retry     time.Duration
}

func newSource(js jetstream.JetStream, stream string, filters []string, after uint64) *source {
	return &source{js: js, stream: stream, filters: filters, last: after, retry: sourceRetryMin}
}

func (s *source) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c, err := s.js.CreateConsumer(ctx, s.stream, jetstream.ConsumerConfig{
		FilterSubjects:    s.filters,
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       s.last + 1,
		AckPolicy:         jetstream.AckNonePolicy,
		InactiveThreshold: sourceIdle,
		Replicas:          1,
		MemoryStorage:     true,
	})
	if err != nil {
		return fmt.Errorf("make consumer: %w", err)
	}
	s.consumer, s.delivered = c, 0
	return nil
}

// empty reports whether nothing at all waits to be read, which only a new
// consumer can tell. Failing to tell is not empty: next finds out.
func (s *source) empty(ctx context.Context) bool {
	if s.consumer != nil {
		return false
	}
	if err := s.open(ctx); err != nil {
		s.drop()
		return false
	}
	return s.consumer.CachedInfo().NumPending == 0
}

// next waits for the next message. It fails only when the context ends, or the
// connection or the stream is gone for good.
func (s *source) next(ctx context.Context) (jetstream.Msg, *jetstream.MsgMetadata, error) {
	for {
		m, meta, err := s.pull(ctx)
		if err == nil {
			s.last, s.retry = meta.Sequence.Stream, sourceRetryMin
			return m, meta, nil
		}
		s.drop()
		switch {
		case ctx.Err() != nil:
			return nil, nil, fmt.Errorf("read stream: %w", ctx.Err())
		case s.js.Conn().IsClosed():
			return nil, nil, fmt.Errorf("read stream: %w: %w", ErrClosed, err)
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return nil, nil, fmt.Errorf("read stream: %w", err)
		}
		s.retry = rest(ctx, s.retry, sourceRetryMax)
	}
}

func (s *source) pull(ctx context.Context) (jetstream.Msg, *jetstream.MsgMetadata, error) {
	if s.consumer == nil {
		if err := s.open(ctx); err != nil {
			return nil, nil, err
		}
	}
	if s.messages == nil {
		it, err := s.consumer.Messages(fetch(s.js.Conn(), sourceFetch)...)
		if err != nil {
			return nil, nil, fmt.Errorf("read messages: %w", err)
		}
		s.messages = it
	}
	m, err := s.messages.Next(jetstream.NextContext(ctx))
	if err != nil {
		return nil, nil, fmt.Errorf("next message: %w", err)
	}
	meta, err := m.Metadata()
	if err != nil {
		return nil, nil, fmt.Errorf("read message metadata: %w", err)
	}
	if s.delivered++; meta.Sequence.Consumer != s.delivered || meta.Sequence.Stream <= s.last {
		return nil, nil, errGap
	}
	return m, meta, nil
}

// drop forgets the consumer; the server forgets it by itself when it is idle.
func (s *source) drop() {
	if s.messages != nil {
		s.messages.Stop()
	}
	s.messages, s.consumer = nil, nil
}

// close ends the source and its consumer on the server.
func (s *source) close() {
	c := s.consumer
	s.drop()
	if c == nil || !s.js.Conn().IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	// Only tidiness: an idle consumer goes by itself.
	_ = s.js.DeleteConsumer(ctx, s.stream, c.CachedInfo().Name)
}

// rest waits and returns the next, doubled wait.
func rest(ctx context.Context, wait, most time.Duration) time.Duration {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return min(2*wait, most)
}
