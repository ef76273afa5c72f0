package consumers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

const (
	// DefaultMaxBytes is the default size of an outbox in bytes. It is also the disk
	// space that the server keeps free for it.
	DefaultMaxBytes = 64 << 20

	durablePrefix  = "consumer-"
	positionReader = "position"

	ackWait    = 30 * time.Second
	maxPending = 1000
	// window is the shortest deduplication window that JetStream has. An outbox needs
	// none: the expected last sequence of each batch keeps events from being stored twice.
	window         = 100 * time.Millisecond
	publishTimeout = 10 * time.Second
	// oneBatch is the most events of one batch, and batchBytes the size in bytes from
	// which a batch is complete. JetStream accepts 1,000 messages in a batch.
	oneBatch   = 500
	batchBytes = 1 << 20
)

// Errors of [outbox.publish].
var (
	// errFull is returned when the outbox has no room.
	errFull = errors.New("outbox is full")
	// errLost is returned when something else was stored in the outbox.
	errLost = errors.New("another filler was first")
	// errRepeated is returned when the deduplication window has the id of an event.
	errRepeated = errors.New("an id was stored just now")
)

// StreamOf returns the name of a consumer's outbox.
func StreamOf(name string) string { return streams.CopiesOf(streams.Name) + name }

func durableOf(name string) string { return durablePrefix + name }

// outbox is the stream of one consumer. Its messages are events, and one message that is
// the position up to which it was filled.
//
// Each batch is stored atomically. It consists of the next events that the consumer
// gets, in order, and of the position after them, which replaces the one before. So
// whenever a filler stops, the outbox contains exactly the events up to its position,
// without those that were acknowledged or erased since, and the next filler goes on from
// there. Nothing is counted or looked for to find where to go on.
//
// Each batch is stored on the condition that the last message of the outbox is still the
// position that the filler went on from. So of two fillers that go on from one position
// only one succeeds, and the other must read the position again.
type outbox struct {
	js              jetstream.JetStream
	name            string
	stream, durable string
	after           uint64
	maxBytes        int64
	replicas        int
}

func (c *Consumers) outbox(r record) outbox {
	b := outbox{
		js: c.opts.JS, name: r.Name, stream: StreamOf(r.Name), durable: durableOf(r.Name), after: r.After,
		maxBytes: c.opts.MaxBytes, replicas: c.opts.Replicas,
	}
	// An empty outbox has room for the largest event.
	b.maxBytes = max(b.maxBytes, 2*b.js.Conn().MaxPayload())
	return b
}

func (b outbox) subject(token string) string {
	return streams.OutboxPrefix + "." + b.name + "." + token
}

func (b outbox) positionSubject() string { return b.subject(positionReader) }

// events is the filter of the events of the outbox, without its position.
func (b outbox) events() string { return b.subject("*.*.*") }

// ensure creates the stream and its consumers, or changes the stream's limits. It fails with
// [ErrSpace] if the server has no space for the stream.
func (b outbox) ensure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := b.ensureStream(ctx, jetstream.StreamConfig{
		Name: b.stream, Description: "The events that consumer " + b.name + " has not acknowledged.",
		Subjects: []string{b.subject(">")}, Retention: jetstream.InterestPolicy, Storage: jetstream.FileStorage,
		Discard: jetstream.DiscardNew, MaxBytes: b.maxBytes, MaxMsgs: -1, MaxMsgsPerSubject: -1, MaxMsgSize: -1,
		MaxConsumers: -1, Duplicates: window, Replicas: b.replicas, AllowRollup: true, AllowAtomicPublish: true,
	})
	if err != nil {
		return fmt.Errorf("make stream %s: %w", b.stream, err)
	}
	// A message that no consumer is interested in is not kept, so both consumers exist
	// before the first message. The one of the position is never read: it keeps it.
	for _, config := range []jetstream.ConsumerConfig{
		{
			Durable: b.durable, FilterSubject: b.events(), AckPolicy: jetstream.AckExplicitPolicy,
			AckWait: ackWait, MaxAckPending: maxPending, MaxDeliver: -1,
		},
		{Durable: positionReader, FilterSubject: b.positionSubject(), AckPolicy: jetstream.AckExplicitPolicy},
	} {
		_, err := b.js.Consumer(ctx, b.stream, config.Durable)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			_, err = b.js.CreateConsumer(ctx, b.stream, config)
		}
		if err != nil {
			return fmt.Errorf("make consumer %s of %s: %w", config.Durable, b.stream, err)
		}
	}
	return nil
}

// ensureStream creates the stream, or changes its limits.
func (b outbox) ensureStream(ctx context.Context, want jetstream.StreamConfig) error {
	st, err := b.js.Stream(ctx, b.stream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		_, err = streams.EnsureBeside(ctx, b.js, streams.Name, want)
	case err == nil:
		have := st.CachedInfo().Config
		if have.MaxBytes == want.MaxBytes {
			return nil
		}
		have.MaxBytes = want.MaxBytes
		_, err = b.js.UpdateStream(ctx, have)
	}
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == codeNoSpace {
		return fmt.Errorf("%w: it needs %d MiB", ErrSpace, want.MaxBytes>>20)
	}
	return err
}

