package server_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/tokens"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// world is a server with two apps and three companies: acme and beta are connected through
// the app main, gamma through the app other.
type world struct {
	*running
	t     *testing.T
	graph *fakegraph.Graph
	user  map[string]string // user tokens by app
	token map[string]string // by company
	n     int
}

// otherAppID is the id at Meta of the app other.
const otherAppID = "905"

func newWorld(t *testing.T) *world {
	t.Helper()
	g, cfg := newFakeMeta(t, 4, func(o *fakegraph.Options) {
		o.Apps = append(o.Apps, fakegraph.App{ID: otherAppID, Secret: otherSecret, Name: "other"})
		o.Pages[0].Instagram = account
	})
	other := cfg.Apps[0]
	other.Name, other.ID, other.Secrets = "other", otherAppID, []config.Secret{otherSecret}
	cfg.Apps = append(cfg.Apps, other)
	w := &world{running: start(t, cfg), t: t, graph: g, user: map[string]string{}, token: map[string]string{}}
	for app, id := range map[string]string{"main": testAppID, "other": otherAppID} {
		var err error
		w.user[app], err = g.UserToken(id, testUser, false)
		require.NoError(t, err)
	}
	return w
}

// ok runs a command that succeeds, and returns its output.
func (w *world) ok(args ...string) string {
	w.t.Helper()
	code, out, stderr := w.command(w.t, args...)
	require.Equal(w.t, cli.ExitOK, code, "%v: %s%s", args, out, stderr)
	return out
}

// connect connects a page for a company, which may move it.
func (w *world) connect(page, company string) {
	w.t.Helper()
	app := "main"
	if company == "gamma" {
		app = "other"
	}
	w.ok("pages", "connect", "--user-token", w.user[app], "--app", app, "--company", company, "--move", page)
}

// write delivers to a page, in the time of a company, a message of the contact, a post and a
// comment. Each has the company's name in its ids and texts.
func (w *world) write(page, contact, company string) {
	w.t.Helper()
	w.n++
	mark, at := fmt.Sprint(company, "-", w.n), 1790000000000+int64(w.n)*1000
	body := message(page, contact, "mid-"+mark, "text-"+mark, at)
	public := feed(page, at/1000,
		fmt.Sprintf(`"item":"status","verb":"add","post_id":"post-%s","from":{"id":%q,"name":"page-%s"},`+
			`"message":"post-%s","created_time":%d`, mark, page, mark, mark, at/1000),
		fmt.Sprintf(`"item":"comment","verb":"add","comment_id":"comment-%s","post_id":"post-%s","parent_id":"post-%s",`+
			`"from":{"id":%q,"name":"name-%s"},"message":"comment-%s","created_time":%d`,
			mark, mark, mark, contact, mark, mark, at/1000))
	if page == account {
		body = []byte(strings.Replace(string(body), `"object":"page"`, `"object":"instagram"`, 1))
		public = nil
	}
	app, secret := "main", testSecret
	if page == "7002" {
		app, secret = "other", otherSecret
	}
	w.postAs(w.t, app, secret, body)
	if public != nil {
		w.postAs(w.t, app, secret, public)
	}
}

// as sends a request with a token and returns the status and the body.
func (w *world) as(token, method, path, body string) (int, string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.base()+path, strings.NewReader(body))
	require.NoError(w.t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(w.t, err)
	return resp.StatusCode, read(w.t, resp)
}

// addTokens makes a token of each company.
func (w *world) addTokens() {
	w.t.Helper()
	for _, company := range []string{"acme", "beta", "gamma"} {
		args := []string{"tokens", "add", company, "--scope", "company", "--company", company, "--expires", "90d"}
		if company == "beta" {
			args = append(args, "--send")
		}
		w.token[company] = strings.TrimSpace(w.ok(args...))
	}
}

