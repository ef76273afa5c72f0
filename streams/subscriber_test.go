package streams_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wmnats "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// testPublisher publishes the messages of watermill's test suite. Pagestream's own publisher publishes only events.
type testPublisher struct {
	js jetstream.JetStream
}

func (p testPublisher) Publish(topic string, messages ...*message.Message) error {
	for _, m := range messages {
		out := nats.NewMsg(topic)
		out.Data = m.Payload
		for k, v := range m.Metadata {
			out.Header[k] = []string{v}
		}
		out.Header.Set(streams.HeaderWatermillID, m.UUID)
		ctx, cancel := context.WithTimeout(context.Background(), streamstest.Limit)
		_, err := p.js.PublishMsg(ctx, out)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

func (testPublisher) Close() error { return nil }

// TestSubscriberPassesWatermillsTestSuite runs watermill's test suite with the subscriber. Each subscriber starts at
// the beginning of the stream, so the suite's tests with several subscribers that share the messages run with one
// (RequireSingleInstance).
//
// These features are off: ExactlyOnceDelivery, since delivery is at least once; ConsumerGroups, since subscribers
// share no position; RestartService, since the suite restarts a broker with a shell command, and this server runs in
// the process (TestSubscriberGoesOnAfterAServerRestart tests a restart).
func TestSubscriberPassesWatermillsTestSuite(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	var mu sync.Mutex
	created := map[string]bool{}
	ensure := func(topic string) error {
		mu.Lock()
		defer mu.Unlock()
		if created[topic] {
			return nil
		}
		created[topic] = true
		ctx, cancel := context.WithTimeout(context.Background(), streamstest.Limit)
		defer cancel()
		_, err := s.JS.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: topic, Subjects: []string{topic}})
		return err
	}
	create := func(*testing.T) (message.Publisher, message.Subscriber) {
		return ensuringPublisher{testPublisher{s.JS}, ensure},
			&perTopic{js: s.JS, ensure: ensure, subs: map[string]*streams.Subscriber{}}
	}
	tests.TestPubSub(t, tests.Features{
		GuaranteedOrder:                     true,
		GuaranteedOrderWithSingleSubscriber: true,
		Persistent:                          true,
		NewSubscriberReceivesOldMessages:    true,
		RequireSingleInstance:               true,
		GenerateTopicFunc: func(tctx tests.TestContext) string {
			return "topic_" + strings.ReplaceAll(string(tctx.TestID), "-", "")
		},
	}, create, nil)
}

// ensuringPublisher creates a topic's stream before it publishes.
type ensuringPublisher struct {
	testPublisher
	ensure func(string) error
}

func (p ensuringPublisher) Publish(topic string, messages ...*message.Message) error {
	if err := p.ensure(topic); err != nil {
		return err
	}
	return p.testPublisher.Publish(topic, messages...)
}

// perTopic subscribes to each topic of the suite in a separate stream.
type perTopic struct {
	js     jetstream.JetStream
	ensure func(string) error

	mu     sync.Mutex
	closed bool
	subs   map[string]*streams.Subscriber
}

func (p *perTopic) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if err := p.ensure(topic); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, streams.ErrClosed
	}
	if p.subs[topic] == nil {
		p.subs[topic] = streams.NewSubscriber(p.js, streams.SubscriberOptions{
			Stream: topic, MaxPause: 10 * time.Millisecond,
		})
	}
	return p.subs[topic].Subscribe(ctx, topic)
}

func (p *perTopic) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, s := range p.subs {
		if err := s.Close(); err != nil {
			return err
		}
	}
	return nil
}

// collectSeqs acknowledges n messages and returns their sequences. It refuses each message in refuse once.
func collectSeqs(t *testing.T, in <-chan *message.Message, n int, refuse map[uint64]bool) []uint64 {
	t.Helper()
	var seqs []uint64
	limit := time.After(streamstest.Limit)
	for len(seqs) < n {
		select {
		case m, ok := <-in:
			require.True(t, ok, "the channel closed after %d of %d", len(seqs), n)
			seq, err := strconv.ParseUint(m.Metadata[streams.MetaSeq], 10, 64)
			require.NoError(t, err)
			if refuse[seq] {
				delete(refuse, seq)
				m.Nack()
				continue
			}
			seqs = append(seqs, seq)
			m.Ack()
		case <-limit:
			require.Len(t, seqs, n, "the others were not received in time")
		}
	}
	return seqs
}

func TestSubscriberRedeliversInOrder(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	publish(t, s, messages("100", 200))
	sub := streams.NewSubscriber(s.JS, streams.SubscriberOptions{})
	defer sub.Close()
	in, err := sub.Subscribe(t.Context(), streams.All)
	require.NoError(t, err)
	got := collectSeqs(t, in, 200, map[uint64]bool{1: true, 77: true, 78: true, 200: true})
	for i, seq := range got {
		require.Equal(t, uint64(i+1), seq)
	}
}

