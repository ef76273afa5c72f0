package webhook_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/webhook"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

const (
	secret = "a-secret-of-our-own"
	older  = "the-secret-before-it"
	body   = `{"object":"page","entry":[{"id":"7001","time":1790000000000,"messaging":[` +
		`{"sender":{"id":"9"},"recipient":{"id":"7001"},"timestamp":1790000000000,` +
		`"message":{"mid":"m_1","text":"gr\u00fc\u00df dich"}}]}]}`
)

// publisher records the events that it gets, or fails with err.
type publisher struct {
	mu     sync.Mutex
	events []domain.Event
	err    error
}

func (p *publisher) Publish(_ context.Context, events []domain.Event) ([]streams.Receipt, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return nil, p.err
	}
	p.events = append(p.events, events...)
	return make([]streams.Receipt, len(events)), nil
}

// fixture is a test server with a webhook handler.
type fixture struct {
	*httptest.Server
	pub     *publisher
	log     *bytes.Buffer
	ready   error
	answers chan webhook.Answer
}

func start(t *testing.T, change func(*webhook.Options)) *fixture {
	t.Helper()
	f := &fixture{pub: &publisher{}, log: &bytes.Buffer{}, answers: make(chan webhook.Answer, 64)}
	o := webhook.Options{
		Apps: []webhook.App{
			{Name: "main", Secrets: []string{secret, older}, VerifyToken: "verify-main"},
			{Name: "second", Secrets: []string{"second-secret"}, VerifyToken: "verify-second"},
		},
		Publisher:       f.pub,
		Ready:           func() error { return f.ready },
		PageVerifyToken: func(s string) bool { return s == "verify-of-a-page" },
		Observe:         func(a webhook.Answer) { f.answers <- a },
		Logger:          slog.New(slog.NewTextHandler(f.log, nil)),
	}
	if change != nil {
		change(&o)
	}
	h, err := webhook.New(o)
	require.NoError(t, err)
	mux := http.NewServeMux()
	h.Register(mux)
	f.Server = httptest.NewServer(mux)
	t.Cleanup(f.Close)
	return f
}

func sign(key, body string) string {
	m := hmac.New(sha256.New, []byte(key))
	m.Write([]byte(body))
	return "sha256=" + hex.EncodeToString(m.Sum(nil))
}

func (f *fixture) post(t *testing.T, path, body string, header http.Header) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+path, strings.NewReader(body))
	require.NoError(t, err)
	req.Header = header
	resp, err := f.Client().Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(b), resp.Header
}

func signed(key, body string) http.Header {
	return http.Header{"X-Hub-Signature-256": {sign(key, body)}}
}

func TestHandshake(t *testing.T) {
	f := start(t, nil)
	for _, c := range []struct {
		name, path, mode, token, challenge string
		status                             int
	}{
		{"first app without a name", "/webhooks", "subscribe", "verify-main", "1158201444", 200},
		{"app by name", "/webhooks/second", "subscribe", "verify-second", "1158201444", 200},
		{"token of a connected page", "/webhooks", "subscribe", "verify-of-a-page", "1158201444", 200},
		{"token of another app", "/webhooks/second", "subscribe", "verify-main", "1", 403},
		{"wrong token", "/webhooks", "subscribe", "verify-mainn", "1", 403},
		{"no token", "/webhooks", "subscribe", "", "1", 403},
		{"another mode", "/webhooks", "unsubscribe", "verify-main", "1", 403},
		{"no challenge", "/webhooks", "subscribe", "verify-main", "", 403},
		{"challenge is too long", "/webhooks", "subscribe", "verify-main", strings.Repeat("1", 2000), 403},
		{"unknown app", "/webhooks/third", "subscribe", "verify-main", "1", 404},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := url.Values{"hub.mode": {c.mode}, "hub.verify_token": {c.token}, "hub.challenge": {c.challenge}}
			resp, err := f.Client().Get(f.URL + c.path + "?" + q.Encode())
			require.NoError(t, err)
			defer resp.Body.Close()
			got, _ := io.ReadAll(resp.Body)
			require.Equal(t, c.status, resp.StatusCode)
			if c.status != 200 {
				return
			}
			require.Equal(t, c.challenge, string(got), "the body is the bare challenge")
			ct := resp.Header.Get("Content-Type")
			require.True(t, strings.HasPrefix(ct, "text/plain"), "content type %q", ct)
		})
	}
}

