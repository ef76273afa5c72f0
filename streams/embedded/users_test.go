package embedded_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/streams/embedded"
)

// newUser creates a key, and an option to connect with it.
func newUser(t *testing.T) (public string, login nats.Option) {
	t.Helper()
	pair, err := nkeys.CreateUser()
	require.NoError(t, err)
	public, err = pair.PublicKey()
	require.NoError(t, err)
	return public, nats.Nkey(public, pair.Sign)
}

// TestUserReadsOneConsumer checks that a user can pull and acknowledge the messages of its consumer, gets no
// answer to any other request, and can't have messages sent to a subject of the stream.
func TestUserReadsOneConsumer(t *testing.T) {
	s := start(t, embedded.Options{Dir: t.TempDir(), Sync: embedded.SyncInterval, Listen: "127.0.0.1:0"})
	ctx := deadline(t)
	_, js := open(t, s)
	_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	require.NoError(t, err)
	for i := range 10 {
		_, err := js.Publish(ctx, fmt.Sprintf("s.%c.x", 'a'+i%2), fmt.Appendf(nil, "%d", i))
		require.NoError(t, err)
	}
	for _, page := range []string{"a", "b"} {
		_, err := js.CreateConsumer(ctx, "S", jetstream.ConsumerConfig{
			Durable: "c-" + page, FilterSubject: "s." + page + ".>", AckPolicy: jetstream.AckExplicitPolicy,
		})
		require.NoError(t, err)
	}
	public, login := newUser(t)
	require.NoError(t, s.SetUser(embedded.User{Name: "a", PublicKey: public, Stream: "S", Consumer: "c-a"}))
	var violations []error
	problems := make(chan error, 100)
	nc, err := nats.Connect("nats://"+s.Addr(), login,
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { problems <- err }))
	require.NoError(t, err)
	defer nc.Close()
	userJS, err := jetstream.New(nc)
	require.NoError(t, err)
	c, err := userJS.Consumer(ctx, "S", "c-a")
	require.NoError(t, err)
	batch, err := c.Fetch(5, jetstream.FetchMaxWait(5*time.Second))
	require.NoError(t, err)
	var got []string
	for m := range batch.Messages() {
		got = append(got, m.Subject()+"="+string(m.Data()))
		require.NoError(t, m.DoubleAck(ctx))
	}
	require.Equal(t, "[s.a.x=0 s.a.x=2 s.a.x=4 s.a.x=6 s.a.x=8]", fmt.Sprint(got),
		"the batch ended with %v", batch.Error())
	info, err := js.Consumer(ctx, "S", "c-a")
	require.NoError(t, err)
	require.Equal(t, uint64(5), info.CachedInfo().AckFloor.Consumer)

	// Every other request must get no answer.
	short := func() (context.Context, context.CancelFunc) { return context.WithTimeout(ctx, 150*time.Millisecond) }
	for _, subject := range []string{
		"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.INFO.S", "$JS.API.STREAM.MSG.GET.S",
		"$JS.API.DIRECT.GET.S", "$JS.API.DIRECT.GET.S.s.b.x", "$JS.API.STREAM.PURGE.S", "$JS.API.STREAM.DELETE.S",
		"$JS.API.STREAM.SNAPSHOT.S", "$JS.API.CONSUMER.MSG.NEXT.S.c-b", "$JS.API.CONSUMER.INFO.S.c-b",
		"$JS.API.CONSUMER.NAMES.S", "$JS.API.CONSUMER.LIST.S", "$JS.API.CONSUMER.CREATE.S",
		"$JS.API.CONSUMER.CREATE.S.mine.s.b.>", "$JS.API.CONSUMER.DURABLE.CREATE.S.mine",
		"$JS.API.CONSUMER.DELETE.S.c-a", "$JS.API.CONSUMER.PAUSE.S.c-a", "$JS.API.CONSUMER.RESET.S.c-a",
		"$SYS.REQ.SERVER.PING", "s.b.x", "$JS.ACK.S.c-b.1.2.1.1.0",
	} {
		limited, cancel := short()
		if m, err := nc.RequestWithContext(limited, subject, []byte(`{"seq":2}`)); err == nil {
			violations = append(violations, fmt.Errorf("%s answered %q", subject, m.Data))
		}
		cancel()
	}
	for _, subject := range []string{">", "s.>", "s.b.x", "$JS.>", "_INBOX_other.>", "$SYS.>"} {
		sub, err := nc.SubscribeSync(subject)
		if err != nil {
			continue
		}
		require.NoError(t, nc.Flush())
		_, err = js.Publish(ctx, "s.b.x", []byte("secret"))
		require.NoError(t, err)
		if m, err := sub.NextMsg(100 * time.Millisecond); err == nil {
			violations = append(violations, fmt.Errorf("subscribed %s, got %q", subject, m.Data))
		}
	}
	// A request whose reply subject is a subject of the stream must store nothing there.
	_, err = js.Publish(ctx, "s.a.x", []byte("bait"))
	require.NoError(t, err)
	st, err := js.Stream(ctx, "S")
	require.NoError(t, err)
	before := st.CachedInfo().State.LastSeq
	require.NoError(t, nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.S.c-a", "s.b.forged", []byte(`{"batch":1}`)))
	require.NoError(t, nc.Flush())
	if m, err := st.GetLastMsgForSubject(ctx, "s.b.forged"); err == nil {
		violations = append(violations, fmt.Errorf("the user forged the event at sequence %d", m.Sequence))
	}
	if info, err := st.Info(ctx); err != nil || info.State.LastSeq != before {
		violations = append(violations,
			fmt.Errorf("the last sequence changed from %d to %d, %w", before, info.State.LastSeq, err))
	}
	require.Empty(t, violations)

	// Connections without a valid key are refused, and those of a removed user as well.
	_, unknown := newUser(t)
	for name, o := range map[string][]nats.Option{
		"no credentials": nil, "an unknown key": {unknown}, "a wrong password": {nats.UserInfo("pagestream", "guess")},
	} {
		if c, err := nats.Connect("nats://"+s.Addr(), o...); err == nil {
			c.Close()
			require.Fail(t, "a connection was accepted", name)
		}
	}
	s.RemoveUser("a")
	end := time.Now().Add(limit)
	for nc.IsConnected() && time.Now().Before(end) {
		_ = nc.FlushTimeout(50 * time.Millisecond)
	}
	require.False(t, nc.IsConnected(), "a removed user is still connected")
	if c, err := nats.Connect("nats://"+s.Addr(), login); err == nil {
		c.Close()
		require.Fail(t, "a removed user connected again")
	}
}

func TestListenNeedsTLSExceptOnLoopback(t *testing.T) {
	for _, addr := range []string{":4222", "0.0.0.0:4222", "192.0.2.1:4222", "example.com:4222"} {
		s, err := embedded.Start(deadline(t), embedded.Options{Dir: t.TempDir(), Listen: addr})
		if err == nil {
			stop(t, s)
		}
		require.ErrorIs(t, err, embedded.ErrNeedsTLS, addr)
	}
	s := start(t, embedded.Options{Dir: t.TempDir()})
	err := s.SetUser(embedded.User{})
	require.ErrorIs(t, err, embedded.ErrNotListening, "a server that does not listen")
	require.Empty(t, s.Addr(), "a server that does not listen")
}
