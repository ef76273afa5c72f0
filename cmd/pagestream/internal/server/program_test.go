package server_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/server"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// The secret and the verify token of the test app.
const (
	testSecret      = "5c0d9a4b-signs-what-tests-deliver"
	testVerifyToken = "k9Vw3xQz-of-the-handshake"
)

// running is a program under test, with a client for its API.
type running struct {
	*server.Program
	client *cli.Client
	cfg    config.Config
	log    *streamstest.Logs
}

// base returns the URL of the private listener.
func (r *running) base() string { return "http://" + r.PrivateAddr() }

func (r *running) do(ctx context.Context, method, path string, query url.Values, in, out any) error {
	return r.client.Do(ctx, method, path, query, in, out)
}

func (r *running) send(
	ctx context.Context, method, path string, query url.Values, in any, accept string,
) (*http.Response, error) {
	return r.client.Send(ctx, method, path, query, in, accept)
}

func (r *running) run(
	ctx context.Context, path string, in any, progress func(json.RawMessage) error,
) (json.RawMessage, error) {
	return r.client.Run(ctx, path, in, progress)
}

// testConfig returns a configuration with one app and all files below dir.
func testConfig(dir string) config.Config {
	cfg := config.Default()
	cfg.Data.Dir = filepath.Join(dir, "data")
	cfg.Keys.File = filepath.Join(dir, "keys.json")
	cfg.HTTP.TokenFile = filepath.Join(dir, "admin.token")
	cfg.HTTP.Public, cfg.HTTP.Private = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Apps = []config.App{{
		Name: "main", ID: "900", Secrets: []config.Secret{testSecret}, VerifyToken: testVerifyToken,
		GraphVersion: config.DefaultGraphVersion, GraphURL: "http://127.0.0.1:1", LoginURL: config.DefaultLoginURL,
	}}
	return cfg
}

// start starts a program and stops it at the end of the test.
func start(t testing.TB, cfg config.Config, more ...projections.Projection) *running {
	t.Helper()
	return startWith(t, server.Options{Config: cfg, Projections: more})
}

// startWith is start with options of the server. Their logger is replaced.
func startWith(t testing.TB, o server.Options) *running {
	t.Helper()
	log, cfg := &streamstest.Logs{}, o.Config
	o.Logger = slog.New(slog.NewTextHandler(io.MultiWriter(log, &allLogs), &slog.HandlerOptions{Level: slog.LevelDebug}))
	p := server.New(o)
	ctx, cancel := context.WithTimeout(context.Background(), streamstest.Limit)
	defer cancel()
	require.NoError(t, p.Run(ctx))
	r := &running{Program: p, cfg: cfg, log: log}
	t.Cleanup(func() { r.stop(t) })
	var err error
	r.client, err = cli.NewClient(r.base(), cfg.HTTP.TokenFile)
	require.NoError(t, err)
	return r
}

// inject puts a message into the stream that the program did not store, while it does not run, and starts it again.
func (r *running) inject(t testing.TB, m *nats.Msg) *running {
	t.Helper()
	r.stop(t)
	require.NoError(t, server.Offline(t.Context(), server.Options{Config: r.cfg}, func(o *operate.Offline) error {
		_, err := o.JS.PublishMsg(t.Context(), m)
		return err
	}))
	return start(t, r.cfg)
}

func (r *running) stop(t testing.TB) {
	t.Helper()
	http.DefaultClient.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), streamstest.Limit)
	defer cancel()
	assert.NoError(t, r.Close(ctx))
}

// post sends a signed delivery and returns the status of the answer.
func post(t testing.TB, addr string, body []byte) int {
	t.Helper()
	status, err := tryPost(addr, body)
	require.NoError(t, err)
	return status
}

// tryPost is post for other goroutines than the test's: it returns errors.
func tryPost(addr string, body []byte) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), streamstest.Limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/webhooks", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("X-Hub-Signature-256", signatureOf(testSecret, body))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, nil
}

// signatureOf returns the signature header of a body.
func signatureOf(secret string, body []byte) string {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write(body)
	return "sha256=" + hex.EncodeToString(m.Sum(nil))
}

// message returns the body of a delivery with one text message.
func message(page, contact, mid, text string, at int64) []byte {
	return fmt.Appendf(nil, `{"object":"page","entry":[{"id":%q,"time":%d,"messaging":[`+
		`{"sender":{"id":%q},"recipient":{"id":%q},"timestamp":%d,"message":{"mid":%q,"text":%q}}]}]}`,
		page, at, contact, page, at, mid, text)
}

