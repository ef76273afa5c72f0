package streams

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/internal/backoff"
)

// ReadOptions select the events to read.
type ReadOptions struct {
	// Stream is the stream's name, by default [Name].
	Stream string
	// From is the first sequence, by default 1.
	From uint64
	// To is the last sequence; 0 means the last one in the stream at the time of the call. Follow has
	// no end and ignores it.
	To uint64
	// Filters are subject filters as [Filter] returns them; none means every event.
	Filters []string
	// Malformed is called for a message that is not an event; an error of it ends the read. If
	// Malformed is nil, such a message ends the read with [ErrMalformed].
	Malformed func(seq uint64, err error) error
}

func (o ReadOptions) withDefaults() ReadOptions {
	o.Stream = cmp.Or(o.Stream, Name)
	o.From = cmp.Or(o.From, 1)
	return o
}

// bounded returns the options with To set to at most the stream's last sequence now, and the stream. After an error
// To is 0.
func (o ReadOptions) bounded(ctx context.Context, js jetstream.JetStream) (ReadOptions, jetstream.Stream, error) {
	o = o.withDefaults()
	st, err := lookUp(ctx, js, o.Stream)
	if err != nil {
		o.To = 0
		return o, nil, err
	}
	head := st.CachedInfo().State.LastSeq
	if o.To == 0 || o.To > head {
		o.To = head
	}
	return o, st, nil
}

// ended reports whether nothing of what is to be read follows a sequence. A consumer says that nothing is pending by
// the copy of the stream of the server that it is on, which may be behind: after a restart it lacks what the others
// have stored meanwhile. So with several copies the stream's leader is asked.
func (o ReadOptions) ended(ctx context.Context, st jetstream.Stream, last uint64) (bool, error) {
	if last >= o.To || st.CachedInfo().Config.Replicas <= 1 {
		return true, nil
	}
	filters := o.Filters
	if len(filters) == 0 {
		filters = []string{">"}
	}
	for _, filter := range filters {
		m, err := st.GetMsg(ctx, last+1, jetstream.WithGetMsgSubject(filter)) // the first one from there on
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
		case err != nil:
			return false, fmt.Errorf("get sequence after %d: %w", last, err)
		case m.Sequence <= o.To:
			return false, nil
		}
	}
	return true, nil
}

// Get returns the event at one sequence. [ErrNotFound] is returned when there is none, [ErrMalformed]
// when the message there is not an event.
func Get(ctx context.Context, js jetstream.JetStream, stream string, seq uint64) (Stored, error) {
	get, err := Getter(ctx, js, stream)
	if err != nil {
		return Stored{}, err
	}
	return get(ctx, seq)
}

// Gone reports whether the stream has no message at a sequence. A message that was there has been erased. Who asks
// somebody else about the event of that message calls it before he stores the answer.
func Gone(ctx context.Context, js jetstream.JetStream, stream string, seq uint64) (bool, error) {
	_, err := Get(ctx, js, stream, seq)
	if errors.Is(err, ErrNotFound) {
		return true, nil
	}
	if errors.Is(err, ErrMalformed) {
		return false, nil
	}
	return false, err
}

// Getter returns a function that does what [Get] does on one stream. It looks up the stream only once,
// so that reading many sequences takes half the time.
func Getter(
	ctx context.Context, js jetstream.JetStream, stream string,
) (func(context.Context, uint64) (Stored, error), error) {
	st, err := lookUp(ctx, js, stream)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, seq uint64) (Stored, error) { return get(ctx, st, seq) }, nil
}

// askAgain is after how long a request is sent again: on a cluster the answer is lost when the stream gets another
// leader.
const askAgain = 500 * time.Millisecond

// lookUp requests the stream from the server, with its info.
func lookUp(ctx context.Context, js jetstream.JetStream, stream string) (jetstream.Stream, error) {
	st, err := backoff.Again(ctx, askAgain, func(ctx context.Context) (jetstream.Stream, error) {
		return js.Stream(ctx, stream)
	})
	if err != nil {
		return nil, fmt.Errorf("get stream: %w", err)
	}
	return st, nil
}

