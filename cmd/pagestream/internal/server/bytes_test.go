package server_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/dev"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/server"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/sse"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// anyBytes are deliveries whose items can't leave as they are, or could not before. Each has one item.
var anyBytes = []struct {
	name, body string
	typ        domain.Type
	// text is in the lines of the event, raw in its data.
	text, raw string
}{
	{
		"a space after a colon", `{"object":"page","entry":[{"id":"7005","time":1790000000050,"messaging":[{"sender": ` +
			`{"id":"8106"},"recipient":{"id":"7005"},"timestamp":1790000000000,"message":{"mid":"m_c3","text":"hello"}}]}]}`,
		domain.MessageReceived, "hello", `"raw":{"sender": {"id":"8106"}`,
	},
	{
		"9,996 levels", `{"object":"page","entry":[{"id":"7006","zz":` + levels(9_996) + `}]}`,
		domain.DeliveryUnrecognized, "", `"raw_text":"{\"id\":\"7006\",\"zz\":[[`,
	},
	{
		"the most levels", `{"entry":[{"id":"7006","zz":` + levels(9_997) + `}]}`,
		domain.DeliveryUnrecognized, "", `"raw_text":"{\"id\":\"7006\",\"zz\":[[`,
	},
	{
		"not UTF-8", `{"object":"page","entry":[{"id":"7007","time":1790000000050,"messaging":[{"sender":{"id":"8107"},` +
			`"recipient":{"id":"7007"},"timestamp":1790000000000,"message":{"mid":"m_c4","text":"caf` + "\xe9" + `"}}]}]}`,
		domain.MessageReceived, "caf\uFFFD", `"raw_base64":"`,
	},
	{
		"line breaks", "{\"object\":\"page\",\"entry\":[{\"id\":\"7005\",\"messaging\":[{\r\n\"sender\":{\"id\":\"8106\"},\n" +
			"\"recipient\":{\"id\":\"7005\"},\"timestamp\":1790000000001,\"message\":{\"mid\":\"m_5\",\"is_unsupported\":true}}]}]}",
		domain.MessageReceived, "(unsupported message)", `"raw":{  "sender":{"id":"8106"}, "recipient"`,
	},
}

func levels(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }

// postAnyBytes sends the deliveries and returns their items as the stream has them.
func postAnyBytes(t *testing.T, r *running) (items []string) {
	t.Helper()
	for i, d := range anyBytes {
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), []byte(d.body)), d.name)
		e, err := streams.Get(t.Context(), r.JS(), streams.Name, uint64(i+1))
		require.NoError(t, err)
		require.Equal(t, d.typ, e.Type)
		items = append(items, string(e.Data.Raw))
	}
	return items
}

// checkAnyBytes checks an event of the API, or a CloudEvent, of delivery i.
func checkAnyBytes(t *testing.T, i int, event []byte, item string) {
	t.Helper()
	require.True(t, utf8.Valid(event))
	require.NotContains(t, string(event), "\n")
	require.NotContains(t, string(event), "\r")
	var e struct {
		Type string
		Data json.RawMessage
	}
	require.NoError(t, json.Unmarshal(event, &e))
	assert.Contains(t, e.Type, string(anyBytes[i].typ), anyBytes[i].name)
	assert.Contains(t, string(e.Data), anyBytes[i].raw)
	data, err := domain.DecodeLine(e.Data)
	require.NoError(t, err)
	assert.Equal(t, item, string(data.Raw), anyBytes[i].name)
	assert.Equal(t, "main", data.App)
}

// getBytes returns the body of an answer of the API, which must be valid UTF-8.
func getBytes(t *testing.T, r *running, path string, query url.Values) []byte {
	t.Helper()
	resp, err := r.send(t.Context(), http.MethodGet, path, query, nil, "application/json")
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.True(t, utf8.Valid(b))
	return b
}

