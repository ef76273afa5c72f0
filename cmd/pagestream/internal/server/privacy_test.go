package server_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// callback posts a signed request about a user, as Meta does, and returns the status and the body.
func (r *running) callback(t *testing.T, path, user string) (int, string) {
	t.Helper()
	return r.callbackAt(t, path, user, time.Now())
}

// callbackAt is callback with a request that was issued at that time.
func (r *running) callbackAt(t *testing.T, path, user string, issued time.Time) (int, string) {
	t.Helper()
	payload := fmt.Appendf(nil, `{"algorithm":"HMAC-SHA256","user_id":%q,"issued_at":%d}`, user, issued.Unix())
	body := base64.RawURLEncoding.EncodeToString(payload)
	m := hmac.New(sha256.New, []byte(testSecret))
	m.Write([]byte(body))
	signed := base64.RawURLEncoding.EncodeToString(m.Sum(nil)) + "." + body
	resp, err := http.PostForm("http://"+r.PublicAddr()+path, url.Values{"signed_request": {signed}})
	require.NoError(t, err)
	return resp.StatusCode, read(t, resp)
}

// TestMetaCallbacksDisconnectPages checks that both callbacks disconnect the pages that the user
// connected, and that deliveries for these pages are still stored.
func TestMetaCallbacksDisconnectPages(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/meta/deauthorize", "/meta/data-deletion"} {
		t.Run(path, func(t *testing.T) {
			g, cfg := newFakeMeta(t, 3)
			r := start(t, cfg)
			r.connectAll(t, g)
			code, body := r.callback(t, path, "5555555") // somebody else
			require.Equal(t, http.StatusOK, code, body)
			assert.Equal(t, pages.Connected, get[pages.Page](t, r, "/api/v1/pages/7000").State)
			code, body = r.callback(t, path, testUser)
			require.Equal(t, http.StatusOK, code, body)
			require.NoError(t, r.Model("pages").WaitFor(t.Context(), lastSeq(t, r)))
			for i := range 3 {
				p := get[pages.Page](t, r, fmt.Sprint("/api/v1/pages/", 7000+i))
				assert.Equal(t, pages.Disconnected, p.State)
				_, subscribed := g.SubscribedFields(testAppID, string(p.ID))
				assert.False(t, subscribed)
			}
			last := lastSeq(t, r)
			code, body = r.callback(t, path, testUser) // again
			require.Equal(t, http.StatusOK, code)
			assert.Equal(t, last, lastSeq(t, r))
			delivery := message("7000", "31", "m_1", "still here", 1790000000000)
			require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), delivery))
			assert.Equal(t, 1, r.events(t, "7000")[domain.MessageReceived])
			if path == "/meta/deauthorize" {
				return
			}
			var out struct{ URL string }
			require.NoError(t, json.Unmarshal([]byte(body), &out))
			r.stop(t)
			r = start(t, cfg)
			link, err := url.Parse(out.URL)
			require.NoError(t, err)
			resp, err := http.Get("http://" + r.PublicAddr() + link.RequestURI())
			require.NoError(t, err)
			assert.Equal(t, http.StatusOK, resp.StatusCode, "the status page is known after a restart")
			assert.Contains(t, read(t, resp), "was carried out on")
		})
	}
}

