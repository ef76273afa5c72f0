package api

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/streams"
)

func newRequest(method, path string) *http.Request {
	return httptest.NewRequestWithContext(context.Background(), method, path, strings.NewReader(""))
}

// TestHosts checks that the private listener answers to its own names and to addresses only.
func TestHosts(t *testing.T) {
	g := NewGuard([]string{"Pages.internal"}, slog.New(slog.DiscardHandler))
	h := g.Hosts(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for host, want := range map[string]int{
		"localhost": 200, "LOCALHOST:8081": 200, "127.0.0.1:8081": 200, "[::1]:8081": 200, "[::1]": 200, "10.0.0.7:8081": 200,
		"pages.internal": 200, "pages.internal.:8081": 200,
		"evil.example": 421, "evil.example:8081": 421, "localhost.evil.example": 421, "127.0.0.1.evil.example": 421, "": 421,
		"pages.internal.evil.example": 421, "0x7f000001": 421,
	} {
		r := newRequest(http.MethodGet, "/api/v1/events")
		r.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		assert.Equal(t, want, w.Code, host)
		if want != http.StatusOK {
			assert.Contains(t, w.Body.String(), "http.private_hosts")
		}
		for _, probe := range []string{"/healthz", "/readyz"} {
			r.URL.Path = probe
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			assert.Equal(t, http.StatusOK, w.Code, "%s of %q", probe, host)
		}
	}
}

// TestWrongTokensAreLimited checks that an address which sends wrong tokens is refused for a while,
// other addresses and sessions are not, and that the log has the address but no token.
func TestWrongTokensAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := New(Options{Tokens: fileTokens(t), Operator: &fakeOperator{}, Metrics: http.NotFoundHandler()})
		defer s.Close()
		mux := http.NewServeMux()
		s.Register(mux)
		mux.HandleFunc("POST /sign-in", func(w http.ResponseWriter, r *http.Request) {
			if r.PostFormValue("token") != token {
				w.WriteHeader(http.StatusForbidden)
			}
		})
		mux.HandleFunc("GET /sign-in", func(w http.ResponseWriter, r *http.Request) {
			if r.FormValue("code") != "" {
				w.WriteHeader(http.StatusForbidden)
			}
		})
		h := NewGuard(nil, slog.New(slog.NewTextHandler(&log, nil))).Failures(mux)
		ask := func(from, bearer string) *httptest.ResponseRecorder {
			r := newRequest(http.MethodGet, "/api/v1/companies")
			r.RemoteAddr = from
			if bearer != "" {
				r.Header.Set("Authorization", "Bearer "+bearer)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return w
		}
		for range 200 { // right tokens don't count, and neither does none
			require.Equal(t, http.StatusOK, ask("192.0.2.1:1", token).Code)
			require.Equal(t, http.StatusUnauthorized, ask("192.0.2.1:1", "").Code)
		}
		for i := range freeFailures {
			require.Equal(t, http.StatusUnauthorized, ask(fmt.Sprintf("192.0.2.1:%d", i), "EAAwrong-token").Code)
		}
		for range 100 {
			w := ask("192.0.2.1:9", "EAAwrong-token")
			require.Equal(t, http.StatusTooManyRequests, w.Code)
			require.Equal(t, "1", w.Header().Get("Retry-After"))
		}
		assert.Equal(t, http.StatusTooManyRequests, ask("192.0.2.1:9", token).Code, "no token is looked at")
		assert.Equal(t, http.StatusUnauthorized, ask("192.0.2.1:9", "").Code, "a request without one is")
		assert.Equal(t, http.StatusOK, ask("192.0.2.2:9", token).Code, "another address")
		time.Sleep(failureInterval)
		assert.Equal(t, http.StatusOK, ask("192.0.2.1:9", token).Code, "later")
		assert.Equal(t, http.StatusUnauthorized, ask("192.0.2.1:9", "EAAwrong-token").Code)
		assert.Equal(t, http.StatusTooManyRequests, ask("192.0.2.1:9", "EAAwrong-token").Code)

		signIn := func(from, token string) int {
			r := httptest.NewRequestWithContext(context.Background(), http.MethodPost, "/sign-in", strings.NewReader("token="+token))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.RemoteAddr = from
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return w.Code
		}
		for i := range freeFailures { // from one network
			require.Equal(t, http.StatusForbidden, signIn(fmt.Sprintf("[2001:db8::%x]:1", i), "EAAwrong-token"))
		}
		assert.Equal(t, http.StatusTooManyRequests, signIn("[2001:db8::ffff]:1", "EAAwrong-token"))
		assert.Equal(t, http.StatusOK, signIn("[2001:db8:0:1::1]:1", token), "another network")

		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		assert.Len(t, lines, 12, "1, 2, 4 ... 64 of one address and 1, 2, 4, 8, 16 of the other")
		for _, line := range lines {
			assert.Contains(t, line, "level=WARN")
		}
		assert.Contains(t, log.String(), "remote=192.0.2.1 failures=64")
		assert.Contains(t, log.String(), "remote=2001:db8::/64 failures=16")
		assert.NotContains(t, log.String(), "EAAwrong")

		signInLink := func(query string) int {
			r := newRequest(http.MethodGet, "/sign-in"+query)
			r.RemoteAddr = "192.0.2.3:9"
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return w.Code
		}
		for range freeFailures {
			require.Equal(t, http.StatusForbidden, signInLink("?code=WRONG"))
		}
		assert.Equal(t, http.StatusTooManyRequests, signInLink("?code=WRONG"))
		assert.Equal(t, http.StatusOK, signInLink(""), "the page is shown")
	})
}