// TestSubscriberDeliversOneMessageAtATime checks that the next message is delivered when the last one was
// acknowledged, and that a refused message is delivered again unchanged.
func TestSubscriberDeliversOneMessageAtATime(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	publish(t, s, messages("100", 20))
	sub := streams.NewSubscriber(s.JS, streams.SubscriberOptions{Batch: 8})
	defer sub.Close()
	in, err := sub.Subscribe(t.Context(), streams.All)
	require.NoError(t, err)
	next := uint64(1)
	for tries := 0; next <= 20; tries++ {
		m := <-in
		events, err := streams.EventsOf(m)
		require.NoError(t, err)
		require.Equal(t, next, events[0].Seq)
		select {
		case <-in:
			require.Fail(t, "a second message is in flight")
		case <-time.After(time.Millisecond):
		}
		require.NoError(t, m.Context().Err(), "the context of a message in flight has ended")
		if tries%3 < 2 {
			m.Nack()
			continue
		}
		next += uint64(len(events))
		m.Ack()
	}
}

func TestSubscriberGoesOnAfterItsConsumerIsDeleted(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t)
	s.Stream(t, streams.Spec{})
	publish(t, s, messages("100", 50))
	sub := streams.NewSubscriber(s.JS, streams.SubscriberOptions{
		From: func(context.Context, string) (uint64, error) { return 10, nil },
	})
	defer sub.Close()
	in, err := sub.Subscribe(t.Context(), streams.All)
	require.NoError(t, err)
	got := collectSeqs(t, in, 20, nil)
	require.Equal(t, uint64(11), got[0])
	require.Equal(t, uint64(30), got[19])
	// Delete the consumer, as a server that lost it. The subscriber keeps the position.
	ctx, cancel := context.WithTimeout(t.Context(), streamstest.Limit)
	defer cancel()
	st, err := s.JS.Stream(ctx, streams.Name)
	require.NoError(t, err)
	for name := range st.ConsumerNames(ctx).Name() {
		require.NoError(t, s.JS.DeleteConsumer(ctx, streams.Name, name))
	}
	publish(t, s, messages("200", 50))
	got = collectSeqs(t, in, 70, nil)
	for i, seq := range got {
		require.Equal(t, uint64(31+i), seq)
	}
}

// TestSubscriberGoesOnAfterAServerRestart checks that the connection and the channel stay open, and that events are
// delivered completely and in order.
func TestSubscriberGoesOnAfterAServerRestart(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t)
	s.Stream(t, streams.Spec{})
	publish(t, s, messages("1", 50))
	sub := streams.NewSubscriber(s.JS, streams.SubscriberOptions{})
	defer sub.Close()
	in, err := sub.Subscribe(t.Context(), streams.All)
	require.NoError(t, err)
	next := uint64(1)
	take := func(to uint64) {
		t.Helper()
		for ; next <= to; next++ {
			require.Equal(t, next, collectSeqs(t, in, 1, nil)[0])
		}
	}
	take(30)
	s.Halt(t)
	s.Start(t)
	publish(t, s, messages("2", 50))
	take(100)
}

// TestSubscriberDeliversMalformedMessages checks that a message that is not an event is delivered, whatever its
// headers, and that FromMessage refuses it.
func TestSubscriberDeliversMalformedMessages(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	malformed := []nats.Header{
		nil,
		{"X": {"1", "2"}, "x": {"3"}},
		{"_watermill_message_uuid": {""}, "ce-id": {"id"}},
		{"ce-id": {"a", "b"}, "ce-subject": {"%zz"}},
		{"pagestream-seq": {"99"}, "pagestream-at": {"x"}},
	}
	for _, h := range malformed {
		m := &nats.Msg{Subject: "pagestream.any.thing", Header: h, Data: []byte{0xff}}
		_, err := s.JS.PublishMsg(t.Context(), m)
		require.NoError(t, err)
	}
	sub := streams.NewSubscriber(s.JS, streams.SubscriberOptions{})
	defer sub.Close()
	in, err := sub.Subscribe(t.Context(), streams.All)
	require.NoError(t, err)
	for i := range malformed {
		m := <-in
		require.Equal(t, strconv.Itoa(i+1), m.Metadata[streams.MetaSeq], "message %d", i+1)
		require.NotEmpty(t, m.UUID, "message %d has no id", i+1)
		_, err := streams.FromMessage(m)
		require.ErrorIs(t, err, streams.ErrMalformed, "message %d", i+1)
		m.Ack()
	}
}