func TestDelivery(t *testing.T) {
	sha1 := http.Header{"X-Hub-Signature": {"sha1=da611bd448dc12acdf0cd3ab33fdb3adaee26145"}}
	noHex := http.Header{"X-Hub-Signature-256": {"sha256=" + strings.Repeat("z", 64)}}
	for _, c := range []struct {
		name, path, body string
		header           http.Header
		status, stored   int
		reason           string
	}{
		{"signed", "/webhooks/main", body, signed(secret, body), 200, 1, ""},
		{"first app without a name", "/webhooks", body, signed(secret, body), 200, 1, ""},
		{"older secret during rotation", "/webhooks", body, signed(older, body), 200, 1, ""},
		{"secret of another app", "/webhooks/second", body, signed(secret, body), 401, 0, "signature"},
		{"no signature", "/webhooks", body, http.Header{}, 401, 0, "signature"},
		{"sha1 only", "/webhooks", body, sha1, 401, 0, "signature"},
		{"one bit off", "/webhooks", body + " ", signed(secret, body), 401, 0, "signature"},
		{"short digest", "/webhooks", body, http.Header{"X-Hub-Signature-256": {"sha256=abcd"}}, 401, 0, "signature"},
		{"digest is not hex", "/webhooks", body, noHex, 401, 0, "signature"},
		{"body that is not JSON is stored", "/webhooks", "{", signed(secret, "{"), 200, 1, ""},
		{"empty body is stored", "/webhooks", "", signed(secret, ""), 200, 1, ""},
		{"unknown app", "/webhooks/third", body, signed(secret, body), 404, 0, "unknown_app"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := start(t, nil)
			status, answer, _ := f.post(t, c.path, c.body, c.header)
			require.Equal(t, c.status, status)
			require.Len(t, f.pub.events, c.stored)
			a := <-f.answers
			require.Equal(t, c.status, a.Status)
			require.Equal(t, c.reason, a.Reason)
			// Neither the response nor the log may contain the expected signature.
			want := strings.TrimPrefix(sign(secret, c.body), "sha256=")
			require.NotContains(t, answer, want, "the computed signature is shown")
			require.NotContains(t, f.log.String(), want, "the computed signature is shown")
		})
	}
}

func TestDeliveryKeepsTraceParent(t *testing.T) {
	f := start(t, nil)
	const tp = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	h := signed(secret, body)
	h.Set("Traceparent", tp)
	f.post(t, "/webhooks", body, h)
	h.Set("Traceparent", "00-nonsense")
	f.post(t, "/webhooks", body, h)
	require.Equal(t, tp, f.pub.events[0].TraceParent)
	require.Empty(t, f.pub.events[1].TraceParent, "a malformed traceparent was kept")
}

func TestFailedPublishIsNotAnswered200(t *testing.T) {
	for _, c := range []struct {
		name   string
		err    error
		ready  error
		status int
		reason string
	}{
		{"stream unavailable", streams.ErrUnavailable, nil, 503, "unavailable"},
		{"queue full", streams.ErrOverloaded, nil, 503, "overloaded"},
		{"deadline", fmt.Errorf("publish: %w", context.DeadlineExceeded), nil, 503, "timeout"},
		{"unknown error", errors.New("anything"), nil, 503, "unavailable"},
		{"not ready", nil, errors.New("JetStream is off"), 503, "not_ready"},
		{"event larger than the stream accepts", streams.ErrTooLarge, nil, 413, "too_large"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := start(t, nil)
			f.pub.err, f.ready = c.err, c.ready
			status, _, header := f.post(t, "/webhooks", body, signed(secret, body))
			require.Equal(t, c.status, status)
			if status == 503 {
				require.NotEmpty(t, header.Get("Retry-After"), "503 without Retry-After")
			}
			require.Equal(t, c.reason, (<-f.answers).Reason)
			require.Empty(t, f.pub.events, "something was stored")
		})
	}
}

func TestBodyLimit(t *testing.T) {
	f := start(t, func(o *webhook.Options) { o.MaxBody = 100 })
	exact := strings.Repeat("x", 100)
	status, _, _ := f.post(t, "/webhooks", exact, signed(secret, exact))
	require.Equal(t, 200, status, "a body of exactly the limit")
	over := exact + "x"
	status, _, _ = f.post(t, "/webhooks", over, signed(secret, over))
	require.Equal(t, 413, status, "one byte over")
	// The same without Content-Length.
	chunked := io.MultiReader(strings.NewReader(over))
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+"/webhooks", chunked)
	req.Header = signed(secret, over)
	resp, err := f.Client().Do(req)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, 413, resp.StatusCode, "chunked, one byte over")
}

