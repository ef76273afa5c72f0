package server_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/export"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
	"github.com/pagestream/pagestream/domain/messenger"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// screenshots says where TestScreenshots leaves its pictures.
var screenshots = flag.String("screenshots", "", "directory for the pictures of TestScreenshots; empty makes them and throws them away")

// talkingTown is a program with connected pages of which people write to the
// first, and a browser that is signed in.
func talkingTown(t *testing.T, pages int) (*running, *fakegraph.Graph, *tab) {
	t.Helper()
	g, cfg := agency(t, pages)
	r := start(t, cfg)
	r.connectAll(t, g)
	b := browse(t, "http://"+r.PrivateAddr())
	b.signIn(cfg.HTTP.TokenFile)
	return r, g, b
}

// The whole way in a browser: from the button over the consent to pages that are
// subscribed, and back to the console.
func TestConsoleConnect(t *testing.T) {
	g, cfg := agency(t, 4, func(o *fakegraph.Options) { o.Picker = true })
	r := start(t, cfg)
	b := browse(t, "http://"+r.PrivateAddr())
	b.signIn(cfg.HTTP.TokenFile)
	b.sees("#pages", "No page was heard of yet")
	b.click("a.button") // Connect pages
	b.fill("#company", "acme")
	b.click("form button:not(.plain)")
	b.click("#login")
	b.sees("h1", "choose the pages") // the dialog of the fake Meta
	b.click("input[value='7003']")   // all but this one
	b.click("button[name=continue]")
	b.sees("h1", "Choose the pages to connect")
	b.click("input[value='7002']") // and not that one either
	b.click("form button")
	b.sees("h1", "2 of 2 pages are connected and subscribed")
	b.sees("a", "Back to")
	b.click("p a")
	b.sees("#pages", "Page 00")
	b.sees("#pages", "acme")
	for page, want := range map[string]bool{"7000": true, "7001": true, "7002": false, "7003": false} {
		fields, on := g.SubscribedFields(testAppID, page)
		assert.Equal(t, want, on, page)
		assert.Equal(t, want, len(fields) > 0, page)
	}

	// What Meta takes away is seen, explained and healed without the command line.
	g.SetSubscription(testAppID, "7001", "messages")
	b.open("/pages/7001")
	b.click("#check")
	b.sees("#outcome", "Missing: ")
	b.sees(".alarms", "fields missing")
	b.click(".finding form button") // the doctor's remedy
	b.sees("#outcome", "Confirmed")
	b.sees(".timeline", "subscription drifted")
	b.click(".confirm summary")
	b.click("#disconnect")
	b.sees("#outcome", "Disconnected")
	_, on := g.SubscribedFields(testAppID, "7001")
	assert.False(t, on)
}

