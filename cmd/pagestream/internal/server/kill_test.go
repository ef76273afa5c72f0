package server_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/dev"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// child is the real command in a separate process.
type child struct{ cmd *exec.Cmd }

// spawn starts the real command. It is killed at the end of the test.
func spawn(t *testing.T, args ...string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "PAGESTREAM_TEST_RUN_MAIN=1")
	if testing.Verbose() {
		cmd.Stderr = os.Stderr
	}
	require.NoError(t, cmd.Start())
	c := &child{cmd}
	t.Cleanup(c.kill)
	return c
}

// kill sends SIGKILL, which the process can't handle.
func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// TestKilledServerLosesNothing kills the real binary several times under traffic. Like Meta, the
// client sends deliveries again that were not answered with 200; it also repeats some that were.
// Afterwards every acknowledged message must be in the stream once, in its conversation once, and in the
// stream of a consumer once, in order.
func TestKilledServerLosesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := testConfig(dir)
	cfg.HTTP.Public, cfg.HTTP.Private = streamstest.FreeAddr(t), streamstest.FreeAddr(t)
	file, err := dev.WriteConfig(dir, cfg)
	require.NoError(t, err)
	kills := 5
	if testing.Short() {
		kills = 2
	}

	server := spawn(t, "-c", file, "serve")
	awaitServer(t, cfg)
	streamstest.Eventually(t, streamstest.Limit, func() error { // the server is still starting
		code, _, stderr := run(t, t.Context(), "-c", file, "consumers", "add", "crm", "--all")
		if code != cli.ExitOK {
			return errors.New(stderr)
		}
		return nil
	})
	const senders = 8
	var mu sync.Mutex
	acked := map[string]string{} // id -> contact
	stop := make(chan struct{})
	var sending sync.WaitGroup
	for s := range senders {
		sending.Go(func() {
			contact := fmt.Sprint(30 + s)
			for i := 0; ; i++ {
				mid := fmt.Sprintf("m_%d_%d", s, i)
				body := message("700", contact, mid, "x", 1790000000000+int64(i))
				for tries := 0; ; tries++ {
					if got, err := tryPost(cfg.HTTP.Public, body); err == nil && got == 200 {
						break
					}
					select {
					case <-stop:
						return
					case <-time.After(20 * time.Millisecond): // the server is being started again
					}
				}
				mu.Lock()
				acked[domain.DedupID("page", "700", "msg", mid)] = contact
				mu.Unlock()
				if i%5 == 0 {
					_, _ = tryPost(cfg.HTTP.Public, body) // a redelivery; its answer does not matter
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	random := rand.New(rand.NewPCG(1, 2))
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(acked) }
	for range kills {
		// Kill at a random moment, but only after some new acknowledgements.
		want := count() + 20 + random.IntN(200)
		streamstest.Eventually(t, streamstest.Limit, func() error {
			if n := count(); n < want {
				return fmt.Errorf("%d of %d acknowledged", n, want)
			}
			return nil
		})
		server.kill()
		server = spawn(t, "-c", file, "serve")
	}
	awaitServer(t, cfg)
	close(stop)
	sending.Wait()
	server.kill()

	// Read the stream and the conversations with a server in process on the same directory.
	r := start(t, cfg)
	found := map[string]int{}
	_, err = streams.Read(t.Context(), r.JS(), streams.ReadOptions{}, func(e streams.Stored) error {
		found[e.ID]++
		return nil
	})
	require.NoError(t, err)
	for id := range acked {
		require.NotZero(t, found[id], "lost: %s", id)
	}
	for id, n := range found {
		require.LessOrEqual(t, n, 1, "%s is stored more than once", id)
	}
	copied := outboxOf(t, r, "crm", lastSeq(t, r))
	times := map[string][]uint64{}
	for i, e := range copied {
		times[e.ID] = append(times[e.ID], e.Seq, uint64(i))
	}
	for id, n := range times {
		assert.LessOrEqual(t, len(n), 2, "%s is copied more than once: sequences and places %v; in the stream %d times", id, n, found[id])
		assert.NotZero(t, found[id], "%s is not in the stream: sequence and place %v", id, n)
	}
	require.Len(t, copied, len(found))
	require.True(t, slices.IsSortedFunc(copied, func(a, b streams.Stored) int { return cmp.Compare(a.Seq, b.Seq) }))
	for _, e := range copied {
		found[e.ID]++
	}
	for id, n := range found {
		require.Equal(t, 2, n, "%s is in the stream and in the consumer's once", id)
	}
	rows := map[string]int{}
	for s := range senders {
		cursor := ""
		for {
			path := fmt.Sprintf("/api/v1/conversations/700/%d/messages?limit=500", 30+s)
			if cursor != "" {
				path += "&cursor=" + cursor
			}
			page := get[api.List[conversations.Message]](t, r, path)
			for _, m := range page.Items {
				rows[m.ID]++
			}
			if cursor = page.Next; cursor == "" {
				break
			}
		}
	}
	for id := range found {
		require.Equal(t, 1, rows[id], "%s in its conversation", id)
	}
	t.Logf("%d kills, %d acknowledged, %d stored, %d rows", kills, len(acked), len(found), len(rows))
}

// outboxOf waits until a consumer's stream is filled, and returns its events, in its order.
func outboxOf(t *testing.T, r *running, name string, head uint64) (list []streams.Stored) {
	t.Helper()
	streamstest.Eventually(t, streamstest.Limit, func() error {
		list, err := r.Consumers().List(t.Context())
		if err != nil {
			return err
		}
		for _, c := range list {
			if c.Name == name && c.Filled >= head {
				return nil
			}
		}
		return fmt.Errorf("consumer %s is not filled up to %d", name, head)
	})
	st, err := r.JS().Stream(t.Context(), consumers.StreamOf(name))
	require.NoError(t, err)
	for seq := uint64(1); ; seq++ {
		m, err := st.GetMsg(t.Context(), seq, jetstream.WithGetMsgSubject("out."+name+".*.*.*"))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return list
		}
		require.NoError(t, err)
		e, err := streams.Decode(m.Subject, m.Header, m.Data, m.Sequence, m.Time)
		require.NoError(t, err)
		list = append(list, e)
		seq = m.Sequence
	}
}

// awaitServer waits until the server listens on its private address. It opens that one last, so
// the public one is open too.
func awaitServer(t *testing.T, cfg config.Config) {
	t.Helper()
	addr := cfg.HTTP.Private
	streamstest.Eventually(t, streamstest.Limit, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		if conn.LocalAddr().String() == addr { // TCP self-connect to a port without a listener
			return errors.New("nobody listens yet")
		}
		return nil
	})
}

// TestSignalStopsTheServer checks that the server exits with 0 after an interrupt, and that only one
// server can use a data directory.
func TestSignalStopsTheServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := testConfig(dir)
	cfg.HTTP.Public, cfg.HTTP.Private = streamstest.FreeAddr(t), streamstest.FreeAddr(t)
	file, err := dev.WriteConfig(dir, cfg)
	require.NoError(t, err)
	server := spawn(t, "-c", file, "serve")
	awaitServer(t, cfg)
	require.Equal(t, 200, post(t, cfg.HTTP.Public, message("700", "31", "m", "x", 1790000000000)))
	require.NoError(t, server.cmd.Process.Signal(os.Interrupt))
	require.NoError(t, server.cmd.Wait())
	// A second server on the same directory works; two at once do not.
	r := start(t, cfg)
	second := cfg
	second.HTTP.Public, second.HTTP.Private = "127.0.0.1:0", "127.0.0.1:0"
	code, _, stderr := run(t, t.Context(), "-c", writeConfig(t, filepath.Join(dir, "second"), second), "serve")
	require.Equal(t, cli.ExitFailed, code, "a second server on the data directory")
	require.NotEmpty(t, stderr, "a second server on the data directory")
	require.Equal(t, uint64(1), lastSeq(t, r))
}

func writeConfig(t *testing.T, dir string, cfg config.Config) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o700))
	file, err := dev.WriteConfig(dir, cfg)
	require.NoError(t, err)
	return file
}
