package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/server"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// ready returns the status and the body of /readyz.
func (r *running) ready(t *testing.T) (int, string) {
	t.Helper()
	resp, err := http.Get(r.base() + "/readyz")
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(body)
}

// awaitReady waits until /readyz answers with a status and a reason, and returns the body and how long it took.
func (r *running) awaitReady(t *testing.T, want int, reason string) (body string, took time.Duration) {
	t.Helper()
	began := time.Now()
	streamstest.Eventually(t, streamstest.Limit, func() error {
		var got int
		if got, body = r.ready(t); got != want || !strings.Contains(body, reason) {
			return fmt.Errorf("/readyz answers %d: %s", got, body)
		}
		return nil
	})
	return body, time.Since(began)
}

// sender delivers messages with new ids until it is stopped, and remembers which were answered with 200.
type sender struct {
	stop     chan struct{}
	sending  sync.WaitGroup
	accepted atomic.Int64
	mu       sync.Mutex
	mids     map[string]bool
}

// deliver starts senders, each of which delivers one message after the other to a conversation of its own.
func (r *running) deliver(t *testing.T, senders, size int) *sender {
	t.Helper()
	s := &sender{stop: make(chan struct{}), mids: map[string]bool{}}
	text := strings.Repeat("x", size)
	for i := range senders {
		s.sending.Go(func() {
			for n := 0; ; {
				select {
				case <-s.stop:
					return
				default:
				}
				mid := fmt.Sprintf("m_%d_%d", i, n)
				got, err := tryPost(r.PublicAddr(), message("700", strconv.Itoa(31+i), mid, text, 1790000000000+int64(n)))
				if err != nil || got != http.StatusOK {
					time.Sleep(20 * time.Millisecond) // Meta waits much longer
					continue
				}
				s.mu.Lock()
				s.mids[mid] = true
				s.mu.Unlock()
				s.accepted.Add(1)
				n++
			}
		})
	}
	return s
}

// end stops the senders and checks that the program has what was accepted, once and in order.
func (s *sender) end(t *testing.T, r *running) {
	t.Helper()
	close(s.stop)
	s.sending.Wait()
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if n := r.Unshipped(); n > 0 {
			return fmt.Errorf("%d events are in the journal only", n)
		}
		return nil
	})
	next := map[string]int{}
	found := map[string]bool{}
	_, err := streams.Read(t.Context(), r.JS(), streams.ReadOptions{}, func(e streams.Stored) error {
		if e.Data.Message == nil {
			return nil
		}
		mid := e.Data.Message.MID
		assert.False(t, found[mid], "%s is stored twice", mid)
		found[mid] = true
		i, n, _ := strings.Cut(strings.TrimPrefix(mid, "m_"), "_")
		assert.Equal(t, strconv.Itoa(next[i]), n, "order of sender %s", i)
		next[i]++
		return nil
	})
	require.NoError(t, err)
	for mid := range s.mids {
		require.True(t, found[mid], "%s was answered with 200 and is lost", mid)
	}
	code, out, stderr := r.command(t, "audit")
	require.Equal(t, cli.ExitOK, code, "%s%s", out, stderr)
}