// A message is on the screen without a reload; a reply is there once, although its
// echo comes too.
func TestConsoleConversation(t *testing.T) {
	r, g, b := talkingTown(t, 1)
	engine, err := fakegraph.NewEngine(fakegraph.EngineOptions{Graph: g, Target: "http://" + r.PublicAddr() + "/webhooks/main"})
	require.NoError(t, err)
	contact := g.Contacts("7000")[0]
	say := func(text string) {
		t.Helper()
		_, err := engine.Say("7000", contact, text)
		require.NoError(t, err)
		require.NoError(t, engine.Step(t.Context()))
	}
	b.open("/conversations")
	b.sees(".empty", "Nobody wrote")
	b.open("/pages/7000/conversations")
	say("First words")
	b.sees("#list", "First words")
	b.click("#list li a")
	b.sees("#thread", "First words")
	// What somebody has begun to write stays while the thread changes.
	b.fill("#text", "Half a rep")
	began := time.Now()
	say("Second words")
	b.sees("#thread", "Second words")
	t.Logf("a message was on the screen %s after it was sent", time.Since(began).Round(time.Millisecond))
	assert.Equal(t, "Half a rep", eval[string](b, `document.getElementById("text").value`))

	b.fill("#text", "Our answer")
	b.click("#send")
	b.sees("#outcome", "Sent.")
	b.sees("#thread .out", "Our answer")
	require.NoError(t, engine.Step(t.Context())) // its echo
	say("Third words")
	b.sees("#thread", "Third words")
	assert.Equal(t, 1, eval[int](b, `[...document.querySelectorAll(".msg .text")].filter(e => e.innerText == "Our answer").length`))
	assert.Empty(t, eval[string](b, `document.getElementById("text").value`))

	// Which events made it, and how it was before.
	b.click(".msg.out details summary")
	b.sees(".msg.out .sources", "message.echoed")
	first := eval[string](b, `document.querySelector("#at").min`)
	eval[bool](b, `(() => { const s = document.querySelector("#at"); s.value = s.min; s.dispatchEvent(new Event("change", {bubbles: true})); return true })()`)
	b.sees("#thread .past", "As it was at event "+first)
	b.sees("#thread", "First words")
	assert.Equal(t, 1, eval[int](b, `document.querySelectorAll(".msg").length`))
	b.click("#thread .past a:last-child")
	b.sees("#thread", "Third words")

	// Graph's refusal is told, and what was written is not lost.
	g.Block(contact)
	b.fill("#text", "Are you there?")
	b.click("#send")
	b.sees("#outcome", "Not sent")
	assert.Equal(t, "Are you there?", eval[string](b, `document.getElementById("text").value`))
}

// Nothing that comes from outside is ever more than text.
func TestConsoleEscapes(t *testing.T) {
	const evil = `<img src=x onerror="document.title='pwned'"><script>document.title='pwned'</script>'"</td>{{.}}`
	g, cfg := agency(t, 1, func(o *fakegraph.Options) { o.Pages[0].Name = evil })
	r := start(t, cfg)
	r.connectAll(t, g)
	b := browse(t, "http://"+r.PrivateAddr())
	b.signIn(cfg.HTTP.TokenFile)
	now := time.Now().UnixMilli()
	body, err := json.Marshal(map[string]any{"object": "page", "entry": []any{map[string]any{"id": "7000", "time": now, "messaging": []any{
		map[string]any{"sender": map[string]any{"id": "31"}, "recipient": map[string]any{"id": "7000"}, "timestamp": now, "message": map[string]any{
			"mid": "m_" + evil, "text": evil, "reply_to": map[string]any{"mid": evil, "story": map[string]any{"url": "javascript:document.title='pwned'"}},
			"attachments": []any{map[string]any{"type": evil, "title": evil, "payload": map[string]any{"url": "javascript:document.title='pwned'", "title": evil}}},
		}},
		map[string]any{"sender": map[string]any{"id": "31"}, "recipient": map[string]any{"id": "7000"}, "timestamp": now + 1, "postback": map[string]any{"mid": "m_2", "title": evil, "payload": evil}},
		map[string]any{"sender": map[string]any{"id": "31"}, "recipient": map[string]any{"id": "7000"}, "timestamp": now + 2, "reaction": map[string]any{"mid": "m_2", "action": "react", "reaction": evil, "emoji": evil}},
	}}}})
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
	seq := lastSeq(t, r)
	for _, path := range []string{
		"/", "/?q=" + url.QueryEscape(evil), "/pages/7000", "/conversations", "/pages/7000/conversations", "/conversations/7000/31", "/events",
		"/events/" + strconv.FormatUint(seq, 10), "/events/" + strconv.FormatUint(seq-2, 10), "/events?page=" + url.QueryEscape(evil),
		"/connect?company=" + url.QueryEscape(evil), "/sign-in?next=" + url.QueryEscape("javascript:document.title='pwned'"),
		"/pages/" + url.PathEscape(evil), "/conversations/7000/" + url.PathEscape(evil),
	} {
		b.open(path)
		b.waitFor("h1, h2")
		// No image and no script of theirs is in the page, so nothing can run.
		assert.Zero(t, eval[int](b, `document.querySelectorAll("img, main script, [onerror], a[href^=javascript]").length`), path)
		assert.NotEqual(t, "pwned", eval[string](b, `document.title`), path)
	}
	b.open("/conversations/7000/31")
	b.sees(".msg .text", evil)
	b.click(".attachment a") // html/template made a dead end of it
	assert.NotEqual(t, "pwned", eval[string](b, `document.title`))

	// And an id with a slash stays one part of a path.
	b.open("/")
	assert.Equal(t, "/pages/7000", eval[string](b, `new URL(document.querySelector("#pages tbody a").href).pathname`))
}

