package embedded_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pagestream/pagestream/streams/embedded"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const limit = time.Minute

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

func start(t *testing.T, o embedded.Options) *embedded.Server {
	t.Helper()
	s, err := embedded.Start(deadline(t), o)
	require.NoError(t, err)
	t.Cleanup(func() { stop(t, s) })
	return s
}

func stop(t *testing.T, s *embedded.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	assert.NoError(t, s.Shutdown(ctx))
}

func open(t *testing.T, s *embedded.Server) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := s.Connect("test")
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return nc, js
}

// Acknowledged messages are there after a restart on the same directory, and a stopped server releases its
// directory.
func TestRestartKeepsAcknowledgedMessages(t *testing.T) {
	for _, mode := range []embedded.SyncMode{"", embedded.SyncAlways, embedded.SyncInterval} {
		t.Run("sync="+string(mode), func(t *testing.T) {
			o := embedded.Options{Dir: t.TempDir(), Sync: mode}
			s := start(t, o)
			nc, js := open(t, s)
			c := jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}}
			_, err := js.CreateStream(deadline(t), c)
			require.NoError(t, err)
			for i := range 20 {
				_, err := js.Publish(deadline(t), fmt.Sprintf("s.%d", i), []byte("x"))
				require.NoError(t, err)
			}
			nc.Close()
			stop(t, s)
			stop(t, s) // idempotent

			_, js = open(t, start(t, o))
			st, err := js.Stream(deadline(t), "S")
			require.NoError(t, err)
			require.Equal(t, uint64(20), st.CachedInfo().State.LastSeq)
		})
	}
}

func TestSecondServerOnTheSameDirectoryFails(t *testing.T) {
	dir := t.TempDir()
	s := start(t, embedded.Options{Dir: dir})
	_, err := embedded.Start(deadline(t), embedded.Options{Dir: dir})
	require.ErrorIs(t, err, embedded.ErrInUse, "second start")
	require.NoError(t, s.Healthy(), "the first server is not healthy after the second start")
}

func TestStartFailsWithInvalidOptions(t *testing.T) {
	file := t.TempDir() + "/file"
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := embedded.Start(deadline(t), embedded.Options{Dir: file})
	require.Error(t, err, "the server started with a file as its directory")
	o := embedded.Options{Dir: t.TempDir(), Sync: "never"}
	_, err = embedded.Start(deadline(t), o)
	require.ErrorIs(t, err, embedded.ErrSyncMode, "unknown sync mode")
	broken := t.TempDir()
	require.NoError(t, os.WriteFile(broken+"/jetstream", nil, 0o600))
	_, err = embedded.Start(deadline(t), embedded.Options{Dir: broken})
	require.ErrorIs(t, err, embedded.ErrNotReady, "start without a usable store")
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	dir := t.TempDir()
	_, err = embedded.Start(ended, embedded.Options{Dir: dir})
	require.ErrorIs(t, err, context.Canceled, "start with an ended context")
	start(t, embedded.Options{Dir: dir}) // the failed start did not lock the directory
}

func TestHealthyUntilShutdown(t *testing.T) {
	s := start(t, embedded.Options{Dir: t.TempDir()})
	require.NoError(t, s.Healthy())
	stop(t, s)
	require.Error(t, s.Healthy(), "healthy after shutdown")
}

// The largest message can be stored and read: the server's limit of pending bytes is large enough for it.
func TestLargestPayloadCanBeStoredAndRead(t *testing.T) {
	s := start(t, embedded.Options{Dir: t.TempDir()})
	nc, js := open(t, s)
	require.Equal(t, int64(embedded.DefaultMaxPayload), nc.MaxPayload())
	st, err := js.CreateStream(deadline(t), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
	require.NoError(t, err)
	body := make([]byte, embedded.DefaultMaxPayload-1024)
	ack, err := js.Publish(deadline(t), "s", body)
	require.NoError(t, err)
	m, err := st.GetMsg(deadline(t), ack.Sequence)
	require.NoError(t, err)
	require.Len(t, m.Data, len(body))
}

// A store at its limit refuses messages. JetStream stays on, and acknowledged messages are kept.
func TestStoreAtItsLimitRefusesMessages(t *testing.T) {
	s := start(t, embedded.Options{Dir: t.TempDir(), MaxStore: 1 << 20})
	_, js := open(t, s)
	st, err := js.CreateStream(deadline(t), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
	require.NoError(t, err)
	body := make([]byte, 64<<10)
	var acked uint64
	for range 64 {
		ack, err := js.Publish(deadline(t), "s", body)
		if err != nil {
			break
		}
		acked = ack.Sequence
	}
	require.NotZero(t, acked)
	require.LessOrEqual(t, acked, uint64(16))
	require.NoError(t, s.Healthy(), "a full store turned JetStream off")
	info, err := st.Info(deadline(t))
	require.NoError(t, err)
	require.Equal(t, acked, info.State.LastSeq)
}