// TestAnyBytesThroughTheAPI checks the list, single events, the feed and the command line.
func TestAnyBytesThroughTheAPI(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	items := postAnyBytes(t, r)
	// A message that is not an event is between them and a last event.
	r = r.inject(t, &nats.Msg{Subject: "pagestream.7005.message.received", Data: []byte("secret")})
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message("7005", "8106", "m_7", "the last", 1790000000002)))
	const malformed, last = 6, 7

	for _, query := range []url.Values{nil, {"raw": {"base64"}}} {
		var list api.List[json.RawMessage]
		require.NoError(t, json.Unmarshal(getBytes(t, r, "/api/v1/events", query), &list))
		require.Len(t, list.Items, len(items)+1)
		for i, item := range items {
			one := bytes.TrimSuffix(getBytes(t, r, fmt.Sprint("/api/v1/events/", i+1), query), []byte("\n"))
			assert.Equal(t, string(list.Items[i]), string(one))
			if query == nil {
				checkAnyBytes(t, i, one, item)
				continue
			}
			var e struct{ Data map[string]json.RawMessage }
			require.NoError(t, json.Unmarshal(one, &e))
			var raw []byte
			require.NoError(t, json.Unmarshal(e.Data["raw_base64"], &raw))
			assert.Equal(t, item, string(raw))
			assert.Nil(t, e.Data["raw"])
			assert.Nil(t, e.Data["raw_text"])
		}
	}
	var p api.Problem
	err := r.do(t.Context(), http.MethodGet, fmt.Sprint("/api/v1/events/", malformed), nil, nil, nil)
	require.ErrorAs(t, err, &p)
	assert.Equal(t, http.StatusUnprocessableEntity, p.Status)
	assert.NotContains(t, p.Detail, "secret")
	err = r.do(t.Context(), http.MethodGet, "/api/v1/events/1", url.Values{"raw": {"hex"}}, nil, nil)
	require.ErrorAs(t, err, &p)
	assert.Equal(t, http.StatusBadRequest, p.Status)

	resp, err := r.send(t.Context(), http.MethodGet, "/api/v1/events", url.Values{"after": {"0"}}, nil, sse.ContentType)
	require.NoError(t, err)
	defer resp.Body.Close()
	var fed []string
	done := errors.New("done")
	require.ErrorIs(t, sse.Read(resp.Body, func(e sse.Event) error {
		if e.ID == fmt.Sprint(last) {
			return done
		}
		checkAnyBytes(t, len(fed), e.Data, items[len(fed)])
		fed = append(fed, e.ID)
		return nil
	}), done)
	assert.Equal(t, []string{"1", "2", "3", "4", "5"}, fed)

	for _, args := range [][]string{{"list", "--after", "0"}, {"tail", "--after", "0", "--count", fmt.Sprint(len(items) + 1)}} {
		code, out, stderr := r.command(t, append([]string{"events"}, args...)...)
		require.Equal(t, cli.ExitOK, code, stderr)
		assert.Equal(t, args[0] == "tail", stderr == "waiting for events after sequence 0; Ctrl-C ends it\n")
		assert.Equal(t, args[0] == "list", stderr == "")
		lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		require.Len(t, lines, len(items)+1)
		for i, d := range anyBytes {
			assert.Contains(t, lines[i], string(d.typ))
			assert.True(t, strings.HasSuffix(lines[i], d.text), lines[i])
		}
		code, out, stderr = r.command(t, append([]string{"--ndjson", "events"}, args...)...)
		require.Equal(t, cli.ExitOK, code, stderr)
		lines = strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		require.Len(t, lines, len(items)+1)
		for i, item := range items {
			checkAnyBytes(t, i, []byte(lines[i]), item)
		}
	}
	for i := range items {
		code, out, stderr := r.command(t, "events", "show", fmt.Sprint(i+1))
		require.Equal(t, cli.ExitOK, code, stderr)
		assert.True(t, utf8.ValidString(out))
		assert.Contains(t, out, `"type": "`+string(anyBytes[i].typ)+`"`)
	}
	code, out, stderr := r.command(t, "conversations", "show", "7005", "8106")
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, out, "(unsupported message)")
	assert.NotContains(t, r.log.String(), "caf")
}

// TestAnyBytesInTheConsole checks that the list of events and each event are shown.
func TestAnyBytesInTheConsole(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	items := postAnyBytes(t, r)
	r = r.inject(t, &nats.Msg{Subject: "pagestream.odd"})
	token, err := os.ReadFile(r.cfg.HTTP.TokenFile)
	require.NoError(t, err)
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	browser := &http.Client{Jar: jar}
	resp, err := browser.PostForm(r.base()+"/sign-in", url.Values{"token": {strings.TrimSpace(string(token))}})
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	show := func(path string) (int, string) {
		resp, err := browser.Get(r.base() + path)
		require.NoError(t, err)
		return resp.StatusCode, read(t, resp)
	}
	for path, status := range map[string]int{
		"/events": 200, "/events/1": 200, "/events/2": 200, "/events/3": 200, "/events/4": 200, "/events/5": 200,
		"/events/6": 422, "/sources?event=1&event=6&event=2": 200,
	} {
		code, page := show(path)
		assert.Equal(t, status, code, path)
		assert.True(t, utf8.ValidString(page), path)
		assert.Less(t, len(page), 200_000, path)
	}
	_, page := show("/events/2")
	assert.Contains(t, page, strings.Repeat("[", 9_996))
	assert.Len(t, items, 5)
}

