package server_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/server"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/seal"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// sealedForm matches a sealed token.
var sealedForm = regexp.MustCompile(`v1\.[0-9a-f]{16}\.`)

// hasSealed reports whether a text has a sealed token, or a field that earlier versions had for one.
func hasSealed(b []byte) bool {
	return sealedForm.Match(b) || bytes.Contains(b, []byte("sealed_token")) ||
		bytes.Contains(b, []byte("sealed_verify_token"))
}

// connectPage connects a page with its own token and a verify token.
func (r *running) connectPage(t *testing.T, g *fakegraph.Graph, page domain.PageID) {
	t.Helper()
	token, err := g.PageToken(testAppID, testUser, string(page))
	require.NoError(t, err)
	in := api.ConnectRequest{Page: page, Token: token, VerifyToken: "of-page-" + string(page), Company: "acme"}
	var out meta.Outcome
	require.NoError(t, r.do(t.Context(), http.MethodPost, "/api/v1/pages", nil, in, &out))
	require.Equal(t, "confirmed", string(out.State))
}

// handshake returns the status of a webhook handshake with a verify token.
func (r *running) handshake(t *testing.T, token string) int {
	t.Helper()
	resp, err := http.Get("http://" + r.PublicAddr() +
		"/webhooks?hub.mode=subscribe&hub.challenge=1&hub.verify_token=" + token)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode
}

// bucketFiles reports whether a path is in the bucket of secrets.
func bucketFiles(path string) bool { return strings.Contains(path, connect.BucketOf(streams.Name)) }

// TestSealedTokensAreOnlyInTheBucket connects a page, connects it again, gives it a new token, rotates
// and retires the key, and disconnects it. No sealed token is in the stream, an export, a hook, a
// consumer's messages, the API, its feed, the console or any file except the bucket's, and after the
// disconnection also not in the bucket's files.
func TestSealedTokensAreOnlyInTheBucket(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 2)
	var mu sync.Mutex
	seen := map[string]*strings.Builder{}
	note := func(where, text string) {
		mu.Lock()
		defer mu.Unlock()
		if seen[where] == nil {
			seen[where] = &strings.Builder{}
		}
		fmt.Fprintln(seen[where], text)
	}
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		note("hook", string(body))
	}))
	t.Cleanup(hook.Close)
	cfg.NATS.Listen, cfg.Hooks.File = "127.0.0.1:0", filepath.Join(t.TempDir(), "hooks.yaml")
	file := fmt.Sprintf("- name: all\n  url: %s\n  secrets: [%s]\n  all: true\n  types: [page.connected, page.token_refreshed, page.disconnected]\n  from: 1\n", hook.URL, hooks.NewSecret())
	require.NoError(t, os.WriteFile(cfg.Hooks.File, []byte(file), 0o600))
	r := start(t, cfg)
	for _, page := range []string{"7000", "7001"} { // a consumer names pages that are known
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message(page, "31", "m_"+page, "hello", 1790000000000)))
	}
	code, out, stderr := r.command(t, "--json", "consumers", "add", "crm", "--pages", "7000,7001",
		"--types", "page.connected,page.token_refreshed,page.disconnected")
	require.Equal(t, cli.ExitOK, code, stderr)
	var added consumers.Added
	require.NoError(t, json.Unmarshal([]byte(out), &added))

	r.connectPage(t, g, "7000")
	r.connectPage(t, g, "7000") // another connection
	r.connectAll(t, g)          // another token
	old := r.Keys().Primary()
	for _, args := range [][]string{{"keys", "rotate"}, {"keys", "retire", old}} {
		code, _, stderr := r.command(t, args...)
		require.Equal(t, cli.ExitOK, code, stderr)
	}
	assert.Equal(t, http.StatusOK, r.handshake(t, "of-page-7000"), "a new token keeps the page's verify token")
	with := streamstest.FilesWith(t, hasSealed, cfg.Data.Dir)
	assert.NotEmpty(t, with, "the test finds sealed tokens")
	for _, path := range with {
		assert.True(t, bucketFiles(path), path)
	}
	for _, page := range []string{"7000", "7001"} {
		var out meta.Outcome
		require.NoError(t, r.do(t.Context(), http.MethodPost, "/api/v1/pages/"+page+"/disconnect", nil, nil, &out))
	}
	assert.Equal(t, http.StatusForbidden, r.handshake(t, "of-page-7000"))
	assert.Empty(t, streamstest.FilesWith(t, hasSealed, cfg.Data.Dir), "the bytes are overwritten")

	last := lastSeq(t, r)
	_, err := streams.ReadRaw(t.Context(), r.JS(), streams.ReadOptions{Stream: streams.Name}, func(m streams.Raw) error {
		note("stream", fmt.Sprint(m.Header, string(m.Data)))
		return nil
	})
	require.NoError(t, err)
	_, out, _ = r.command(t, "events", "export")
	note("export", out)
	note("consumer", r.consume(t, added))
	for _, file := range []string{cfg.HTTP.TokenFile, cfg.ReadTokenFile()} {
		note("api", r.fetch(t, file, "/api/v1/events?limit=500", "application/json", 0))
		note("feed", r.fetch(t, file, "/api/v1/events?after=0", "text/event-stream", int(last)))
		browser := r.signIn(t, file)
		for seq := range last {
			note("api", r.fetch(t, file, fmt.Sprint("/api/v1/events/", seq+1), "application/json", 0))
			resp, err := browser.Get(r.base() + fmt.Sprint("/events/", seq+1))
			require.NoError(t, err)
			note("console", read(t, resp))
		}
	}
	streamstest.Eventually(t, streamstest.Limit, func() error {
		mu.Lock()
		defer mu.Unlock()
		if seen["hook"] == nil || strings.Count(seen["hook"].String(), "page.disconnected") < 2 {
			return fmt.Errorf("the hook has not received all events")
		}
		return nil
	})
	mu.Lock()
	defer mu.Unlock()
	for _, where := range []string{"stream", "export", "hook", "consumer", "api", "feed", "console"} {
		text := seen[where].String()
		assert.Contains(t, text, "secret", "%s has no event that connects the page", where)
		assert.False(t, hasSealed([]byte(text)), where)
	}
}