// Who has no session sees nothing; who has the read-only token changes nothing.
func TestConsoleSignIn(t *testing.T) {
	g, cfg := agency(t, 1)
	r := start(t, cfg)
	r.connectAll(t, g)
	b := browse(t, "http://"+r.PrivateAddr())
	b.open("/pages/7000")
	b.waitFor("#token")
	b.fill("#token", strings.Repeat("0", 64))
	b.click("form button")
	b.sees("[role=alert]", "not one of this installation's tokens")
	assert.Empty(t, eval[string](b, `document.cookie`))

	token, err := os.ReadFile(cfg.ReadTokenFile())
	require.NoError(t, err)
	b.open("/pages/7000")
	b.fill("#token", strings.TrimSpace(string(token)))
	b.click("form button")
	b.sees("h1", "Page 00") // where he wanted to go
	b.sees(".role", "read-only")
	assert.Empty(t, eval[string](b, `document.cookie`), "scripts don't see the session")
	assert.Zero(t, eval[int](b, `document.querySelectorAll("main button").length`), "there is nothing to press")
	status := func(method, path string) int {
		return eval[int](b, fmt.Sprintf(`fetch(%q, {method: %q}).then(r => r.status)`, path, method))
	}
	assert.Equal(t, http.StatusForbidden, status("POST", "/pages/7000/disconnect"))
	assert.Equal(t, http.StatusForbidden, status("POST", "/api/v1/pages/7000/disconnect"))
	assert.Equal(t, http.StatusOK, status("GET", "/api/v1/pages/7000"))

	// The session outlives the process, and ends with a sign-out.
	addr := r.PrivateAddr()
	r.stop(t)
	cfg.HTTP.Private = addr
	start(t, cfg)
	b.open("/pages/7000")
	b.sees("h1", "Page 00")
	b.click(".session button")
	b.waitFor("#token")
	b.open("/")
	b.waitFor("#token")
}

// Whoever has the read-only token changes nothing, by whichever way.
func TestReadOnlyIsRefused(t *testing.T) {
	g, cfg := agency(t, 1)
	r := start(t, cfg)
	r.connectAll(t, g)
	token, err := os.ReadFile(cfg.ReadTokenFile())
	require.NoError(t, err)
	reader := strings.TrimSpace(string(token))
	ask := func(method, path string, prove func(*http.Request)) *httptest.ResponseRecorder {
		req := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader("token="+reader))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		prove(req)
		w := httptest.NewRecorder()
		r.PrivateHandler().ServeHTTP(w, req)
		return w
	}
	cookie := ask(http.MethodPost, "/sign-in", func(*http.Request) {}).Header().Get("Set-Cookie")
	require.NotEmpty(t, cookie)
	session := func(req *http.Request) { req.Header.Set("Cookie", cookie) }
	bearer := func(req *http.Request) { req.Header.Set("Authorization", "Bearer "+reader) }

	for _, path := range []string{
		"/connect", "/pages/7000/check", "/pages/7000/resubscribe", "/pages/7000/disconnect", "/conversations/7000/31/reply",
		"/projections/pages/rebuild", "/projections/pages/verify", "/audit", "/jobs/cancel", "/deadletters",
	} {
		assert.Equal(t, http.StatusForbidden, ask(http.MethodPost, path, session).Code, path)
	}
	for _, path := range []string{
		"pages", "pages/7000/check", "pages/7000/resubscribe", "pages/7000/disconnect", "pages/7000/messages", "pages/7000/backfill",
		"invites", "logins", "logins/x", "conversations/7000/31/erase", "projections/pages/rebuild", "deadletters", "consumers",
		"backup", "hooks/x/redrive", "hooks/x/enable", "keys/rotate",
	} {
		assert.Equal(t, http.StatusForbidden, ask(http.MethodPost, "/api/v1/"+path, session).Code, path)
		assert.Equal(t, http.StatusForbidden, ask(http.MethodPost, "/api/v1/"+path, bearer).Code, path)
	}
	assert.Equal(t, http.StatusForbidden, ask(http.MethodDelete, "/api/v1/consumers/x", bearer).Code)
	assert.Equal(t, http.StatusOK, ask(http.MethodGet, "/api/v1/pages/7000", bearer).Code)
	w := ask(http.MethodGet, "/conversations/7000", session)
	assert.Equal(t, http.StatusSeeOther, w.Code)
	assert.Equal(t, "/pages/7000/conversations", w.Header().Get("Location"))
}