func TestIncompleteBodyStoresNothing(t *testing.T) {
	f := start(t, nil)
	conn, err := net.Dial("tcp", f.Listener.Addr().String())
	require.NoError(t, err)
	fmt.Fprintf(conn, "POST /webhooks HTTP/1.1\r\nHost: x\r\nX-Hub-Signature-256: %s\r\nContent-Length: %d\r\n\r\n%s",
		sign(secret, body), len(body), body[:20])
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	defer conn.Close()
	a := <-f.answers
	require.Equal(t, 400, a.Status)
	require.Empty(t, f.pub.events)
}

func TestOtherMethodsAreRefused(t *testing.T) {
	f := start(t, nil)
	for _, m := range []string{http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodHead, http.MethodOptions} {
		req, _ := http.NewRequestWithContext(t.Context(), m, f.URL+"/webhooks", nil)
		resp, err := f.Client().Do(req)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode, m)
		require.NotEmpty(t, resp.Header.Get("Allow"), m)
	}
}

func TestNewRefuses(t *testing.T) {
	for name, apps := range map[string][]webhook.App{
		"no app":       nil,
		"no secret":    {{Name: "a"}},
		"empty secret": {{Name: "a", Secrets: []string{"x", ""}}},
		"twice":        {{Name: "a", Secrets: []string{"x"}}, {Name: "a", Secrets: []string{"x"}}},
	} {
		_, err := webhook.New(webhook.Options{Apps: apps, Publisher: &publisher{}})
		require.Error(t, err, name)
	}
}

// TestSignatureFromOpenSSL checks that signatures of an independent implementation are
// accepted.
func TestSignatureFromOpenSSL(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	cmd := exec.CommandContext(t.Context(), "openssl", "dgst", "-sha256", "-hmac", secret, "-r")
	cmd.Stdin = strings.NewReader(body)
	out, err := cmd.Output()
	require.NoError(t, err)
	digest, _, _ := strings.Cut(string(out), " ")
	f := start(t, nil)
	header := http.Header{"X-Hub-Signature-256": {"sha256=" + digest}}
	status, _, _ := f.post(t, "/webhooks", body, header)
	require.Equal(t, 200, status, "a signature by openssl")
}

// TestSignatureVectors runs the test vectors that are stored outside the project.
func TestSignatureVectors(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "..", "shared", "corpus", "SIGNATURES.json"))
	if err != nil {
		t.Skip("the test vectors are not installed")
	}
	var vectors struct {
		Hub []struct {
			Source, Header, Secret, Body, Value, Expect string
		} `json:"x_hub_signature"`
	}
	require.NoError(t, json.Unmarshal(b, &vectors))
	tried := 0
	for _, v := range vectors.Hub {
		if v.Header != webhook.SignatureHeader {
			continue
		}
		tried++
		f := start(t, func(o *webhook.Options) { o.Apps[0].Secrets = []string{v.Secret} })
		want := 401
		if v.Expect == "valid" {
			want = 200
		}
		status, _, _ := f.post(t, "/webhooks", v.Body, http.Header{v.Header: {v.Value}})
		require.Equal(t, want, status, "%s (%s)", v.Source, v.Expect)
	}
	require.NotZero(t, tried, "no vector was tried")
}

func FuzzSignature(f *testing.F) {
	f.Add("sha256="+strings.Repeat("0", 64), []byte("x"))
	f.Add(sign(secret, "x"), []byte("x"))
	h, err := webhook.New(webhook.Options{
		Apps: []webhook.App{{Name: "a", Secrets: []string{secret}}}, Publisher: &publisher{},
	})
	require.NoError(f, err)
	mux := http.NewServeMux()
	h.Register(mux)
	f.Fuzz(func(t *testing.T, header string, body []byte) {
		r := httptest.NewRequest(http.MethodPost, "/webhooks", bytes.NewReader(body))
		r.Header.Set(webhook.SignatureHeader, header)
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		accepted := w.Code == http.StatusOK
		valid := strings.EqualFold(header, sign(secret, string(body))) && strings.HasPrefix(header, "sha256=")
		require.Equal(t, valid, accepted, "answered %d", w.Code)
	})
}
