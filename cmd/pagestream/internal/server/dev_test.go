package server_test

import (
	"context"
	"fmt"
	"io"
	"maps"
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

	"github.com/chromedp/chromedp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/dev"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/doctor"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// devRun is `pagestream dev` in this process.
type devRun struct {
	t    *testing.T
	dir  string
	out  streamstest.Logs
	stop func()
	// link is the sign-in link that it printed, base the URL of the console.
	link, base string
}

// startDev starts dev with a data directory, and waits until it has printed everything but counts.
func startDev(t *testing.T, dir string) *devRun {
	t.Helper()
	d := &devRun{t: t, dir: dir}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan int, 1)
	go func() {
		ended <- cli.Main(ctx, []string{
			"dev", "--data-dir", dir, "--rate", "50", "--http-public", "127.0.0.1:0", "--http-private", "127.0.0.1:0",
			"--nats-listen", "127.0.0.1:0",
		}, nil, &d.out, &d.out)
	}()
	stopped := false
	d.stop = func() {
		t.Helper()
		cancel()
		if !stopped {
			stopped = true
			assert.Equal(t, cli.ExitOK, <-ended, d.out.String())
		}
	}
	t.Cleanup(d.stop)
	streamstest.Eventually(t, 2*streamstest.Limit, func() error { // it connects 40 pages
		if out := d.out.String(); !strings.Contains(out, "Ctrl-C stops it.") {
			return fmt.Errorf("it has not started: %s", out)
		}
		return nil
	})
	d.link = regexp.MustCompile(`http://\S+/sign-in\?code=\w+`).FindString(d.out.String())
	u, err := url.Parse(d.link)
	require.NoError(t, err)
	d.base = "http://" + u.Host
	return d
}

// command runs a command against the server as its output says.
func (d *devRun) command(t *testing.T, args ...string) (code int, out string) {
	t.Helper()
	code, stdout, stderr := run(t, t.Context(), append([]string{"-c", filepath.Join(d.dir, "pagestream.yaml")}, args...)...)
	return code, stdout + stderr
}

// devGet reads from the API of dev.
func devGet[T any](d *devRun, path string) (out T) {
	d.t.Helper()
	c, err := cli.NewClient(d.base, filepath.Join(d.dir, "admin.token"))
	require.NoError(d.t, err)
	require.NoError(d.t, c.Do(d.t.Context(), http.MethodGet, path, nil, nil, &out), path)
	return out
}

// states returns the ids of the pages by the state that they are judged by.
func (d *devRun) states() map[meta.State][]string {
	d.t.Helper()
	out := map[meta.State][]string{}
	for _, p := range devGet[api.List[operate.Page]](d, "/api/v1/pages?limit=500").Items {
		assert.Equal(d.t, pages.Connected, p.State, p.ID)
		out[p.Judgement.State] = append(out[p.Judgement.State], string(p.ID))
	}
	return out
}

// visitor is a browser without scripts.
func (d *devRun) visitor() *http.Client {
	jar, err := cookiejar.New(nil)
	require.NoError(d.t, err)
	return &http.Client{Jar: jar}
}

