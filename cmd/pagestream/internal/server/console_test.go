package server_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/export"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// screenshots is the directory to which TestScreenshots writes its pictures.
var screenshots = flag.String("screenshots", "",
	"directory for the pictures of TestScreenshots; none are made if empty")

// newConsoleFixture starts a program with connected pages of a fake Graph, and a browser that is signed
// in to its console.
func newConsoleFixture(t *testing.T, pages int) (*running, *fakegraph.Graph, *tab) {
	t.Helper()
	g, cfg := newFakeMeta(t, pages)
	r := start(t, cfg)
	r.connectAll(t, g)
	b := newBrowser(t, "http://"+r.PrivateAddr())
	b.signIn(cfg.HTTP.TokenFile)
	return r, g, b
}

// TestConsoleConnect connects pages in a browser: from the button through the consent to subscribed
// pages, and back to the console.
func TestConsoleConnect(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 4, func(o *fakegraph.Options) { o.Picker = true })
	r := start(t, cfg)
	b := newBrowser(t, "http://"+r.PrivateAddr())
	b.signIn(cfg.HTTP.TokenFile)
	b.waitForText("#pages", "No page was heard of yet")
	b.look("pages-empty")
	b.click("a.button") // Connect pages
	b.fill("#company", "acme")
	b.click("form button:not(.plain)")
	b.waitFor("#login + .copy, p .copy")
	b.look("connect-link")
	b.click("#link + .copy")
	b.waitForText("#link + .copy", "Copied")
	login := eval[string](b, `document.querySelector("#login").href`)
	b.open(strings.Replace(login, "invite=", "invite=x", 1))
	b.waitForText("h1", "Not connected")
	b.look("login-failed")
	b.open(login)
	b.waitForText("h1", "choose the pages") // the dialog of the fake Meta
	b.click("input[value='7003']")          // deselect this page
	b.click("button[name=continue]")
	b.waitForText("h1", "Choose the pages to connect")
	b.look("login-choice")
	b.click("input[value='7002']") // deselect a second page
	b.click("form button")
	b.waitForText("h1", "2 of 2 pages are connected and subscribed")
	b.look("login-result")
	b.waitForText("a", "Back to")
	b.click("p a")
	b.waitForText("#pages", "Page 00")
	b.waitForText("#pages", "acme")
	b.open("/connect?company=acme")
	assert.Equal(t, "acme", eval[string](b, `document.querySelector("#known").value`), "it is known now")
	b.open("/")
	for page, want := range map[string]bool{"7000": true, "7001": true, "7002": false, "7003": false} {
		fields, on := g.SubscribedFields(testAppID, page)
		assert.Equal(t, want, on, page)
		assert.Equal(t, want, len(fields) > 0, page)
	}

	// A subscription that is changed at Meta is shown, explained and repaired in the console.
	g.SetSubscription(testAppID, "7001", "messages")
	b.open("/pages/7001")
	b.click("#check")
	b.waitForText("#outcome", "Missing: ")
	b.waitForText("#findings", "fields missing")
	b.click(".finding form button") // the finding's remedy
	b.waitForText("#outcome", "Confirmed")
	b.waitForText(".timeline", "subscription drifted")
	b.click(".confirm summary")
	b.click("#disconnect")
	b.waitForText("#outcome", "Disconnected")
	_, on := g.SubscribedFields(testAppID, "7001")
	assert.False(t, on)
}