// consume returns all messages of a consumer.
func (r *running) consume(t *testing.T, a consumers.Added) string {
	t.Helper()
	seed := filepath.Join(t.TempDir(), "seed")
	require.NoError(t, os.WriteFile(seed, []byte(a.Seed), 0o600))
	key, err := nats.NkeyOptionFromSeed(seed)
	require.NoError(t, err)
	nc, err := nats.Connect(a.URL, key)
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	c, err := js.Consumer(t.Context(), a.Stream, a.Durable)
	require.NoError(t, err)
	batch, err := c.Fetch(100, jetstream.FetchMaxWait(500*time.Millisecond))
	require.NoError(t, err)
	var all strings.Builder
	for m := range batch.Messages() {
		fmt.Fprintln(&all, m.Headers(), string(m.Data()))
	}
	return all.String()
}

// fetch returns the answer to a request with the token of a file. Of a feed it reads a number of events.
func (r *running) fetch(t *testing.T, tokenFile, path, accept string, events int) string {
	t.Helper()
	token, err := os.ReadFile(tokenFile)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), streamstest.Limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base()+path, nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	if events == 0 {
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return string(b)
	}
	require.Equal(t, http.StatusOK, resp.StatusCode)
	var all strings.Builder
	for lines := bufio.NewScanner(resp.Body); events > 0 && lines.Scan(); {
		fmt.Fprintln(&all, lines.Text())
		if strings.HasPrefix(lines.Text(), "data:") {
			events--
		}
	}
	return all.String()
}

// signIn returns a client of the console that has signed in with the token of a file.
func (r *running) signIn(t *testing.T, tokenFile string) *http.Client {
	t.Helper()
	token, err := os.ReadFile(tokenFile)
	require.NoError(t, err)
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	c := &http.Client{Jar: jar}
	resp, err := c.PostForm(r.base()+"/sign-in", url.Values{"token": {strings.TrimSpace(string(token))}})
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return c
}