// position is how far an outbox is filled.
type position struct {
	// Position is that of the last event of the stream that was looked at.
	streams.Position
	// last is the sequence of the outbox's last message.
	last uint64
}

// position reads how far the outbox is filled.
func (b outbox) position(ctx context.Context) (position, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	st, err := b.js.Stream(ctx, b.stream)
	if err != nil {
		return position{}, fmt.Errorf("get outbox: %w", err)
	}
	at, err := b.written(ctx, st)
	if err != nil {
		return position{}, err
	}
	// A batch ends with its position. What is after the position, and was there before it
	// was read, is no whole batch: the beginning of one at which the server was killed, or
	// no event of a filler.
	if last := st.CachedInfo().State.LastSeq; last > at.last {
		at.last = last
		seq, err := b.newest(ctx, st)
		if err != nil {
			return position{}, err
		}
		at.Seq = max(at.Seq, seq)
	}
	return at, nil
}

// written reads the position that a filler has written last. A new outbox has none: then
// it is where the consumer begins.
//
// An outbox that is not new can be without one too: a server that was killed takes the
// message for acknowledged sometimes, and deletes it. Then it is the position that was
// kept, which is earlier.
func (b outbox) written(ctx context.Context, st jetstream.Stream) (position, error) {
	at := position{Position: streams.Position{Seq: b.after}}
	m, err := st.GetLastMsgForSubject(ctx, b.positionSubject())
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		if st.CachedInfo().State.LastSeq == 0 {
			return at, nil
		}
		kept, err := b.kept(ctx)
		if err != nil || kept.Seq < at.Seq {
			return at, err
		}
		return kept, nil
	}
	if err != nil {
		return at, fmt.Errorf("read position: %w", err)
	}
	if err := json.Unmarshal(m.Data, &at); err != nil {
		return at, fmt.Errorf("decode position: %w", err)
	}
	at.last = m.Sequence
	return at, nil
}

// keptKey is the key of the copy of a consumer's position in the bucket of the records.
func keptKey(name string) string { return name + "." + positionReader }

// keep stores a copy of the position outside of the outbox.
func (b outbox) keep(ctx context.Context, at position) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	kv, err := b.js.KeyValue(ctx, bucket)
	if err != nil {
		return fmt.Errorf("open records of consumers: %w", err)
	}
	data, err := json.Marshal(at)
	if err != nil {
		return fmt.Errorf("encode position: %w", err)
	}
	if _, err := kv.Put(ctx, keptKey(b.name), data); err != nil {
		return fmt.Errorf("keep position: %w", err)
	}
	return nil
}

// kept returns the position that was kept last, the zero value if none was.
func (b outbox) kept(ctx context.Context) (at position, err error) {
	kv, err := b.js.KeyValue(ctx, bucket)
	if err != nil {
		return at, fmt.Errorf("open records of consumers: %w", err)
	}
	entry, err := kv.Get(ctx, keptKey(b.name))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return at, nil
	}
	if err != nil {
		return at, fmt.Errorf("read kept position: %w", err)
	}
	if err := json.Unmarshal(entry.Value(), &at); err != nil {
		return at, fmt.Errorf("decode kept position: %w", err)
	}
	return at, nil
}

// newest returns the sequence of the newest event of the outbox in the stream of all
// events, 0 if there is none.
func (b outbox) newest(ctx context.Context, st jetstream.Stream) (uint64, error) {
	m, err := st.GetLastMsgForSubject(ctx, b.events())
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read newest event of outbox: %w", err)
	}
	return sequenceOf(m.Header), nil
}

// first returns the sequence of the first event of the outbox in the stream of all
// events, 0 if there is none.
func (b outbox) first(ctx context.Context) (uint64, error) {
	st, err := b.js.Stream(ctx, b.stream)
	if err != nil {
		return 0, fmt.Errorf("get outbox: %w", err)
	}
	m, err := st.GetMsg(ctx, 1, jetstream.WithGetMsgSubject(b.events()))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read first event of outbox: %w", err)
	}
	return sequenceOf(m.Header), nil
}

func sequenceOf(h nats.Header) uint64 {
	seq, _ := strconv.ParseUint(h.Get(streams.HeaderSequence), 10, 64) // 0 is no event's
	return seq
}

// room returns how many bytes the outbox accepts now.
func (b outbox) room(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	st, err := b.js.Stream(ctx, b.stream)
	if err != nil {
		return 0, fmt.Errorf("get outbox: %w", err)
	}
	return b.maxBytes - int64(st.CachedInfo().State.Bytes), nil
}