// fetch requests a page and returns its status and text. A form is posted.
func (d *devRun) fetch(c *http.Client, target string, form url.Values, header ...string) (int, string) {
	d.t.Helper()
	method, body := http.MethodGet, io.Reader(nil)
	if form != nil {
		method, body = http.MethodPost, strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(d.t.Context(), method, target, body)
	require.NoError(d.t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	require.NoError(d.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(d.t, err)
	return resp.StatusCode, string(text)
}

// TestDev checks that dev shows pages in all states from the start, that its sign-in link works once, that
// its consumer can be read, that its faults can be switched on and off in the console, and that all of
// it is there after a restart.
func TestDev(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "dev")
	d := startDev(t, dir)
	assert.True(t, strings.HasPrefix(d.out.String(), "pagestream dev: "), d.out.String())
	assert.Contains(t, d.out.String(), "connected 40 pages in")

	var states map[meta.State][]string
	streamstest.Eventually(t, streamstest.Limit, func() error {
		states = d.states()
		count := func(of ...meta.State) (n int) {
			for _, state := range of {
				n += len(states[state])
			}
			return n
		}
		for _, want := range []struct{ pages, found int }{
			{4, count(meta.StateQuiet)},
			{3, count(meta.StateTokenDead)},
			{3, count(meta.StateStandby)},
			{2, count(meta.StateSubscribeFailed, meta.StatePermissionMissing)},
			// One page has a lead that waits as a dead letter. One is unsubscribed, until the reconcile loop subscribes it.
			// One page falls silent: see testSilent.
			{28, count(meta.StateHealthy, meta.StateParked, meta.StateUnsubscribedByOthers, meta.StateSilent)},
		} {
			if want.found != want.pages {
				return fmt.Errorf("%d pages instead of %d: %v", want.found, want.pages, states)
			}
		}
		return nil
	})
	_, out := d.command(t, "events", "list", "--type", "subscription.drifted")
	assert.Contains(t, out, "subscription.drifted")
	status := devGet[operate.Status](d, "/api/v1/status")
	assert.Positive(t, status.Comments.Comments.Sum())
	assert.Positive(t, status.Conversations.In)
	assert.Len(t, devGet[api.List[map[string]any]](d, "/api/v1/companies").Items, 3)

	t.Run("link", d.testLink)
	t.Run("dead letter", d.testDeadLetter)
	t.Run("consumer", d.testConsumer)
	t.Run("break", d.testBreak)
	t.Run("browser", d.testBrowser)
	t.Run("silent", d.testSilent)

	// After a restart there are the same pages, tokens and people.
	dead, said := d.states()[meta.StateTokenDead], devGet[operate.Status](d, "/api/v1/status").Conversations
	d.stop()
	d = startDev(t, dir)
	assert.NotContains(t, d.out.String(), "connecting")
	report := devGet[doctor.Report](d, "/api/v1/doctor") // Graph is asked about each page
	assert.Len(t, report.Pages, 40)
	states = d.states()
	assert.Equal(t, dead, states[meta.StateTokenDead], "no other token is dead")
	assert.Empty(t, states[meta.StateTokenMissing])
	assert.Len(t, slices.Concat(slices.Collect(maps.Values(states))...), 40)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		now := devGet[operate.Status](d, "/api/v1/status").Conversations
		if now.In < said.In+100 {
			return fmt.Errorf("%d messages, %d before the restart", now.In, said.In)
		}
		assert.LessOrEqual(t, now.Conversations, uint64(40*12), "each page has 12 people, who go on writing")
		return nil
	})
}

func (d *devRun) testLink(t *testing.T) {
	token, err := os.ReadFile(filepath.Join(d.dir, "admin.token"))
	require.NoError(t, err)
	assert.NotContains(t, d.out.String(), strings.TrimSpace(string(token)))

	owner := d.visitor()
	code, text := d.fetch(owner, d.link, nil)
	assert.Equal(t, http.StatusOK, code)
	assert.Contains(t, text, "Corner Bakery")
	assert.NotContains(t, text, "/sign-in?code")
	code, text = d.fetch(owner, d.link, nil)
	assert.Equal(t, http.StatusOK, code)
	assert.Contains(t, text, "Corner Bakery", "the browser is signed in")
	code, text = d.fetch(d.visitor(), d.link, nil)
	assert.Equal(t, http.StatusForbidden, code)
	assert.Contains(t, text, "used already")
	assert.NotContains(t, text, "Corner Bakery")
	_, out := d.command(t, "history", "--verb", "console_sign_in")
	assert.Contains(t, out, "admin")
}

