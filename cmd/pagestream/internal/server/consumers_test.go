package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// TestConsumers checks that a consumer added on the command line lets a standard NATS client read
// one page, also after a restart, and that its access ends when it is removed.
func TestConsumers(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	cfg.NATS.Listen = "127.0.0.1:0"
	r := start(t, cfg)
	send := func(n int) {
		t.Helper()
		for i := range n {
			for _, page := range []string{"700", "800"} {
				body := message(page, "31", fmt.Sprint("m_", page, time.Now().UnixNano(), i), "x", 1790000000000)
				require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
			}
		}
	}
	send(3)
	code, out, stderr := r.command(t, "--json", "consumers", "add", "crm",
		"--pages", "700", "--types", "message.received")
	require.Equal(t, cli.ExitOK, code, stderr)
	var a consumers.Added
	require.NoError(t, json.Unmarshal([]byte(out), &a))
	seed := filepath.Join(t.TempDir(), "seed")
	require.NoError(t, os.WriteFile(seed, []byte(a.Seed), 0o600))
	key, err := nats.NkeyOptionFromSeed(seed)
	require.NoError(t, err)
	// read reads n events, and those that are there besides them.
	read := func(url string, n int) (subjects map[string]int) {
		t.Helper()
		nc, err := nats.Connect(url, key)
		require.NoError(t, err)
		defer nc.Close()
		js, err := jetstream.New(nc)
		require.NoError(t, err)
		c, err := js.Consumer(t.Context(), a.Stream, a.Durable)
		require.NoError(t, err)
		subjects = map[string]int{}
		for _, f := range []struct {
			n    int
			wait time.Duration
		}{{n, streamstest.Limit}, {100, 500 * time.Millisecond}} {
			batch, err := c.Fetch(f.n, jetstream.FetchMaxWait(f.wait))
			require.NoError(t, err)
			for m := range batch.Messages() {
				subjects[m.Subject()]++
				require.NoError(t, m.DoubleAck(t.Context()))
			}
		}
		return subjects
	}
	assert.Equal(t, map[string]int{"out.crm.700.message.received": 3}, read(a.URL, 3))
	send(2)
	_, out, _ = r.command(t, "consumers", "list")
	assert.Contains(t, out, "crm")
	assert.NotContains(t, out, a.Seed)
	code, _, stderr = r.command(t, "consumers", "add", "crm", "--all")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "there is a consumer of that name")
	r.stop(t)
	assert.NotContains(t, r.log.String(), a.Seed)

	r = start(t, cfg)
	var subjects map[string]int
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if nc, err := nats.Connect(r.Consumers().URL(), key); err == nil {
			nc.Close()
			subjects = read(r.Consumers().URL(), 2)
			break
		}
	}
	assert.Equal(t, map[string]int{"out.crm.700.message.received": 2}, subjects, "events from before the restart")
	code, _, stderr = r.command(t, "consumers", "remove", "crm")
	require.Equal(t, cli.ExitOK, code, stderr)
	code, _, stderr = r.command(t, "consumers", "remove", "crm")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "no consumer of that name")
	_, err = nats.Connect(r.Consumers().URL(), key)
	require.Error(t, err)
}

// TestConsumersWithoutListener checks that the consumer is created and that the command prints the
// remaining steps.
func TestConsumersWithoutListener(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	code, out, stderr := r.command(t, "consumers", "add", "crm", "--all")
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, out, "set nats.listen")
	assert.Contains(t, out, "$JS.API.CONSUMER.MSG.NEXT.PAGESTREAM_OUT_crm.consumer-crm")
}