// TestWrongMethod checks that each path answers 405 with its methods to any other one, and 404 only
// if the API does not have the path.
func TestWrongMethod(t *testing.T) {
	s := New(Options{Tokens: fileTokens(t), Operator: &fakeOperator{}, Metrics: http.NotFoundHandler()})
	defer s.Close()
	mux := http.NewServeMux()
	s.Register(mux)
	ask := func(method, path string) *httptest.ResponseRecorder {
		r := newRequest(method, path)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		return w
	}
	for pattern := range s.routes() {
		method, path, _ := strings.Cut(pattern, " ")
		path = strings.NewReplacer("{", "", "}", "").Replace(path)
		w := ask("BREW", path)
		assert.Equal(t, http.StatusMethodNotAllowed, w.Code, pattern)
		assert.Contains(t, strings.Split(w.Header().Get("Allow"), ", "), method, pattern)
		assert.Contains(t, w.Body.String(), method)
		assert.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	}
	w := ask(http.MethodDelete, "/api/v1/companies")
	assert.Equal(t, "GET, HEAD, POST", w.Header().Get("Allow"))
	for _, path := range []string{"/api/", "/api/v1", "/api/v1/nothing", "/api/v1/events/1/2"} {
		w := ask(http.MethodGet, path)
		assert.Equal(t, http.StatusNotFound, w.Code, path)
		assert.Empty(t, w.Header().Get("Allow"))
	}
	w = httptest.NewRecorder()
	mux.ServeHTTP(w, newRequest(http.MethodDelete, "/api/v1/companies"))
	assert.Equal(t, http.StatusUnauthorized, w.Code, "without a token")
	w = httptest.NewRecorder()
	mux.ServeHTTP(w, newRequest(http.MethodPost, "/healthz"))
	assert.Equal(t, http.StatusMethodNotAllowed, w.Code)
	assert.NotEmpty(t, w.Header().Get("Allow"))
}

// FuzzLastEventID checks that a feed starts after the sequence that the client names, whatever it is,
// or is refused: it never begins again.
func FuzzLastEventID(f *testing.F) {
	for _, id := range []string{"0", "7", "18446744073709551615", "18446744073709551616", "-1", "+1", " 7", "7.0", "0x7", "１"} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		r := &http.Request{Method: http.MethodGet, Header: http.Header{"Last-Event-Id": {id}}, URL: newRequest("GET", "/").URL}
		after, given, err := feedAfter(r)
		if err != nil {
			var p Problem
			require.ErrorAs(t, err, &p)
			require.Equal(t, http.StatusBadRequest, p.Status)
			require.NotContains(t, p.Detail, "?")
			return
		}
		require.Equal(t, id != "", given)
		if given {
			want, err := strconv.ParseUint(id, 10, 64)
			require.NoError(t, err)
			require.Equal(t, want, after)
		}
		from := streams.Following(after)
		require.GreaterOrEqual(t, from, after)
		require.Positive(t, from)
		if after < math.MaxUint64 {
			require.Equal(t, after+1, from)
		}
	})
}

// FuzzListCursor checks that no query makes a list begin again, and that each is read as the number
// and the bound that it says, or refused.
func FuzzListCursor(f *testing.F) {
	for _, query := range []string{
		"cursor=7&limit=1", "cursor=18446744073709551615", "limit=0", "limit=99999999999999999999", "cursor=%00", "cursor=1&cursor=2",
		"after=1&cursor=2", "%zz", "cursor=-1", "limit=1;cursor=2", "nonesuch=1",
	} {
		f.Add(query)
	}
	known := params{"after", "cursor", "limit"}
	f.Fuzz(func(t *testing.T, query string) {
		r := newRequest(http.MethodGet, "/")
		r.URL.RawQuery = query
		if err := known.check(r); err != nil {
			var p Problem
			require.ErrorAs(t, err, &p)
			require.Equal(t, http.StatusBadRequest, p.Status)
			return
		}
		for name := range r.URL.Query() {
			require.Contains(t, known, name)
			require.Len(t, r.URL.Query()[name], 1)
			require.NotEmpty(t, r.URL.Query().Get(name))
		}
		cursor, err := number(r, "cursor", 0)
		if given := r.URL.Query().Get("cursor"); err == nil && given != "" {
			require.Equal(t, strings.TrimLeft(given, "0"), strings.TrimLeft(strconv.FormatUint(cursor, 10), "0"))
		}
		n, err := limit(r)
		if err != nil {
			var p Problem
			require.ErrorAs(t, err, &p)
			return
		}
		require.Positive(t, n)
		require.LessOrEqual(t, n, maxPage)
	})
}
