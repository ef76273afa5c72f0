package server_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/dev"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/server"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// scramble writes random bytes over every other page of a file.
func scramble(t testing.TB, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		if i/4096%2 == 1 {
			b[i] = byte(r.IntN(256))
		}
	}
	overwrite(t, path, b)
}

func overwrite(t testing.TB, path string, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(b, 0)
	require.NoError(t, errors.Join(err, f.Close()))
}

// held is a check of files that waits.
type held struct{ release chan struct{} }

func (h held) check(ctx context.Context, path string) error {
	select {
	case <-h.release:
	case <-ctx.Done():
		return ctx.Err()
	}
	return store.CheckFile(ctx, path)
}

// TestIngestGoesOnWhileTheIndexIsBuiltAgain checks that a delivery of what has just happened is stored while the index
// of ids can't be read, that older ones wait, and that nothing is stored twice.
func TestIngestGoesOnWhileTheIndexIsBuiltAgain(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Streams.Window = 30 * time.Second
	old := message("700", "31", "m_old", "x", 1790000000000)
	timeless := []byte(`{"object":"page","entry":[{"id":"700","time":0,"messaging":[` +
		`{"sender":{"id":"31"},"recipient":{"id":"700"},"something_new":{}}]}]}`)
	r := start(t, cfg)
	require.Equal(t, 200, post(t, r.PublicAddr(), old))
	r.stop(t)

	h := held{make(chan struct{})}
	r = startWith(t, server.Options{Config: cfg, CheckFile: h.check})
	path := filepath.Join(cfg.ProjectionsDir(), "deliveries.db")
	require.NoError(t, r.do(t.Context(), http.MethodGet, "/api/v1/conversations/700/31?min_seq=1", nil, nil, nil))
	streamstest.Tick(t, path)
	scramble(t, path)
	require.Equal(t, 200, post(t, r.PublicAddr(), old), "the publisher has read the last ids of the stream")
	require.Equal(t, 503, post(t, r.PublicAddr(), timeless))
	require.Equal(t, 503, post(t, r.PublicAddr(), message("700", "31", "m_older", "x", 1790000000000)))
	// What has happened since the start, and the margin after it. The clocks may differ by as much.
	margin := cfg.Streams.Window/10 + streams.DefaultRetryFor
	var fresh []byte
	streamstest.Eventually(t, streamstest.Limit, func() error {
		fresh = message("700", "31", "m_new", "y", time.Now().Add(margin-100*time.Millisecond).UnixMilli())
		if got := post(t, r.PublicAddr(), fresh); got != 200 {
			return fmt.Errorf("answered %d", got)
		}
		return nil
	})
	require.Equal(t, 200, post(t, r.PublicAddr(), fresh))
	require.Equal(t, 200, post(t, r.PublicAddr(), old))
	s := status(t, r)
	require.Equal(t, uint64(2), s.Stream.Events)
	require.False(t, s.Ready)
	require.NotEmpty(t, modelStatus(s, deliveries.Name).Damaged)
	_, out, _ := r.command(t, "status")
	require.Contains(t, out, "deliveries can't be read")
	require.NoError(t, r.do(t.Context(), http.MethodGet, "/api/v1/conversations/700/31", nil, nil, nil))

	close(h.release)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		for _, body := range [][]byte{old, fresh, timeless} {
			if got := post(t, r.PublicAddr(), body); got != 200 {
				return fmt.Errorf("answered %d: %+v", got, modelStatus(status(t, r), deliveries.Name))
			}
		}
		return nil
	})
	r.digests(t)
	require.Equal(t, uint64(3), status(t, r).Stream.Events)
	code, _, stderr := r.command(t, "projections", "verify")
	require.Equal(t, cli.ExitOK, code, stderr)
}

func modelStatus(s operate.Status, name string) projections.Status {
	for _, m := range s.Projections {
		if m.Name == name {
			return m
		}
	}
	return projections.Status{}
}