// get reads from the API after its read models have applied the stream's last event.
func get[T any](t testing.TB, r *running, path string) T {
	t.Helper()
	var out T
	sep := "?"
	if strings.Contains(path, "?") {
		sep = "&"
	}
	path = fmt.Sprintf("%s%smin_seq=%d", path, sep, lastSeq(t, r))
	require.NoError(t, r.do(context.Background(), http.MethodGet, path, nil, nil, &out), "GET %s", path)
	return out
}

func status(t testing.TB, r *running) operate.Status {
	t.Helper()
	var s operate.Status
	require.NoError(t, r.do(context.Background(), http.MethodGet, "/api/v1/status", nil, nil, &s))
	return s
}

func lastSeq(t testing.TB, r *running) uint64 {
	t.Helper()
	r.JS() // waits longer for the stream than a request does
	return status(t, r).Stream.LastSeq
}

func TestDeliveryBecomesConversation(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	const text = "Gr\u00fc\u00dfe <b>&amp;</b>"
	require.Equal(t, 200, post(t, r.PublicAddr(), message("700", "31", "m_1", text, 1790000000000)))
	list := get[api.List[conversations.Conversation]](t, r, "/api/v1/pages/700/conversations")
	require.Len(t, list.Items, 1)
	require.Equal(t, domain.ContactID("31"), list.Items[0].Contact)
	require.Equal(t, uint64(1), list.Items[0].In)
	messages := get[api.List[conversations.Message]](t, r, "/api/v1/conversations/700/31/messages")
	require.Len(t, messages.Items, 1)
	require.Equal(t, text, messages.Items[0].Text)
	require.Equal(t, "m_1", messages.Items[0].MID)
	// The page is known although nobody connected it.
	p := get[pages.Page](t, r, "/api/v1/pages/700")
	require.Equal(t, pages.Unknown, p.State)
	require.Equal(t, uint64(1), p.Traffic.Events)
}

// TestCorpusIsStoredCompletely checks that every POST of the corpus is answered with 200 and that each
// item is stored or a duplicate.
func TestCorpusIsStoredCompletely(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..", "..", "..", "..", "shared", "corpus")
	files, _ := filepath.Glob(filepath.Join(root, "*", "*.json"))
	if len(files) == 0 {
		t.Skip("the corpus is not next to the project")
	}
	r := start(t, testConfig(t.TempDir()))
	var items, posts uint64
	for _, file := range files {
		if strings.Contains(file, "graph-responses") {
			continue
		}
		body, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, 200, post(t, r.PublicAddr(), body), filepath.Base(file))
		items += uint64(messenger.Split(body, messenger.Options{}).Items)
		posts++
	}
	get[api.List[pages.Page]](t, r, "/api/v1/pages")
	s := status(t, r)
	stored, duplicates := s.Stream.Events, s.Received.Duplicates()
	require.Equal(t, posts, s.Received.Posts)
	require.Equal(t, items, s.Received.Items)
	require.Equal(t, items, stored+duplicates)
	t.Logf("%d posts, %d items = %d stored + %d duplicates", posts, items, stored, duplicates)
}

// TestDuplicateBeyondWindowAndRestart checks that the index finds a duplicate after the deduplication
// window has passed and the process was restarted.
func TestDuplicateBeyondWindowAndRestart(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	cfg.Streams.Window = 100 * time.Millisecond
	r := start(t, cfg)
	body := message("700", "31", "m_1", "once", 1790000000000)
	post(t, r.PublicAddr(), body)
	get[api.List[pages.Page]](t, r, "/api/v1/pages")
	stored := time.Now()
	r.stop(t)

	r = start(t, cfg)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if time.Since(stored) < 5*cfg.Streams.Window {
			return fmt.Errorf("the deduplication window is still open")
		}
		return nil
	})
	later := bytes.Replace(body, []byte(`"time":1790000000000`), []byte(`"time":1790003600000`), 1)
	require.Equal(t, 200, post(t, r.PublicAddr(), later))
	s := status(t, r)
	require.Equal(t, uint64(1), s.Stream.Events)
	require.Len(t, s.Received.ByIndex, 1, "duplicates by window %v", s.Received.ByWindow)
}

// fakeGraph starts a fake Graph with two pages and sets its URL in cfg.
func fakeGraph(t *testing.T, cfg *config.Config) *fakegraph.Graph {
	t.Helper()
	g, err := fakegraph.New(fakegraph.Options{
		Apps:  []fakegraph.App{{ID: "900", Secret: testSecret, Name: "test"}},
		Users: []fakegraph.User{{ID: "901", Name: "Operator", Pages: []string{"701", "702"}}},
		Pages: []fakegraph.Page{{ID: "701", Name: "First"}, {ID: "702", Name: "Second"}},
	})
	require.NoError(t, err)
	srv := httptest.NewServer(g)
	t.Cleanup(srv.Close)
	cfg.Apps[0].GraphURL = srv.URL
	return g
}

