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
	"golang.org/x/sync/semaphore"
)

// Metadata of a message that a [Subscriber] gives, besides the event's headers
// under their own names.
const (
	MetaSeq     = "pagestream-seq"
	MetaAt      = "pagestream-at"
	MetaSubject = "pagestream-subject"
	// MetaOrdinal counts the messages of one drive from 1 without gaps, and
	// MetaEpoch the drives. A router runs a goroutine a message; with these a
	// handler can put them in order again.
	MetaOrdinal = "pagestream-ordinal"
	MetaEpoch   = "pagestream-epoch"
)

// DefaultMaxPause is the default of SubscriberOptions.MaxPause.
const DefaultMaxPause = 5 * time.Second

// minPause is the first pause between two drives; each further one without
// progress is twice as long.
const minPause = 10 * time.Millisecond

// SubscriberOptions configure a [Subscriber].
type SubscriberOptions struct {
	// Stream is the stream's name, by default [Name].
	Stream string
	// From returns the last sequence that the reader has, who keeps the position;
	// what follows is given. Asked at each Subscribe; nil starts at the beginning.
	From func(ctx context.Context, topic string) (uint64, error)
	// MaxInFlight bounds the events given and not acknowledged yet; one of more
	// than 16 KiB counts for several. With 1, the default, the next comes after the
	// last was acknowledged.
	MaxInFlight int
	// MaxPause bounds the growing pause before refused messages are given again.
	MaxPause time.Duration
	// Tail, if there is one, gives a reader at the stream's end what it has in
	// memory, so that many readers cost one. It is used where the topic is [All].
	Tail *Tail
	// Bundle, if not 0, is the most events in one message; it waits for none. What
	// a message costs on its way through a router is then paid once for all of
	// them, but they are acknowledged or refused together. Such a message has no
	// payload and no metadata: [EventsOf] and [PositionOf] tell what it is.
	Bundle int
	// Spacing is the least time from one bundle to the next, so that bundles fill
	// while events come one by one, many in a second. The first event after a pause
	// does not wait, nor do events of which half a bundle is there.
	Spacing time.Duration
	Logger  *slog.Logger
}

// Subscriber is a watermill subscriber that gives the stream in its order, many
// messages in flight at a time. A topic is a subject filter, such as [All].
//
// A message that is refused (Nack) stops the flow; when all that is in flight
// is settled, it and what was refused after it are given again in order, after
// a growing pause.
//
// Delivery is at least once. A subscription outlives the server's restarts; its
// channel is closed when the context ends, the subscriber or the connection is
// closed, or the stream is gone. Closing it leaves the connection open.
//
// A message that is no event is given like any other: [FromMessage] refuses it.
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
	o.MaxInFlight = max(o.MaxInFlight, 1)
	o.Bundle = min(o.Bundle, o.MaxInFlight)
	o.MaxPause = cmp.Or(max(o.MaxPause, 0), DefaultMaxPause)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	return &Subscriber{js: js, opts: o, closing: make(chan struct{})}
}

// Subscribe gives the messages of the topic until the context ends or the
// subscriber is closed; then the channel is closed.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	src, err := s.source(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", topic, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		src.close()
		return nil, fmt.Errorf("subscribe to %s: %w", topic, ErrClosed)
	}
	ctx, cancel := context.WithCancel(ctx)
	sub := &subscription{Subscriber: s, src: src, out: make(chan *message.Message)}
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
	next(ctx context.Context) (arrival, error)
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

// replayed decodes the message, unless somebody has.
func (a arrival) replayed() *Replayed {
	if a.event != nil {
		return a.event
	}
	e := a.decode()
	return &e
}

func (s *Subscriber) source(ctx context.Context, topic string) (feed, error) {
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
	*Subscriber
	ctx context.Context //nolint:containedctx // the subscription's life
	src feed
	out chan *message.Message

	gathered time.Time // when the last bundle was
}

// maxBundleBytes ends a bundle, which has one event at least.
const maxBundleBytes = 1 << 20

// slotBytes is how many bytes one of MaxInFlight stands for: a larger event counts
// for several.
const slotBytes = 16 << 10

// entry is a message in flight: one event, or the events of a bundle in order.
type entry struct {
	bundle []arrival
	slots  int64
	wm     *message.Message
	ctx    *messageContext // of wm
}

func (e entry) seq() uint64 { return e.bundle[0].seq() }

