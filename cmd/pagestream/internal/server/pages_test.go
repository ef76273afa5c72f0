package server_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

const (
	testAppID = "900"
	testUser  = "901"
)

// newFakeMeta starts a fake Meta in which one user has n pages. It returns the fake Graph and a
// configuration that uses it. The functions in change may change the options of the fake.
func newFakeMeta(t testing.TB, n int, change ...func(*fakegraph.Options)) (*fakegraph.Graph, config.Config) {
	t.Helper()
	o := fakegraph.Options{
		Apps:  []fakegraph.App{{ID: testAppID, Secret: testSecret, Name: "test"}},
		Users: []fakegraph.User{{ID: testUser, Name: "Operator"}},
	}
	for i := range n {
		id := fmt.Sprint(7000 + i)
		o.Pages = append(o.Pages, fakegraph.Page{ID: id, Name: fmt.Sprintf("Page %02d", i)})
		o.Users[0].Pages = append(o.Users[0].Pages, id)
	}
	for _, c := range change {
		c(&o)
	}
	g, err := fakegraph.New(o)
	require.NoError(t, err)
	srv := httptest.NewServer(g)
	t.Cleanup(srv.Close)
	cfg := testConfig(t.TempDir())
	cfg.Apps[0].GraphURL, cfg.Apps[0].LoginURL = srv.URL, srv.URL
	return g, cfg
}

// connectAll connects every page of the test user with a user token.
func (r *running) connectAll(t testing.TB, g *fakegraph.Graph) {
	t.Helper()
	token, err := g.UserToken(testAppID, testUser, false)
	require.NoError(t, err)
	var l operate.Login
	require.NoError(t, r.do(t.Context(), http.MethodPost, "/api/v1/logins", nil, api.LoginRequest{UserToken: token}, &l))
	choice, noProgress := meta.Choice{All: true, Company: "acme"}, func(json.RawMessage) error { return nil }
	raw, err := r.run(t.Context(), "/api/v1/logins/"+l.ID, choice, noProgress)
	require.NoError(t, err)
	var sum operate.Connected
	require.NoError(t, json.Unmarshal(raw, &sum))
	require.Equal(t, len(l.Pages), sum.Confirmed)
}

// events counts a page's stored events by type.
func (r *running) events(t *testing.T, page string) map[domain.Type]int {
	t.Helper()
	out := map[domain.Type]int{}
	o := streams.ReadOptions{Filters: streams.Filter(domain.PageID(page))}
	_, err := streams.Read(t.Context(), r.JS(), o, func(e streams.Stored) error {
		out[e.Type]++
		return nil
	})
	require.NoError(t, err)
	return out
}

// command runs a command in process against the server.
func (r *running) command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	args = append([]string{"--server", r.base(), "--token-file", r.cfg.HTTP.TokenFile}, args...)
	code = cli.Main(t.Context(), args, nil, &out, &errs)
	return code, out.String(), errs.String()
}

var csrfField = regexp.MustCompile(`name="csrf" value="([^"]+)"`)

// connected waits until the chosen pages are connected, and returns the page that says so.
func connected(t *testing.T, browser *http.Client, resp *http.Response) (body string) {
	t.Helper()
	progress := resp.Request.URL.String()
	body = read(t, resp)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if !strings.Contains(body, "looks again each second") {
			return nil
		}
		resp, err := browser.Get(progress)
		if err != nil {
			return err
		}
		body = read(t, resp)
		return errors.New("pages are being connected")
	})
	return body
}

// TestSixtyPagesInOneConsent runs the browser's flow through the fake Meta's dialog. The account list
// has three pages of results, and one Facebook page's token is invalidated between the consent and
// the choice.
func TestSixtyPagesInOneConsent(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 60)
	r := start(t, cfg)
	code, link, _ := r.command(t, "pages", "login", "--company", "acme", "--new-company")
	require.Equal(t, cli.ExitOK, code)
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	browser := &http.Client{Jar: jar}
	resp, err := browser.Get(strings.TrimSpace(link))
	require.NoError(t, err)
	body := read(t, resp)
	require.Equal(t, http.StatusOK, resp.StatusCode, body)
	assert.Contains(t, body, "60 pages were granted")
	assert.Equal(t, uint64(0), lastSeq(t, r), "a consent alone changes nothing")

	dead, err := g.PageToken(testAppID, testUser, "7041")
	require.NoError(t, err)
	require.NoError(t, g.KillToken(dead, 492))
	form := url.Values{"csrf": {csrfField.FindStringSubmatch(body)[1]}}
	for i := range 60 {
		form.Add("page", fmt.Sprint(7000+i))
	}
	resp, err = browser.PostForm("http://"+r.PublicAddr()+"/oauth/callback", form)
	require.NoError(t, err)
	body = connected(t, browser, resp)
	assert.Contains(t, body, "59 of 60 pages are connected and subscribed")
	assert.Contains(t, body, "lost their role on the page")
	for i := range 60 {
		page := fmt.Sprint(7000 + i)
		fields, on := g.SubscribedFields(testAppID, page)
		if page == "7041" {
			assert.False(t, on)
			continue
		}
		assert.Len(t, fields, len(connect.DefaultFields()), "page %s", page)
	}
	p := get[pages.Page](t, r, "/api/v1/pages/7000")
	assert.Equal(t, pages.Connected, p.State)
	assert.Equal(t, testUser, p.Admin)
	assert.Equal(t, "acme", p.Company)
	code, out, stderr := r.command(t, "pages", "check", "--all")
	assert.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, out, "59 of 59 pages have all wanted fields")
}