// Another site can't make a signed-in browser do anything.
func TestConsoleRefusesOtherOrigins(t *testing.T) {
	g, cfg := agency(t, 1)
	r := start(t, cfg)
	r.connectAll(t, g)
	b := browse(t, "http://"+r.PrivateAddr())
	b.signIn(cfg.HTTP.TokenFile)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<form method="post" action="http://%s/pages/7000/disconnect"><button>Win a prize</button></form>`, r.PrivateAddr())
	}))
	defer other.Close()
	b.open(strings.Replace(other.URL, "127.0.0.1", "localhost", 1))
	b.click("button")
	b.sees("body", "cross-origin request")
	_, on := g.SubscribedFields(testAppID, "7000")
	assert.True(t, on, "the page is as it was")
}

// A rebuild is begun, watched and ended in the browser, and so are dead letters.
func TestConsoleStreams(t *testing.T) {
	g, cfg := agency(t, 1)
	poison := &touchy{}
	r := start(t, cfg, poison)
	r.connectAll(t, g)
	b := browse(t, "http://"+r.PrivateAddr())
	b.signIn(cfg.HTTP.TokenFile)
	for i := range 200 {
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message("7000", fmt.Sprint(31+i%3), fmt.Sprint("m_", i), "x", 1790000000000+int64(i))))
	}
	b.open("/streams")
	b.click("#rebuild-conversations")
	b.sees(".jobs", "rebuild conversations")
	b.sees(".jobs .fine", "equal to the one before")
	b.click("#verify-pages")
	b.sees(".jobs .fine", "comes to the same rows")
	b.click("#audit")
	b.sees(".jobs .fine", "All is as promised")

	poison.sick.Store(true)
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message("7000", "99", "m_bad", "poison", 1790000001000)))
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if s := r.Model(poison.Name()).Status(); s.Parked == 0 {
			return fmt.Errorf("not parked yet: %+v", s)
		}
		return nil
	})
	b.open("/streams")
	b.sees("#dead", "touchy")
	poison.sick.Store(false)
	b.click("#redrive-all")
	b.sees("#outcome", "1 events applied")
	b.sees("#dead", "None")

	b.open("/events?type=message.received")
	b.waitFor("#events tr")
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message("7000", "77", "m_live", "x", 1790000002000)))
	b.sees("#events tr:first-child", "77")
}

// Five hundred pages are all there, searched as one types, those in need first.
func TestConsoleManyPages(t *testing.T) {
	g, cfg := agency(t, 500)
	r := start(t, cfg)
	r.connectAll(t, g)
	g.SetSubscription(testAppID, "7321", "messages")
	code, _, _ := r.command(t, "pages", "check", "7321")
	require.Equal(t, cli.ExitFailed, code)
	b := browse(t, "http://"+r.PrivateAddr())
	b.signIn(cfg.HTTP.TokenFile)
	b.sees("#pages tbody tr:first-child", "Page 321")
	assert.Equal(t, 500, eval[int](b, `document.querySelectorAll("#pages tbody tr").length`))
	b.fill("#q", "Page 49")
	b.sees("#pages tbody tr:first-child", "Page 49")
	assert.Equal(t, 11, eval[int](b, `document.querySelectorAll("#pages tbody tr").length`), "Page 49 and Page 490 to 499")
	assert.Contains(t, eval[string](b, `location.search`), "q=Page%2049")
	b.fill("#q", " ")
	eval[bool](b, `(() => { const s = document.querySelector("#show"); s.value = "alarms"; s.dispatchEvent(new Event("change", {bubbles: true})); return true })()`)
	b.sees("#pages tbody tr:only-child", "Page 321")
}

// BenchmarkConsoleOverview is what the server takes for the overview of 500 pages.
func BenchmarkConsoleOverview(b *testing.B) {
	g, cfg := agency(b, 500)
	r := start(b, cfg)
	r.connectAll(b, g)
	for i := range 2000 {
		require.Equal(b, http.StatusOK, post(b, r.PublicAddr(), message(fmt.Sprint(7000+i%500), "31", fmt.Sprint("m_", i), "x", time.Now().UnixMilli())))
	}
	token, err := os.ReadFile(cfg.HTTP.TokenFile)
	require.NoError(b, err)
	form := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/sign-in", strings.NewReader(url.Values{"token": {strings.TrimSpace(string(token))}}.Encode()))
	form.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	r.PrivateHandler().ServeHTTP(w, form)
	require.Equal(b, http.StatusSeeOther, w.Code)
	req := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/", nil)
	req.Header.Set("Cookie", w.Header().Get("Set-Cookie"))
	for b.Loop() {
		w := httptest.NewRecorder()
		r.PrivateHandler().ServeHTTP(w, req)
		if w.Code != http.StatusOK || w.Body.Len() < 100_000 {
			b.Fatalf("answered %d with %d bytes", w.Code, w.Body.Len())
		}
	}
}

// A picture of each screen, light and dark, wide and narrow.
func TestScreenshots(t *testing.T) {
	dir := *screenshots
	if dir == "" {
		dir = t.TempDir()
	}
	require.NoError(t, os.MkdirAll(dir, 0o750))
	r, b, contact := showcase(t)
	for _, s := range []struct{ name, path, ready string }{
		{"sign-in", "/sign-in", "#token"},
		{"pages", "/", "#pages tbody tr"},
		{"page", "/pages/7001", "article.finding"},
		{"connect", "/connect", "#company"},
		{"conversations", "/pages/7000/conversations", "#list li"},
		{"conversation", "/conversations/7000/" + contact, ".msg"},
		{"events", "/events", "#events tr"},
		{"event", "/events/" + fmt.Sprint(lastSeq(t, r)), "pre"},
		{"streams", "/streams", ".jobs .fine"},
	} {
		for _, theme := range []string{"light", "dark"} {
			for _, width := range []int64{1280, 390} {
				b.look(width, theme)
				b.open(s.path)
				b.waitFor(s.ready)
				png := ask(b, "picture of "+s.name, chromedp.FullScreenshot(100))
				assert.LessOrEqual(t, eval[int64](b, `document.documentElement.scrollWidth`), width, "%s is wider than the screen", s.name)
				require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%s-%d.png", s.name, theme, width)), png, 0o600))
			}
		}
		if s.path == "/sign-in" {
			b.signIn(r.cfg.HTTP.TokenFile)
		}
	}
}

// history is an export of three weeks in which people wrote to pages, more of them
// by day than by night.
func history(t *testing.T, pages int) string {
	t.Helper()
	var out bytes.Buffer
	seq := uint64(0)
	random := rand.New(rand.NewPCG(1, 2))
	for at := time.Now().Add(-3 * 7 * 24 * time.Hour); time.Since(at) > 2*time.Hour; at = at.Add(time.Hour) {
		for page := range pages {
			busy := float64(5-page%4) * math.Sin(math.Pi*float64(at.Hour())/24)
			for range int(busy + random.Float64()) {
				seq++
				body := message(fmt.Sprint(7000+page), fmt.Sprint(300+random.IntN(20)), fmt.Sprint("m_h", seq), "Hello", at.UnixMilli())
				line, err := export.Event(streams.Stored{Event: messenger.Split(body, messenger.Options{App: "main"}).Events[0], Seq: seq, At: at.UTC()})
				require.NoError(t, err)
				out.Write(append(line, '\n'))
			}
		}
	}
	file := filepath.Join(t.TempDir(), "history.ndjson")
	require.NoError(t, os.WriteFile(file, out.Bytes(), 0o600))
	return file
}

// showcase is an installation as its operator would find it: some pages fine, some
// not, and people talking.
func showcase(t *testing.T) (r *running, b *tab, contact string) {
	t.Helper()
	names := []string{"Corner Bakery", "Harbour Bikes", "Old Mill Books", "Fern & Moss", "Cafe Lindner", "Nordlicht Optik", "Pine Street Vet", "Studio Acht"}
	g, cfg := agency(t, len(names), func(o *fakegraph.Options) {
		for i := range names {
			o.Pages[i].Name = names[i]
		}
	})
	code, _, stderr := offline(t, cfg, "events", "import", history(t, len(names)-1))
	require.Equal(t, cli.ExitOK, code, stderr)
	r = start(t, cfg)
	r.connectAll(t, g)
	b = browse(t, "http://"+r.PrivateAddr())
	people := g.Contacts("7000")
	contact = people[0]
	now := time.Now().UnixMilli()
	say := func(contact, mid, text string, ago time.Duration) {
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message("7000", contact, mid, text, now-5000-ago.Milliseconds())))
	}
	say(contact, "m_1", "Good morning! Do you have the seeded rye on Saturdays?", 50*time.Hour)
	say(contact, "m_2", "And could you put two aside for me?", 49*time.Hour)
	say(people[1], "m_3", "What time do you close today?", 3*time.Hour)
	say(people[2], "m_4", "The birthday cake was wonderful, thank you!", 2*time.Hour)
	say(contact, "m_5", "Hello again, I am on my way. Is ten o'clock fine?", 20*time.Minute)
	for _, item := range []string{
		`{"sender":{"id":"` + contact + `"},"recipient":{"id":"7000"},"timestamp":%d,"reaction":{"reaction":"love","emoji":"❤️","action":"react","mid":"m_2"}}`,
		`{"sender":{"id":"` + contact + `"},"recipient":{"id":"7000"},"timestamp":%d,"message":{"mid":"m_6","attachments":[{"type":"image","payload":{"url":"https://cdn.example.com/rye.jpg"}}]}}`,
		`{"sender":{"id":"` + contact + `"},"recipient":{"id":"7000"},"timestamp":%d,"postback":{"mid":"m_7","title":"Opening hours","payload":"HOURS"}}`,
	} {
		now -= 1000
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), fmt.Appendf(nil, `{"object":"page","entry":[{"id":"7000","time":%d,"messaging":[`+item+`]}]}`, now, now)))
	}
	for i := range 10 {
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message(fmt.Sprint(7001+i%5), fmt.Sprint(40+i), fmt.Sprint("m_x", i), "Hello", now-int64(i)*60000)))
	}
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message("7999", "50", "m_y", "Is anybody there?", now)))
	token, err := g.PageToken(testAppID, testUser, "7001")
	require.NoError(t, err)
	require.NoError(t, g.KillToken(token, 460))
	_, _, _ = r.command(t, "pages", "check", "7001")
	code, _, stderr = r.command(t, "send", "7000", contact, "--text", "Ten is fine, they are on the counter with your name.")
	require.Equal(t, cli.ExitOK, code, stderr)
	b.signIn(cfg.HTTP.TokenFile)
	b.open("/streams")
	b.click("#audit")
	b.sees(".jobs .fine", "All is as promised")
	b.click("#rebuild-pages")
	b.sees(".jobs .fine", "equal to the one before")
	b.click(".session button")
	b.waitFor("#token")
	return r, b, contact
}