// metric returns the value of a line of the metrics, such as `name{label="x"}`.
func (r *running) metric(t *testing.T, line string) string {
	t.Helper()
	resp, err := r.client.Send(t.Context(), http.MethodGet, "/metrics", nil, nil, "text/plain")
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	for l := range strings.Lines(string(body)) {
		if value, found := strings.CutPrefix(l, line+" "); found {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// TestIngestGoesOnAfterAFullDisk fills the disk of a program under traffic until the server can't write any more.
// It is told, and when there is room again the program goes on by itself.
func TestIngestGoesOnAfterAFullDisk(t *testing.T) {
	t.Parallel()
	mount := streamstest.Disk(t, 384<<20) // the senders write up to 30 MB a second
	cfg := testConfig(t.TempDir())
	cfg.Data.Dir = filepath.Join(mount, "data")
	cfg.Streams.MaxStore = config.GiB // more than the disk has
	r := start(t, cfg)
	// A stream that can't be made on a full disk leaves a file open in nats-server, so that of the history is made first.
	code, _, stderr := r.command(t, "projections", "rebuild", "comments")
	require.Equal(t, cli.ExitOK, code, stderr)
	// Deliveries may be refused before the server writes to the full disk, so something else does that as well.
	_, err := r.JS().CreateStream(t.Context(), jetstream.StreamConfig{Name: "OTHER", Subjects: []string{"other"}})
	require.NoError(t, err)
	s := r.deliver(t, 4, 2<<10)
	for round := range 2 {
		before := s.accepted.Load()
		streamstest.Eventually(t, streamstest.Limit, func() error {
			if n := s.accepted.Load() - before; n < 100 {
				return fmt.Errorf("%d accepted", n)
			}
			return nil
		})
		filler := streamstest.Fill(t, mount, 0)
		reasons, took := r.awaitReady(t, http.StatusServiceUnavailable, "data.dir")
		t.Logf("round %d: not ready after %s: %s", round, took, reasons)
		for err = nil; err == nil; {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err = r.JS().Publish(ctx, "other", make([]byte, 8<<10))
			cancel()
		}
		if round == 0 {
			report, code := r.runDoctor(t)
			assert.Equal(t, cli.ExitFailed, code)
			assert.Contains(t, causesOf(report, ""), meta.StateSpaceLow)
			assert.Contains(t, causesOf(report, ""), meta.StateNotStoring)
			assert.Contains(t, fmt.Sprint(report.Install), "data.dir")
		}
		assert.Equal(t, "100", r.metric(t, `pagestream_space_level{limit="data.dir"}`))
		assert.Equal(t, "1", r.metric(t, "pagestream_not_storing"))
		require.NoError(t, os.Remove(filler))
		removed := time.Now()
		streamstest.Eventually(t, streamstest.Limit, func() error {
			if got := post(t, r.PublicAddr(), message("700", "30", fmt.Sprint("m_9_", round), "x", 1)); got != http.StatusOK {
				return fmt.Errorf("answered %d", got)
			}
			return nil
		})
		t.Logf("round %d: a delivery is accepted after %s", round, time.Since(removed))
		_, took = r.awaitReady(t, http.StatusOK, "")
		t.Logf("round %d: ready again after %s", round, took)
		assert.Equal(t, "0", r.metric(t, "pagestream_not_storing"))
	}
	assert.Contains(t, r.log.String(), "the embedded server was started again")
	s.end(t, r)
}

// TestServerRestartsUnderLoad starts the embedded server again while deliveries arrive and a consumer's stream is
// filled: nothing is lost or doubled, and the order is kept.
func TestServerRestartsUnderLoad(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	code, out, stderr := r.command(t, "--json", "consumers", "add", "crm", "--all")
	require.Equal(t, cli.ExitOK, code, stderr)
	var added consumers.Added
	require.NoError(t, json.Unmarshal([]byte(out), &added))
	s := r.deliver(t, 4, 100)
	for range 3 {
		before := s.accepted.Load()
		require.NoError(t, r.RestartServer(t.Context()))
		streamstest.Eventually(t, streamstest.Limit, func() error {
			if n := s.accepted.Load() - before; n < 100 {
				return fmt.Errorf("%d accepted", n)
			}
			return nil
		})
	}
	s.end(t, r)
	r.awaitReady(t, http.StatusOK, "")
	mids := func(stream string) (out []string) {
		_, err := streams.Read(t.Context(), r.JS(), streams.ReadOptions{
			Stream: stream, Malformed: func(uint64, error) error { return nil },
		}, func(e streams.Stored) error {
			if e.Data.Message != nil {
				out = append(out, e.Data.Message.MID)
			}
			return nil
		})
		require.NoError(t, err)
		return out
	}
	want := mids(streams.Name)
	streamstest.Eventually(t, 2*streamstest.Limit, func() error { // a lost answer costs the filler 10 s
		if got := mids(added.Stream); len(got) < len(want) {
			return fmt.Errorf("the consumer has %d of %d", len(got), len(want))
		}
		return nil
	})
	require.Equal(t, want, mids(added.Stream))
}

// TestLimitOfTheStreamIsTold fills a stream to its limit: each level is told by log, metric and history, the
// full stream by readiness and doctor, and what is erased makes room for deliveries.
func TestLimitOfTheStreamIsTold(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	cfg.Streams.MaxBytes = 16 * config.MiB
	r := start(t, cfg)
	text, n := strings.Repeat("x", 64<<10), 0
	for _, level := range []int{80, 95} {
		for status(t, r).Stream.Bytes*100 < uint64(cfg.Streams.MaxBytes)*uint64(level) {
			require.Equal(t, http.StatusOK,
				post(t, r.PublicAddr(), message("700", "31", fmt.Sprint("m_", n), text, 1790000000000+int64(n))))
			n++
		}
		streamstest.Eventually(t, streamstest.Limit, func() error {
			if got := r.metric(t, `pagestream_space_level{limit="streams.max_bytes"}`); got != strconv.Itoa(level) {
				return fmt.Errorf("the level is %s, not %d", got, level)
			}
			return nil
		})
		r.awaitReady(t, http.StatusOK, "")
		report, _ := r.runDoctor(t)
		require.Equal(t, meta.StateSpaceLow, report.Install[0].Cause)
	}
	var reasons string
	streamstest.Eventually(t, streamstest.Limit, func() error { // while a check is late, deliveries are refused that have room
		n++
		post(t, r.PublicAddr(), message("700", "31", fmt.Sprint("m_", n), text, 1790000000000+int64(n)))
		if _, reasons = r.ready(t); !strings.Contains(reasons, "streams.max_bytes") {
			return fmt.Errorf("/readyz says: %s", reasons)
		}
		return nil
	})
	assert.NotContains(t, r.log.String(), "started again", "it needs no restart")
	assert.Contains(t, reasons, "there is no space left")
	for _, level := range []string{"80", "95", "100"} {
		assert.Contains(t, r.log.String(), "limit=streams.max_bytes level="+level)
	}
	report, code := r.runDoctor(t)
	assert.Equal(t, cli.ExitFailed, code)
	require.Equal(t, meta.StateSpaceLow, report.Install[0].Cause)
	assert.Equal(t, meta.Wrong, report.Install[0].Severity)
	assert.Contains(t, fmt.Sprint(report.Install[0].Do), "raise streams.max_bytes")
	code, out, _ := r.command(t, "status")
	assert.Equal(t, cli.ExitOK, code)
	assert.Contains(t, out, "space streams.max_bytes: 9")
	streamstest.Eventually(t, streamstest.Limit, func() error {
		_, out, stderr := r.command(t, "--json", "history")
		if strings.Count(out, "streams.max_bytes") < 3 {
			return fmt.Errorf("on record are: %s%s", out, stderr)
		}
		return nil
	})
	// There is still room for what erases.
	code, out, stderr := r.command(t, "erase", "700", "31", "--yes")
	require.Equal(t, cli.ExitOK, code, out+stderr)
	r.awaitReady(t, http.StatusOK, "")
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message("700", "32", "m_after", text, 1790000000000)))
	streamstest.Eventually(t, streamstest.Limit, func() error { // a check that began before the erasure may end after it
		report, _ = r.runDoctor(t)
		if causes := causesOf(report, ""); slices.Contains(causes, meta.StateSpaceLow) {
			return fmt.Errorf("doctor says %s", causes)
		}
		return nil
	})
}

// natsAt starts a NATS server on a port. stop is called at the end of the test, if not before.
func natsAt(t *testing.T, o natsserver.Options) (stop func()) {
	t.Helper()
	o.Host, o.NoSigs, o.NoLog = "127.0.0.1", true, true
	ns, err := natsserver.NewServer(&o)
	require.NoError(t, err)
	go ns.Start()
	require.True(t, ns.ReadyForConnections(streamstest.Limit))
	stop = func() { ns.Shutdown(); ns.WaitForShutdown() }
	t.Cleanup(stop)
	return stop
}

// TestReadModelsDiskIsFull fills the disk of the read models while that of the stream has room: deliveries are
// stored until one that comes again might not be recognized, then they are refused, and it is said why. With room
// again the program goes on, and stores none twice.
func TestReadModelsDiskIsFull(t *testing.T) {
	t.Parallel()
	mount := streamstest.Disk(t, 64<<20)
	_, port, err := net.SplitHostPort(streamstest.FreeAddr(t))
	require.NoError(t, err)
	number, err := strconv.Atoi(port)
	require.NoError(t, err)
	natsAt(t, natsserver.Options{Port: number, JetStream: true, StoreDir: t.TempDir(), MaxPayload: 32 << 20})
	cfg := testConfig(t.TempDir())
	cfg.NATS.AcceptLoss = true
	cfg.NATS.URL = config.Servers("nats://127.0.0.1:" + port) // its other clients are unknown to the publisher
	cfg.Projections.Dir = filepath.Join(mount, "models")
	cfg.Streams.Window = 3 * time.Second
	r := start(t, cfg)
	text := strings.Repeat("x", 2<<10)
	n := 0
	deliver := func() int {
		n++
		return post(t, r.PublicAddr(), message("700", "31", fmt.Sprint("m_", n), text, 1790000000000+int64(n)))
	}
	for range 50 {
		require.Equal(t, http.StatusOK, deliver())
	}
	lastSeq := uint64(n)
	require.Equal(t, lastSeq, get[pages.Page](t, r, "/api/v1/pages/700").Traffic.Events)
	filler := streamstest.Fill(t, mount, 0)
	filled := time.Now()
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if status := deliver(); status == http.StatusOK {
			return fmt.Errorf("delivery %d is accepted", n)
		}
		n--
		return nil
	})
	assert.Greater(t, time.Since(filled), time.Second, "what the window knows needs no index")
	reasons, _ := r.awaitReady(t, http.StatusServiceUnavailable, "too far behind the stream to recognize")
	assert.Contains(t, reasons, "no space left on device")
	s := status(t, r)
	assert.False(t, s.Ready)
	assert.Contains(t, fmt.Sprint(s.Reasons), "too far behind")
	assert.Equal(t, "100", r.metric(t, `pagestream_space_level{limit="projections.dir"}`))
	report, code := r.runDoctor(t)
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, fmt.Sprint(report.Install), "projections.dir")
	require.NoError(t, os.Remove(filler))
	_, took := r.awaitReady(t, http.StatusOK, "")
	t.Logf("ready again after %s", took)
	for i := range n { // all come again, long after the window
		require.Equal(t, http.StatusOK,
			post(t, r.PublicAddr(), message("700", "31", fmt.Sprint("m_", i+1), text, 1790000000000+int64(i+1))))
	}
	require.Equal(t, uint64(n), status(t, r).Stream.LastSeq)
	require.Equal(t, uint64(n), get[pages.Page](t, r, "/api/v1/pages/700").Traffic.Events)
}