// history writes the history of the four pages: a page that stays, one that moves with an
// active contact, one that moves and comes back, and one that is disconnected meanwhile.
func (w *world) history() {
	w.t.Helper()
	w.connect("7000", "acme")
	w.connect("7001", "beta")
	w.connect("7002", "gamma")
	w.connect("7003", "acme")
	for page, company := range map[string]string{
		"7000": "acme", account: "acme", "7001": "beta", "7002": "gamma", "7003": "acme",
	} {
		w.write(page, "31", company)
		w.write(page, "32", company)
	}
	w.write("7003", "77", "acme")
	w.profile("7000", "31", "acme")
	w.profile("7003", "31", "acme")
	w.profile("7003", "32", "acme")
	w.connect("7003", "beta") // moves
	w.write("7003", "31", "beta")
	w.profile("7003", "32", "beta")
	w.write("7003", "33", "beta")
	w.connect("7001", "acme") // moves, and comes back
	w.write("7001", "31", "acme")
	w.connect("7001", "beta")
	w.write("7001", "31", "beta")
	w.ok("pages", "disconnect", "7002")
	w.write("7002", "31", "nobody")
	w.connect("7002", "gamma")
	w.write("7002", "31", "gamma")
}

// profile stores the profile of a contact, as it is read from Graph in the time of a company.
func (w *world) profile(page, contact, company string) {
	w.t.Helper()
	w.n++
	name := fmt.Sprint("name-", company, "-", w.n)
	_, err := w.Publisher().Publish(w.t.Context(), []domain.Event{{
		ID: name, Type: domain.ContactProfiled, Page: domain.PageID(page), Contact: domain.ContactID(contact),
		Time: time.Now().UTC(), Data: domain.Data{Profile: &domain.Profile{Name: name}},
	}})
	require.NoError(w.t, err)
}

// marks matches the company in an id or text of [world.write].
var marks = regexp.MustCompile(`(?:mid|text|post|comment|name|page)-(acme|beta|gamma|nobody)-\d+`)

// has returns the pages that each company has at the end of [world.history].
var has = map[string][]string{"acme": {account, "7000"}, "beta": {"7001", "7003"}, "gamma": {"7002"}}

// TestCompanyTokenSeesItsPagesOnly attacks every route that a company's token may call, with
// every page, contact, comment, post and event of three companies.
func TestCompanyTokenSeesItsPagesOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.history()
	w.addTokens()
	last := lastSeq(t, w.running)
	get[api.List[pages.Page]](t, w.running, "/api/v1/pages")
	var everything []string // ids of comments and posts
	for _, page := range []string{"7000", "7001", "7002", "7003"} {
		for _, kind := range []string{"comments", "posts"} {
			for _, one := range get[api.List[struct{ ID string }]](t, w.running, "/api/v1/"+kind+"/"+page).Items {
				everything = append(everything, kind+" "+one.ID)
			}
		}
	}
	require.Greater(t, len(everything), 20)

	for company, token := range w.token {
		seen := map[string]bool{}
		// visit reads a path and checks that nothing of others is in it.
		visit := func(path string, want ...int) string {
			t.Helper()
			sep := "?"
			if strings.Contains(path, "?") {
				sep = "&"
			}
			status, body := w.as(token, http.MethodGet, fmt.Sprintf("%s%smin_seq=%d", path, sep, last), "")
			require.Contains(t, want, status, "%s by %s: %s", path, company, body)
			for _, m := range marks.FindAllStringSubmatch(body, -1) {
				if status == http.StatusOK {
					assert.Equal(t, company, m[1], "%s by %s has %s", path, company, m[0])
					seen[m[0]] = true
				}
			}
			return body
		}
		for _, path := range []string{"/api/v1/schemas", "/api/v1/schemas/message.received"} {
			status, _ := w.as(token, http.MethodGet, path, "")
			assert.Equal(t, http.StatusOK, status)
		}
		events := visit("/api/v1/events?limit=1000", 200)
		assert.Equal(t, events, visit("/api/v1/events?limit=1000&company="+company, 200))
		assert.NotContains(t, events, "page.connected")
		assert.NotContains(t, events, "subscription.")
		for other := range w.token {
			if other != company {
				visit("/api/v1/events?company="+other, 404)
				visit("/api/v1/pages?company="+other, 404)
			}
		}
		visit("/api/v1/events?company=nobody", 404)

		var list api.List[struct {
			ID      string
			Traffic *struct{}
		}]
		require.NoError(t, json.Unmarshal([]byte(visit("/api/v1/pages", 200)), &list))
		var ids []string
		for _, p := range list.Items {
			ids = append(ids, p.ID)
			assert.Nil(t, p.Traffic)
		}
		assert.Equal(t, has[company], ids)
		for _, page := range []string{"7000", account, "7001", "7002", "7003", "7999", "_"} {
			want := []int{404}
			if slices.Contains(has[company], page) {
				want = []int{200}
			}
			visit("/api/v1/pages/"+page, want...)
			visit("/api/v1/pages/"+page+"/subscription", append(want, 404)...)
			visit("/api/v1/pages/"+page+"/conversations", want...)
			visit("/api/v1/pages/"+page+"/conversations?limit=1", want...)
			visit("/api/v1/comments/"+page, want...)
			visit("/api/v1/comments/"+page+"?order=newest&contact=31&limit=1", want...)
			visit("/api/v1/posts/"+page, want...)
			visit("/api/v1/events?limit=1000&page="+page, 200, 404)
			for _, contact := range []string{"31", "32", "33", "77", "78"} {
				path := "/api/v1/conversations/" + page + "/" + contact
				visit(path, append(want, 404)...)
				visit(path+"/messages", want...)
				visit(path+"/messages?order=newest&limit=1", want...)
				visit(path+"/events", want...)
				status, _ := w.as(token, http.MethodGet, path+"/messages?at_seq="+fmt.Sprint(last), "")
				assert.Equal(t, http.StatusForbidden, status, "a past state")
				for i := range w.n {
					for _, of := range []string{"acme", "beta", "gamma", "nobody"} {
						mid := fmt.Sprintf("mid-%s-%d", of, i+1)
						if contact == "31" && !strings.Contains(events, mid+`"`) {
							visit(path+"/events?mid="+mid, 404)
						}
					}
				}
			}
			for _, one := range everything {
				kind, id, _ := strings.Cut(one, " ")
				visit("/api/v1/"+kind+"/"+page+"/"+id, append(want, 404)...)
			}
		}
		for seq := uint64(1); seq <= last; seq++ {
			owner, e := w.ownerOf(seq)
			want := 404
			if owner == company && e.Noun() != "page" && e.Noun() != "subscription" {
				want = 200
			}
			visit("/api/v1/events/"+fmt.Sprint(seq), want)
		}
		// Its own is there: the check above is not of empty answers.
		for i := range w.n {
			mark := fmt.Sprintf("text-%s-%d", company, i+1)
			assert.Equal(t, strings.Contains(events, mark+`"`), seen[mark], mark)
		}
		assert.Greater(t, len(seen), 9, company)
	}
}