// TestConnectSubscribesAndSealsTheToken checks that a page is subscribed with its own token, and that
// the token is sealed: neither the log nor the data has it in plain text.
func TestConnectSubscribesAndSealsTheToken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := testConfig(dir)
	g := fakeGraph(t, &cfg)
	r := start(t, cfg)
	token, err := g.PageToken("900", "901", "701")
	require.NoError(t, err)
	var out meta.Outcome
	in := api.ConnectRequest{Page: "701", Token: token, VerifyToken: "of-this-page", Company: "c"}
	require.NoError(t, r.do(t.Context(), http.MethodPost, "/api/v1/pages", nil, in, &out))
	require.Equal(t, subscriptions.State("confirmed"), out.State)
	require.Equal(t, "First", out.Name)
	require.Empty(t, out.Missing)
	p := get[pages.Page](t, r, "/api/v1/pages/701")
	require.Equal(t, pages.Connected, p.State)
	require.Equal(t, pages.TokenValid, p.Token)
	require.Equal(t, "c", p.Company)
	subs := get[api.List[subscriptions.Subscription]](t, r, "/api/v1/pages/701/subscription")
	require.Len(t, subs.Items, 1)
	require.Equal(t, subscriptions.Confirmed, subs.Items[0].State)

	// The page's own verify token is accepted in the handshake while the page is connected.
	handshake := func(token string) int {
		resp, err := http.Get("http://" + r.PublicAddr() +
			"/webhooks?hub.mode=subscribe&hub.challenge=1&hub.verify_token=" + token)
		require.NoError(t, err)
		resp.Body.Close()
		return resp.StatusCode
	}
	require.Equal(t, 200, handshake("of-this-page"))
	require.Equal(t, 403, handshake("of-no-page"))

	// The subscription is changed at Graph.
	g.SetSubscription("900", "701", "messages")
	err = r.do(t.Context(), http.MethodPost, "/api/v1/pages/701/check", nil, nil, &out)
	require.NoError(t, err)
	require.Equal(t, subscriptions.State("drifted"), out.State)
	err = r.do(t.Context(), http.MethodPost, "/api/v1/pages/701/resubscribe", nil, nil, &out)
	require.NoError(t, err)
	require.Equal(t, subscriptions.State("confirmed"), out.State)
	// Another page's token is refused, and nothing is stored for that page.
	before := lastSeq(t, r)
	err = r.do(t.Context(), http.MethodPost, "/api/v1/pages", nil, api.ConnectRequest{Page: "702", Token: token}, &out)
	require.Error(t, err)
	require.Equal(t, before, lastSeq(t, r), "a token of another page")

	require.NoError(t, r.do(t.Context(), http.MethodPost, "/api/v1/pages/701/disconnect", nil, nil, &out))
	r.stop(t)
	require.NotContains(t, r.log.String(), token, "the log has a secret in it")
	require.NotContains(t, r.log.String(), testSecret, "the log has a secret in it")
	assert.Empty(t, filesWith(t, dir, token), "the token in plain text")

	// Without the key file the server must not start while there are sealed tokens: a new key would hide
	// the loss.
	r = start(t, cfg)
	require.NoError(t, r.do(t.Context(), http.MethodPost, "/api/v1/pages", nil, in, &out))
	r.stop(t)
	require.NoError(t, os.Remove(cfg.Keys.File))
	second := server.New(server.Options{Config: cfg, Logger: slog.New(slog.DiscardHandler)})
	if err := second.Run(t.Context()); !assert.ErrorContains(t, err, cfg.Keys.File, "started without the key file") {
		_ = second.Close(t.Context())
	}
}

func TestPrivateListenerNeedsToken(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	for path, want := range map[string]int{
		"/healthz": 200, "/readyz": 200, "/metrics": 401, "/api/v1/status": 401, "/api/v1/events": 401, "/api/v1/none": 401,
	} {
		resp, err := http.Get("http://" + r.PrivateAddr() + path)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, want, resp.StatusCode, path)
	}
	// The public listener has neither API nor metrics.
	for _, path := range []string{"/api/v1/status", "/metrics", "/readyz"} {
		resp, err := http.Get("http://" + r.PublicAddr() + path)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, 404, resp.StatusCode, "public %s", path)
	}
	info, err := os.Stat(r.cfg.HTTP.TokenFile)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode().Perm(), "token file")
}