func (d *devRun) testDeadLetter(t *testing.T) {
	refused := func() (n int) {
		for _, l := range devGet[api.List[projections.DeadLetter]](d, "/api/v1/deadletters").Items {
			if strings.Contains(l.Error, "100/33") {
				n++
			}
		}
		return n
	}
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if n := refused(); n != 1 {
			return fmt.Errorf("%d leads were refused", n)
		}
		return nil
	})
	_, out := d.command(t, "deadletters", "redrive", "--all", "--yes")
	assert.Zero(t, refused(), "a redrive reads the lead; those of pages with a dead token stay: %s", out)
}

func (d *devRun) testConsumer(t *testing.T) {
	streamstest.Eventually(t, streamstest.Limit, func() error {
		list := devGet[api.List[consumers.Consumer]](d, "/api/v1/consumers").Items
		if len(list) != 1 || list[0].Lag < 100 { // nobody reads it
			return fmt.Errorf("consumers %+v", list)
		}
		return nil
	})
	m := regexp.MustCompile(`nats --server (\S+) --nkey (\S+) consumer next (\S+) (\S+) --count 5`).
		FindStringSubmatch(d.out.String())
	require.NotNil(t, m, d.out.String())
	key, err := nats.NkeyOptionFromSeed(m[2])
	require.NoError(t, err)
	conn, err := nats.Connect(m[1], key)
	require.NoError(t, err)
	defer conn.Close()
	js, err := jetstream.New(conn)
	require.NoError(t, err)
	c, err := js.Consumer(t.Context(), m[3], m[4])
	require.NoError(t, err)
	batch, err := c.Fetch(5, jetstream.FetchMaxWait(5*time.Second))
	require.NoError(t, err)
	n := 0
	for msg := range batch.Messages() {
		require.NoError(t, msg.DoubleAck(t.Context()))
		n++
	}
	assert.Equal(t, 5, n)
}