func read(t *testing.T, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(b)
}

// TestDriftIsRepaired checks that subscriptions and fields that were removed at Graph are subscribed
// again by the reconcile loop, and that each step is an event.
func TestDriftIsRepaired(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 12)
	cfg.Reconcile.Interval = 2 * time.Second
	r := start(t, cfg)
	r.connectAll(t, g)
	all := connect.DefaultFields()
	for i := range 5 {
		g.SetSubscription(testAppID, fmt.Sprint(7000+i))
	}
	for i := 5; i < 8; i++ {
		g.SetSubscription(testAppID, fmt.Sprint(7000+i), all[1:]...)
	}
	streamstest.Eventually(t, streamstest.Limit, func() error {
		for i := range 12 {
			page := fmt.Sprint(7000 + i)
			if fields, _ := g.SubscribedFields(testAppID, page); len(fields) != len(all) {
				return fmt.Errorf("page %s has %d fields", page, len(fields))
			}
		}
		return nil
	})
	streamstest.Eventually(t, streamstest.Limit, func() error {
		for i := range 8 {
			page := fmt.Sprint(7000 + i)
			subs := get[api.List[subscriptions.Subscription]](t, r, "/api/v1/pages/"+page+"/subscription")
			if s := subs.Items[0]; s.State != subscriptions.Confirmed {
				return fmt.Errorf("page %s is %s", page, s.State)
			}
		}
		return nil
	})
	for i := range 12 {
		e := r.events(t, fmt.Sprint(7000+i))
		drifted := 0
		if i < 8 {
			drifted = 1
		}
		assert.Equal(t, drifted, e[domain.SubscriptionDrifted], "page %d", i)
		assert.Equal(t, 1+drifted, e[domain.SubscriptionRequested], "page %d", i)
		assert.Equal(t, 1+drifted, e[domain.SubscriptionConfirmed], "page %d", i)
	}
}

// TestMeIsNeverCalled checks, for both meanings of /me in the fake Graph, that no request goes to /me
// and that every page stays subscribed.
func TestMeIsNeverCalled(t *testing.T) {
	t.Parallel()
	for _, overwrites := range []bool{false, true} {
		t.Run(fmt.Sprint(overwrites), func(t *testing.T) {
			g, cfg := newFakeMeta(t, 5, func(o *fakegraph.Options) { o.MeOverwrites = overwrites })
			var me atomic.Int64
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.URL.Path+"/", "/me/") {
					me.Add(1)
				}
				g.ServeHTTP(w, r)
			}))
			defer srv.Close()
			cfg.Apps[0].GraphURL, cfg.Apps[0].LoginURL = srv.URL, srv.URL
			r := start(t, cfg)
			r.connectAll(t, g)
			code, _, stderr := r.command(t, "pages", "resubscribe", "--all")
			assert.Equal(t, cli.ExitOK, code, stderr)
			for i := range 5 {
				fields, _ := g.SubscribedFields(testAppID, fmt.Sprint(7000+i))
				assert.Len(t, fields, len(connect.DefaultFields()))
			}
			assert.Zero(t, me.Load())
		})
	}
}

// TestInvalidTokenLosesNoEvents invalidates a page's token with each subcode under traffic. It checks
// that no event is lost and that the page shows the code.
func TestInvalidTokenLosesNoEvents(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 1)
	r := start(t, cfg)
	r.connectAll(t, g)
	var sent atomic.Int64
	stop := make(chan struct{})
	var traffic sync.WaitGroup
	for c := range 2 {
		traffic.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				body := message("7000", fmt.Sprint("31", c), fmt.Sprintf("m_%d_%d", c, i), "hello", 1790000000000+int64(i))
				if post(t, r.PublicAddr(), body) == http.StatusOK {
					sent.Add(1)
				}
			}
		})
	}
	for _, subcode := range []int{458, 459, 460, 463, 464, 467, 490, 492, 0} {
		token, err := g.PageToken(testAppID, testUser, "7000")
		require.NoError(t, err)
		require.NoError(t, g.KillToken(token, subcode))
		code, _, _ := r.command(t, "pages", "check", "7000")
		assert.Equal(t, cli.ExitFailed, code)
		p := get[pages.Page](t, r, "/api/v1/pages/7000")
		assert.Equal(t, pages.TokenInvalid, p.Token, "subcode %d", subcode)
		assert.Equal(t, subcode, p.TokenSubcode)
		assert.Equal(t, 190, p.TokenCode)
		r.connectAll(t, g) // the user logs in again
		assert.Equal(t, pages.TokenValid, get[pages.Page](t, r, "/api/v1/pages/7000").Token)
	}
	close(stop)
	traffic.Wait()
	require.Positive(t, sent.Load())
	assert.Equal(t, int(sent.Load()), r.events(t, "7000")[domain.MessageReceived])
	t.Logf("%d events while the token was invalidated nine times", sent.Load())
}