// ownerOf returns the company and the type of an event.
func (w *world) ownerOf(seq uint64) (string, domain.Type) {
	w.t.Helper()
	e, err := streams.Get(w.t.Context(), w.JS(), streams.Name, seq)
	require.NoError(w.t, err)
	o, err := pages.Owner(w.Model("pages"), e.Page, seq)
	require.NoError(w.t, err)
	return o.Company, e.Type
}

// TestMovedPageShowsItsNewCompanyNothingOfBefore checks what a company gets of a page that
// moved to it with an active contact: what happened since, and no trace of what was before.
func TestMovedPageShowsItsNewCompanyNothingOfBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.history()
	w.addTokens()
	get[api.List[pages.Page]](t, w.running, "/api/v1/pages")
	last := lastSeq(t, w.running)
	decode := func(path string, out any) string {
		t.Helper()
		sep := "?"
		if strings.Contains(path, "?") {
			sep = "&"
		}
		status, body := w.as(w.token["beta"], http.MethodGet, fmt.Sprintf("%s%smin_seq=%d", path, sep, last), "")
		require.Equal(t, http.StatusOK, status, "%s: %s", path, body)
		require.NoError(t, json.Unmarshal([]byte(body), out))
		return body
	}
	type row struct {
		Contact string
		Partial bool
		In      *uint64
		Last    *conversations.Preview
	}
	var list api.List[row]
	decode("/api/v1/pages/7003/conversations", &list)
	require.Len(t, list.Items, 3, "77 wrote to acme only")
	assert.Equal(t, "33", list.Items[0].Contact)
	assert.False(t, list.Items[0].Partial)
	require.NotNil(t, list.Items[0].In)
	assert.EqualValues(t, 1, *list.Items[0].In)
	assert.Equal(t, "32", list.Items[2].Contact, "its profile is of beta's time")
	assert.Nil(t, list.Items[2].Last, "its newest message is acme's")
	assert.Equal(t, "31", list.Items[1].Contact)
	assert.True(t, list.Items[1].Partial, "it began with acme")
	assert.Nil(t, list.Items[1].In, "it would count acme's")
	require.NotNil(t, list.Items[1].Last)
	assert.Contains(t, list.Items[1].Last.Text, "text-beta-")
	var messages api.List[conversations.Message]
	decode("/api/v1/conversations/7003/31/messages", &messages)
	require.Len(t, messages.Items, 1)
	assert.Contains(t, messages.Items[0].Text, "text-beta-")
	var seqs api.List[uint64]
	decode("/api/v1/conversations/7003/31/events", &seqs)
	for _, seq := range seqs.Items {
		owner, _ := w.ownerOf(seq)
		assert.Equal(t, "beta", owner)
	}
	// Page 7001 was acme's in between: only what is since its return is whole.
	decode("/api/v1/conversations/7001/31/messages", &messages)
	require.Len(t, messages.Items, 1)

	body := decode("/api/v1/events?limit=1000&page=7003", &struct{}{})
	assert.Contains(t, body, `"page_name":"Page 03"`)
	assert.NotContains(t, body, `"contact_name"`, "the names of 31 and 32 are acme's too, 33 has none")

	// A message of before that arrives late, and a change of acme's message, show nothing.
	late := message("7003", "31", "mid-beta-late", "text-beta-99", 1790000000500)
	w.postAs(t, "main", testSecret, late)
	w.postAs(t, "main", testSecret, fmt.Appendf(nil, `{"object":"page","entry":[{"id":"7003","time":1790000900000,`+
		`"messaging":[{"sender":{"id":"32"},"recipient":{"id":"7003"},"timestamp":1790000900000,"message_edit":`+
		`{"mid":"mid-acme-none","text":"changed","num_edit":1}}]}]}`))
	last = lastSeq(t, w.running)
	list = api.List[row]{}
	body = decode("/api/v1/conversations/7003/31/messages", &messages)
	assert.Len(t, messages.Items, 2)
	assert.NotContains(t, body, "late_ms")
	decode("/api/v1/pages/7003/conversations", &list)
	require.Len(t, list.Items, 3)
	assert.Equal(t, "32", list.Items[0].Contact, "its edit is of beta's time")
	assert.Nil(t, list.Items[0].Last, "its newest message is acme's")

	// A cursor is that of a row that is shown.
	for _, path := range []string{
		"/api/v1/pages/7003/conversations", "/api/v1/comments/7003", "/api/v1/comments/7003?order=newest",
		"/api/v1/posts/7003", "/api/v1/conversations/7003/31/messages", "/api/v1/pages",
	} {
		n := 0
		for cursor := ""; ; n++ {
			sep := "?"
			if strings.Contains(path, "?") {
				sep = "&"
			}
			query := sep + "limit=1"
			if cursor != "" {
				query += "&cursor=" + url.QueryEscape(cursor)
			}
			var one api.List[json.RawMessage]
			decode(path+query, &one)
			require.LessOrEqual(t, len(one.Items), 1)
			at, err := base64.RawURLEncoding.DecodeString(one.Next)
			require.NoError(t, err)
			for _, hidden := range []string{"acme", "77", "7000", "7002"} {
				assert.NotContains(t, string(at), hidden, path)
			}
			if cursor = one.Next; cursor == "" {
				break
			}
			require.Len(t, one.Items, 1, path)
			require.Less(t, n, 20, path)
		}
		assert.Positive(t, n, path)
	}

	// The former company has its events, and nothing of the page.
	status, body := w.as(w.token["acme"], http.MethodGet, "/api/v1/events?page=7000&limit=1000", "")
	assert.Equal(t, http.StatusOK, status)
	assert.Contains(t, body, `"contact_name":"name-acme-`)
	status, body = w.as(w.token["acme"], http.MethodGet, "/api/v1/events?page=7003&limit=1000", "")
	assert.Equal(t, http.StatusOK, status)
	assert.Contains(t, body, "text-acme-")
	assert.NotContains(t, body, "text-beta-")
	assert.NotContains(t, body, `"page_name"`)
	assert.NotContains(t, body, `"contact_name"`)
	status, _ = w.as(w.token["acme"], http.MethodGet, "/api/v1/pages/7003", "")
	assert.Equal(t, http.StatusNotFound, status)
	// What is left of erased events: each company gets its own.
	w.ok("erase", "7003", "31", "--yes")
	last = lastSeq(t, w.running)
	var erased api.List[struct{ Data domain.Data }]
	decode("/api/v1/events?type=contact.erased", &erased)
	require.Len(t, erased.Items, 1)
	var left []uint64
	for _, one := range erased.Items[0].Data.Erasure.Events {
		left = append(left, one.Seq)
	}
	require.NotEmpty(t, left)
	for _, seq := range left {
		o, err := pages.Owner(w.Model("pages"), "7003", seq)
		require.NoError(t, err)
		assert.Equal(t, "beta", o.Company, "event %d", seq)
	}
	status, _ = w.as(w.token["beta"], http.MethodGet, "/api/v1/conversations/7003/31", "")
	assert.Equal(t, http.StatusNotFound, status)

	// An operator sees everything.
	assert.Len(t, get[api.List[conversations.Conversation]](t, w.running, "/api/v1/pages/7003/conversations").Items, 3)
}