// TestConsoleConversation checks that a message is shown without a reload, and that a reply is shown
// once, although its echo arrives too.
func TestConsoleConversation(t *testing.T) {
	t.Parallel()
	r, g, b := newConsoleFixture(t, 1)
	b.setZone("Asia/Kolkata")
	local := time.FixedZone("", 5*3600+1800)
	b.open("/conversations")
	b.waitForText(".empty", "Nobody wrote")
	body := message("7000", "31", "m_other", "Other words", time.Now().UnixMilli()-1000)
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
	b.waitForText("#list", "Other words") // without a reload
	b.waitForText("#list .of", "Page 00")
	engine, err := fakegraph.NewEngine(fakegraph.EngineOptions{
		Graph: g, Target: "http://" + r.PublicAddr() + "/webhooks/main",
	})
	require.NoError(t, err)
	contact := g.Contacts("7000")[0]
	send := func(text string) {
		t.Helper()
		_, err := engine.Say("7000", contact, text)
		require.NoError(t, err)
		require.NoError(t, engine.Step(t.Context()))
	}
	b.open("/pages/7000/conversations")
	send("First words")
	b.waitForText("#list", "First words")
	b.click(fmt.Sprintf("#list a[href=%q]", "/conversations/7000/"+contact))
	b.waitForText("#thread", "First words")
	// Text in the reply box is kept while the thread changes, and over a reload. Until there is one, the
	// button says why it can't be used.
	assert.Equal(t, "Write something to send.", eval[string](b, `document.querySelector("#why").innerText`))
	assert.True(t, eval[bool](b, `document.querySelector("#send").disabled`))
	b.fill("#text", "Half a rep")
	assert.False(t, eval[bool](b, `document.querySelector("#send").disabled`))
	b.open("/conversations/7000/" + contact)
	b.waitForText("#thread", "First words")
	title := eval[string](b, `document.title`)
	began := time.Now()
	send("Second words")
	b.waitForText("#thread", "Second words")
	t.Logf("a message was shown %s after it was sent", time.Since(began).Round(time.Millisecond))
	assert.Equal(t, "Half a rep", eval[string](b, `document.getElementById("text").value`))
	b.waitFor(fmt.Sprintf("#list a[aria-current][href=%q]", "/conversations/7000/"+contact)) // it stays marked
	assert.Equal(t, title, eval[string](b, `document.title`))

	// Enter begins a new line, and Ctrl+Enter sends, as the hint says.
	b.waitForText("#hint", "Ctrl+Enter sends")
	b.fill("#text", "Our answer")
	press := func(key string, modifiers ...chromedp.Modifier) {
		t.Helper()
		do(b, "press "+key, chromedp.KeyEvent(key, chromedp.KeyModifiers(modifiers...)))
	}
	press(kb.Enter)
	assert.Equal(t, "Our answer\n", eval[string](b, `document.getElementById("text").value`))
	press(kb.Enter, chromedp.ModifierCtrl)
	b.waitForText("#outcome", "Sent.")
	b.waitForText("#thread .out", "Our answer")
	b.waitForText("#thread .out .tag", "ours")
	require.NoError(t, engine.Step(t.Context())) // its echo
	b.open("/conversations")
	b.waitFor(fmt.Sprintf("#list a[href=%q]", "/conversations/7000/"+contact))
	b.click(".tabs a:nth-child(2)") // unanswered first
	b.waitForText(".tabs [aria-current]", "Unanswered first")
	waiting := eval[[]bool](b, `[...document.querySelectorAll("#list li")].map(e => !!e.querySelector(".unanswered"))`)
	assert.True(t, slices.IsSortedFunc(waiting, func(a, b bool) int { return cmp.Compare(fmt.Sprint(b), fmt.Sprint(a)) }))
	b.waitForText("#list li:has(.unanswered)", "Other words")
	assert.Equal(t, "?order=unanswered", eval[string](b, `location.search`))
	b.open("/conversations/7000/" + contact)
	b.waitForText("#thread .out", "Our answer")
	send("Third words")
	b.waitForText("#thread", "Third words")
	assert.Equal(t, 1, eval[int](b,
		`[...document.querySelectorAll(".msg .text")].filter(e => e.innerText == "Our answer").length`))
	assert.Empty(t, eval[string](b, `document.getElementById("text").value`))

	// The events behind a message, and the conversation in the past.
	b.click(".msg.out details summary")
	b.waitForText(".msg.out .sources", "message.echoed")
	first := eval[string](b, `document.querySelector("#at").min`)
	eval[bool](b, `(() => {
		const s = document.querySelector("#at");
		s.value = s.min;
		s.dispatchEvent(new Event("change", {bubbles: true}));
		return true
	})()`)
	b.waitForText("#thread .past", "As it was at event "+first)
	b.waitForText("p.reply", "This is the past")
	assert.Zero(t, eval[int](b, `document.querySelectorAll("#text").length`), "the reply box is closed")
	assert.Equal(t, "?at_seq="+first, eval[string](b, `location.search`))
	e, err := streams.Get(t.Context(), r.JS(), streams.Name, eval[uint64](b, `Number(document.querySelector("#at").min)`))
	require.NoError(t, err)
	b.waitForText("#at-time", e.At.UTC().Format("2006-01-02 15:04:05 UTC"))
	b.waitForText("#at-time", e.At.In(local).Format("3:04:05"))
	b.waitForText("#thread", "First words")
	assert.Equal(t, 1, eval[int](b, `document.querySelectorAll(".msg").length`))
	b.click("#thread .past a:last-child")
	b.waitForText("#thread", "Third words")

	// The events have names and what they say, and can be filtered by contact and time.
	b.open("/events?contact=" + contact)
	b.waitForText("#events .says", "Our answer")
	b.waitForText("#events td:nth-child(4)", "Page 00")
	seqs := func() []uint64 {
		return eval[[]uint64](b, `[...document.querySelectorAll("#events tr td:first-child")].map(e => Number(e.innerText))`)
	}
	all := seqs()
	for _, seq := range all {
		of, err := streams.Get(t.Context(), r.JS(), streams.Name, seq)
		require.NoError(t, err)
		assert.Equal(t, contact, string(of.Contact))
	}
	border := e.At.Truncate(time.Second).Add(time.Second)
	for _, bound := range []string{"since", "until"} {
		b.open("/events?" + url.Values{"contact": {contact}, bound: {border.Format(time.RFC3339)}}.Encode())
		b.waitFor("#events tr")
		for _, seq := range seqs() {
			of, err := streams.Get(t.Context(), r.JS(), streams.Name, seq)
			require.NoError(t, err)
			assert.Equal(t, bound == "since", !of.At.Before(border), "event %d of %s, %s %s", seq, of.At, bound, border)
		}
		assert.NotEmpty(t, seqs())
		assert.Less(t, len(seqs()), len(all))
	}
	assert.Equal(t, border.In(local).Format("2006-01-02T15:04"), eval[string](b, `document.querySelector("#until").value`))
	eval[bool](b, `(() => {
		const f = document.querySelector("#since");
		f.value = "2099-01-01T00:00";
		return f.dispatchEvent(new Event("change", {bubbles: true}));
	})()`)
	b.waitForText(".empty", "No such events")
	assert.Contains(t, eval[string](b, `decodeURIComponent(location.search)`), "since=2098-12-31T18:30:00.000Z")
	b.open("/conversations/7000/" + contact)
	b.waitForText("#thread", "Third words")

	// An error of Graph is shown, and the text in the reply box is kept.
	g.Block(contact)
	b.fill("#text", "Are you there?")
	b.click("#send")
	b.waitForText("#outcome", "Not sent")
	assert.Equal(t, "Are you there?", eval[string](b, `document.getElementById("text").value`))

	// A lost server is reported within 3 seconds, and what was typed stays. When it is back, the page
	// is as it was, and live.
	b.fill("#text", "Are you still there?")
	b.offline.Store(true)
	cfg := r.cfg
	cfg.HTTP.Private, cfg.HTTP.Public = r.PrivateAddr(), r.PublicAddr()
	r.stop(t)
	began = time.Now()
	b.waitForText("#lost", "The server does not answer")
	t.Logf("a lost server was reported %s after it had stopped", time.Since(began).Round(time.Millisecond))
	assert.Contains(t, eval[string](b, `document.querySelector("#why").innerText`), "does not answer")
	assert.True(t, eval[bool](b, `document.querySelector("#send").disabled`))
	start(t, cfg)
	streamstest.Eventually(t, browserLimit, func() error {
		if text := eval[string](b, `document.getElementById("lost").innerText`); text != "" {
			return errors.New(text)
		}
		return nil
	})
	send("Fourth words")
	b.waitForText("#thread", "Fourth words")
	assert.Equal(t, "Are you still there?", eval[string](b, `document.getElementById("text").value`))
	assert.Equal(t, title, eval[string](b, `document.title`))
}