// TestDataDeletionErasesTheAdmin checks that after the callback no file of the stream and no read model has the
// admin's id or a sealed token, that the status page says what was done, that a rebuild has the same digests, and that
// the request does not end a connection that was made after it.
func TestDataDeletionErasesTheAdmin(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 3)
	r := start(t, cfg)
	r.connectAll(t, g)
	nats, admin := filepath.Join(cfg.Data.Dir, "nats"), `"admin":"`+testUser+`"`
	require.NotEmpty(t, filesWith(t, nats, admin), "the id is stored")
	require.NotEmpty(t, filesWith(t, nats, `"token":"v1.`), "the tokens are stored")
	issued := time.Now()
	code, body := r.callbackAt(t, "/meta/data-deletion", testUser, issued)
	require.Equal(t, http.StatusOK, code, body)
	assert.Empty(t, filesWith(t, nats, admin))
	assert.Empty(t, filesWith(t, nats, `"token":"v1.`))
	for i := range 3 {
		p := get[pages.Page](t, r, fmt.Sprint("/api/v1/pages/", 7000+i))
		assert.Equal(t, pages.Disconnected, p.State)
		assert.Equal(t, domain.ErasedAdmin, p.Admin)
	}
	assert.Equal(t, 3, r.events(t, "")[domain.PageAdminErased])

	var out struct{ URL string }
	require.NoError(t, json.Unmarshal([]byte(body), &out))
	link, err := url.Parse(out.URL)
	require.NoError(t, err)
	resp, err := http.Get("http://" + r.PublicAddr() + link.RequestURI())
	require.NoError(t, err)
	page := read(t, resp)
	assert.Contains(t, page, "had connected: 3.")
	assert.Contains(t, page, "with your id: 3.")
	assert.Contains(t, page, "had given: 3.")

	code, verified, stderr := r.command(t, "projections", "verify")
	assert.Equal(t, cli.ExitOK, code, verified+stderr)

	// The person comes back. The same request, sent again, does not end that connection.
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if time.Since(issued.Truncate(time.Second)) < time.Second {
			return errors.New("the second of issued_at is not over")
		}
		return nil
	})
	r.connectAll(t, g)
	last := lastSeq(t, r)
	code, again := r.callbackAt(t, "/meta/data-deletion", testUser, issued)
	require.Equal(t, http.StatusOK, code)
	assert.Equal(t, body, again)
	assert.Equal(t, last, lastSeq(t, r))
	assert.Equal(t, pages.Connected, get[pages.Page](t, r, "/api/v1/pages/7000").State)
	for _, at := range []time.Time{issued.Add(-30 * 24 * time.Hour), issued.Add(time.Hour)} {
		code, body = r.callbackAt(t, "/meta/deauthorize", testUser, at)
		assert.Equal(t, http.StatusBadRequest, code)
		assert.Contains(t, body, "issued")
	}
}

// TestEraseFromTheCommandLine checks that a contact is removed from the stream and the read models,
// that other contacts are kept, and that a redelivery is not stored again.
func TestEraseFromTheCommandLine(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	for i := range 6 {
		body := message("104", fmt.Sprint("310", i%2), fmt.Sprint("m_", i), "a private word", 1790000000000+int64(i))
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
	}
	code, _, stderr := r.command(t, "erase", "104", "3100")
	assert.Equal(t, cli.ExitUsage, code)
	assert.Contains(t, stderr, "--yes")
	code, out, stderr := r.command(t, "erase", "104", "3100", "--yes")
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, out, "3 events are removed from the stream")
	code, out, _ = r.command(t, "erase", "104", "3100", "--yes")
	assert.Equal(t, cli.ExitOK, code)
	assert.Contains(t, out, "nothing")
	st := status(t, r)
	require.NoError(t, r.Model("conversations").WaitFor(t.Context(), st.Stream.LastSeq))
	_, out, _ = r.command(t, "conversations", "show", "104", "3100")
	assert.Contains(t, out, "has no messages")
	code, out, _ = r.command(t, "conversations", "show", "104", "3101")
	assert.Equal(t, cli.ExitOK, code)
	assert.Contains(t, out, "a private word")
	redelivery := message("104", "3100", "m_0", "a private word", 1790000000000)
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), redelivery))
	assert.Equal(t, 3, r.events(t, "104")[domain.MessageReceived], "the redelivery is a duplicate")
}

// filesWith returns the files under dir that have one of the texts.
func filesWith(t *testing.T, dir string, texts ...string) []string {
	t.Helper()
	return streamstest.FilesWith(t, streamstest.Has(texts...), dir)
}