// feedOf opens the feed of events of a token and returns its lines, and the status.
func (w *world) feedOf(token, query string) (lines chan string, status int) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	w.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.base()+"/api/v1/events"+query, nil)
	require.NoError(w.t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Accept", "text/event-stream")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(w.t, err)
	lines = make(chan string, 10_000)
	go func() {
		defer close(lines)
		defer resp.Body.Close()
		for s := bufio.NewScanner(resp.Body); s.Scan(); {
			lines <- s.Text()
		}
	}()
	return lines, resp.StatusCode
}

// TestFeedOfACompany checks that a company's feed has its events only, also while a page
// moves, that it leaves feeds to others, and that it ends when its token is revoked or
// expires.
func TestFeedOfACompany(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.history()
	w.addTokens()
	_, status := w.feedOf(w.token["beta"], "?company=acme")
	assert.Equal(t, http.StatusNotFound, status)
	_, status = w.feedOf(w.token["beta"], "?page=7000")
	assert.Equal(t, http.StatusNotFound, status)
	lines, status := w.feedOf(w.token["beta"], "?after=0")
	require.Equal(t, http.StatusOK, status)
	w.write("7003", "31", "beta")
	w.write("7000", "31", "acme")
	w.connect("7003", "acme")
	w.write("7003", "31", "acme")
	w.write("7001", "31", "beta")
	end := fmt.Sprintf("comment-beta-%d", w.n)
	got := ""
	for line := range lines {
		got += line + "\n"
		if strings.Contains(line, end) {
			break
		}
	}
	for _, m := range marks.FindAllStringSubmatch(got, -1) {
		assert.Equal(t, "beta", m[1], m[0])
	}
	assert.NotContains(t, got, "event: page.")
	assert.NotContains(t, got, "event: subscription.")
	assert.GreaterOrEqual(t, strings.Count(got, "event: message.received"), 6)

	for range 7 {
		_, status := w.feedOf(w.token["beta"], "")
		assert.Equal(t, http.StatusOK, status)
	}
	_, status = w.feedOf(w.token["beta"], "")
	assert.Equal(t, http.StatusServiceUnavailable, status, "one company does not take the feeds of all")
	_, status = w.feedOf(w.token["gamma"], "")
	assert.Equal(t, http.StatusOK, status)

	w.ok("tokens", "revoke", "beta")
	revoked := time.Now()
	for range lines { // until it ends
	}
	t.Logf("the feed ended %s after its token was revoked", time.Since(revoked))
	assert.Less(t, time.Since(revoked), streamstest.Limit)
	status, _ = w.as(w.token["beta"], http.MethodGet, "/api/v1/events", "")
	assert.Equal(t, http.StatusUnauthorized, status)
	_, status = w.feedOf(w.token["beta"], "")
	assert.Equal(t, http.StatusUnauthorized, status)

	short := strings.TrimSpace(w.ok("tokens", "add", "short", "--scope", "company", "--company", "acme", "--expires", "1s"))
	lines, _ = w.feedOf(short, "")
	for range lines { // until it expires
	}
	status, _ = w.as(short, http.MethodGet, "/api/v1/events", "")
	assert.Equal(t, http.StatusUnauthorized, status)
	assert.Regexp(t, `short +company +acme +no +expired`, w.ok("tokens", "list"))
}