func TestErrorsHaveTheRightStatus(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	for path, want := range map[string]int{
		"/api/v1/none": 404, "/api/v1/pages/1": 404, "/api/v1/conversations/1/2": 404, "/api/v1/events/7": 404,
		"/api/v1/events/x": 400, "/api/v1/events?type=no.such": 400, "/api/v1/events?limit=0": 400,
		"/api/v1/pages?cursor=nonsense!": 400, "/api/v1/pages?limit=-1": 400,
		"/api/v1/conversations/1/2/messages?order=up": 400, "/api/v1/pages/1/subscription": 404,
	} {
		err := r.do(t.Context(), http.MethodGet, path, nil, nil, nil)
		var p api.Problem
		require.True(t, asProblem(err, &p), path)
		require.Equal(t, want, p.Status, path)
	}
	var p api.Problem
	err := r.do(t.Context(), http.MethodPost, "/api/v1/pages/1/check", nil, nil, nil)
	require.True(t, asProblem(err, &p), "check of an unconnected page")
	require.Equal(t, http.StatusNotFound, p.Status, "check of an unconnected page")
}

func asProblem(err error, p *api.Problem) bool { return errors.As(err, p) }

// TestEventFeed checks that the feed is live and resumes after an event id without gaps or repeats.
func TestEventFeed(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	for i := range 5 {
		post(t, r.PublicAddr(), message("700", "31", fmt.Sprintf("m_%d", i), "x", 1790000000000+int64(i)))
	}
	var seen []string
	read := func(after string, n int) {
		ctx, cancel := context.WithTimeout(t.Context(), streamstest.Limit)
		defer cancel()
		enough := errors.New("enough")
		err := r.client.Feed(ctx, url.Values{"page": {"700"}}, after, func() {}, func(id string, data []byte) error {
			assert.True(t, json.Valid(data), "event %s is not JSON", id)
			seen = append(seen, id)
			if len(seen) == n {
				return enough
			}
			return nil
		})
		require.Same(t, enough, err, "Feed returns the error of its function unwrapped")
	}
	read("0", 3)
	go func() {
		for i := range 4 {
			for _, page := range []string{"700", "999"} {
				_, _ = tryPost(r.PublicAddr(), message(page, "31", fmt.Sprintf("n_%d", i), "x", 1790000001000+int64(i)))
			}
		}
	}()
	read(seen[2], 6)
	for i := 1; i < 5; i++ {
		require.Equal(t, fmt.Sprint(i+1), seen[i])
	}
	var e struct {
		Page string `json:"page"`
		Data struct {
			Raw json.RawMessage `json:"raw"`
		} `json:"data"`
	}
	err := r.do(t.Context(), http.MethodGet, "/api/v1/events/1", nil, nil, &e)
	require.NoError(t, err)
	require.Equal(t, "700", e.Page, "event 1")
	require.NotEmpty(t, e.Data.Raw, "event 1")
}

// TestFullStreamIsAnswered503 checks that deliveries that the stream refuses are answered with 503 and
// counted, and that the acknowledged ones are stored.
func TestFullStreamIsAnswered503(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	cfg.Streams.MaxBytes = 256 * config.KiB
	r := start(t, cfg)
	acked, refused := uint64(0), uint64(0)
	for i := 0; i < 2000 && refused < 3; i++ { // others are refused on a busy machine since they took too long
		body := message("700", "31", fmt.Sprintf("m_%d", i), strings.Repeat("x", 2000), 1790000000000+int64(i))
		switch got := post(t, r.PublicAddr(), body); got {
		case 200:
			acked++
		case 503:
			refused = status(t, r).Received.Rejected["unavailable"]
		default:
			require.Fail(t, "unexpected status", "%d", got)
		}
	}
	require.NotZero(t, refused)
	require.NotZero(t, acked)
	s := status(t, r)
	require.GreaterOrEqual(t, s.Stream.Events, acked)
	require.Equal(t, acked, s.Received.Accepted)
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	body := message("700", "31", "m_1", "x", 1790000000000)
	post(t, r.PublicAddr(), body)
	get[pages.Page](t, r, "/api/v1/pages/700")
	post(t, r.PublicAddr(), body)
	resp, err := r.send(t.Context(), http.MethodGet, "/metrics", nil, nil, "text/plain")
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	for _, want := range []string{
		`pagestream_webhook_requests_total{app="main",method="POST",reason="",status="200"} 2`,
		`pagestream_events_stored_total{type="message.received"} 1`,
		`pagestream_duplicates_total{by=`,
		`pagestream_publish_seconds_count{mode="batch"}`,
		`pagestream_publish_batch_events_count`,
		`pagestream_projection_lag_events{projection="conversations"} 0`,
		`pagestream_page_last_event_age_seconds{page="700"}`,
	} {
		require.Contains(t, string(b), want)
	}
}