// TestMetadataHasNoPublishHeaders checks that the metadata has none of the headers that were instructions to the
// server, since they must not reach another server when the message is published there.
func TestMetadataHasNoPublishHeaders(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	publish(t, s, messages("1", 20)) // a batch
	sub := streams.NewSubscriber(s.JS, streams.SubscriberOptions{})
	defer sub.Close()
	in, err := sub.Subscribe(t.Context(), streams.All)
	require.NoError(t, err)
	m := <-in
	for k := range m.Metadata {
		if strings.HasPrefix(k, "Nats-") {
			require.Equal(t, nats.MsgIdHdr, k)
		}
	}
}

// TestStockSubscriberReadsEveryType checks that the unmodified watermill-nats subscriber reads each type of event,
// on a separate connection.
func TestStockSubscriberReadsEveryType(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	var events []domain.Event
	for i, typ := range domain.Types() {
		events = append(events, domain.Event{
			ID: fmt.Sprintf("page:100:h:%d", i), Type: typ, Page: "100", Contact: "9", Time: time.Unix(1790000000, 0),
			Standby: i%2 == 0, TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
			Data: domain.Data{Object: "page", Raw: []byte(`{"a": "\u00e4"}`)},
		})
		if typ == domain.ForeignReceived {
			events[i].Original, events[i].OriginalID = domain.MessageReceived, "page:100:msg:m"
		}
	}
	publish(t, s, events)

	sub, err := wmnats.NewSubscriberWithNatsConn(s.Connection(t), wmnats.SubscriberSubscriptionConfig{
		SubscribersCount: 1,
		AckWaitTimeout:   5 * time.Second,
		Unmarshaler:      &wmnats.NATSMarshaler{},
		JetStream: wmnats.JetStreamConfig{
			SubscribeOptions: []nats.SubOpt{nats.DeliverAll(), nats.AckExplicit()},
		},
		SubjectCalculator: wmnats.DefaultSubjectCalculator,
	}, watermill.NopLogger{})
	require.NoError(t, err)
	defer sub.Close()
	in, err := sub.Subscribe(t.Context(), streams.All)
	require.NoError(t, err)
	limit := time.After(streamstest.Limit)
	for _, want := range events {
		select {
		case m := <-in:
			data, err := want.Data.Encode()
			require.NoError(t, err)
			require.Equal(t, want.ID, m.UUID, "%s", want.Type)
			require.Equal(t, string(data), string(m.Payload), "%s", want.Type)
			require.Equal(t, "pagestream."+string(want.Type)+".v1", m.Metadata["ce-type"])
			m.Ack()
		case <-limit:
			require.Fail(t, "an event was not received in time", "%s", want.Type)
		}
	}
}

func TestSubscriberCloseLeavesTheConnectionOpen(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	publish(t, s, messages("100", 5))
	sub := streams.NewSubscriber(s.JS, streams.SubscriberOptions{})
	in, err := sub.Subscribe(t.Context(), streams.All)
	require.NoError(t, err)
	<-in // in flight, never acknowledged
	require.NoError(t, sub.Close())
	for range in {
		t.Log("another message was delivered") // the channel must be closed
	}
	require.False(t, s.Conn.IsClosed(), "the connection was closed")
	_, err = sub.Subscribe(t.Context(), streams.All)
	require.Error(t, err, "a closed subscriber accepted a subscription")
}

func TestFromMessageDecodesTheEvent(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	want := messages("100", 1)[0]
	publish(t, s, []domain.Event{want})
	sub := streams.NewSubscriber(s.JS, streams.SubscriberOptions{})
	defer sub.Close()
	in, err := sub.Subscribe(t.Context(), streams.All)
	require.NoError(t, err)
	m := <-in
	got, err := streams.FromMessage(m)
	require.NoError(t, err)
	require.Equal(t, want.ID, got.ID)
	require.Equal(t, uint64(1), got.Seq)
	require.False(t, got.At.IsZero())
	require.Equal(t, string(want.Data.Raw), string(got.Data.Raw))
	m.Ack()
	for _, key := range []string{
		streams.MetaSeq, streams.MetaAt, streams.MetaSubject, streams.HeaderID, streams.HeaderSource,
	} {
		broken := m.Copy()
		delete(broken.Metadata, key)
		_, err := streams.FromMessage(broken)
		require.Error(t, err, "decoded without %s", key)
	}
	_, err = streams.FromMessage(message.NewMessage("1", nil))
	require.ErrorIs(t, err, streams.ErrMalformed, "a message of another subscriber")
	e, err := streams.Envelope(m)
	require.NoError(t, err)
	require.Equal(t, want.ID, e.ID)
	require.Equal(t, domain.ContactID("9"), e.Contact)
	require.Nil(t, e.Data.Message)
}