// TestCompanyTokenSendsAsItsPagesOnly checks who may send as which page, and that the
// history has each try without the text.
func TestCompanyTokenSendsAsItsPagesOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.history()
	w.addTokens()
	contact := w.graph.Contacts("7003")[0]
	body := fmt.Sprintf(`{"contact":%q,"messaging_type":"RESPONSE","message":{"text":"a secret text"}}`, contact)
	for _, c := range []struct {
		company, page string
		want          int
	}{
		{"acme", "7000", 403},
		{"acme", "7003", 403},
		{"beta", "7000", 404},
		{"beta", "7002", 404},
		{"beta", "7999", 404},
		{"beta", account, 404},
	} {
		status, out := w.as(w.token[c.company], http.MethodPost, "/api/v1/pages/"+c.page+"/messages", body)
		assert.Equal(t, c.want, status, "%s as %s: %s", c.company, c.page, out)
	}
	status, out := w.as(w.token["beta"], http.MethodPost, "/api/v1/pages/7003/messages", body)
	assert.Contains(t, []int{200, 422}, status, out) // Graph may have closed the window
	w.connect("7003", "acme")
	status, _ = w.as(w.token["beta"], http.MethodPost, "/api/v1/pages/7003/messages", body)
	assert.Equal(t, http.StatusNotFound, status, "directly after it moved")

	var list api.List[history.Entry]
	require.NoError(t, w.do(t.Context(), http.MethodGet, "/api/v1/history", url.Values{"verb": {"send"}}, nil, &list))
	require.Len(t, list.Items, 8)
	assert.Equal(t, "beta", list.Items[0].Who)
	assert.Equal(t, history.Refused, list.Items[0].Outcome)
	assert.Equal(t, "7003", list.Items[0].On["page"])
	assert.Equal(t, domain.ContactHash(domain.ContactID(contact)), list.Items[0].On["contact"])
}