// TestKeyRetirement checks that an old key is removed from the key file when no token needs it, that
// the key in use and a key that a token still needs are kept, and that sessions and links survive.
func TestKeyRetirement(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 3)
	r := start(t, cfg)
	r.connectAll(t, g)
	first := r.Keys().Primary()
	derived, err := r.Keys().Derive("console/session")
	require.NoError(t, err)
	code, _, stderr := r.command(t, "keys", "retire", first)
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "rotate first")
	code, _, stderr = r.command(t, "keys", "retire", "0123456789abcdef")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "nothing of that name")

	before := lastSeq(t, r)
	require.NoError(t, r.Keys().RotateFile(cfg.Keys.File)) // as after a rotation that was cut off
	var keys operate.Keys
	require.NoError(t, r.do(t.Context(), http.MethodGet, "/api/v1/keys", nil, nil, &keys))
	assert.Equal(t, []string{r.Keys().Primary(), first}, keys.Items)
	assert.Equal(t, map[string]int{first: 3}, keys.Secrets)
	code, out, stderr := r.command(t, "keys", "retire", first)
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, out, "the tokens of 3 pages were sealed again")
	assert.Equal(t, before, lastSeq(t, r), "no event is stored")
	_, out, _ = r.command(t, "keys", "list")
	assert.Regexp(t, `^`+r.Keys().Primary()+` +3 secrets +in use\n$`, out)
	written, err := os.ReadFile(cfg.Keys.File)
	require.NoError(t, err)
	assert.NotContains(t, string(written), first)
	r.stop(t)
	r = start(t, cfg)
	code, out, stderr = r.command(t, "pages", "check", "--all")
	assert.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, out, "3 of 3 pages have all wanted fields")
	again, err := r.Keys().Derive("console/session")
	require.NoError(t, err)
	assert.Equal(t, derived, again)

	// A secret that can't be opened keeps its key.
	second := r.Keys().Primary()
	damaged, err := r.Keys().Seal([]byte("token"), []byte("of another page"))
	require.NoError(t, err)
	ref, err := r.Secrets().Put(t.Context(), connect.Secret{Page: "7000", Token: damaged})
	require.NoError(t, err)
	require.NoError(t, r.Keys().RotateFile(cfg.Keys.File))
	code, _, stderr = r.command(t, "keys", "retire", second)
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "[7000]")
	assert.Contains(t, r.Keys().KeyIDs(), second)
	require.NoError(t, r.Secrets().Drop(t.Context(), "7000", ref))
	code, _, stderr = r.command(t, "keys", "retire", second)
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.NotContains(t, r.Keys().KeyIDs(), second)
}

// TestBackupHasTheTokens checks that the pages of a restored backup work, and that an installation
// without its secrets names the pages that must be connected again and goes on storing deliveries.
func TestBackupHasTheTokens(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 2)
	r := start(t, cfg)
	r.connectAll(t, g)
	dir := filepath.Join(t.TempDir(), "backup")
	code, out, stderr := r.command(t, "backup", dir)
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, out, "backed up: stream "+connect.BucketOf(streams.Name))
	for _, path := range streamstest.FilesWith(t, hasSealed, dir) {
		assert.True(t, bucketFiles(path), path)
	}
	want := r.digests(t)
	export := filepath.Join(t.TempDir(), "events.ndjson")
	code, _, stderr = r.command(t, "events", "export", export)
	require.Equal(t, cli.ExitOK, code, stderr)
	r.stop(t)

	other := func() config.Config {
		c := testConfig(t.TempDir())
		c.Apps = cfg.Apps
		return c
	}
	restored := other()
	code, _, stderr = offline(t, restored, "restore", dir, "--erasures", "none")
	require.Equal(t, cli.ExitOK, code, stderr)
	r = start(t, restored)
	assert.Equal(t, want, r.digests(t))
	code, out, stderr = r.command(t, "pages", "check", "--all")
	assert.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, out, "2 of 2 pages have all wanted fields")
	r.stop(t)

	imported := other()
	code, _, stderr = offline(t, imported, "events", "import", export)
	require.Equal(t, cli.ExitOK, code, stderr)
	r = start(t, imported)
	assert.Equal(t, want, r.digests(t), "the read models don't depend on the secrets")
	code, out, _ = r.command(t, "doctor")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, out, "The page's token is not stored any more")
	assert.Contains(t, out, "pagestream pages login")
	code, _, stderr = r.command(t, "send", "7000", "31", "--text", "hi")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "connect the page again")
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message("7000", "31", "m_1", "hi", 1790000000000)))
	code, out, _ = r.command(t, "projections", "verify", "pages")
	assert.Equal(t, cli.ExitOK, code, out)
	r.connectAll(t, g)
	code, out, _ = r.command(t, "doctor")
	assert.Equal(t, cli.ExitOK, code, out)
}