func (d *devRun) testBreak(t *testing.T) {
	c := d.visitor()
	token, err := os.ReadFile(filepath.Join(d.dir, "admin.token"))
	require.NoError(t, err)
	d.fetch(c, d.base+"/sign-in", url.Values{"token": {strings.TrimSpace(string(token))}})
	post := func(path string, form url.Values) string {
		t.Helper()
		code, text := d.fetch(c, d.base+path, form)
		require.Equal(t, http.StatusOK, code, text)
		return text
	}
	_, text := d.fetch(c, d.base+"/break", nil)
	assert.Contains(t, text, "Nothing was broken here")
	healthy := d.states()[meta.StateHealthy]
	first, second := healthy[0], healthy[1]
	stateOf := func(page string) meta.State {
		return devGet[operate.Page](d, "/api/v1/pages/"+page).Judgement.State
	}

	// Forms of other sites, and visitors who are not signed in, break nothing.
	for _, path := range []string{"/break", "/heal"} {
		code, _ := d.fetch(c, d.base+path, url.Values{"fault": {"outage"}}, "Sec-Fetch-Site", "cross-site")
		assert.Equal(t, http.StatusForbidden, code, path)
		_, text := d.fetch(d.visitor(), d.base+path, url.Values{"fault": {"outage"}})
		assert.Contains(t, text, "<h1>Sign in</h1>")
	}
	for _, form := range []url.Values{
		{"fault": {"fire"}},
		{"fault": {"token"}, "page": {"1"}},
		{"fault": {"subscription"}, "page": {"<b>"}},
		{"fault": {"token"}, "page": {d.states()[meta.StateTokenDead][0]}},
	} {
		code, _ := d.fetch(c, d.base+"/break", form)
		assert.Equal(t, http.StatusBadRequest, code, form)
	}
	_, text = d.fetch(c, d.base+"/break", nil)
	assert.Contains(t, text, "Nothing was broken here")

	well := []meta.State{meta.StateHealthy, meta.StateParked} // the lead that can't be read may be the page's
	text = post("/break", url.Values{"fault": {"token"}, "page": {first}})
	assert.Contains(t, text, "/pages/"+first)
	code, out := d.command(t, "pages", "check", first)
	assert.Equal(t, cli.ExitFailed, code, out)
	assert.Equal(t, meta.StateTokenDead, stateOf(first))
	text = post("/break", url.Values{"fault": {"subscription"}, "page": {second}})
	assert.Contains(t, text, "is not subscribed")
	_, _ = d.command(t, "pages", "check", second) // or the reconcile loop was first
	_, out = d.command(t, "events", "list", "--type", "subscription.drifted", "--page", second)
	assert.Contains(t, out, "subscription.drifted")
	code, out = d.command(t, "pages", "resubscribe", second)
	assert.Equal(t, cli.ExitOK, code, out)
	// If the reconcile loop was at work on the page too, the last word may be an error of that.
	streamstest.Eventually(t, 2*streamstest.Limit, func() error {
		if state := stateOf(second); !slices.Contains(well, state) {
			return fmt.Errorf("page %s is %s", second, state)
		}
		return nil
	})

	duplicates := func() uint64 { return devGet[operate.Status](d, "/api/v1/status").Received.Duplicates() }
	received := func() uint64 { return devGet[operate.Status](d, "/api/v1/status").Stored.Events }
	was := duplicates()
	post("/break", url.Values{"fault": {"duplicates"}})
	post("/break", url.Values{"fault": {"reorder"}})
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if n := duplicates(); n < was+50 {
			return fmt.Errorf("%d duplicates, %d before", n, was)
		}
		return nil
	})
	text = post("/break", url.Values{"fault": {"outage"}})
	for _, want := range []string{"nothing is delivered", "is sent again", "come late", "is dead"} {
		assert.Contains(t, text, want)
	}
	text = post("/heal", url.Values{})
	assert.Contains(t, text, "Nothing was broken here")
	_, out = d.command(t, "history", "--verb", "dev_break")
	assert.Contains(t, out, "token")
	_ = devGet[doctor.Report](d, "/api/v1/doctor?page="+first) // Graph is asked
	assert.Contains(t, well, stateOf(first), "the token is valid again")
	before := received()
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if n := received(); n < before+20 {
			return fmt.Errorf("%d events, %d after the outage", n, before)
		}
		return nil
	})
}

// testSilent checks that a page is found to be silent by its rhythm of the past weeks, by all that show it, and
// that backfill finds what Meta did not deliver.
func (d *devRun) testSilent(t *testing.T) {
	var page operate.Page
	streamstest.Eventually(t, 2*time.Minute, func() error {
		var silent []operate.Page
		for _, p := range devGet[api.List[operate.Page]](d, "/api/v1/pages?limit=500").Items {
			if p.Judgement.State == meta.StateSilent {
				silent = append(silent, p)
			}
		}
		if len(silent) != 1 {
			return fmt.Errorf("%d silent pages", len(silent))
		}
		page = silent[0]
		return nil
	})
	assert.Equal(t, "Dockside Records", page.Name)
	assert.Equal(t, meta.Wrong, page.Judgement.Severity)
	assert.Greater(t, time.Since(page.Traffic.FirstInboundAt), 14*24*time.Hour)
	assert.Greater(t, time.Since(page.Traffic.LastInboundAt), 2*time.Hour)
	code, out := d.command(t, "doctor", string(page.ID))
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, out, "silent compared with its own rhythm")
	assert.Contains(t, out, "pagestream backfill "+string(page.ID))
	c := d.visitor()
	token, err := os.ReadFile(filepath.Join(d.dir, "admin.token"))
	require.NoError(t, err)
	d.fetch(c, d.base+"/sign-in", url.Values{"token": {strings.TrimSpace(string(token))}})
	_, text := d.fetch(c, d.base+"/?q=dockside", nil)
	assert.Contains(t, text, `<span class="badge wrong" title="The page is silent compared with its own rhythm.">silent</span>`)
	assert.NotContains(t, text, "Corner Bakery")

	code, out = d.command(t, "backfill", string(page.ID), "--since", "1h")
	assert.Equal(t, cli.ExitOK, code, out)
	assert.Regexp(t, `[1-9]\d* were missing`, out, "what Meta did not deliver")
}