// TestConsoleEscapes checks that the console shows all external data as text only.
func TestConsoleEscapes(t *testing.T) {
	t.Parallel()
	const evil = `<img src=x onerror="document.title='pwned'"><script>document.title='pwned'</script>'"</td>{{.}}`
	g, cfg := newFakeMeta(t, 1, func(o *fakegraph.Options) { o.Pages[0].Name = evil })
	r := start(t, cfg)
	r.connectAll(t, g)
	b := newBrowser(t, "http://"+r.PrivateAddr())
	b.signIn(cfg.HTTP.TokenFile)
	now := time.Now().UnixMilli()
	type object = map[string]any
	const evilURL = "javascript:document.title='pwned'"
	item := func(at int64, kind string, content object) object {
		return object{"sender": object{"id": "31"}, "recipient": object{"id": "7000"}, "timestamp": at, kind: content}
	}
	body, err := json.Marshal(object{"object": "page", "entry": []any{object{
		"id": "7000", "time": now, "messaging": []any{
			item(now, "message", object{
				"mid": "m_" + evil, "text": evil, "reply_to": object{"mid": evil, "story": object{"url": evilURL}},
				"attachments": []any{object{"type": evil, "title": evil, "payload": object{"url": evilURL, "title": evil}}},
			}),
			item(now+1, "postback", object{"mid": "m_2", "title": evil, "payload": evil}),
			item(now+2, "reaction", object{"mid": "m_2", "action": "react", "reaction": evil, "emoji": evil}),
		},
	}}})
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
	seq := lastSeq(t, r)
	for _, path := range []string{
		"/", "/?q=" + url.QueryEscape(evil), "/pages/7000", "/conversations", "/pages/7000/conversations",
		"/conversations/7000/31", "/events",
		"/events/" + strconv.FormatUint(seq, 10), "/events/" + strconv.FormatUint(seq-2, 10),
		"/events?page=" + url.QueryEscape(evil),
		"/connect?company=" + url.QueryEscape(evil), "/sign-in?next=" + url.QueryEscape(evilURL),
		"/pages/" + url.PathEscape(evil), "/conversations/7000/" + url.PathEscape(evil),
	} {
		b.open(path)
		b.waitFor("h1, h2")
		// The page contains no injected image, script or link, so nothing can run.
		const injected = `document.querySelectorAll("img, main script, [onerror], a[href^=javascript]").length`
		assert.Zero(t, eval[int](b, injected), path)
		assert.NotEqual(t, "pwned", eval[string](b, `document.title`), path)
	}
	b.open("/conversations/7000/31")
	b.waitForText(".msg .text", evil)
	b.click(".attachment a") // html/template has replaced the URL
	assert.NotEqual(t, "pwned", eval[string](b, `document.title`))

	// The link of the page has the right path.
	b.open("/")
	assert.Equal(t, "/pages/7000", eval[string](b, `new URL(document.querySelector("#pages tbody a").href).pathname`))
}