// TestPageMetrics checks the metrics that alerts are based on.
func TestPageMetrics(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 2)
	r := start(t, cfg)
	r.connectAll(t, g)
	token, err := g.PageToken(testAppID, testUser, "7001")
	require.NoError(t, err)
	require.NoError(t, g.KillToken(token, 460))
	r.command(t, "pages", "check", "7001")
	resp, err := r.send(t.Context(), http.MethodGet, "/metrics", nil, nil, "text/plain")
	require.NoError(t, err)
	body := read(t, resp)
	for _, want := range []string{
		`pagestream_graph_calls_total{code="0",edge="subscribed_apps",method="POST",status="200"} 2`,
		`pagestream_graph_calls_total{code="190",edge="subscribed_apps",method="GET",status="400"} `,
		`pagestream_graph_call_seconds_count{edge="subscribed_apps"} `,
		`pagestream_page_token_valid{page="7000"} 1`,
		`pagestream_page_token_valid{page="7001"} 0`,
		`pagestream_page_subscription_confirmed{page="7000"} 1`,
		`pagestream_page_token_expires_timestamp_seconds{page="7000"} `,
		`pagestream_all_pages_silent 0`,
		`pagestream_reconcile_total{action="heal"} `,
	} {
		assert.Contains(t, body, want)
	}
}

// TestKeyRotation checks that every token is sealed with the new key and still works.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 6)
	r := start(t, cfg)
	r.connectAll(t, g)
	before := r.Keys().Primary()
	code, out, stderr := r.command(t, "keys", "rotate")
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, out, "the tokens of 6 pages are sealed with it")
	require.NotEqual(t, before, r.Keys().Primary())
	last := lastSeq(t, r)
	require.NoError(t, r.Model("pages").WaitFor(t.Context(), last))
	for i := range 6 {
		c, err := pages.Credentials(r.Model("pages"), domain.PageID(fmt.Sprint(7000+i)))
		require.NoError(t, err)
		secret, err := r.Secrets().Get(t.Context(), c.Page, c.Secret)
		require.NoError(t, err)
		assert.False(t, r.Keys().NeedsReseal(secret.Token))
	}
	r.stop(t)
	// After a restart the key file has the new key, which opens the tokens.
	r = start(t, cfg)
	code, out, stderr = r.command(t, "pages", "check", "--all")
	assert.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, out, "6 of 6 pages have all wanted fields")
}

// TestManyPagesFromTheCommandLine checks connecting, checking and resubscribing several pages on the
// command line, a dry run, and how an interrupted run is continued.
func TestManyPagesFromTheCommandLine(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 4)
	r := start(t, cfg)
	token, err := g.UserToken(testAppID, testUser, false)
	require.NoError(t, err)
	code, out, _ := r.command(t, "pages", "connect", "--user-token", token)
	assert.Equal(t, cli.ExitOK, code)
	assert.Contains(t, out, "Nothing was changed")
	assert.Zero(t, lastSeq(t, r))
	code, _, stderr := r.command(t, "pages", "connect", "--user-token", token, "7000", "7001")
	assert.Equal(t, cli.ExitOK, code, stderr)
	code, _, stderr = r.command(t, "pages", "connect", "--user-token", token, "--all")
	assert.Equal(t, cli.ExitOK, code, stderr)

	g.SetSubscription(testAppID, "7002", "messages")
	code, out, _ = r.command(t, "pages", "check", "--all")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, out, "page 7002 Page 02: drifted")
	assert.Regexp(t, `message_reads +MISSING`, out)
	assert.Contains(t, out, "3 of 4 pages have all wanted fields")

	last := lastSeq(t, r)
	code, out, _ = r.command(t, "pages", "resubscribe", "--all", "--dry-run")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, out, "dry run: 3 of 4")
	assert.Equal(t, last, lastSeq(t, r), "a dry run stores no event")
	fields, _ := g.SubscribedFields(testAppID, "7002")
	assert.Len(t, fields, 1, "a dry run changes nothing")

	// Only the page that was not confirmed recently is resubscribed.
	code, out, stderr = r.command(t, "--json", "pages", "resubscribe", "--all", "--resume", "1h")
	assert.Equal(t, cli.ExitOK, code, stderr)
	var report cli.BatchReport
	require.NoError(t, json.Unmarshal([]byte(out), &report))
	require.Len(t, report.Outcomes, 1)
	assert.Equal(t, domain.PageID("7002"), report.Outcomes[0].Page)

	code, _, stderr = r.command(t, "pages", "resubscribe")
	assert.Equal(t, cli.ExitUsage, code)
	assert.Contains(t, stderr, "--all")
}