// TestMetricsTokenReadsMetricsOnly checks the token for a scraper.
func TestMetricsTokenReadsMetricsOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := strings.TrimSpace(w.ok("tokens", "add", "prometheus", "--scope", "metrics"))
	status, body := w.as(token, http.MethodGet, "/metrics", "")
	assert.Equal(t, http.StatusOK, status)
	assert.Contains(t, body, "pagestream_history_lost_total 0")
	for _, path := range []string{"status", "events", "pages", "schemas", "export", "tokens", "history", "no/such"} {
		status, _ := w.as(token, http.MethodGet, "/api/v1/"+path, "")
		assert.Equal(t, http.StatusForbidden, status, path)
	}
	status, _ = w.as(token, http.MethodPost, "/api/v1/pages/7000/disconnect", "")
	assert.Equal(t, http.StatusForbidden, status)
	company := strings.TrimSpace(w.ok("companies", "add", "acme"))
	require.NotEmpty(t, company)
	token = strings.TrimSpace(w.ok("tokens", "add", "acme", "--scope", "company", "--company", "acme"))
	status, _ = w.as(token, http.MethodGet, "/metrics", "")
	assert.Equal(t, http.StatusForbidden, status)
}

// TestTokensAreHashedAtRest checks that the text of a token is in no file, no log and no
// event, that it is valid after a restart and in a restored backup, and that the history is
// in it too.
func TestTokensAreHashedAtRest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.connect("7000", "acme")
	w.ok("companies", "add", "beta")
	w.ok("companies", "add", "gamma")
	w.addTokens()
	token := w.token["acme"]
	require.Regexp(t, `^pst_[A-Za-z0-9_-]{43}$`, token)
	status, _ := w.as(token, http.MethodGet, "/api/v1/pages", "")
	require.Equal(t, http.StatusOK, status)
	code, _, stderr := w.command(t, "tokens", "revoke", token) // a token in the place of its name
	require.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "there is no token of that name")
	assert.NotContains(t, w.ok("history"), token)
	dir := filepath.Join(t.TempDir(), "backup")
	w.ok("backup", dir)
	w.stop(t)
	secret := strings.TrimPrefix(token, tokens.Prefix)
	assert.Empty(t, filesWith(t, filepath.Dir(w.cfg.Data.Dir), secret))
	assert.Empty(t, filesWith(t, dir, secret))
	assert.NotContains(t, w.log.String(), secret)

	cfg := testConfig(t.TempDir())
	cfg.Apps = w.cfg.Apps
	code, out, stderr := offline(t, cfg, "restore", dir, "--erasures", "none")
	require.Equal(t, cli.ExitOK, code, out+stderr)
	for _, c := range []config.Config{w.cfg, cfg} {
		w.running = start(t, c)
		status, _ = w.as(token, http.MethodGet, "/api/v1/pages", "")
		assert.Equal(t, http.StatusOK, status)
		assert.Contains(t, w.ok("history", "--verb", "tokens_add"), "token=acme")
		assert.Regexp(t, `acme +company +acme +no +20\S+ +\d+[sm] ago`, w.ok("tokens", "list"))
		w.stop(t)
	}
}