// TestServeWaitsForNATS starts a program before its NATS server, which has no JetStream at first.
func TestServeWaitsForNATS(t *testing.T) {
	t.Parallel()
	_, port, err := net.SplitHostPort(streamstest.FreeAddr(t))
	require.NoError(t, err)
	number, err := strconv.Atoi(port)
	require.NoError(t, err)
	cfg := testConfig(t.TempDir())
	cfg.NATS.AcceptLoss = true
	cfg.NATS.URL = config.Servers("nats://u:hunter2@127.0.0.1:" + port)
	log := &streamstest.Logs{}
	p := server.New(server.Options{Config: cfg, Logger: slog.New(slog.NewTextHandler(log, nil))})
	ran := make(chan error, 1)
	go func() { ran <- p.Run(t.Context()) }()
	t.Cleanup(func() { assert.NoError(t, p.Close(context.Background())) })
	logged := func(text string) {
		t.Helper()
		streamstest.Eventually(t, streamstest.Limit, func() error {
			if !strings.Contains(log.String(), text) {
				return fmt.Errorf("%q is not in the log: %s", text, log)
			}
			return nil
		})
	}
	logged("waiting for NATS")
	stop := natsAt(t, natsserver.Options{Port: number, Username: "u", Password: "hunter2"})
	logged("waiting for JetStream")
	require.Empty(t, ran)
	stop()
	natsAt(t, natsserver.Options{
		Port: number, Username: "u", Password: "hunter2", JetStream: true, StoreDir: t.TempDir(),
	})
	require.NoError(t, <-ran)
	logged("the wait is over")
	require.NotContains(t, log.String(), "hunter2")
	require.Equal(t, http.StatusOK, post(t, p.PublicAddr(), message("700", "31", "m_1", "x", 1790000000000)))
	// The server takes 1 MiB, and an event may contain 8 MiB twice.
	logged("the NATS server does not take the largest deliveries")
	r := &running{Program: p, cfg: cfg, log: log}
	r.client, err = cli.NewClient(r.base(), cfg.HTTP.TokenFile)
	require.NoError(t, err)
	report, code := r.runDoctor(t)
	require.Equal(t, cli.ExitFailed, code)
	require.Contains(t, causesOf(report, ""), meta.StateBodyTooLarge)
	require.Contains(t, fmt.Sprint(report.Install), "webhook.max_body")
}

// TestServeDoesNotWaitForWhatDoesNotPass checks which errors of the start are returned at once.
func TestServeDoesNotWaitForWhatDoesNotPass(t *testing.T) {
	t.Parallel()
	_, port, err := net.SplitHostPort(streamstest.FreeAddr(t))
	require.NoError(t, err)
	number, err := strconv.Atoi(port)
	require.NoError(t, err)
	cfg := testConfig(t.TempDir())
	cfg.NATS.AcceptLoss = true
	cfg.NATS.URL = config.Servers("nats://127.0.0.1:" + port)
	run := func(ctx context.Context) error {
		return server.New(server.Options{Config: cfg}).Run(ctx)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	require.Error(t, run(ctx), "the context has ended")
	natsAt(t, natsserver.Options{Port: number, Username: "u", Password: "p"})
	limited, cancel := context.WithTimeout(t.Context(), streamstest.Limit)
	defer cancel()
	require.ErrorIs(t, run(limited), nats.ErrAuthorization)
	cfg.NATS.Creds = filepath.Join(t.TempDir(), "missing.creds")
	require.ErrorIs(t, run(limited), os.ErrNotExist)
	require.NoError(t, limited.Err())
}