// TestAnyBytesThroughHooks checks the bodies of webhooks.
func TestAnyBytesThroughHooks(t *testing.T) {
	t.Parallel()
	secret := hooks.NewSecret()
	var mu sync.Mutex
	got := map[string][]byte{} // by sequence
	endpoint := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		var e struct{ Sequence string }
		_ = json.Unmarshal(body, &e)
		mu.Lock()
		defer mu.Unlock()
		got[e.Sequence] = body
	}))
	defer endpoint.Close()
	cfg := testConfig(t.TempDir())
	cfg.Hooks.File = filepath.Join(t.TempDir(), "hooks.yaml")
	file := fmt.Sprintf("- name: crm\n  url: %s/in\n  secrets: [%s]\n  all: true\n  from: 1\n", endpoint.URL, secret)
	require.NoError(t, os.WriteFile(cfg.Hooks.File, []byte(file), 0o600))
	r := start(t, cfg)
	items := postAnyBytes(t, r)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		mu.Lock()
		defer mu.Unlock()
		if len(got) < len(items) {
			return fmt.Errorf("%d delivered", len(got))
		}
		return nil
	})
	mu.Lock()
	defer mu.Unlock()
	for i, item := range items {
		checkAnyBytes(t, i, got[fmt.Sprint(i+1)], item)
	}
}

// TestAnyBytesThroughExportAndImport checks that another installation has the same bytes and times.
func TestAnyBytesThroughExportAndImport(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	items := postAnyBytes(t, r)
	path := filepath.Join(t.TempDir(), "events.ndjson")
	code, _, stderr := r.command(t, "events", "export", path)
	require.Equal(t, cli.ExitOK, code, stderr)
	written, err := os.ReadFile(path)
	require.NoError(t, err)
	lines := bytes.Split(bytes.TrimSuffix(written, []byte("\n")), []byte("\n"))
	require.Len(t, lines, len(items))
	for i, item := range items {
		checkAnyBytes(t, i, lines[i], item)
	}

	dir := t.TempDir()
	cfg := testConfig(dir)
	file, err := dev.WriteConfig(dir, cfg)
	require.NoError(t, err)
	code, _, stderr = run(t, t.Context(), "-c", file, "events", "import", path)
	require.Equal(t, cli.ExitOK, code, stderr)
	other := start(t, cfg)
	for i := range items {
		have, err := streams.Get(t.Context(), r.JS(), streams.Name, uint64(i+1))
		require.NoError(t, err)
		imported, err := streams.Get(t.Context(), other.JS(), streams.Name, uint64(i+1))
		require.NoError(t, err)
		have.Unique = false // an import looks no ids up
		assert.Equal(t, have, imported, anyBytes[i].name)
	}
	code, out, stderr := other.command(t, "events", "export")
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Equal(t, string(written), out)
}

// TestEventsHaveNames checks that events show the names of their page and contact.
func TestEventsHaveNames(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	body := message("7005", "8106", "m_1", "hello ESC[31m", 1790000000000)
	body = bytes.Replace(body, []byte("ESC"), []byte(`\u001b`), 1)
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
	_, err := r.Publisher().Publish(t.Context(), []domain.Event{
		{ID: "c", Type: domain.PageConnected, Page: "7005", Data: domain.Data{
			Connection: &domain.Connection{ConnectionID: "1", Name: "Cats & Co", App: "main"},
		}},
		{ID: "p", Type: domain.ContactProfiled, Page: "7005", Contact: "8106", Data: domain.Data{
			Profile: &domain.Profile{Name: "Ann <Lee>"},
		}},
	})
	require.NoError(t, err)
	require.Equal(t, "Ann <Lee>", get[conversations.Conversation](t, r, "/api/v1/conversations/7005/8106").Name)
	get[json.RawMessage](t, r, "/api/v1/pages/7005")
	type event struct {
		PageName    string `json:"page_name"`
		ContactName string `json:"contact_name"`
	}
	want := event{"Cats & Co", "Ann <Lee>"}
	assert.Equal(t, want, get[api.List[event]](t, r, "/api/v1/events").Items[0])
	assert.Equal(t, want, get[event](t, r, "/api/v1/events/1"))
	assert.Equal(t, event{PageName: "Cats & Co"}, get[event](t, r, "/api/v1/events/2"), "an event of the page")
	for _, args := range [][]string{
		{"list", "--after", "0", "--limit", "1"}, {"tail", "--after", "0", "--count", "1"}, {"explain", "7005", "8106", "--mid", "m_1"},
	} {
		code, out, stderr := r.command(t, append([]string{"events"}, args...)...)
		require.Equal(t, cli.ExitOK, code, stderr)
		assert.Regexp(t, `^ +1  2\d{3}-\d\d-\d\d \d\d:\d\d:\d\d  Cats & Co +Ann <Lee> +message.received +hello \[31m\n$`, out)
	}
	_, out, _ := r.command(t, "--json", "events", "explain", "7005", "8106", "--mid", "m_1")
	assert.Contains(t, out, `"page_name": "Cats & Co"`)
	assert.NotContains(t, out, "hello")
}