// TestDamagedReadModelIsAnswered503 checks the answers of the API and the console, and that everything else goes on.
func TestDamagedReadModelIsAnswered503(t *testing.T) {
	for _, name := range []string{"conversations", "comments", "pages", "subscriptions"} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t.TempDir())
			h := held{make(chan struct{})}
			r := startWith(t, server.Options{Config: cfg, CheckFile: h.check})
			send := func(mid string) {
				t.Helper()
				require.Equal(t, 200, post(t, r.PublicAddr(), message("700", "31", mid, "x", 1790000000000)))
			}
			send("m_1")
			r.digests(t)
			path := filepath.Join(cfg.ProjectionsDir(), name+".db")
			streamstest.Tick(t, path)
			scramble(t, path)
			route := map[string]string{
				"conversations": "/api/v1/conversations/700/31", "comments": "/api/v1/comments/700",
				"pages": "/api/v1/pages/700", "subscriptions": "/api/v1/pages",
			}[name]
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.base()+route, nil)
			require.NoError(t, err)
			token, err := os.ReadFile(cfg.HTTP.TokenFile)
			require.NoError(t, err)
			req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
			resp, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			var p api.Problem
			require.NoError(t, json.NewDecoder(resp.Body).Decode(&p))
			require.NoError(t, resp.Body.Close())
			require.Equal(t, 503, resp.StatusCode, p)
			require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
			require.NotEmpty(t, resp.Header.Get("Retry-After"))
			require.Contains(t, p.Detail, name)
			send("m_2") // ingest goes on
			require.NotEmpty(t, modelStatus(status(t, r), name).Damaged)
			require.NoError(t, r.do(t.Context(), http.MethodGet, "/api/v1/events", nil, nil, nil))
			metrics := r.metrics(t)
			require.Contains(t, metrics, fmt.Sprintf("pagestream_projection_damaged{projection=%q} 1", name))
			close(h.release)
			streamstest.Eventually(t, streamstest.Limit, func() error {
				if s := modelStatus(status(t, r), name); s.Damaged != "" || s.Rebuilt == "" || s.Seq < 2 {
					return fmt.Errorf("status %+v", s)
				}
				return nil
			})
			code, _, stderr := r.command(t, "projections", "verify")
			require.Equal(t, cli.ExitOK, code, stderr)
			streamstest.Eventually(t, streamstest.Limit, func() error { // it is written in the background
				_, out, stderr := r.command(t, "--json", "history", "--verb", "projections_rebuild")
				if !strings.Contains(out, `"who": "pagestream"`) || !strings.Contains(out, "The file is damaged.") {
					return fmt.Errorf("%s%s", out, stderr)
				}
				return nil
			})
		})
	}
}

// metrics returns the text of GET /metrics.
func (r *running) metrics(t testing.TB) string {
	t.Helper()
	var out strings.Builder
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.base()+"/metrics", nil)
	require.NoError(t, err)
	token, err := os.ReadFile(r.cfg.HTTP.TokenFile)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Write(&out))
	require.NoError(t, resp.Body.Close())
	return out.String()
}

// TestDamagedLedgerBeginsAgain checks the counts of the webhook endpoint: those of a file that is damaged at rest begin
// again, and say since when; damage in use costs none.
func TestDamagedLedgerBeginsAgain(t *testing.T) {
	cfg := testConfig(t.TempDir())
	r := start(t, cfg)
	path := filepath.Join(cfg.ProjectionsDir(), "ledger.db")
	require.Equal(t, 200, post(t, r.PublicAddr(), message("700", "31", "m_1", "x", 1790000000000)))
	since := status(t, r).Received.Since
	r.stop(t)
	for _, harm := range []func(){
		func() { scramble(t, path) },
		func() { require.NoError(t, os.Truncate(path, 0)) },
		func() { require.NoError(t, os.Remove(path)) },
	} {
		r = start(t, cfg) // which writes nothing before the first delivery
		streamstest.Tick(t, path)
		harm()
		streamstest.Eventually(t, streamstest.Limit, func() error { return store.CheckFile(t.Context(), path) })
		s := status(t, r)
		require.Equal(t, uint64(1), s.Received.Stored)
		require.Equal(t, since, s.Received.Since)
		r.stop(t)
	}
	r = start(t, cfg)
	require.Equal(t, uint64(1), status(t, r).Received.Stored)
	r.stop(t)
	scramble(t, path)
	r = start(t, cfg)
	s := status(t, r)
	require.Zero(t, s.Received.Stored)
	require.True(t, s.Received.Since.After(since))
	require.Equal(t, 200, post(t, r.PublicAddr(), message("700", "31", "m_2", "x", 1790000000001)))
	r.digests(t)
	code, out, stderr := r.command(t, "audit")
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, out, s.Received.Since.Format(time.RFC3339))
	assert.Contains(t, r.log.String(), "begin again")
}