// TestConsumersRewindAndBackup checks that a consumer gets events again after a rewind, by sequence and by time, and
// that a restored backup has consumers, which go on where they were.
func TestConsumersRewindAndBackup(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	r := start(t, cfg)
	for i := range 10 {
		body := message("700", "31", fmt.Sprint("m_", i), "x", 1790000000000)
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
	}
	ok := func(args ...string) string {
		t.Helper()
		code, out, stderr := r.command(t, args...)
		require.Equal(t, cli.ExitOK, code, "%v: %s", args, stderr)
		return out
	}
	ok("consumers", "add", "crm", "--all")
	require.Len(t, outboxOf(t, r, "crm", 10), 10)
	c, err := r.JS().Consumer(t.Context(), consumers.StreamOf("crm"), "consumer-crm")
	require.NoError(t, err)
	read := func(n int) (seqs []uint64) {
		t.Helper()
		batch, err := c.Fetch(n, jetstream.FetchMaxWait(time.Second))
		require.NoError(t, err)
		for m := range batch.Messages() {
			meta, err := m.Metadata()
			require.NoError(t, err)
			e, err := streams.Decode(m.Subject(), m.Headers(), m.Data(), meta.Sequence.Stream, meta.Timestamp)
			require.NoError(t, err)
			seqs = append(seqs, e.Seq)
			require.NoError(t, m.DoubleAck(t.Context()))
		}
		return seqs
	}
	require.Equal(t, []uint64{1, 2, 3, 4, 5, 6}, read(6))
	for _, args := range [][]string{{"crm", "--to", "9"}, {"nobody", "--to", "1"}, {"crm", "--to", "0"}, {"crm", "--to", "2000-13-01"}} {
		code, _, stderr := r.command(t, append([]string{"consumers", "rewind"}, args...)...)
		require.NotEqual(t, cli.ExitOK, code, "%v", args)
		require.NotEmpty(t, stderr)
	}
	require.Contains(t, ok("consumers", "rewind", "crm", "--to", "4"), "from event 4 on")
	outboxOf(t, r, "crm", 10)
	require.Equal(t, []uint64{4, 5}, read(2))
	ok("consumers", "rewind", "crm", "--to", "1h")
	outboxOf(t, r, "crm", 10)
	require.Equal(t, []uint64{1, 2, 3, 4}, read(4))

	backup := filepath.Join(t.TempDir(), "backup")
	ok("backup", backup)
	r.stop(t)
	cfg = testConfig(t.TempDir())
	code, out, stderr := offline(t, cfg, "restore", backup, "--erasures", "none")
	require.Equal(t, cli.ExitOK, code, out+stderr)
	r = start(t, cfg)
	streamstest.Eventually(t, streamstest.Limit, func() error { // the index of ids is read again first
		status := post(t, r.PublicAddr(), message("700", "31", "m_new", "x", 1790000000000))
		if status != http.StatusOK {
			return fmt.Errorf("status %d", status)
		}
		return nil
	})
	require.Len(t, outboxOf(t, r, "crm", 11), 7)
	c, err = r.JS().Consumer(t.Context(), consumers.StreamOf("crm"), "consumer-crm")
	require.NoError(t, err)
	require.Equal(t, []uint64{5, 6, 7, 8, 9, 10, 11}, read(7))
}

// TestErasedContactLeavesConsumers checks that erase deletes a contact's events from a consumer's stream.
func TestErasedContactLeavesConsumers(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	for i := range 4 {
		body := message("700", fmt.Sprint(31+i%2), fmt.Sprint("m_", i), "x", 1790000000000)
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
	}
	code, _, stderr := r.command(t, "consumers", "add", "crm", "--all", "--types", "message.received")
	require.Equal(t, cli.ExitOK, code, stderr)
	require.Len(t, outboxOf(t, r, "crm", 4), 4)
	code, _, stderr = r.command(t, "erase", "700", "31", "--yes")
	require.Equal(t, cli.ExitOK, code, stderr)
	left := outboxOf(t, r, "crm", lastSeq(t, r))
	for _, e := range left {
		require.NotEqual(t, domain.ContactID("31"), e.Contact)
	}
	require.Equal(t, domain.ContactErased, left[len(left)-1].Type, "whoever has named types must know of it too")
	code, out, stderr := r.command(t, "erasures", "list")
	require.Equal(t, cli.ExitOK, code, stderr)
	require.Contains(t, out, "crm")
}