// Info requests the info of a stream from the server.
func Info(ctx context.Context, js jetstream.JetStream, stream string) (*jetstream.StreamInfo, error) {
	st, err := lookUp(ctx, js, stream)
	if err != nil {
		return nil, err
	}
	return st.CachedInfo(), nil
}

func get(ctx context.Context, st jetstream.Stream, seq uint64) (Stored, error) {
	if seq == 0 { // the server treats 0 as a missing sequence
		return Stored{}, fmt.Errorf("sequence 0: %w", ErrNotFound)
	}
	m, err := backoff.Again(ctx, askAgain, func(ctx context.Context) (*jetstream.RawStreamMsg, error) {
		return st.GetMsg(ctx, seq)
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Stored{}, fmt.Errorf("sequence %d: %w", seq, ErrNotFound)
	}
	if err != nil {
		return Stored{}, fmt.Errorf("get sequence %d: %w", seq, err)
	}
	return Decode(m.Subject, m.Header, m.Data, m.Sequence, m.Time)
}

// Read calls f with every event from From to To, in order, each once. It returns the last sequence that
// it has read: To, or the last sequence of the stream if that is lower. After a lost connection it goes
// on where it was. An error of f ends it and is returned unchanged.
func Read(ctx context.Context, js jetstream.JetStream, o ReadOptions, f func(Stored) error) (uint64, error) {
	return each(ctx, js, o, func(m *arrival) error { return deliver(m, o, f) })
}

// each is like [Read], but does not decode the messages.
func each(ctx context.Context, js jetstream.JetStream, o ReadOptions, f func(*arrival) error) (uint64, error) {
	o, st, err := o.bounded(ctx, js)
	if err != nil || o.From > o.To {
		return o.To, err
	}
	src := newSource(js, o.Stream, o.Filters, o.From-1)
	defer src.close()
	for pending := true; ; {
		if !pending || src.empty(ctx) {
			ended, err := o.ended(ctx, st, src.last)
			switch {
			case ended:
				return o.To, nil
			case errors.Is(err, jetstream.ErrStreamNotFound), js.Conn().IsClosed():
				return src.last, err
			}
			src.drop() // the next consumer may be on another server
			pending = true
			if err := src.retry.Wait(ctx); err != nil {
				return src.last, fmt.Errorf("read stream: %w", err)
			}
			continue
		}
		m, err := src.nextWithin(ctx, recheck)
		if errors.Is(err, errQuiet) {
			continue // what was to be read may have been deleted: empty looks again
		}
		if err != nil {
			return src.last, err
		}
		if m.seq > o.To {
			break
		}
		if err := f(m); err != nil {
			return m.seq, err
		}
		pending = m.pending > 0
		if m.seq == o.To {
			break
		}
	}
	return o.To, nil
}

// Following returns the From that reads the events after a sequence. Nothing follows the largest
// sequence, for which it returns the sequence itself instead of beginning again at 0.
func Following(after uint64) uint64 { return max(after, after+1) }

// Follow calls f with every event from From on, in order, each once, those that are stored later
// included. If From is beyond the end of the stream, it waits for that sequence. It returns when the
// context ends, with its error, or when f fails, with f's error.
func Follow(ctx context.Context, js jetstream.JetStream, o ReadOptions, f func(Stored) error) error {
	o = o.withDefaults()
	src := newSource(js, o.Stream, o.Filters, o.From-1)
	defer src.close()
	for {
		m, err := src.next(ctx)
		if err != nil {
			return err
		}
		if err := deliver(m, o, f); err != nil {
			return err
		}
	}
}

func deliver(m *arrival, o ReadOptions, f func(Stored) error) error {
	e := m.decode()
	if e.Malformed != nil {
		if o.Malformed == nil {
			return e.Malformed
		}
		return o.Malformed(e.Seq, e.Malformed)
	}
	return f(e.Stored)
}

// Limits of a source.
const (
	sourceRetryMin = 50 * time.Millisecond
	sourceRetryMax = 2 * time.Second
	// sourceIdle is how long the server keeps a consumer that is not used.
	sourceIdle = time.Minute
	// sourceHeartbeat is the interval of an idle server's heartbeats. After twice that time without
	// one the consumer is regarded as lost.
	sourceHeartbeat = time.Second
	// openTimeoutMin is how long the first try to make a consumer may take; each
	// further one may take twice as long, up to openTimeoutMax.
	openTimeoutMin = 500 * time.Millisecond
	openTimeoutMax = 5 * time.Second
	// sourceFetch is how many messages are requested at once.
	sourceFetch = 500
	// deleteTimeout bounds the deletion of a consumer that is no longer needed.
	deleteTimeout = time.Second
	// chunkBytes is the size in bytes from which a chunk of messages is complete. A chunk has at least
	// one message.
	chunkBytes = 1 << 20
	// sourceBytes is the smallest byte limit of one request.
	sourceBytes = 8 << 20
)

// errGap is returned when a message of the consumer was lost between the server and the reader.
var errGap = errors.New("message lost between server and reader")

// puller pulls messages from a consumer, many at a time. The bytes of one request are less than the
// server buffers for one connection, and not less than the largest message. It pulls batch by batch,
// because nats.go's own iterator bounds either messages or bytes; with both bounds it loses messages
// when its reader is slow, since the server's end-of-batch messages take places in its channel that it
// did not count.
type puller struct {
	nc       *nats.Conn
	consumer jetstream.Consumer
	size     int

	batch    jetstream.MessageBatch
	messages <-chan jetstream.Msg
	cancel   context.CancelFunc
}

// next waits for a message. After any error but the context's the consumer may be lost.
func (p *puller) next(ctx context.Context) (jetstream.Msg, error) {
	for {
		if p.batch == nil {
			if err := p.fetch(); err != nil {
				return nil, err
			}
		}
		select {
		case m, ok := <-p.messages:
			if ok {
				return m, nil
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		err := p.batch.Error()
		p.stop()
		if err != nil && !errors.Is(err, jetstream.ErrBatchCompleted) {
			return nil, fmt.Errorf("fetch: %w", err)
		}
	}
}

func (p *puller) fetch() error {
	ctx, cancel := context.WithCancel(context.Background()) // until stop
	batch, err := p.consumer.Fetch(p.size, jetstream.FetchContext(ctx), jetstream.FetchHeartbeat(sourceHeartbeat),
		jetstream.FetchMaxBytes(int(max(sourceBytes, 2*p.nc.MaxPayload()))))
	if err != nil {
		cancel()
		return fmt.Errorf("fetch: %w", err)
	}
	p.batch, p.messages, p.cancel = batch, batch.Messages(), cancel
	return nil
}

// recheck is how long a bounded read waits for a message before it looks whether there is one.
const recheck = time.Second

// errQuiet is returned by nextWithin when no message has arrived in time.
var errQuiet = errors.New("no message in time")

// nextWithin is next with a bound of the wait. After errQuiet the source begins again behind the last
// message that it returned.
func (s *source) nextWithin(ctx context.Context, limit time.Duration) (*arrival, error) {
	if s.ready() {
		return s.next(ctx)
	}
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	m, err := s.next(wait)
	if err != nil && ctx.Err() == nil && wait.Err() != nil {
		return nil, errQuiet
	}
	return m, err
}

// ready reports whether next would return without waiting.
func (p *puller) ready() bool { return p.batch != nil && len(p.messages) > 0 }

// stop ends the request and drops the messages that it has already fetched.
func (p *puller) stop() {
	if p.batch == nil {
		return
	}
	p.cancel()
	for range p.messages { // until the client closes it
	}
	p.batch = nil
}

// source reads the messages of a stream in order, each once. It keeps the position itself, so it can
// create a new consumer after that position whenever the old one is lost. It does the same as
// [jetstream.OrderedConsumer], except that every wait ends with the context.
type source struct {
	js      jetstream.JetStream
	stream  string
	filters []string
	last    uint64 // the last sequence returned

	puller    *puller // nil while there is no consumer
	delivered uint64  // how many messages this consumer has delivered
	opened    int     // how many consumers were created
	tries     int     // how many times in a row a consumer could not be created
	retry     backoff.Backoff
}

func newSource(js jetstream.JetStream, stream string, filters []string, after uint64) *source {
	return &source{
		js: js, stream: stream, filters: filters, last: after,
		retry: backoff.Backoff{Min: sourceRetryMin, Max: sourceRetryMax},
	}
}

func (s *source) open(ctx context.Context) error {
	if !s.js.Conn().IsConnected() {
		return nats.ErrDisconnected
	}
	// A request that goes out as the connection breaks is never answered. A server
	// that has too much to do gets more time with each try.
	s.tries++
	ctx, cancel := context.WithTimeout(ctx, backoff.After(s.tries, openTimeoutMin, openTimeoutMax))
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
		return fmt.Errorf("create consumer: %w", err)
	}
	s.puller, s.delivered, s.tries = &puller{nc: s.js.Conn(), consumer: c, size: sourceFetch}, 0, 0
	s.opened++
	return nil
}

// empty reports whether the stream has no message to read. Only a newly created consumer shows that;
// in any other case, and if the consumer can't be created, it returns false, and next finds out.
func (s *source) empty(ctx context.Context) bool {
	if s.puller != nil || s.open(ctx) != nil {
		return false
	}
	return s.puller.consumer.CachedInfo().NumPending == 0
}

// chunk waits for a message and returns it with those that are ready, at most sourceFetch or about
// chunkBytes. It may return some messages together with an error.
func (s *source) chunk(ctx context.Context) (list []*arrival, err error) {
	for size := 0; len(list) == 0 || len(list) < sourceFetch && size < chunkBytes && s.ready(); {
		a, err := s.next(ctx)
		if err != nil {
			return list, err
		}
		list = append(list, a)
		size += a.size()
	}
	return list, nil
}

// next waits for the next message. It returns an error only if the context ends, the connection is
// closed or the stream does not exist.
func (s *source) next(ctx context.Context) (*arrival, error) {
	for {
		m, err := s.pull(ctx)
		if err == nil {
			s.last = m.seq
			s.retry.Reset()
			return m, nil
		}
		s.drop()
		switch {
		case ctx.Err() != nil:
			return nil, fmt.Errorf("read stream: %w", ctx.Err())
		case s.js.Conn().IsClosed():
			return nil, fmt.Errorf("read stream: %w: %w", ErrClosed, err)
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return nil, fmt.Errorf("read stream: %w", err)
		}
		_ = s.retry.Wait(ctx) // when the context ends, pull returns its error
	}
}

// ready reports whether next would return without waiting.
func (s *source) ready() bool { return s.puller != nil && s.puller.ready() }

func (s *source) pull(ctx context.Context) (*arrival, error) {
	if s.puller == nil {
		if err := s.open(ctx); err != nil {
			return nil, err
		}
	}
	for {
		m, err := s.puller.next(ctx)
		if err != nil {
			return nil, err
		}
		meta, err := m.Metadata()
		if err != nil {
			return nil, fmt.Errorf("parse message metadata: %w", err)
		}
		if s.delivered++; meta.Sequence.Consumer != s.delivered {
			return nil, errGap
		}
		// The server starts a consumer at the end of the stream if its position is beyond it.
		if meta.Sequence.Stream > s.last {
			return &arrival{
				seq: meta.Sequence.Stream, subject: m.Subject(), header: m.Headers(), data: m.Data(),
				at: meta.Timestamp, pending: meta.NumPending,
			}, nil
		}
	}
}

// drop gives the consumer up. It is deleted now, or by the server after sourceIdle.
func (s *source) drop() {
	if s.puller == nil {
		return
	}
	s.puller.stop()
	name := s.puller.consumer.CachedInfo().Name
	s.puller = nil
	if !s.js.Conn().IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), deleteTimeout)
	defer cancel()
	_ = s.js.DeleteConsumer(ctx, s.stream, name) // if that fails the server deletes it when it is idle
}

func (s *source) close() { s.drop() }