// TestConsoleSignIn checks that the console requires a session, and that a session of the read-only
// token can't change anything.
func TestConsoleSignIn(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 1)
	r := start(t, cfg)
	r.connectAll(t, g)
	b := newBrowser(t, "http://"+r.PrivateAddr())
	b.open("/pages/7000")
	b.waitFor("#token")
	b.fill("#token", strings.Repeat("0", 64))
	b.click("form button")
	b.waitForText("[role=alert]", "not one of this installation's tokens")
	assert.Empty(t, eval[string](b, `document.cookie`))

	token, err := os.ReadFile(cfg.ReadTokenFile())
	require.NoError(t, err)
	b.open("/pages/7000")
	b.fill("#token", strings.TrimSpace(string(token)))
	b.click("form button")
	b.waitForText("h1", "Page 00") // the page that was requested before
	b.waitForText(".role", "read-only")
	assert.Empty(t, eval[string](b, `document.cookie`), "scripts can't read the session cookie")
	assert.Zero(t, eval[int](b, `document.querySelectorAll("main button:not(.copy)").length`), "there are no buttons")
	status := func(method, path string) int {
		return eval[int](b, fmt.Sprintf(`fetch(%q, {method: %q}).then(r => r.status)`, path, method))
	}
	assert.Equal(t, http.StatusForbidden, status("POST", "/pages/7000/disconnect"))
	assert.Equal(t, http.StatusForbidden, status("POST", "/api/v1/pages/7000/disconnect"))
	assert.Equal(t, http.StatusOK, status("GET", "/api/v1/pages/7000"))

	// The session survives a restart, and ends with a sign-out.
	addr := r.PrivateAddr()
	r.stop(t)
	cfg.HTTP.Private = addr
	start(t, cfg)
	b.open("/pages/7000")
	b.waitForText("h1", "Page 00")
	b.click(".session button")
	b.waitFor("#token")
	b.open("/")
	b.waitFor("#token")
}

// TestReadOnlyTokenChangesNothing checks that the read-only token can't change anything, neither in
// the console nor through the API.
func TestReadOnlyTokenChangesNothing(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 1)
	r := start(t, cfg)
	r.connectAll(t, g)
	token, err := os.ReadFile(cfg.ReadTokenFile())
	require.NoError(t, err)
	reader := strings.TrimSpace(string(token))
	ask := func(method, path string, authenticate func(*http.Request)) *httptest.ResponseRecorder {
		req := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader("token="+reader))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Host = r.PrivateAddr()
		authenticate(req)
		w := httptest.NewRecorder()
		r.PrivateHandler().ServeHTTP(w, req)
		return w
	}
	cookie := ask(http.MethodPost, "/sign-in", func(*http.Request) {}).Header().Get("Set-Cookie")
	require.NotEmpty(t, cookie)
	session := func(req *http.Request) { req.Header.Set("Cookie", cookie) }
	bearer := func(req *http.Request) { req.Header.Set("Authorization", "Bearer "+reader) }

	for _, path := range []string{
		"/connect", "/pages", "/pages/7000/check", "/pages/7000/resubscribe", "/pages/7000/disconnect",
		"/conversations/7000/31/reply", "/projections/pages/rebuild",
		"/projections/pages/verify", "/audit", "/jobs/cancel", "/deadletters",
		"/tokens", "/tokens/x/revoke",
	} {
		assert.Equal(t, http.StatusForbidden, ask(http.MethodPost, path, session).Code, path)
	}
	for _, path := range []string{
		"pages", "pages/7000/check", "pages/7000/resubscribe", "pages/7000/disconnect", "pages/7000/messages",
		"pages/7000/backfill", "companies", "companies/x/rename", "invites", "logins", "logins/x",
		"conversations/7000/31/erase",
		"projections/pages/rebuild", "deadletters", "consumers", "backup",
		"hooks/x/redrive", "hooks/x/enable", "keys/rotate", "tokens",
	} {
		assert.Equal(t, http.StatusForbidden, ask(http.MethodPost, "/api/v1/"+path, session).Code, path)
		assert.Equal(t, http.StatusForbidden, ask(http.MethodPost, "/api/v1/"+path, bearer).Code, path)
	}
	assert.Equal(t, http.StatusForbidden, ask(http.MethodDelete, "/api/v1/consumers/x", bearer).Code)
	assert.Equal(t, http.StatusForbidden, ask(http.MethodDelete, "/api/v1/tokens/x", bearer).Code)
	assert.Equal(t, http.StatusOK, ask(http.MethodGet, "/api/v1/pages/7000", bearer).Code)
	w := ask(http.MethodGet, "/conversations/7000", session)
	assert.Equal(t, http.StatusSeeOther, w.Code)
	assert.Equal(t, "/pages/7000/conversations", w.Header().Get("Location"))
}