// TestCases sends the inputs of the folder of cases, and checks that all that is stored can be read
// everywhere.
func TestCases(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join("..", "..", "..", "..", "..", "shared", "cases", "*.json"))
	require.NoError(t, err)
	if len(files) == 0 {
		t.Skip("the cases are not next to the project")
	}
	r := start(t, testConfig(t.TempDir()))
	for _, file := range files {
		body, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body), file)
	}
	n := status(t, r).Stream.Events
	var list api.List[json.RawMessage]
	require.NoError(t, json.Unmarshal(getBytes(t, r, "/api/v1/events", url.Values{"limit": {"1000"}}), &list))
	assert.Len(t, list.Items, int(n))
	for _, args := range [][]string{{"list"}, {"tail", "--after", "0", "--count", fmt.Sprint(n)}, {"export"}} {
		code, out, stderr := r.command(t, append([]string{"--ndjson", "events"}, args...)...)
		require.Equal(t, cli.ExitOK, code, stderr)
		assert.Equal(t, int(n), strings.Count(out, "\n"))
		assert.True(t, utf8.ValidString(out))
		assert.NotContains(t, out, "pagestream.raw")
	}
}

// TestImportIsNoRequestToNATS checks that a line of a file can't delete or create a stream, and that
// a bad file leaves the installation without one: the right file is imported afterwards.
func TestImportIsNoRequestToNATS(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	const good = `{"specversion":"1.0","id":"e1","type":"pagestream.message.received.v1","source":"/pages/700",` +
		`"sequence":"1","storedat":"2026-11-23T10:00:00Z","data":{}}` + "\n"
	path := filepath.Join(t.TempDir(), "events.ndjson")
	for _, line := range []string{
		`{"type":"pagestream.raw","sequence":"2","data":{"subject":"$JS.API.STREAM.DELETE.PAGESTREAM"}}`,
		`{"type":"pagestream.raw","sequence":"2","data":{"subject":"$JS.API.STREAM.CREATE.X","data":"` +
			base64.StdEncoding.EncodeToString([]byte(`{"name":"X","subjects":["x"]}`)) + `"}}`,
		`{"type":"pagestream.raw","sequence":"2","data":{"subject":"pagestream.a","header":{"Nats-Rollup":["all"]}}}`,
	} {
		require.NoError(t, os.WriteFile(path, []byte(good+line+"\n"), 0o600))
		code, _, stderr := offline(t, cfg, "events", "import", path)
		require.Equal(t, cli.ExitFailed, code)
		assert.Contains(t, stderr, "line 2: not a line of an export")
		require.NoError(t, server.Offline(t.Context(), server.Options{Config: cfg}, func(o *operate.Offline) error {
			names := o.JS.StreamNames(t.Context())
			for name := range names.Name() {
				assert.Fail(t, "there is a stream "+name)
			}
			return names.Err()
		}))
	}
	code, _, stderr := offline(t, cfg, "events", "import", os.DevNull)
	assert.Equal(t, cli.ExitUsage, code)
	assert.Contains(t, stderr, "write them to a file first")

	require.NoError(t, os.WriteFile(path, []byte(good+strings.ReplaceAll(good, `"1"`, `"12"`)), 0o600))
	code, _, stderr = offline(t, cfg, "events", "import", "--max-gaps", "9", path)
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "line 2: too many sequences are missing")
	code, stdout, stderr := offline(t, cfg, "events", "import", "--max-gaps", "10", path)
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, stdout, "imported 2 events to sequence 12")
}