// testBrowser uses the page that breaks the fake Meta as a person does.
func (d *devRun) testBrowser(t *testing.T) {
	b := newBrowser(t, d.base)
	b.signIn(filepath.Join(d.dir, "admin.token"))
	b.click(`.top a[href="/break"]`)
	b.waitForText("h1", "Break something")
	b.click("#outage")
	b.waitForText("#outcome", "Nothing is delivered")
	b.waitForText("#now", "Outage")
	b.click("#heal")
	b.waitForText("#outcome", "works again")
	b.waitForText("#now", "Nothing was broken here")
	for _, s := range []struct{ name, path string }{
		{"dev-pages", "/"},
		{"dev-break", "/break"},
		{"dev-streams", "/streams"},
		{"dev-events", "/events"},
		{"dev-conversations", "/conversations"},
	} {
		for _, width := range []int64{1280, 390} {
			b.setScreen(width, "light")
			b.open(s.path)
			b.waitFor("h1")
			assert.LessOrEqual(t, eval[int64](b, `document.documentElement.scrollWidth`), width, s.name)
			b.picture(fmt.Sprintf("%s-%d", s.name, width))
		}
	}
}

// picture writes a picture of the screen if asked to; see TestScreenshots.
func (b *tab) picture(name string) {
	b.t.Helper()
	if *screenshots == "" {
		return
	}
	require.NoError(b.t, os.MkdirAll(*screenshots, 0o750))
	png := do(b, "picture of "+name, chromedp.FullScreenshot(100))
	require.NoError(b.t, os.WriteFile(filepath.Join(*screenshots, name+".png"), png, 0o600))
}

// TestOnlyDevCanBeBroken checks that serve has neither the page that breaks the fake Meta nor its
// routes, and that no code signs in to it.
func TestOnlyDevCanBeBroken(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	r := start(t, cfg)
	c := r.signIn(t, cfg.HTTP.TokenFile)
	d := &devRun{t: t}
	for _, path := range []string{"/break", "/heal"} {
		code, _ := d.fetch(c, r.base()+path, nil)
		assert.Equal(t, http.StatusNotFound, code, "GET %s", path)
		code, _ = d.fetch(c, r.base()+path, url.Values{"fault": {"outage"}})
		assert.Equal(t, http.StatusNotFound, code, "POST %s", path)
	}
	code, text := d.fetch(c, r.base()+"/", nil)
	assert.Equal(t, http.StatusOK, code)
	assert.NotContains(t, text, "/break")
	code, text = d.fetch(d.visitor(), r.base()+"/sign-in?code=QFTDSOI4RMP2CGLJZNDC32LXOV", nil)
	assert.Equal(t, http.StatusForbidden, code)
	assert.Contains(t, text, "<h1>Sign in</h1>")
}

// TestDevShops checks that the pages of dev have unique ids and names, and the troubles that its output
// promises.
func TestDevShops(t *testing.T) {
	t.Parallel()
	var ids, names []string
	companies := map[string]int{}
	for _, s := range dev.Shops() {
		ids, names = append(ids, s.ID), append(names, s.Name)
		companies[s.Company]++
		assert.False(t, s.Company == "" && s.Trouble != "", s.Name)
	}
	for _, list := range [][]string{ids, names} {
		slices.Sort(list)
		assert.Len(t, slices.Compact(list), 42)
	}
	assert.Len(t, companies, 4, "three, and those that are not connected: %v", companies)
	assert.Equal(t, 2, companies[""])
}
