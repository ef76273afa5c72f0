package server_test

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/sse"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// ask sends a request to the private listener, for a host and with a header.
func (r *running) ask(ctx context.Context, t *testing.T, method, path, host, header, value string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, r.base()+path, nil)
	require.NoError(t, err)
	req.Host = host
	r.authorize(t, req)
	if header != "" {
		req.Header.Set(header, value)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// authorize adds the admin token to a request.
func (r *running) authorize(t *testing.T, req *http.Request) {
	t.Helper()
	token, err := os.ReadFile(r.cfg.HTTP.TokenFile)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
}

// TestPrivateListenerHasItsOwnHosts checks that no name which somebody else can point at the private
// listener is answered, with a valid token and without.
func TestPrivateListenerHasItsOwnHosts(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	cfg.HTTP.BaseURL, cfg.HTTP.PrivateHosts = "https://pages.example", []string{"box.internal"}
	r := start(t, cfg)
	_, port, err := net.SplitHostPort(r.PrivateAddr())
	require.NoError(t, err)
	for host, want := range map[string]int{
		"127.0.0.1:" + port: 200, "localhost:" + port: 200, "pages.example": 200, "box.internal:" + port: 200,
		"rebound.example:" + port: 421, "rebound.example": 421,
	} {
		for _, path := range []string{"/api/v1/status", "/metrics", "/sign-in", "/assets/console.css"} {
			assert.Equal(t, want, r.ask(t.Context(), t, http.MethodGet, path, host, "", "").StatusCode, "%s of %s", path, host)
		}
		assert.Equal(t, 200, r.ask(t.Context(), t, http.MethodGet, "/healthz", host, "", "").StatusCode)
	}
}

// TestWrongTokensAreThrottled checks the limit on the running server: the command line says what to
// do, and no token is logged.
func TestWrongTokensAreThrottled(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	guess := func() *http.Response {
		return r.ask(t.Context(), t, http.MethodGet, "/api/v1/status", "", "Authorization", "Bearer EAAG-guess-guess-guess")
	}
	refused := 0
	for range 60 {
		resp := guess()
		if resp.StatusCode == http.StatusTooManyRequests {
			refused++
			assert.NotEmpty(t, resp.Header.Get("Retry-After"))
			continue
		}
		require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
	}
	assert.Greater(t, refused, 20)
	streamstest.Eventually(t, streamstest.Limit, func() error { // the limit permits one try a second
		guess()
		code, _, stderr := r.command(t, "status")
		if code != 1 || !strings.Contains(stderr, "too many wrong tokens from this address") {
			return fmt.Errorf("status exits with %d: %s", code, stderr)
		}
		return nil
	})
	assert.Contains(t, r.log.String(), "remote=127.0.0.1 failures=32")
	assert.NotContains(t, r.log.String(), "EAAG-guess")
	assert.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message("700", "31", "m_1", "hello", 1790000000000)))
}

// TestPanicIsLoggedAndCounted checks that a panic of a handler ends its request only, and is logged
// with its stack but without anything of the request.
func TestPanicIsLoggedAndCounted(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	mux := http.NewServeMux()
	mux.HandleFunc("POST /a/{id}", func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		panic(string(b))
	})
	mux.HandleFunc("GET /b", func(http.ResponseWriter, *http.Request) {
		var list []int
		_ = list[len(r.log.String())]
	})
	mux.HandleFunc("GET /c", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	mux.HandleFunc("GET /d", func(http.ResponseWriter, *http.Request) {})
	srv := httptest.NewServer(r.Survive(mux))
	defer srv.Close()
	for _, c := range []string{"POST /a/the-path", "GET /b", "GET /c"} {
		method, path, _ := strings.Cut(c, " ")
		req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path+"?q=the-query", strings.NewReader("the-body"))
		require.NoError(t, err)
		req.Header.Set("Authorization", "the-header")
		_, err = srv.Client().Do(req) //nolint:bodyclose // there is none
		require.ErrorIs(t, err, io.EOF, c)
	}
	resp, err := srv.Client().Get(srv.URL + "/d")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())

	log := r.log.String()
	assert.Equal(t, 2, strings.Count(log, `level=ERROR msg="a handler panicked"`), log)
	assert.Contains(t, log, `route="POST /a/{id}" panic="a string"`)
	assert.Contains(t, log, `route="GET /b" panic="runtime error: index out of range`)
	assert.Contains(t, log, "guard_test.go", "the stack")
	for _, part := range []string{"the-path", "the-query", "the-body", "the-header"} {
		assert.NotContains(t, log, part)
	}
	metrics := r.ask(t.Context(), t, http.MethodGet, "/metrics", "", "", "")
	b, err := io.ReadAll(metrics.Body)
	require.NoError(t, err)
	assert.Contains(t, string(b), "\npagestream_panics_total 2\n")
}

// TestFeedBeyondTheHeadWaits checks that a feed after a sequence that does not exist yet waits for the
// event after it, and that the largest number does not replay everything.
func TestFeedBeyondTheHeadWaits(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	deliver := func(n int) {
		require.Equal(t, 200, post(t, r.PublicAddr(), message("700", "31", fmt.Sprint("m_", n), "hello", 1790000000000)))
	}
	for n := 1; n <= 3; n++ {
		deliver(n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	feed := func(path, id string) <-chan string {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base()+path, nil)
		require.NoError(t, err)
		r.authorize(t, req)
		req.Header.Set("Accept", sse.ContentType)
		if id != "" {
			req.Header.Set("Last-Event-ID", id)
		}
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		t.Cleanup(func() { _ = resp.Body.Close() })
		require.Equal(t, http.StatusOK, resp.StatusCode)
		ids := make(chan string, 16)
		go func() {
			_ = sse.Read(resp.Body, func(e sse.Event) error { ids <- e.ID; return nil })
		}()
		return ids
	}
	largest := fmt.Sprint(uint64(math.MaxUint64))
	waiting := []<-chan string{feed("/api/v1/events?after=5", ""), feed("/api/v1/events", "5")}
	never := []<-chan string{feed("/api/v1/events?after="+largest, ""), feed("/api/v1/events", largest)}
	for n := 4; n <= 7; n++ {
		deliver(n)
	}
	for _, want := range []string{"6", "7"} {
		for _, ids := range waiting {
			select {
			case id := <-ids:
				assert.Equal(t, want, id)
			case <-time.After(10 * time.Second):
				require.Fail(t, "the feed sent nothing")
			}
		}
	}
	time.Sleep(200 * time.Millisecond)
	for _, ids := range never {
		assert.Empty(t, ids, "it sent an event")
	}
	var page struct{ Items []struct{ Seq uint64 } }
	for query, want := range map[string]int{"after=" + largest: 0, "cursor=" + largest: 0, "after=7": 0, "after=6": 1} {
		require.NoError(t, r.do(t.Context(), http.MethodGet, "/api/v1/events?"+query, nil, nil, &page))
		assert.Len(t, page.Items, want, query)
	}
}