// run drives the source until the context ends. Each drive begins with what
// the one before had to give back.
func (s *subscription) run(ctx context.Context) {
	s.ctx = ctx
	defer s.src.close()
	defer close(s.out)
	incoming := make(chan arrival, s.opts.Bundle)
	var reading sync.WaitGroup
	reading.Go(func() { s.read(ctx, incoming) })
	defer reading.Wait()
	var again []entry
	wait := minPause
	for epoch := uint64(1); ; epoch++ {
		progressed := false
		again, progressed = s.drive(ctx, epoch, again, incoming)
		if ctx.Err() != nil {
			return
		}
		if len(again) == 0 { // the source ended
			return
		}
		if progressed {
			wait = minPause
		}
		wait = rest(ctx, wait, s.opts.MaxPause)
	}
}

// drive gives the messages in again and then those of the source, until one is
// refused or the source or the context ends. It returns what was refused, in
// order, when nothing is in flight any more, and whether anything was taken.
func (s *subscription) drive(ctx context.Context, epoch uint64, again []entry, incoming <-chan arrival) (refused []entry, progressed bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	slots := semaphore.NewWeighted(int64(s.opts.MaxInFlight))
	given := make(chan entry, s.opts.MaxInFlight)
	var left []entry // of again, not given
	go func() {
		defer close(given)
		left = s.give(ctx, epoch, again, incoming, slots, given)
	}()
	for e := range given {
		if s.settle(e) {
			progressed = true
		} else {
			refused = append(refused, e)
			cancel() // give nothing more; what is in flight settles
		}
		e.ctx.end()
		slots.Release(e.slots)
	}
	return append(refused, left...), progressed
}

// give sends messages out, as many as there are slots, until the context ends.
// It returns what it had in hand and did not send.
func (s *subscription) give(ctx context.Context, epoch uint64, again []entry, incoming <-chan arrival,
	slots *semaphore.Weighted, given chan<- entry,
) []entry {
	for ordinal := uint64(1); ; ordinal++ {
		if len(again) == 0 {
			bundle := s.gather(ctx, incoming)
			if len(bundle) == 0 {
				return nil
			}
			again = append(again, entry{bundle: bundle, slots: s.slots(bundle)})
		}
		e := again[0]
		if slots.Acquire(ctx, e.slots) != nil {
			return again
		}
		// The message's context outlives the drive: a refusal of one is no
		// reason to interrupt the others.
		e.ctx = &messageContext{Context: s.ctx, pos: Position{e.seq(), epoch, ordinal}}
		if s.bundles() {
			e.ctx.bundle = e.bundle
			e.wm = message.NewMessage(strconv.FormatUint(e.seq(), 10), nil)
		} else {
			e.wm = s.message(e.bundle[0], e.ctx.pos)
		}
		e.wm.SetContext(e.ctx)
		select {
		case s.out <- e.wm:
			again = again[1:]
			given <- e // there is room: each has a slot at least
		case <-ctx.Done():
			e.ctx.end()
			return again
		}
	}
}

// gather waits for an event, and takes what else is there where it bundles. It
// returns none when the source or the context ends.
func (s *subscription) gather(ctx context.Context, incoming <-chan arrival) []arrival {
	var bundle []arrival
	select {
	case a, ok := <-incoming:
		if !ok {
			return nil
		}
		bundle = append(bundle, a)
	case <-ctx.Done():
		return nil
	}
	if !s.bundles() {
		return bundle
	}
	s.space(ctx, incoming)
	for size := bundle[0].size(); len(bundle) < s.opts.Bundle && size < maxBundleBytes; {
		select {
		case a, ok := <-incoming:
			if !ok {
				return bundle
			}
			bundle = append(bundle, a)
			size += a.size()
		default:
			return bundle
		}
	}
	return bundle
}

// space waits until enough time has passed since the last bundle.
func (s *subscription) space(ctx context.Context, incoming <-chan arrival) {
	if wait := time.Until(s.gathered.Add(s.opts.Spacing)); wait > 0 && len(incoming) < s.opts.Bundle/2 {
		rest(ctx, wait, wait)
	}
	s.gathered = time.Now()
}

// slots is how much of MaxInFlight a message takes: all of it at most.
func (s *subscription) slots(bundle []arrival) int64 {
	n := 0
	for _, a := range bundle {
		n += 1 + a.size()/slotBytes
	}
	return int64(min(n, s.opts.MaxInFlight))
}

func (s *subscription) bundles() bool { return s.opts.Bundle > 0 }

// read takes messages from the source for as long as the subscription lives: a
// drive that ends must not cost what the source has fetched already.
func (s *subscription) read(ctx context.Context, incoming chan<- arrival) {
	defer close(incoming)
	for {
		a, err := s.src.next(ctx)
		if err != nil {
			if ctx.Err() == nil {
				s.opts.Logger.Error("subscription ended", "err", err)
			}
			return
		}
		select {
		case incoming <- a:
		case <-ctx.Done():
			return
		}
	}
}