// TestConsoleRefusesOtherOrigins checks that another site can't send requests with the session of a
// signed-in browser.
func TestConsoleRefusesOtherOrigins(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 1)
	r := start(t, cfg)
	r.connectAll(t, g)
	b := newBrowser(t, "http://"+r.PrivateAddr())
	b.signIn(cfg.HTTP.TokenFile)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<form method="post" action="http://%s/pages/7000/disconnect"><button>Win a prize</button></form>`,
			r.PrivateAddr())
	}))
	defer other.Close()
	b.open(strings.Replace(other.URL, "127.0.0.1", "localhost", 1))
	b.click("button")
	b.waitForText("body", "cross-origin request")
	_, on := g.SubscribedFields(testAppID, "7000")
	assert.True(t, on, "the page is unchanged")
}

// TestConsoleStreams runs rebuilds, verification, the audit and a redrive of dead letters in a browser.
func TestConsoleStreams(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 1)
	poison := &flaky{}
	r := start(t, cfg, poison)
	r.connectAll(t, g)
	b := newBrowser(t, "http://"+r.PrivateAddr())
	b.signIn(cfg.HTTP.TokenFile)
	for i := range 200 {
		body := message("7000", fmt.Sprint(31+i%3), fmt.Sprint("m_", i), "x", 1790000000000+int64(i))
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
	}
	b.open("/streams")
	b.click("#rebuild-conversations")
	b.waitForText(".jobs", "rebuild conversations")
	b.waitForText(".jobs .fine", "equal to the one before")
	b.click("#verify-pages")
	b.waitForText(".jobs .fine", "gives the same rows")
	b.click("#audit")
	b.waitForText(".jobs .fine", "All is as promised")

	// What others have begun is listed too.
	code, _, stderr := r.command(t, "projections", "verify", "comments")
	require.Equal(t, cli.ExitOK, code, stderr)
	b.waitForText(".past li:first-child", "projections verify comments")
	b.waitForText(".past li:first-child", "by file:admin")
	b.waitForText(".past li:nth-child(2)", "audit")

	poison.failing.Store(true)
	body := message("7000", "99", "m_bad", "poison", 1790000001000)
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if s := r.Model(poison.Name()).Status(); s.Parked == 0 {
			return fmt.Errorf("not parked yet: %+v", s)
		}
		return nil
	})
	b.open("/streams")
	b.waitForText("#dead", "flaky")
	poison.failing.Store(false)
	b.click("#redrive-all")
	b.waitForText("#outcome", "1 events applied")
	b.waitForText("#dead", "None")

	// A lead that Graph refuses is parked by its reactor. The page's row in the overview offers the redrive,
	// which stores the answers once Graph gives them.
	r.connectLeads(t, g, testUser, "7000")
	engine := r.newEngine(t, g, 0)
	lead, err := engine.SubmitLead("7000")
	require.NoError(t, err)
	g.FailNext("GET "+lead, fakegraph.Failure{Status: 400, Code: 100, Subcode: 33, Message: "no such lead"}, 2)
	require.NoError(t, engine.Step(t.Context()))
	r.awaitLeads(t, "7000", 0, 1)
	b.open("/streams")
	b.waitForText("#dead", "no such lead")
	b.open("/")
	b.waitForText("#pages .alarms", "events parked")
	b.click("#pages .fix button")
	b.waitForText("#outcome", "still parked") // Graph refuses it once more
	r.awaitLeads(t, "7000", 0, 1)
	b.click("#pages .fix button")
	b.waitForText("#outcome", "Done: Page 00.")
	r.awaitLeads(t, "7000", 1, 0)
	assert.Contains(t, r.leadAnswers(t, "7000"), lead)
	b.waitForText("#pages tbody tr", "Page 00")
	assert.Zero(t, eval[int](b, `document.querySelectorAll("#pages .alarms").length`))

	b.open("/events?type=message.received")
	b.waitFor("#events tr")
	body = message("7000", "77", "m_live", "x", 1790000002000)
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
	b.waitForText("#events tr:first-child", "77")
}

// TestLateAnswerLeavesTheSelection checks that the answer to a request of a list that was replaced meanwhile, as on a slow
// connection, does not take the selection out of the page.
func TestLateAnswerLeavesTheSelection(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 3)
	r := start(t, cfg)
	r.connectAll(t, g)
	// A proxy holds the answer to the first update of the list.
	var hold atomic.Bool
	var updates atomic.Int64
	held, letGo := make(chan struct{}), make(chan struct{})
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = "http", r.PrivateAddr(), p.In.Host
		},
		ModifyResponse: func(resp *http.Response) error {
			if resp.Request.URL.Path != "/" || resp.Request.Header.Get("HX-Request") == "" {
				return nil
			}
			updates.Add(1)
			if hold.CompareAndSwap(true, false) {
				close(held)
				select {
				case <-letGo:
				case <-resp.Request.Context().Done(): // the browser has given it up
				}
			}
			return nil
		},
	}
	slow := httptest.NewServer(proxy)
	t.Cleanup(slow.Close)
	b := newBrowser(t, slow.URL)
	b.signIn(cfg.HTTP.TokenFile)
	b.waitForText("#pages tbody tr:first-child", "Page")
	hold.Store(true)
	select {
	case <-held:
	case <-time.After(browserLimit):
		require.Fail(t, "the list is not updated")
	}
	b.click("#all")
	b.waitForText("#selected", "3 selected")
	b.click("#batch button[value=check]")
	b.waitForText("#main", "Done: 3 pages.")
	b.waitForText("#selected", "3 selected")
	close(letGo)
	before := updates.Load()
	streamstest.Eventually(t, browserLimit, func() error { // by then the answer would have come
		if updates.Load() == before {
			return errors.New("the list is not updated again")
		}
		return nil
	})
	assert.Equal(t, 3, eval[int](b, `document.querySelectorAll(".pick input[name=page]:checked").length`))
}

// TestConsoleManyPages checks that the overview lists 500 pages, those with alarms first, and that it
// can be searched and filtered.
func TestConsoleManyPages(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 500)
	r := start(t, cfg)
	r.connectAll(t, g)
	g.SetSubscription(testAppID, "7321", "messages")
	code, _, _ := r.command(t, "pages", "check", "7321")
	require.Equal(t, cli.ExitFailed, code)
	b := newBrowser(t, "http://"+r.PrivateAddr())
	b.signIn(cfg.HTTP.TokenFile)
	b.waitForText("#pages tbody tr:first-child", "Page 321")
	assert.Equal(t, 500, eval[int](b, `document.querySelectorAll("#pages tbody tr").length`))
	b.fill("#q", "Page 49")
	b.waitForText("#pages tbody tr:first-child", "Page 49")
	assert.Equal(t, 11, eval[int](b, `document.querySelectorAll("#pages tbody tr").length`),
		"Page 49 and Page 490 to 499")
	assert.Contains(t, eval[string](b, `location.search`), "q=Page%2049")
	b.fill("#q", " ")
	eval[bool](b, `(() => {
		const s = document.querySelector("#show");
		s.value = "alarms";
		s.dispatchEvent(new Event("change", {bubbles: true}));
		return true
	})()`)
	b.waitForText("#pages tbody tr:only-child", "Page 321")

	// The cards filter the list, and the row has a button for what mends it.
	b.open("/")
	b.waitFor(".totals .wrong a")
	eval[bool](b, `document.querySelector(".totals .wrong a").click() === undefined`) // a live update may replace it during a click
	b.waitForText("#pages tbody tr:only-child", "Page 321")
	assert.Equal(t, "?show=wrong", eval[string](b, `location.search`))
	b.click("#pages .fix button")
	b.waitForText("#outcome", "Done: Page 321.")
	b.waitForText("#pages", "None of 500 pages match")
	fields, _ := g.SubscribedFields(testAppID, "7321")
	assert.Greater(t, len(fields), 1)

	// One action on many pages. The selection stays while the list is read again.
	for _, page := range []string{"7490", "7491", "7492"} {
		g.SetSubscription(testAppID, page, "messages")
	}
	b.open("/?q=Page+49")
	assert.True(t, eval[bool](b, `document.querySelector("#batch button").disabled`))
	b.click("#all")
	b.waitForText("#selected", "11 selected")
	b.click("#pick-7499")
	b.waitForText("#selected", "10 selected")
	eval[string](b, `htmx.ajax("GET", "/?q=Page+49", {target: "#pages", select: "#pages", swap: "outerHTML"}).then(() => "read again")`)
	b.waitForText("#selected", "10 selected")
	assert.False(t, eval[bool](b, `document.querySelector("#pick-7499").checked`))
	// An action that takes long goes on in the background. Its result is in the list of jobs too.
	b.click("#batch button[value=check]")
	b.waitForText("#main", "3 of them failed")
	b.waitForText("#main", "Page 491: The page is drifted")
	b.waitForText("#pages tbody tr:first-child", "fields missing")
	assert.Equal(t, 11, eval[int](b, `document.querySelectorAll("#pages tbody tr").length`), "the filter stays")
	b.click("#all")
	b.click("#batch button[value=resubscribe]")
	b.waitForText("#main", "Done: 11 pages.")
	code, out, _ := r.command(t, "history", "--on", "page=7495")
	require.Equal(t, cli.ExitOK, code)
	assert.Contains(t, out, "pages=7049 7490 7491", "the pages of the action are on record")
	b.click("#batch button[value=connect]") // they are still selected
	b.waitFor("#login")

	form := url.Values{"do": {"check"}}
	for i := range 501 {
		form.Add("page", fmt.Sprint(7000+i))
	}
	_, text := (&devRun{t: t}).fetch(r.signIn(t, cfg.HTTP.TokenFile), r.base()+"/pages", form)
	assert.Contains(t, text, "Select at most 500 pages at once.")
}

// BenchmarkConsoleOverview measures the time of the server for the overview of 500 pages.
func BenchmarkConsoleOverview(b *testing.B) {
	g, cfg := newFakeMeta(b, 500)
	r := start(b, cfg)
	r.connectAll(b, g)
	for i := range 2000 {
		body := message(fmt.Sprint(7000+i%500), "31", fmt.Sprint("m_", i), "x", time.Now().UnixMilli())
		require.Equal(b, http.StatusOK, post(b, r.PublicAddr(), body))
	}
	token, err := os.ReadFile(cfg.HTTP.TokenFile)
	require.NoError(b, err)
	values := url.Values{"token": {strings.TrimSpace(string(token))}}
	form := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/sign-in", strings.NewReader(values.Encode()))
	form.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	form.Host = r.PrivateAddr()
	w := httptest.NewRecorder()
	r.PrivateHandler().ServeHTTP(w, form)
	require.Equal(b, http.StatusSeeOther, w.Code)
	req := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/", nil)
	req.Host = r.PrivateAddr()
	req.Header.Set("Cookie", w.Header().Get("Set-Cookie"))
	for b.Loop() {
		w := httptest.NewRecorder()
		r.PrivateHandler().ServeHTTP(w, req)
		if w.Code != http.StatusOK || w.Body.Len() < 100_000 {
			b.Fatalf("answered %d with %d bytes", w.Code, w.Body.Len())
		}
	}
}

// TestScreenshots opens each screen of the console, light and dark, wide and narrow, and makes a picture of
// it if asked to. It fails if a screen is wider than the window.
func TestScreenshots(t *testing.T) {
	t.Parallel()
	r, b, contact := newShowcase(t)
	code, _, stderr := r.command(t, "tokens", "add", "crm-of-acme", "--scope", "company", "--company", "acme", "--send")
	require.Equal(t, cli.ExitOK, code, stderr)
	seqs, err := conversations.EventsOf(r.Model(conversations.Name), "7000", domain.ContactID(contact), 0, 3)
	require.NoError(t, err)
	past := seqs[len(seqs)-1]
	for _, s := range []struct{ name, path, ready string }{
		{"sign-in", "/sign-in", "#token"},
		{"pages", "/", "#pages tbody tr"},
		{"page", "/pages/7001", "article.finding"},
		{"pages-none", "/?q=nothing+like+this", ".empty"},
		{"connect", "/connect", "#company"},
		{"inbox", "/conversations?order=unanswered", "#list li"},
		{"by-page", "/conversations?by=page", "tbody tr"},
		{"conversations", "/pages/7000/conversations", "#list li"},
		{"conversation", "/conversations/7000/" + contact, ".msg"},
		{"past", "/conversations/7000/" + contact + "?at_seq=" + fmt.Sprint(past), ".past"},
		{"closed", "/conversations/7001/300", "#why"},
		{"events", "/events", "#events tr"},
		{"events-none", "/events?contact=nobody", ".empty"},
		{"event", "/events/" + fmt.Sprint(lastSeq(t, r)), "pre"},
		{"streams", "/streams", ".jobs .fine"},
		{"no-event", "/events/99999999", ".notice"},
		{"not-found", "/no/such/page", ".notice"},
		{"tokens", "/tokens", "table"},
		{"history", "/history", "table"},
	} {
		b.open(s.path)
		b.waitFor(s.ready)
		b.look(s.name)
		if s.path == "/sign-in" {
			b.signIn(r.cfg.HTTP.TokenFile)
		}
	}
}

// look checks that a screen is accessible, light and dark, and not wider than the window, and makes
// pictures of it if asked to.
func (b *tab) look(name string) {
	b.t.Helper()
	for _, width := range []int64{1280, 390} {
		for _, theme := range []string{"light", "dark"} {
			checked := (width == 390) == (theme == "dark") // each width and each theme once
			if !checked && *screenshots == "" {
				continue
			}
			b.setScreen(width, theme)
			if checked {
				assert.LessOrEqual(b.t, eval[int64](b, `document.documentElement.scrollWidth`), width,
					"%s is wider than the screen", name)
				b.isAccessible(fmt.Sprintf("%s, %s, %d wide", name, theme, width))
			}
			if width == 390 && checked { // a small phone, and a tablet
				for _, other := range []int64{320, 800} {
					b.setScreen(other, theme)
					assert.LessOrEqual(b.t, eval[int64](b, `document.documentElement.scrollWidth`), other,
						"%s is wider than the screen", name)
				}
				b.setScreen(width, theme)
			}
			if *screenshots == "" {
				continue // a picture takes longer than everything else
			}
			require.NoError(b.t, os.MkdirAll(*screenshots, 0o750))
			picture := do(b, "picture of "+name, chromedp.FullScreenshot(100))
			file := filepath.Join(*screenshots, fmt.Sprintf("%s-%s-%d.png", name, theme, width))
			require.NoError(b.t, os.WriteFile(file, smaller(b.t, picture), 0o600))
		}
	}
	b.setScreen(1280, "light")
}

// smaller returns a picture with its 64 most frequent colors, in a third of the bytes.
func smaller(t *testing.T, picture []byte) []byte {
	t.Helper()
	from, err := png.Decode(bytes.NewReader(picture))
	require.NoError(t, err)
	bounds, counts := from.Bounds(), map[color.Color]int{}
	for y := range bounds.Dy() {
		for x := range bounds.Dx() {
			counts[from.At(x, y)]++
		}
	}
	all := slices.SortedFunc(maps.Keys(counts), func(a, b color.Color) int { return cmp.Compare(counts[b], counts[a]) })
	to := image.NewPaletted(bounds, all[:min(64, len(all))])
	draw.Draw(to, bounds, from, bounds.Min, draw.Src)
	var out bytes.Buffer
	require.NoError(t, (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, to))
	return out.Bytes()
}

// writeHistory writes an export with messages of some weeks, more of them by day than by night, and
// returns the name of the file.
func writeHistory(t *testing.T, pages, weeks int) string {
	t.Helper()
	var out bytes.Buffer
	seq := uint64(0)
	random := rand.New(rand.NewPCG(1, 2))
	for at := time.Now().Add(-time.Duration(weeks) * 7 * 24 * time.Hour); time.Since(at) > 2*time.Hour; at = at.Add(time.Hour) {
		for page := range pages {
			busy := float64(5-page%4) * math.Sin(math.Pi*float64(at.Hour())/24)
			for range int(busy + random.Float64()) {
				seq++
				contact := fmt.Sprint(300 + random.IntN(20))
				body := message(fmt.Sprint(7000+page), contact, fmt.Sprint("m_h", seq), "Hello", at.UnixMilli())
				event := messenger.Split(body, messenger.Options{App: "main"}).Events[0]
				line, err := export.Event(streams.Stored{Event: event, Seq: seq, At: at.UTC()})
				require.NoError(t, err)
				out.Write(append(line, '\n'))
			}
		}
	}
	file := filepath.Join(t.TempDir(), "history.ndjson")
	require.NoError(t, os.WriteFile(file, out.Bytes(), 0o600))
	return file
}

// newShowcase returns a realistic installation for screenshots: some pages are healthy, some have
// problems, and people write messages.
func newShowcase(t *testing.T) (r *running, b *tab, contact string) {
	t.Helper()
	names := []string{
		"Corner Bakery", "Harbour Bikes", "Old Mill Books", "Fern & Moss",
		"Cafe Lindner", "Nordlicht Optik", "Pine Street Vet", "Studio Acht",
	}
	g, cfg := newFakeMeta(t, len(names), func(o *fakegraph.Options) {
		for i := range names {
			o.Pages[i].Name = names[i]
		}
	})
	weeks := 3
	if *screenshots == "" {
		weeks = 1 // no picture shows the rest
	}
	code, _, stderr := offline(t, cfg, "events", "import", writeHistory(t, len(names)-1, weeks))
	require.Equal(t, cli.ExitOK, code, stderr)
	r = start(t, cfg)
	r.connectAll(t, g)
	b = newBrowser(t, "http://"+r.PrivateAddr())
	people := g.Contacts("7000")
	contact = people[0]
	now := time.Now().UnixMilli()
	send := func(contact, mid, text string, ago time.Duration) {
		body := message("7000", contact, mid, text, now-5000-ago.Milliseconds())
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
	}
	send(contact, "m_1", "Good morning! Do you have the seeded rye on Saturdays?", 50*time.Hour)
	send(contact, "m_2", "And could you put two aside for me?", 49*time.Hour)
	send(people[1], "m_3", "What time do you close today?", 3*time.Hour)
	send(people[2], "m_4", "The birthday cake was wonderful, thank you!", 2*time.Hour)
	send(contact, "m_5", "Hello again, I am on my way. Is ten o'clock fine?", 20*time.Minute)
	for _, content := range []string{
		`"reaction":{"reaction":"love","emoji":"❤️","action":"react","mid":"m_2"}`,
		`"message":{"mid":"m_6","attachments":[{"type":"image","payload":{"url":"https://cdn.example.com/rye.jpg"}}]}`,
		`"postback":{"mid":"m_7","title":"Opening hours","payload":"HOURS"}`,
	} {
		now -= 1000
		body := fmt.Appendf(nil, `{"object":"page","entry":[{"id":"7000","time":%d,"messaging":[`+
			`{"sender":{"id":%q},"recipient":{"id":"7000"},"timestamp":%d,%s}]}]}`, now, contact, now, content)
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
	}
	for i := range 10 {
		body := message(fmt.Sprint(7001+i%5), fmt.Sprint(40+i), fmt.Sprint("m_x", i), "Hello", now-int64(i)*60000)
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
	}
	body := message("7999", "50", "m_y", "Is anybody there?", now)
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
	token, err := g.PageToken(testAppID, testUser, "7001")
	require.NoError(t, err)
	require.NoError(t, g.KillToken(token, 460))
	_, _, _ = r.command(t, "pages", "check", "7001")
	code, _, stderr = r.command(t, "send", "7000", contact,
		"--text", "Ten is fine, they are on the counter with your name.")
	require.Equal(t, cli.ExitOK, code, stderr)
	b.signIn(cfg.HTTP.TokenFile)
	b.open("/streams")
	b.click("#audit")
	b.waitForText(".jobs .fine", "All is as promised")
	b.click("#rebuild-pages")
	b.waitForText(".jobs .fine", "equal to the one before")
	b.click(".session button")
	b.waitFor("#token")
	return r, b, contact
}