// TestErasedBytesAreInNoFile checks that after an erasure no file under the data directory has the
// person's id, name or words: stream, read models and their previous generation, dead letters of
// webhooks, copies for consumers.
func TestErasedBytesAreInNoFile(t *testing.T) {
	t.Parallel()
	const person, name, words = "88123456789012345", "Ada Nightingale", "meet me at the lighthouse"
	var accepting atomic.Bool
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !accepting.Load() {
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	defer endpoint.Close()
	cfg := testConfig(t.TempDir())
	cfg.Hooks.File = filepath.Join(t.TempDir(), "hooks.yaml")
	cfg.Hooks.GiveUpAfter = time.Nanosecond
	file := fmt.Sprintf("- name: shop\n  url: %s/in\n  secrets: [%s]\n  all: true\n  types: [message.received, change.received]\n  from: 1\n", endpoint.URL, hooks.NewSecret())
	require.NoError(t, os.WriteFile(cfg.Hooks.File, []byte(file), 0o600))
	r := start(t, cfg)
	send := func(body string) {
		t.Helper()
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), []byte(body)))
	}
	for i := range 200 {
		for _, who := range []string{person, "3101"} {
			text := "good morning"
			if who == person {
				text = words
			}
			send(string(message("104", who, fmt.Sprint("m_", who, i), text, 1790000000000+int64(i))))
		}
	}
	feed := func(value string) string {
		return `{"object":"page","entry":[{"id":"104","time":1790000000,"changes":[{"field":"feed","value":` + value + `}]}]}`
	}
	from := `"from":{"id":"` + person + `","name":"` + name + `"}`
	send(feed(`{"item":"comment","verb":"add","comment_id":"104_1","post_id":"104_9","message":"` + words + `",` + from + `}`))
	send(feed(`{"item":"reaction","verb":"add","reaction_type":"like","post_id":"104_9",` + from + `}`))
	send(`{"object":"page","entry":[{"id":"104","time":1790000000,"messaging":[{"new_kind":{"who":"` + person + `"}}]}]}`)
	send(`{"object":"page","entry":[{"sender":{"id":"` + person + `"},"message":{"text":"` + words + `"`)
	_, err := r.Publisher().Publish(t.Context(), []domain.Event{{
		ID: "profile", Type: domain.ContactProfiled, Page: "104", Contact: person, Time: time.Now(),
		Data: domain.Data{Profile: &domain.Profile{Name: name}},
	}})
	require.NoError(t, err)
	for _, m := range []string{"conversations", "comments"} {
		require.NoError(t, r.Model(m).WaitFor(t.Context(), lastSeq(t, r)))
		code, _, stderr := r.command(t, "projections", "rebuild", m)
		require.Equal(t, cli.ExitOK, code, stderr)
	}
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if s := r.Hooks().Status()[0]; s.DeadLetters < 3 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	coded := base64.StdEncoding.EncodeToString([]byte(`{"object":"page","entry":[{"sender":{"id":"` + person))
	all := []string{person, name, words, coded[:len(coded)-4]}
	require.NotEmpty(t, filesWith(t, cfg.Data.Dir, all...))
	before, moment := fmt.Sprint(lastSeq(t, r)), time.Now().UTC().Format(time.RFC3339Nano)
	past := func(of ...string) (out string) {
		t.Helper()
		for _, at := range [][]string{{"--at-seq", before}, {"--at-time", moment}} {
			_, stdout, stderr := r.command(t, append(append([]string{}, of...), at...)...)
			out += stdout + stderr
		}
		return out
	}
	thread, comments := []string{"conversations", "show", "104", person}, []string{"comments", "list", "104"}
	require.Contains(t, past(thread...), words)
	require.Contains(t, past(comments...), words)
	code, out, stderr := r.command(t, "erase", "104", person, "--yes")
	require.Equal(t, cli.ExitOK, code, stderr)
	for _, want := range []string{"message: 200", "comment: 1", "reaction: 1", "profile: 1", "delivery: 2", "dead letters: ", "shop"} {
		assert.Contains(t, out, want)
	}
	assert.Empty(t, filesWith(t, cfg.Data.Dir, all...))
	assert.NotEmpty(t, filesWith(t, cfg.Data.Dir, "good morning"), "others are kept")
	for _, of := range [][]string{thread, comments} {
		assert.NotContains(t, past(of...), words, "%s: the past has it no longer", of)
	}

	erasures := func() []operate.Erasure {
		t.Helper()
		var out api.List[operate.Erasure]
		query := url.Values{"page": {"104"}}
		require.NoError(t, r.client.Do(t.Context(), http.MethodGet, "/api/v1/erasures", query, nil, &out))
		return out.Items
	}
	list := erasures()
	require.Len(t, list, 1)
	assert.Equal(t, domain.ContactHash(person), list[0].Contact)
	assert.Equal(t, []string{"shop"}, list[0].Waiting)
	accepting.Store(true)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if list := erasures(); len(list[0].Acknowledged) != 1 || len(list[0].Waiting) > 0 {
			return fmt.Errorf("%+v", list)
		}
		return nil
	})
	code, out, stderr = r.command(t, "erasures", "list")
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, out, domain.ContactHash(person))

	digests := r.digests(t)
	for _, m := range r.Models() {
		_, err := m.Rebuild(t.Context(), nil)
		require.NoError(t, err)
	}
	assert.Equal(t, digests, r.digests(t))
	r.stop(t)
	assert.Empty(t, filesWith(t, cfg.Data.Dir, all...))
}