// TestHistory checks what is on record of operators, by the command line, and that no text
// and no id of a contact is in the stream.
func TestHistory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.connect("7000", "acme")
	w.write("7000", "3141592653589", "acme")
	w.ok("pages", "check", "7000")
	token := strings.TrimSpace(w.ok("tokens", "add", "night-shift", "--scope", "admin"))
	reader := strings.TrimSpace(w.ok("tokens", "add", "auditor", "--scope", "reader"))
	status, _ := w.as(token, http.MethodPost, "/api/v1/pages/7999/check", "")
	assert.Equal(t, http.StatusNotFound, status)
	status, _ = w.as(reader, http.MethodPost, "/api/v1/pages/7000/disconnect", "")
	assert.Equal(t, http.StatusForbidden, status)
	status, _ = w.as(reader, http.MethodGet, "/api/v1/history", "")
	assert.Equal(t, http.StatusForbidden, status, "the history is for administrators")
	status, _ = w.as(token, http.MethodPost, "/api/v1/pages/7000/messages",
		`{"contact":"3141592653589","message":{"text":"a secret text"}}`)
	assert.GreaterOrEqual(t, status, 200)
	w.ok("erase", "7000", "3141592653589", "--yes")

	out := w.ok("history", "--limit", "0")
	hash := domain.ContactHash("3141592653589")
	for _, want := range []string{
		`file:admin +127\.0\.0\.1 +pages_check +ok +page=7000`,
		`night-shift +127\.0\.0\.1 +pages_check +refused \(404\) +page=7999`,
		`auditor +127\.0\.0\.1 +pages_disconnect +refused \(403\) +page=7000`,
		`night-shift +127\.0\.0\.1 +send +\S.* contact=` + hash + ` page=7000`,
		`file:admin +127\.0\.0\.1 +erase +ok +contact=` + hash + ` page=7000`,
		`file:admin +127\.0\.0\.1 +tokens_add +ok +scope=admin token=night-shift`,
	} {
		assert.Regexp(t, want, out)
	}
	both := w.ok("history", "--who", "night-shift") + w.ok("history", "--who", "auditor")
	assert.Equal(t, 3, strings.Count(both, "127.0.0.1"))
	assert.Equal(t, 2, strings.Count(w.ok("history", "--on", "3141592653589"), hash), "by the contact's id")
	assert.Equal(t, 1, strings.Count(w.ok("history", "--verb", "erase", "--since", "1h"), hash))
	code, _, _ := w.command(t, "history", "--since", "yesterday")
	assert.Equal(t, cli.ExitUsage, code)
	var entries []history.Entry
	require.NoError(t, json.Unmarshal([]byte(w.ok("--json", "history", "--limit", "2")), &entries))
	require.Len(t, entries, 2)
	assert.Equal(t, "operator.erase", entries[0].Type)

	st, err := w.JS().Stream(t.Context(), history.Stream)
	require.NoError(t, err)
	for seq := uint64(1); seq <= st.CachedInfo().State.LastSeq; seq++ {
		m, err := st.GetMsg(t.Context(), seq)
		require.NoError(t, err)
		for _, secret := range []string{"secret text", "3141592653589", token, reader, w.user["main"]} {
			assert.NotContains(t, string(m.Data), secret)
		}
	}
}

