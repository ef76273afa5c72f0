package server_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// TestHooks checks that deliveries are sent to an endpoint as signed webhooks, in order, also after
// an outage of the endpoint and a restart of the server.
func TestHooks(t *testing.T) {
	t.Parallel()
	secret := hooks.NewSecret()
	var mu sync.Mutex
	var got []string
	down := true
	receiver, err := standardwebhooks.NewWebhook(secret)
	require.NoError(t, err)
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = receiver.Verify(body, r.Header)
		}
		sent, _ := strconv.ParseInt(r.Header.Get(hooks.HeaderTimestamp), 10, 64)
		assert.LessOrEqual(t, time.Since(time.Unix(sent, 0)).Abs(), time.Minute,
			"wrong timestamp in the signature header")
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err != nil:
			assert.NoError(t, err)
			w.WriteHeader(http.StatusBadRequest)
		case down:
			w.WriteHeader(http.StatusInternalServerError)
		default:
			got = append(got, r.Header.Get("webhook-id"))
		}
	}))
	defer endpoint.Close()
	cfg := testConfig(t.TempDir())
	cfg.Hooks.File = filepath.Join(t.TempDir(), "hooks.yaml")
	file := fmt.Sprintf("- name: crm\n  url: %s/in\n  secrets: [%s]\n  pages: [\"700\"]\n  from: 1\n",
		endpoint.URL, secret)
	require.NoError(t, os.WriteFile(cfg.Hooks.File, []byte(file), 0o600))
	r := start(t, cfg)
	for i := range 5 {
		for _, page := range []string{"700", "800"} {
			body := message(page, "31", fmt.Sprint("m_", page, i), "x", 1790000000000+int64(i))
			require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
		}
	}
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if s := r.Hooks().Status(); s[0].Retrying != 1 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	_, out, _ := r.command(t, "hooks", "list")
	assert.Contains(t, out, "retrying 1 pages")
	code, _, stderr := r.command(t, "hooks", "enable", "other")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "no such endpoint")
	r.stop(t)
	assert.NotContains(t, r.log.String(), secret)
	mu.Lock()
	down = false
	mu.Unlock()
	r = start(t, cfg)
	code, _, stderr = r.command(t, "hooks", "enable", "crm")
	require.Equal(t, cli.ExitOK, code, stderr)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		mu.Lock()
		defer mu.Unlock()
		if len(got) < 5 {
			return fmt.Errorf("%d delivered", len(got))
		}
		return nil
	})
	var want []string
	for i := range 5 {
		want = append(want, fmt.Sprint("page:700:msg:m_700", i))
	}
	mu.Lock()
	assert.Equal(t, want, got, "in order")
	mu.Unlock()
	_, out, _ = r.command(t, "hooks", "deadletters", "crm")
	assert.NotContains(t, out, "700")
	code, _, _ = r.command(t, "hooks", "redrive", "crm", "3")
	assert.Equal(t, cli.ExitFailed, code, "there is no dead letter")
}
