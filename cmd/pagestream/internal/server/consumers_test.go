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
	read := func(url string) (subjects map[string]int) {
		t.Helper()
		nc, err := nats.Connect(url, key)
		require.NoError(t, err)
		defer nc.Close()
		js, err := jetstream.New(nc)
		require.NoError(t, err)
		c, err := js.Consumer(t.Context(), a.Stream, a.Durable)
		require.NoError(t, err)
		batch, err := c.Fetch(100, jetstream.FetchMaxWait(500*time.Millisecond))
		require.NoError(t, err)
		subjects = map[string]int{}
		for m := range batch.Messages() {
			subjects[m.Subject()]++
			require.NoError(t, m.DoubleAck(t.Context()))
		}
		return subjects
	}
	assert.Equal(t, map[string]int{"pagestream.700.message.received": 3}, read(a.URL))
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
			subjects = read(r.Consumers().URL())
			break
		}
	}
	assert.Equal(t, map[string]int{"pagestream.700.message.received": 2}, subjects, "events from before the restart")
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
	r := start(t, testConfig(t.TempDir()))
	code, out, stderr := r.command(t, "consumers", "add", "crm", "--all")
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, out, "set nats.listen")
	assert.Contains(t, out, "$JS.API.CONSUMER.MSG.NEXT.PAGESTREAM.consumer-crm")
}