// TestTokensInTheConsole makes and revokes a token in the console, and checks that a session
// ends with its token, and that the tokens of companies can't sign in.
func TestTokensInTheConsole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.connect("7000", "acme")
	browser := func(token string) (*http.Client, int) {
		jar, err := cookiejar.New(nil)
		require.NoError(t, err)
		c := &http.Client{Jar: jar}
		resp, err := c.PostForm(w.base()+"/sign-in", url.Values{"token": {token}})
		require.NoError(t, err)
		_ = read(t, resp)
		return c, resp.StatusCode
	}
	ask := func(c *http.Client, path string, form url.Values) (int, string) {
		var resp *http.Response
		var err error
		if form == nil {
			resp, err = c.Get(w.base() + path)
		} else {
			resp, err = c.PostForm(w.base()+path, form)
		}
		require.NoError(t, err)
		return resp.StatusCode, read(t, resp)
	}
	file, err := os.ReadFile(w.cfg.HTTP.TokenFile)
	require.NoError(t, err)
	admin, status := browser(strings.TrimSpace(string(file)))
	require.Equal(t, http.StatusOK, status)
	text := regexp.MustCompile(`value="(pst_[^"]+)"`)
	add := func(form url.Values) string {
		t.Helper()
		status, body := ask(admin, "/tokens", form)
		require.Equal(t, http.StatusOK, status, body)
		found := text.FindStringSubmatch(body)
		require.NotNil(t, found, body)
		_, again := ask(admin, "/tokens", nil)
		assert.NotContains(t, again, found[1], "it is shown once")
		return found[1]
	}
	night := add(url.Values{"name": {"night"}, "scope": {"admin"}, "company": {"acme"}, "days": {"30"}})
	auditor := add(url.Values{"name": {"auditor"}, "scope": {"reader"}})
	acme := add(url.Values{"name": {"crm"}, "scope": {"company"}, "company": {"acme"}, "send": {"1"}})
	for _, form := range []url.Values{
		{"name": {"crm"}, "scope": {"reader"}},
		{"name": {"No"}, "scope": {"reader"}},
		{"name": {"x"}, "scope": {"company"}},
		{"name": {"x"}, "scope": {"company"}, "company": {"none"}},
	} {
		status, body := ask(admin, "/tokens", form)
		assert.Equal(t, http.StatusUnprocessableEntity, status)
		assert.Contains(t, body, "Not made: ")
	}
	status, body := w.as(acme, http.MethodGet, "/api/v1/pages", "")
	assert.Equal(t, http.StatusOK, status)
	assert.Contains(t, body, `"7000"`)
	_, status = browser(acme)
	assert.Equal(t, http.StatusForbidden, status, "the console is for all companies")
	reading, status := browser(auditor)
	require.Equal(t, http.StatusOK, status)
	for path, want := range map[string]int{"/": 200, "/tokens": 403, "/history": 403} {
		status, body := ask(reading, path, nil)
		assert.Equal(t, want, status, path)
		assert.NotContains(t, body, `href="/tokens"`)
	}
	status, _ = ask(reading, "/tokens/crm/revoke", url.Values{})
	assert.Equal(t, http.StatusForbidden, status)

	second, status := browser(night)
	require.Equal(t, http.StatusOK, status)
	status, body = ask(second, "/tokens", nil)
	assert.Equal(t, http.StatusOK, status)
	assert.Contains(t, body, "read and send")
	resp, err := second.Get(w.base() + "/live/totals")
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	status, _ = ask(admin, "/tokens/night/revoke", url.Values{})
	assert.Equal(t, http.StatusOK, status)
	_, err = io.Copy(io.Discard, resp.Body) // its feed ends
	require.NoError(t, err)
	status, body = ask(second, "/tokens", nil)
	assert.Equal(t, http.StatusOK, status)
	assert.Contains(t, body, "<h1>Sign in</h1>", "its session has ended")
	again := add(url.Values{"name": {"night"}, "scope": {"admin"}})
	assert.NotEqual(t, night, again)
	_, body = ask(second, "/tokens", nil)
	assert.Contains(t, body, "<h1>Sign in</h1>", "another token of the name has other sessions")

	_, body = ask(admin, "/history", nil)
	for _, want := range []string{"tokens_revoke", "token night", "console_sign_in", "auditor", "refused", "403"} {
		assert.Contains(t, body, want)
	}
	_, body = ask(admin, "/history?who=auditor&verb=tokens_revoke", nil)
	assert.Contains(t, body, "token crm")
	assert.NotContains(t, body, "console_sign_in")
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if _, body := ask(admin, "/tokens", nil); strings.Count(body, "never") > 4 {
			return fmt.Errorf("the last use is not shown: %s", body)
		}
		return nil
	})
}
