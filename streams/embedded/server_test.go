package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/pagestream/pagestream/streams/embedded"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const limit = 30 * time.Second

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

func start(t *testing.T, o embedded.Options) *embedded.Server {
	t.Helper()
	s, err := embedded.Start(deadline(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, s) })
	return s
}

func stop(t *testing.T, s *embedded.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

func open(t *testing.T, s *embedded.Server) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := s.Connect("test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
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
			if _, err := js.CreateStream(deadline(t), c); err != nil {
				t.Fatal(err)
			}
			for i := range 20 {
				if _, err := js.Publish(deadline(t), fmt.Sprintf("s.%d", i), []byte("x")); err != nil {
					t.Fatal(err)
				}
			}
			nc.Close()
			stop(t, s)
			stop(t, s) // idempotent

			_, js = open(t, start(t, o))
			st, err := js.Stream(deadline(t), "S")
			if err != nil {
				t.Fatal(err)
			}
			if got := st.CachedInfo().State.LastSeq; got != 20 {
				t.Fatalf("last sequence %d after restart, want 20", got)
			}
		})
	}
}

func TestSecondServerOnTheSameDirectoryFails(t *testing.T) {
	dir := t.TempDir()
	s := start(t, embedded.Options{Dir: dir})
	if _, err := embedded.Start(deadline(t), embedded.Options{Dir: dir}); !errors.Is(err, embedded.ErrInUse) {
		t.Fatalf("second start: %v, want ErrInUse", err)
	}
	if err := s.Healthy(); err != nil {
		t.Fatalf("the first server is not healthy after the second start: %v", err)
	}
}

func TestStartFailsWithInvalidOptions(t *testing.T) {
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := embedded.Start(deadline(t), embedded.Options{Dir: file}); err == nil {
		t.Error("the server started with a file as its directory")
	}
	o := embedded.Options{Dir: t.TempDir(), Sync: "never"}
	if _, err := embedded.Start(deadline(t), o); !errors.Is(err, embedded.ErrSyncMode) {
		t.Errorf("unknown sync mode: %v, want ErrSyncMode", err)
	}
	broken := t.TempDir()
	if err := os.WriteFile(broken+"/jetstream", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := embedded.Start(deadline(t), embedded.Options{Dir: broken}); !errors.Is(err, embedded.ErrNotReady) {
		t.Errorf("start without a usable store: %v, want ErrNotReady", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("a start that can't succeed took %s to fail", took)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	dir := t.TempDir()
	if _, err := embedded.Start(ended, embedded.Options{Dir: dir}); !errors.Is(err, context.Canceled) {
		t.Errorf("start with an ended context: %v", err)
	}
	start(t, embedded.Options{Dir: dir}) // the failed start did not lock the directory
}

func TestHealthyUntilShutdown(t *testing.T) {
	s := start(t, embedded.Options{Dir: t.TempDir()})
	if err := s.Healthy(); err != nil {
		t.Fatal(err)
	}
	stop(t, s)
	if err := s.Healthy(); err == nil {
		t.Fatal("healthy after shutdown")
	}
}

// The largest message can be stored and read: the server's limit of pending bytes is large enough for it.
func TestLargestPayloadCanBeStoredAndRead(t *testing.T) {
	s := start(t, embedded.Options{Dir: t.TempDir()})
	nc, js := open(t, s)
	if got := nc.MaxPayload(); got != embedded.DefaultMaxPayload {
		t.Fatalf("max payload %d, want %d", got, embedded.DefaultMaxPayload)
	}
	st, err := js.CreateStream(deadline(t), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
	if err != nil {
		t.Fatal(err)
	}
	body := make([]byte, embedded.DefaultMaxPayload-1024)
	ack, err := js.Publish(deadline(t), "s", body)
	if err != nil {
		t.Fatal(err)
	}
	m, err := st.GetMsg(deadline(t), ack.Sequence)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Data) != len(body) {
		t.Fatalf("read %d bytes, want %d", len(m.Data), len(body))
	}
}

// A store at its limit refuses messages. JetStream stays on, and acknowledged messages are kept.
func TestStoreAtItsLimitRefusesMessages(t *testing.T) {
	s := start(t, embedded.Options{Dir: t.TempDir(), MaxStore: 1 << 20})
	_, js := open(t, s)
	st, err := js.CreateStream(deadline(t), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
	if err != nil {
		t.Fatal(err)
	}
	body := make([]byte, 64<<10)
	var acked uint64
	for range 64 {
		ack, err := js.Publish(deadline(t), "s", body)
		if err != nil {
			break
		}
		acked = ack.Sequence
	}
	if acked == 0 || acked > 16 {
		t.Fatalf("%d events of 64 KiB fit into 1 MiB", acked)
	}
	if err := s.Healthy(); err != nil {
		t.Fatalf("a full store turned JetStream off: %v", err)
	}
	info, err := st.Info(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	if info.State.LastSeq != acked {
		t.Fatalf("last sequence %d, acknowledged %d", info.State.LastSeq, acked)
	}
}