// settle waits until the message is acknowledged or refused, or the subscription
// ends.
func (s *subscription) settle(e entry) (acked bool) {
	select {
	case <-e.wm.Acked():
		return true
	case <-e.wm.Nacked():
	case <-s.ctx.Done():
	}
	return false
}

// message is what a handler sees: the data as payload, the first value of each
// header and where the message stands as metadata.
func (s *subscription) message(a arrival, pos Position) *message.Message {
	h := a.msg.Headers()
	id := h.Get(HeaderWatermillID)
	if id == "" {
		id = h.Get(HeaderID)
	}
	if id == "" {
		id = uuid.NewString()
	}
	m := message.NewMessage(id, a.msg.Data())
	m.Metadata = make(message.Metadata, len(h)+5)
	for k, v := range h {
		// What was said to the server when the event was published would be
		// said again by whoever publishes this message elsewhere.
		if len(v) > 0 && !strings.HasPrefix(k, "Nats-Batch-") && !strings.HasPrefix(k, "Nats-Expected-") {
			m.Metadata[k] = v[0]
		}
	}
	m.Metadata[MetaSeq] = strconv.FormatUint(pos.Seq, 10)
	m.Metadata[MetaAt] = a.meta.Timestamp.UTC().Format(time.RFC3339Nano)
	m.Metadata[MetaSubject] = a.msg.Subject()
	m.Metadata[MetaOrdinal] = strconv.FormatUint(pos.Ordinal, 10)
	m.Metadata[MetaEpoch] = strconv.FormatUint(pos.Epoch, 10)
	return m
}

// Position is where a message stands: its sequence, that of the first event in
// it, and its place in the drive.
type Position struct {
	Seq, Epoch, Ordinal uint64
}

// PositionOf reads a message's position. It fails with [ErrMalformed] for a
// message that no [Subscriber] gave.
func PositionOf(m *message.Message) (Position, error) {
	if c := bundleOf(m); c != nil {
		return c.pos, nil
	}
	var p Position
	var err error
	if p.Seq, err = number(m, MetaSeq); err != nil {
		return Position{}, err
	}
	if p.Epoch, err = number(m, MetaEpoch); err != nil {
		return Position{}, err
	}
	if p.Ordinal, err = number(m, MetaOrdinal); err != nil {
		return Position{}, err
	}
	return p, nil
}

func number(m *message.Message, key string) (uint64, error) {
	n, err := strconv.ParseUint(m.Metadata[key], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("metadata %s: %w", key, ErrMalformed)
	}
	return n, nil
}

// EventsOf returns the events of a message in stream order, one or those of a
// bundle; it has at least one. They may be others' too: whoever changes one, or
// what it points to, copies it first. It fails with [ErrMalformed] for a message
// that no [Subscriber] gave.
func EventsOf(m *message.Message) ([]*Replayed, error) {
	if c := bundleOf(m); c != nil {
		out := make([]*Replayed, len(c.bundle))
		for i, a := range c.bundle {
			out[i] = a.replayed()
		}
		return out, nil
	}
	seq, err := number(m, MetaSeq)
	if err != nil {
		return nil, err
	}
	e, err := FromMessage(m)
	e.Seq = seq
	return []*Replayed{{Stored: e, Malformed: err}}, nil
}

// FromMessage decodes the event of a message that is no bundle. It fails with
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

// bundleOf returns the context of a bundle, nil of any other message.
func bundleOf(m *message.Message) *messageContext {
	c, _ := m.Context().Value(messageKey{}).(*messageContext)
	if c == nil || len(c.bundle) == 0 {
		return nil
	}
	return c
}

// messageKey finds a message's own context below what a router put upon it.
type messageKey struct{}

// messageContext ends when its message is settled, or with the subscription. A
// cancelable context of the standard library would tell the subscription's of
// each message, though hardly any handler asks.
type messageContext struct {
	context.Context // the subscription's
	bundle          []arrival
	pos             Position

	mu     sync.Mutex
	ended  bool
	inner  context.Context // once somebody waits
	cancel context.CancelFunc
}

func (c *messageContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.cancel != nil {
		c.cancel()
	}
}

// Done returns a channel that is closed when the message is settled.
func (c *messageContext) Done() <-chan struct{} { return c.cancelable().Done() }

// Err says whether the message is settled.
func (c *messageContext) Err() error { return c.cancelable().Err() }

// Value returns what the subscription's context has.
func (c *messageContext) Value(key any) any {
	if key == (messageKey{}) {
		return c
	}
	return c.Context.Value(key)
}

func (c *messageContext) cancelable() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner == nil {
		c.inner, c.cancel = context.WithCancel(c.Context)
		if c.ended {
			c.cancel()
		}
	}
	return c.inner
}