// TestNoDuplicateIsStoredWhileTheIndexIsRebuilt checks that deliveries are answered with 503 while a
// lost index is being rebuilt after the deduplication window, so that no old duplicate is stored.
func TestNoDuplicateIsStoredWhileTheIndexIsRebuilt(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	cfg.Streams.Window = 100 * time.Millisecond
	r := start(t, cfg)
	const n = 3000
	var batch []string
	for i := range n {
		batch = append(batch, fmt.Sprintf(`{"sender":{"id":"31"},"recipient":{"id":"700"},"timestamp":%d,`+
			`"message":{"mid":"m_%d"}}`, 1790000000000+i, i))
	}
	body := []byte(`{"object":"page","entry":[{"id":"700","time":1790000000000,"messaging":[` +
		strings.Join(batch, ",") + `]}]}`)
	streamstest.Eventually(t, streamstest.Limit, func() error { // a busy machine may need a second try
		status, err := tryPost(r.PublicAddr(), body)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("the delivery is answered %d", status)
		}
		return err
	})
	stored := time.Now()
	get[pages.Page](t, r, "/api/v1/pages/700")
	r.stop(t)
	require.NoError(t, os.Remove(filepath.Join(cfg.ProjectionsDir(), "deliveries.db")))
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if time.Since(stored) < 5*cfg.Streams.Window {
			return fmt.Errorf("the deduplication window is still open")
		}
		return nil
	})

	r = start(t, cfg)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if got := post(t, r.PublicAddr(), body); got != 200 {
			return fmt.Errorf("answered %d", got)
		}
		return nil
	})
	require.Equal(t, uint64(n), status(t, r).Stream.Events)
}

// TestExternalNATS checks deliveries with an external NATS server.
func TestExternalNATS(t *testing.T) {
	t.Parallel()
	ns, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
	})
	require.NoError(t, err)
	go ns.Start()
	defer func() { ns.Shutdown(); ns.WaitForShutdown() }()
	require.True(t, ns.ReadyForConnections(streamstest.Limit), "the NATS server did not start")
	cfg := testConfig(t.TempDir())
	cfg.NATS.URL, cfg.NATS.AcceptLoss = config.Servers(ns.ClientURL()), true
	r := start(t, cfg)
	body := message("700", "31", "m_1", "x", 1790000000000)
	for range 2 {
		require.Equal(t, 200, post(t, r.PublicAddr(), body))
	}
	require.Equal(t, uint64(1), get[pages.Page](t, r, "/api/v1/pages/700").Traffic.Events)
	// The server's message limit is smaller than ours: a larger event is refused.
	big := message("700", "31", "m_2", strings.Repeat("x", 2<<20), 1790000000001)
	require.Equal(t, 413, post(t, r.PublicAddr(), big), "an event over the server's limit was answered")
	// While the server is down, deliveries are not answered with 200.
	ns.Shutdown()
	ns.WaitForShutdown()
	require.Equal(t, 503, post(t, r.PublicAddr(), message("700", "31", "m_3", "x", 1790000000002)), "without NATS")
}

// TestARequestThatDoesNotEndLeavesTimeToStop checks that a stop ends in time, and writes what was answered, while a
// request to the private listener does not end.
func TestARequestThatDoesNotEndLeavesTimeToStop(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	p := server.New(server.Options{Config: cfg, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, p.Run(t.Context()))
	token, err := os.ReadFile(cfg.HTTP.TokenFile)
	require.NoError(t, err)
	conn, err := net.Dial("tcp", p.PrivateAddr())
	require.NoError(t, err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "POST /api/v1/pages HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nExpect: 100-continue\r\n"+
		"Content-Length: 9\r\n\r\n", p.PrivateAddr(), strings.TrimSpace(string(token)))
	require.NoError(t, err)
	line, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, "100 Continue", "its handler does not wait for the body")
	require.Equal(t, 200, post(t, p.PublicAddr(), message("700", "31", "m_1", "x", 1790000000000)))

	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Second)
	defer cancel()
	err = p.Close(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, 1, strings.Count(err.Error(), "close "), "more steps did not end: %v", err)
	require.ErrorContains(t, err, "close private HTTP")
	require.NoError(t, ctx.Err(), "nothing of the time is left")
	require.Equal(t, uint64(1), lastSeq(t, start(t, cfg)))
}