// TestErasureReachesWhatIsNotInUse checks that an erasure leaves nothing in read models that are in another directory
// now, and that it removes what was kept of damaged blocks also if the stream knows nothing of the contact.
func TestErasureReachesWhatIsNotInUse(t *testing.T) {
	t.Parallel()
	const person, lost, words = "88123456789012345", "99123456789012345", "meet me at the lighthouse"
	cfg := testConfig(t.TempDir())
	r := start(t, cfg)
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message("104", person, "m_1", words, 1790000000000)))
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message("104", "3101", "m_2", "good morning", 1790000000000)))
	require.NoError(t, r.Model("conversations").WaitFor(t.Context(), lastSeq(t, r)))
	r.stop(t)
	cfg.Projections.Dir = filepath.Join(t.TempDir(), "elsewhere")
	r = start(t, cfg)
	code, _, stderr := r.command(t, "erase", "104", person, "--yes")
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Empty(t, filesWith(t, cfg.Data.Dir, words, person))
	assert.NotEmpty(t, filesWith(t, cfg.Data.Dir, "good morning"), "others are kept")
	r.stop(t)

	r = start(t, cfg)
	damaged := filepath.Join(cfg.Data.Dir, "nats", "jetstream", "$G", "streams", "PAGESTREAM", "damaged")
	require.NoError(t, os.MkdirAll(damaged, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(damaged, "1.blk"), []byte(lost+" "+words), 0o600))
	code, _, stderr = r.command(t, "erase", "104", lost, "--yes")
	require.Equal(t, cli.ExitFailed, code)
	require.Contains(t, stderr, "has no contact")
	assert.Empty(t, filesWith(t, cfg.Data.Dir, words, lost))
}

// TestExportPerson checks that an export of a person has what an erasure would remove and nothing of
// others, that the page for reading is escaped, and that only the owner can read the files.
func TestExportPerson(t *testing.T) {
	t.Parallel()
	const person = "88123456789012345"
	r := start(t, testConfig(t.TempDir()))
	for i, text := range []string{"hello <script>", "my order"} {
		body := message("104", person, fmt.Sprint("m_", i), text, 1790000000000+int64(i))
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
	}
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message("104", "3101", "m_x", "of another", 1790000000000)))
	unreadable := `{"object":"page","entry":[{"sender":{"id":"` + person + `"},"message":{"text":"cut off"`
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), []byte(unreadable)))
	comment := `{"object":"page","entry":[{"id":"104","time":1790000000,"changes":[{"field":"feed","value":{"item":"comment",` +
		`"verb":"add","comment_id":"104_1","post_id":"104_9","message":"a comment","from":{"id":"` + person + `"}}}]}]}`
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), []byte(comment)))

	dir := filepath.Join(t.TempDir(), "export")
	code, out, stderr := r.command(t, "person", "export", "104", person, dir)
	require.Equal(t, cli.ExitOK, code, stderr)
	for _, want := range []string{"message: 2", "comment: 1", "delivery: 1"} {
		assert.Contains(t, out, want)
	}
	assert.NotContains(t, out, "my order")
	files := map[string]string{}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		info, err := e.Info()
		require.NoError(t, err)
		assert.Equal(t, fs.FileMode(0o600), info.Mode().Perm(), e.Name())
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		files[e.Name()] = string(b)
		assert.NotContains(t, files[e.Name()], "of another")
	}
	info, err := os.Stat(dir)
	require.NoError(t, err)
	assert.Equal(t, fs.FileMode(0o700), info.Mode().Perm())
	assert.Equal(t, 4, strings.Count(files["events.jsonl"], "\n"))
	var report struct {
		Contact            string
		Messages, Comments []struct{ Text string }
		Conversation       struct{ Contact string }
	}
	require.NoError(t, json.Unmarshal([]byte(files["person.json"]), &report))
	assert.Equal(t, person, report.Conversation.Contact)
	assert.Len(t, report.Messages, 2)
	require.Len(t, report.Comments, 1)
	assert.Equal(t, "a comment", report.Comments[0].Text)
	for _, want := range []string{"hello &lt;script&gt;", "a comment", "cut off", "my order"} {
		assert.Contains(t, files["index.html"], want)
	}
	assert.NotContains(t, files["index.html"], "hello <script>")

	code, _, stderr = r.command(t, "person", "export", "104", person, dir)
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "not empty")
	other := filepath.Join(t.TempDir(), "other")
	code, _, stderr = r.command(t, "person", "export", "104", "999999", other)
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "nothing is held")
	assert.NoDirExists(t, other)
}