// message returns an event as a message of the outbox: with the same headers and data,
// without sealed tokens, and with the event's sequence and time as headers.
func (b outbox) message(m streams.Message) *nats.Msg {
	h := make(nats.Header, len(m.Header)+6)
	for k, v := range m.Header {
		// Headers of JetStream other than the id were instructions for the other stream.
		if !strings.HasPrefix(k, "Nats-") || k == streams.HeaderMsgID {
			h[k] = v
		}
	}
	h.Set(streams.HeaderSequence, strconv.FormatUint(m.Seq, 10))
	h.Set(streams.HeaderStoredAt, m.At.Format(time.RFC3339Nano))
	return &nats.Msg{Subject: streams.OutboxSubject(b.name, m.Page, m.Type), Header: h, Data: m.Body}
}

// positionMessage returns the message that replaces the position.
func (b outbox) positionMessage(at position) (*nats.Msg, error) {
	data, err := json.Marshal(at)
	if err != nil {
		return nil, fmt.Errorf("encode position: %w", err)
	}
	m := nats.NewMsg(b.positionSubject())
	m.Data = data
	m.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	return m, nil
}

// The codes of JetStream's errors.
const (
	codeStoreFailed      jetstream.ErrorCode = 10077
	codeDuplicateInBatch jetstream.ErrorCode = 10201
	codeConflict         jetstream.ErrorCode = 10158
	codeNoSpace          jetstream.ErrorCode = 10047
)

// publish stores events and the position after them in one atomic batch, if the outbox's
// last message is still at.last. It returns the new position. After [errFull], [errLost]
// and [errRepeated] nothing was stored; after another error it is not known.
func (b outbox) publish(ctx context.Context, at position, events []*nats.Msg, after position) (position, error) {
	last, err := b.positionMessage(after)
	if err != nil {
		return at, err
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	batch := nuid.Next()
	messages := slices.Concat(events, []*nats.Msg{last})
	messages[0].Header.Set(jetstream.ExpectedLastSeqHeader, strconv.FormatUint(at.last, 10))
	for i, m := range messages {
		m.Header.Set(jetstream.ExpectedStreamHeader, b.stream)
		m.Header.Set(streams.BatchIDHeader, batch)
		m.Header.Set(streams.BatchSequenceHeader, strconv.Itoa(i+1))
		if m != last {
			if err := b.js.Conn().PublishMsg(m); err != nil {
				return at, fmt.Errorf("publish batch: %w", err)
			}
		}
	}
	last.Header.Set(streams.BatchCommitHeader, "1")
	resp, err := b.js.Conn().RequestMsgWithContext(ctx, last)
	if err != nil {
		return at, fmt.Errorf("commit batch: %w", err)
	}
	var ack struct {
		Seq   uint64              `json:"seq"`
		Batch string              `json:"batch"`
		Count int                 `json:"count"`
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(resp.Data, &ack); err != nil {
		return at, fmt.Errorf("decode batch answer: %w", err)
	}
	switch {
	case ack.Error == nil && ack.Batch == batch && ack.Count == len(messages):
		after.last = ack.Seq
		return after, nil
	case ack.Error == nil:
		return at, fmt.Errorf("commit batch: the answer is for %d messages, not %d", ack.Count, len(messages))
	}
	err = ack.Error
	switch ack.Error.ErrorCode {
	case jetstream.JSErrCodeStreamWrongLastSequence, jetstream.JSErrCodeStreamWrongLastSequenceConstant:
		err = errLost
	case codeDuplicateInBatch, codeConflict:
		err = errRepeated
	case codeStoreFailed:
		if strings.Contains(ack.Error.Description, "maximum bytes") {
			err = errFull
		}
	}
	return at, fmt.Errorf("commit batch: %w", err)
}

// erase deletes the events that an erasure lists from the outbox and overwrites their
// bytes. It is idempotent.
func (b outbox) erase(ctx context.Context, e domain.Event) error {
	if e.Data.Erasure == nil {
		return nil
	}
	erased := make(map[uint64]bool, len(e.Data.Erasure.Events))
	for _, t := range e.Data.Erasure.Events {
		erased[t.Seq] = true
	}
	st, err := b.js.Stream(ctx, b.stream)
	if err != nil {
		return fmt.Errorf("get outbox: %w", err)
	}
	filter := b.subject(e.Page.Token() + ".*.*")
	for seq := uint64(1); ; seq++ {
		m, err := st.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(filter))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look for erased events: %w", err)
		}
		seq = m.Sequence
		s, err := streams.Decode(m.Subject, m.Header, m.Data, seq, m.Time)
		if err != nil || !erased[s.Seq] || domain.ContactHash(s.Contact) != e.Data.Erasure.Contact {
			continue
		}
		if _, err := streams.SecureDelete(ctx, st, seq); err != nil {
			return fmt.Errorf("delete erased event %d from outbox: %w", s.Seq, err)
		}
	}
}