// TestImportMovesTokensOfAnEarlierVersion checks that the sealed tokens in an export of an earlier
// version become secrets, which work with its key file, and that the stream does not have them.
func TestImportMovesTokensOfAnEarlierVersion(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 2)
	keys, _, err := seal.LoadOrCreate(cfg.Keys.File, false)
	require.NoError(t, err)
	sealed := func(aad []byte, text string) string {
		s, err := keys.Seal([]byte(text), aad)
		require.NoError(t, err)
		return s
	}
	var lines strings.Builder
	seq := 0
	event := func(page domain.PageID, kind, connection string) {
		seq++
		fmt.Fprintf(&lines, `{"specversion":"1.0","id":"pagestream:%s:%s:%d","type":"pagestream.%s.v1",`+
			`"source":"/pages/%s","time":"2026-09-01T10:00:00Z","datacontenttype":"application/json","sequence":"%d",`+
			`"storedat":"2026-09-01T10:00:00.5Z","data":{"page":"%s","app":"main","connection":%s}}`+"\n",
			page, kind, seq, kind, page, seq, page, connection)
	}
	tokens := map[domain.PageID]string{}
	for _, page := range []domain.PageID{"7000", "7001"} {
		tokens[page], err = g.PageToken(testAppID, testUser, string(page))
		require.NoError(t, err)
		event(page, "page.connected", fmt.Sprintf(`{"connection_id":"c","app":"main","name":"P","sealed_token":%q,`+
			`"sealed_verify_token":%q,"fields":["messages"]}`, sealed(connect.TokenAAD(page), "an old token"),
			sealed(connect.VerifyTokenAAD(page), "of-page-"+string(page))))
		event(page, "page.token_refreshed", fmt.Sprintf(`{"connection_id":"c","app":"main","sealed_token":%q}`,
			sealed(connect.TokenAAD(page), tokens[page])))
	}
	event("7001", "page.disconnected", `{"connection_id":"c","app":"main","reason":"by the operator"}`)
	file := filepath.Join(t.TempDir(), "events.ndjson")
	require.NoError(t, os.WriteFile(file, []byte(lines.String()), 0o600))
	for range 2 { // it may be repeated
		code, out, stderr := offline(t, cfg, "events", "import", file)
		require.Equal(t, cli.ExitOK, code, stderr)
		assert.Contains(t, out, "5 events to sequence 5")
	}
	for _, path := range streamstest.FilesWith(t, hasSealed, cfg.Data.Dir) {
		assert.True(t, bucketFiles(path), path)
	}

	moved := cfg.Keys.File + ".moved"
	require.NoError(t, os.Rename(cfg.Keys.File, moved))
	p := server.New(server.Options{Config: cfg})
	require.ErrorContains(t, p.Run(t.Context()), "key file is missing")
	require.NoError(t, os.Rename(moved, cfg.Keys.File))
	r := start(t, cfg)
	require.NoError(t, r.Model("pages").WaitFor(t.Context(), 5))
	access, err := r.Tokens().Access(t.Context(), "7000")
	require.NoError(t, err)
	assert.Equal(t, tokens["7000"], access.Token)
	assert.Equal(t, http.StatusOK, r.handshake(t, "of-page-7000"))
	assert.Equal(t, http.StatusForbidden, r.handshake(t, "of-page-7001"))
	assert.Equal(t, pages.Disconnected, get[pages.Page](t, r, "/api/v1/pages/7001").State)
	_, err = streams.ReadRaw(t.Context(), r.JS(), streams.ReadOptions{Stream: streams.Name}, func(m streams.Raw) error {
		assert.False(t, hasSealed(m.Data))
		return nil
	})
	require.NoError(t, err)
}