// TestProcessSurvivesDamage runs the real command on files that end a process which reads them with bbolt: at its
// start, and in use. It can be stopped afterwards.
func TestProcessSurvivesDamage(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(dir)
	cfg.HTTP.Public, cfg.HTTP.Private = streamstest.FreeAddr(t), streamstest.FreeAddr(t)
	file, err := dev.WriteConfig(dir, cfg)
	require.NoError(t, err)
	send := func(from, to int) {
		for i := from; i < to; i++ {
			body := message("700", fmt.Sprint(i), fmt.Sprint("m_", i), strings.Repeat("x", 200), 1790000000000+int64(i))
			streamstest.Eventually(t, streamstest.Limit, func() error {
				if got, err := tryPost(cfg.HTTP.Public, body); err != nil || got != 200 {
					return fmt.Errorf("answered %d: %w", got, err)
				}
				return nil
			})
		}
	}
	server := spawn(t, "-c", file, "serve")
	awaitServer(t, cfg)
	send(0, 300)
	readConversations(t, cfg, file, 300)
	for _, name := range []string{conversations.Name, deliveries.Name} { // they are written a moment later
		streamstest.Eventually(t, streamstest.Limit, func() error {
			_, n, err := pointedAtSelf(filepath.Join(cfg.ProjectionsDir(), name+".db"))
			if err == nil && n == 0 {
				err = fmt.Errorf("%s has no branch page", name)
			}
			return err
		})
	}
	server.kill()
	for name := range map[string]bool{conversations.Name: true, deliveries.Name: true} {
		selfPointing(t, filepath.Join(cfg.ProjectionsDir(), name+".db"))
	}
	server = spawn(t, "-c", file, "serve")
	awaitServer(t, cfg)
	readConversations(t, cfg, file, 300)
	for _, name := range []string{deliveries.Name, conversations.Name, "pages", "ledger"} {
		require.NoError(t, os.Truncate(filepath.Join(cfg.ProjectionsDir(), name+".db"), 0))
	}
	send(300, 310)
	readConversations(t, cfg, file, 310)
	require.NoError(t, os.Truncate(filepath.Join(cfg.ProjectionsDir(), "conversations.db"), 0))
	require.NoError(t, os.Remove(filepath.Join(cfg.ProjectionsDir(), "comments.db")))
	require.NoError(t, server.cmd.Process.Signal(syscall.SIGTERM))
	ended := make(chan error, 1)
	go func() { ended <- server.cmd.Wait() }()
	select {
	case err := <-ended: // it may report what it could not close
		t.Log(err)
	case <-time.After(30 * time.Second):
		require.Fail(t, "the server does not end")
	}
	spawn(t, "-c", file, "serve")
	awaitServer(t, cfg)
	readConversations(t, cfg, file, 310)
}

// readConversations waits until the server has n conversations and no read model is damaged.
func readConversations(t *testing.T, cfg config.Config, file string, n int) {
	t.Helper()
	client, err := cli.NewClient("http://"+cfg.HTTP.Private, cfg.HTTP.TokenFile)
	require.NoError(t, err)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		var s operate.Status
		if err := client.Do(t.Context(), http.MethodGet, "/api/v1/status", nil, nil, &s); err != nil {
			return err
		}
		for _, m := range s.Projections {
			if m.Damaged != "" {
				return fmt.Errorf("%s: %s", m.Name, m.Damaged)
			}
		}
		if got := s.Conversations.Conversations; got != uint64(n) {
			return fmt.Errorf("%d conversations", got)
		}
		return nil
	})
	code, _, stderr := run(t, t.Context(), "-c", file, "projections", "verify")
	require.Equal(t, cli.ExitOK, code, stderr)
}

// selfPointing makes each branch page of a bbolt file its own child.
func selfPointing(t *testing.T, path string) {
	t.Helper()
	b, n, err := pointedAtSelf(path)
	require.NoError(t, err)
	require.Positive(t, n, "%s has no branch page", path)
	overwrite(t, path, b)
}

// pointedAtSelf returns the content of a bbolt file with each branch page as its own child, and how many there are.
func pointedAtSelf(path string) (b []byte, n int, err error) {
	if b, err = os.ReadFile(path); err != nil {
		return nil, 0, err
	}
	for at := 2 * 4096; at < len(b); at += 4096 {
		if binary.NativeEndian.Uint16(b[at+8:]) == 1 {
			n++
			for i := range int(binary.NativeEndian.Uint16(b[at+10:])) {
				binary.NativeEndian.PutUint64(b[at+16+16*i+8:], uint64(at/4096))
			}
		}
	}
	return b, n, nil
}
