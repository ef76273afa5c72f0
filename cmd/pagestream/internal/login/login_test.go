package login_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/login"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// fakeFlow is a login.Flow that stores its arguments.
type fakeFlow struct {
	consent    meta.Consent
	err        error
	codes      []string
	chosen     []domain.PageID
	company    string
	move       []domain.PageID
	fields     []string
	connectErr error
	slow       time.Duration
	// secondPage blocks the second page until it is closed.
	secondPage chan struct{}
}

// work takes as long as slow, unless the context ends.
func (f *fakeFlow) work(ctx context.Context) error {
	if f.slow == 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(f.slow):
		return nil
	}
}

func (f *fakeFlow) LoginURL(app, redirect, state string) (string, error) {
	if app == "none" {
		return "", errors.New("no such app is configured")
	}
	return "https://meta.example/dialog?" + url.Values{"redirect_uri": {redirect}, "state": {state}}.Encode(), nil
}

func (f *fakeFlow) ConsentByCode(ctx context.Context, _, redirect, code string) (meta.Consent, error) {
	if err := f.work(ctx); err != nil {
		return meta.Consent{}, err
	}
	f.codes = append(f.codes, code+" "+redirect)
	return f.consent, f.err
}

func (f *fakeFlow) Apply(
	ctx context.Context, c meta.Consent, choice meta.Choice, progress func(meta.Outcome),
) (outs []meta.Outcome, err error) {
	if err := f.work(ctx); err != nil {
		return nil, err
	}
	f.chosen, f.company, f.fields, f.move = choice.Pages, choice.Company, choice.Fields, choice.Move
	for i, p := range choice.Pages {
		at := slices.IndexFunc(c.Pages, func(l meta.ConsentPage) bool { return l.Page == p })
		if at < 0 {
			continue
		}
		o := meta.Outcome{Page: p, Name: c.Pages[at].Name, State: subscriptions.Confirmed}
		if i == 1 {
			if f.secondPage != nil {
				select {
				case <-f.secondPage:
				case <-ctx.Done():
					return outs, ctx.Err()
				}
			}
			o.State, o.Reason, o.Field = subscriptions.Failed, "(#200) no permission", "messages"
		}
		progress(o)
		outs = append(outs, o)
	}
	return outs, f.connectErr
}

var acme = login.Company{ID: "acme", Name: "acme"}

// fixture has a handler with its server, a browser and the log.
type fixture struct {
	t    *testing.T
	flow *fakeFlow
	*login.Handler
	srv       *httptest.Server
	browser   *http.Client
	now       time.Time
	returnURL string
	log       bytes.Buffer
}

func newFixture(t *testing.T, change ...func(*login.Options)) *fixture {
	t.Helper()
	s := &fixture{t: t, now: time.Unix(1790000000, 0), flow: &fakeFlow{consent: meta.Consent{
		Admin: "901",
		Pages: []meta.ConsentPage{
			{Page: "1", Name: "Bakery <b>", Standing: meta.StandingNew},
			{Page: "2", Name: "Bikes", Standing: meta.StandingConnected, Company: "acme"},
			{Page: "3", Name: "Club", Standing: meta.StandingForeign, Company: "other"},
			{Page: "4", Name: "Den", Standing: meta.StandingNew, Lacking: true},
		},
		Gone: []meta.ConsentPage{{Page: "9", Name: "Old page"}},
	}}}
	mux := http.NewServeMux()
	s.srv = httptest.NewUnstartedServer(mux)
	s.srv.Config.ReadTimeout, s.srv.Config.WriteTimeout = 200*time.Millisecond, 200*time.Millisecond // as for webhooks
	s.srv.Start()
	t.Cleanup(s.srv.Close)
	o := login.Options{
		BaseURL: s.srv.URL, Flow: s.flow, Now: func() time.Time { return s.now },
		Logger: slog.New(slog.NewTextHandler(&s.log, nil)),
	}
	for _, c := range change {
		c(&o)
	}
	s.Handler = login.New(o)
	t.Cleanup(s.Close)
	s.Register(mux)
	s.browser = newBrowser(t)
	return s
}

func newBrowser(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return &http.Client{
		Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (s *fixture) get(b *http.Client, target string) (int, string, http.Header) {
	s.t.Helper()
	resp, err := b.Get(target)
	require.NoError(s.t, err)
	return s.read(resp)
}

func (s *fixture) read(resp *http.Response) (int, string, http.Header) {
	s.t.Helper()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(s.t, err)
	assert.Equal(s.t, "no-store", resp.Header.Get("Cache-Control"))
	assert.Equal(s.t, "DENY", resp.Header.Get("X-Frame-Options"))
	return resp.StatusCode, string(body), resp.Header
}

// begin opens an invitation in a browser and returns the state at Meta.
func (s *fixture) begin(b *http.Client) string {
	s.t.Helper()
	link, _, err := s.Invite("", acme, s.returnURL, []string{"messages"})
	require.NoError(s.t, err)
	return s.open(b, link)
}

// open opens a link in a browser and returns the state at Meta.
func (s *fixture) open(b *http.Client, link string) string {
	s.t.Helper()
	status, _, head := s.get(b, link)
	require.Equal(s.t, http.StatusFound, status)
	to, err := url.Parse(head.Get("Location"))
	require.NoError(s.t, err)
	assert.Equal(s.t, s.srv.URL+"/oauth/callback", to.Query().Get("redirect_uri"))
	return to.Query().Get("state")
}

func (s *fixture) callback(b *http.Client, q url.Values) (int, string) {
	s.t.Helper()
	status, body, _ := s.get(b, s.srv.URL+"/oauth/callback?"+q.Encode())
	return status, body
}

var csrf = regexp.MustCompile(`name="csrf" value="([^"]+)"`)

func (s *fixture) choose(b *http.Client, form url.Values) (int, string) {
	s.t.Helper()
	resp, err := b.PostForm(s.srv.URL+"/oauth/callback", form)
	require.NoError(s.t, err)
	status, body, head := s.read(resp)
	if status == http.StatusSeeOther {
		status, body, _ = s.get(b, head.Get("Location"))
	}
	return status, body
}

func TestFlow(t *testing.T) {
	s := newFixture(t)
	status, body := s.callback(s.browser, url.Values{"state": {s.begin(s.browser)}, "code": {"the-code"}})
	require.Equal(t, http.StatusOK, status)
	assert.Equal(t, []string{"the-code " + s.srv.URL + "/oauth/callback"}, s.flow.codes)
	assert.Contains(t, body, "Bakery &lt;b&gt;")
	assert.Contains(t, body, "no longer includes <b>Old page</b>")
	assert.Contains(t, body, `value="2" checked`)
	assert.NotContains(t, body, `value="3" checked`, "nobody is taken over by default")
	assert.NotContains(t, body, `value="4" checked`)
	assert.Contains(t, body, "connected; gets the new token")
	assert.Contains(t, body, "connected by somebody else for other; choosing it takes it over")
	assert.Contains(t, body, "your role on this page does not let you connect it")
	m := csrf.FindStringSubmatch(body)
	require.NotNil(t, m)

	// An empty choice can be repeated; one with a wrong CSRF token is refused.
	status, _ = s.choose(s.browser, url.Values{"csrf": {m[1]}})
	assert.Equal(t, http.StatusBadRequest, status)
	status, _ = s.choose(s.browser, url.Values{"csrf": {"x"}, "page": {"1"}})
	assert.Equal(t, http.StatusBadRequest, status)
	status, _ = s.choose(newBrowser(t), url.Values{"csrf": {m[1]}, "page": {"1"}})
	assert.Equal(t, http.StatusBadRequest, status, "another browser")
	assert.Empty(t, s.flow.chosen)

	form := url.Values{"csrf": {m[1]}, "page": {"1", "2"}, "company": {"mine"}}
	status, body = s.choose(s.browser, form)
	require.Equal(t, http.StatusOK, status)
	assert.Equal(t, []domain.PageID{"1", "2"}, s.flow.chosen)
	assert.Equal(t, "acme", s.flow.company, "the invitation's stands")
	assert.Equal(t, []string{"messages"}, s.flow.fields)
	assert.Contains(t, body, "1 of 2 pages")
	assert.Contains(t, body, "refused for the field messages")
	status, _ = s.choose(s.browser, form)
	assert.Equal(t, http.StatusBadRequest, status, "once")
	assert.NotContains(t, s.log.String(), "the-code")
}

func TestLoginNeedsAnInvitation(t *testing.T) {
	s := newFixture(t)
	status, body, _ := s.get(s.browser, s.srv.URL+"/oauth/start")
	assert.Equal(t, http.StatusForbidden, status)
	assert.Contains(t, body, "pagestream pages login")

	link, expires, err := s.Invite("", acme, "", nil)
	require.NoError(t, err)
	assert.Equal(t, s.now.Add(time.Hour), expires)
	// Opening the link, as for a preview in a chat, does not use it up.
	status, _, _ = s.get(newBrowser(t), link)
	assert.Equal(t, http.StatusFound, status)
	status, body = s.callback(s.browser, url.Values{"state": {s.open(s.browser, link)}, "error": {"access_denied"}})
	assert.Equal(t, http.StatusOK, status)
	assert.Contains(t, body, "Start again")
	s.flow.err = errors.New("graph did not answer")
	status, _ = s.callback(s.browser, url.Values{"state": {s.open(s.browser, link)}, "code": {"c"}})
	assert.Equal(t, http.StatusBadGateway, status)
	s.flow.err = nil
	other := newBrowser(t)
	late := s.open(other, link)
	status, _ = s.callback(s.browser, url.Values{"state": {s.open(s.browser, link)}, "code": {"c"}})
	assert.Equal(t, http.StatusOK, status)
	status, body = s.callback(other, url.Values{"state": {late}, "code": {"c"}})
	assert.Equal(t, http.StatusForbidden, status, "one login a link")
	assert.NotContains(t, body, "Bakery")
	status, _, _ = s.get(s.browser, link)
	assert.Equal(t, http.StatusForbidden, status, "once")
	link, _, err = s.Invite("", acme, "", nil)
	require.NoError(t, err)
	s.now = s.now.Add(time.Hour)
	status, _, _ = s.get(s.browser, link)
	assert.Equal(t, http.StatusForbidden, status, "for an hour")

	link, _, err = s.Invite("none", acme, "", nil)
	require.NoError(t, err)
	status, body, _ = s.get(s.browser, link)
	assert.Equal(t, http.StatusBadRequest, status)
	assert.Contains(t, body, "no such app")

	s = newFixture(t, func(o *login.Options) { o.Open = true })
	status, _, head := s.get(s.browser, s.srv.URL+"/oauth/start")
	assert.Equal(t, http.StatusFound, status)
	assert.Contains(t, head.Get("Set-Cookie"), "HttpOnly")
	assert.Contains(t, head.Get("Set-Cookie"), "SameSite=Lax")

	s = newFixture(t, func(o *login.Options) { o.BaseURL = "" })
	_, _, err = s.Invite("", acme, "", nil)
	require.ErrorIs(t, err, login.ErrNoBaseURL)
}

func TestState(t *testing.T) {
	for name, c := range map[string]func(s *fixture, state string) (*http.Client, string){
		"another state":   func(s *fixture, _ string) (*http.Client, string) { return s.browser, "x" },
		"no state":        func(s *fixture, _ string) (*http.Client, string) { return s.browser, "" },
		"another browser": func(s *fixture, state string) (*http.Client, string) { return newBrowser(s.t), state },
		"after ten minutes": func(s *fixture, state string) (*http.Client, string) {
			s.now = s.now.Add(10 * time.Minute)
			return s.browser, state
		},
		"another's state": func(s *fixture, _ string) (*http.Client, string) { return s.browser, s.begin(newBrowser(s.t)) },
		"a second time": func(s *fixture, state string) (*http.Client, string) {
			s.callback(s.browser, url.Values{"state": {state}, "code": {"c"}})
			return s.browser, state
		},
		"after it was denied": func(s *fixture, state string) (*http.Client, string) {
			s.callback(s.browser, url.Values{"state": {state}, "error": {"access_denied"}})
			return s.browser, state
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newFixture(t)
			b, state := c(s, s.begin(s.browser))
			n := len(s.flow.codes)
			status, body := s.callback(b, url.Values{"state": {state}, "code": {"the-code"}})
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, body, "Start again")
			assert.Len(t, s.flow.codes, n, "the code was not used")
		})
	}
}

func TestCallbackErrors(t *testing.T) {
	s := newFixture(t)
	status, body := s.callback(
		s.browser,
		url.Values{"state": {s.begin(s.browser)}, "error": {"access_denied"}, "error_description": {"<script>"}},
	)
	assert.Equal(t, http.StatusOK, status)
	assert.Contains(t, body, "not approved")
	assert.NotContains(t, body, "script>")
	status, _ = s.callback(s.browser, url.Values{"state": {s.begin(s.browser)}})
	assert.Equal(t, http.StatusBadRequest, status)
	s.flow.err = errors.New("graph refused <x>")
	status, body = s.callback(s.browser, url.Values{"state": {s.begin(s.browser)}, "code": {"c"}})
	assert.Equal(t, http.StatusBadGateway, status)
	assert.Contains(t, body, "graph refused &lt;x&gt;")
	s.flow.err = nil
	s.flow.consent = meta.Consent{MissingScopes: []string{"pages_messaging"}}
	_, body = s.callback(s.browser, url.Values{"state": {s.begin(s.browser)}, "code": {"c"}})
	assert.Contains(t, body, "pages_messaging")
	assert.Contains(t, body, "No page was granted")
}

func TestChoiceExpires(t *testing.T) {
	s := newFixture(t)
	_, body := s.callback(s.browser, url.Values{"state": {s.begin(s.browser)}, "code": {"c"}})
	guard := csrf.FindStringSubmatch(body)[1]
	s.now = s.now.Add(30 * time.Minute)
	status, _ := s.choose(s.browser, url.Values{"csrf": {guard}, "page": {"1"}})
	assert.Equal(t, http.StatusBadRequest, status)

	_, body = s.callback(s.browser, url.Values{"state": {s.begin(s.browser)}, "code": {"c"}})
	s.flow.connectErr = errors.New("page 7 is not in this login")
	status, body = s.choose(s.browser, url.Values{"csrf": {csrf.FindStringSubmatch(body)[1]}, "page": {"7"}})
	assert.Equal(t, http.StatusBadGateway, status)
	assert.Contains(t, body, "not in this login")
	// A much longer one would still be written when the connection is closed, which the client may see first.
	resp, err := s.browser.Post(
		s.srv.URL+"/oauth/callback", "application/x-www-form-urlencoded", strings.NewReader(strings.Repeat("x", 1<<20+1)),
	)
	require.NoError(t, err)
	status, _, _ = s.read(resp)
	assert.Equal(t, http.StatusBadRequest, status)
}

// The number of pending logins is limited, and the newest ones still work.
func TestPendingIsBounded(t *testing.T) {
	s := newFixture(t, func(o *login.Options) { o.Open = true })
	first := s.begin(s.browser)
	for range 1000 {
		status, _, _ := s.get(newBrowser(t), s.srv.URL+"/oauth/start")
		require.Equal(t, http.StatusFound, status)
	}
	status, _ := s.callback(s.browser, url.Values{"state": {first}, "code": {"c"}})
	assert.Equal(t, http.StatusBadRequest, status, "the oldest fell away")
	status, _ = s.callback(s.browser, url.Values{"state": {s.begin(s.browser)}, "code": {"c"}})
	assert.Equal(t, http.StatusOK, status)
}

// The server's deadlines are for webhooks and too short for many pages.
func TestDeadlinesAreExtended(t *testing.T) {
	s := newFixture(t)
	s.flow.slow = 500 * time.Millisecond
	status, body := s.callback(s.browser, url.Values{"state": {s.begin(s.browser)}, "code": {"c"}})
	require.Equal(t, http.StatusOK, status)
	status, body = s.choose(s.browser, url.Values{"csrf": {csrf.FindStringSubmatch(body)[1]}, "page": {"1"}})
	require.Equal(t, http.StatusOK, status)
	assert.Contains(t, body, "1 of 1 pages")
}

// The progress is shown only to the browser of the login, the results stay available,
// and Close cancels the work.
func TestProgress(t *testing.T) {
	s := newFixture(t)
	s.returnURL = "https://console.example/?a=1&b=%22"
	s.flow.secondPage = make(chan struct{})
	choose := func(pages ...string) string {
		t.Helper()
		_, body := s.callback(s.browser, url.Values{"state": {s.begin(s.browser)}, "code": {"c"}})
		_, body = s.choose(s.browser, url.Values{"csrf": {csrf.FindStringSubmatch(body)[1]}, "page": pages})
		return body
	}
	body := choose("1", "2")
	assert.Contains(t, body, "1 of 2 pages are done")
	assert.Contains(t, body, "Bakery &lt;b&gt;")
	assert.Contains(t, body, "waiting")
	status, _, head := s.get(s.browser, s.srv.URL+"/oauth/progress")
	assert.Equal(t, http.StatusOK, status)
	assert.Equal(t, "1", head.Get("Refresh"))
	status, _, _ = s.get(newBrowser(t), s.srv.URL+"/oauth/progress")
	assert.Equal(t, http.StatusBadRequest, status, "another browser")

	close(s.flow.secondPage)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		_, body, head = s.get(s.browser, s.srv.URL+"/oauth/progress")
		if !strings.Contains(body, "1 of 2 pages are connected") {
			return errors.New(body)
		}
		return nil
	})
	assert.Empty(t, head.Get("Refresh"))
	assert.Contains(t, body, "(#200) no permission")
	assert.Contains(t, body, `<a href="https://console.example/?a=1&amp;b=%22" rel="noreferrer">Back to pagestream</a>`)
	_, again, _ := s.get(s.browser, s.srv.URL+"/oauth/progress")
	assert.Equal(t, body, again, "a reload shows the same")

	s.flow.secondPage = make(chan struct{})
	assert.Contains(t, choose("1", "2"), "1 of 2 pages are done")
	s.Close()
	_, body, _ = s.get(s.browser, s.srv.URL+"/oauth/progress")
	assert.Contains(t, body, "1 of 2 pages are connected")
	assert.Contains(t, body, "context canceled")
}

func TestReturnURL(t *testing.T) {
	s := newFixture(t)
	for back, ok := range map[string]bool{
		"": true, "http://127.0.0.1:8081/": true, "https://x.example/a?b": true,
		"javascript:alert(1)": false, "/pages": false, "https://user:pw@x.example/": false, "https://": false,
		"http://x.example/" + strings.Repeat("a", 2000): false, "ftp://x.example": false,
	} {
		_, _, err := s.Invite("", acme, back, nil)
		assert.Equal(t, ok, err == nil, back)
		if !ok {
			assert.ErrorIs(t, err, login.ErrReturnURL)
		}
	}
}

// A proxy may serve pagestream below a path, which it removes.
func TestBaseURLWithAPath(t *testing.T) {
	s := newFixture(t, func(o *login.Options) { o.BaseURL = "https://example.com/ps" })
	link, _, err := s.Invite("", acme, "", nil)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(link, "https://example.com/ps/oauth/start?invite="))
	_, _, head := s.get(s.browser, strings.Replace(link, "https://example.com/ps", s.srv.URL, 1))
	cookie := head.Get("Set-Cookie")
	assert.Contains(t, cookie, "Path=/ps/oauth;")
	assert.Contains(t, cookie, "Secure")
	to, err := url.Parse(head.Get("Location"))
	require.NoError(t, err)
	assert.Equal(t, "https://example.com/ps/oauth/callback", to.Query().Get("redirect_uri"))
}

// The invitation names the company: the form has no field for it, and a page of another
// company moves only if it is ticked.
func TestCompanyOfTheChoice(t *testing.T) {
	s := newFixture(t, func(o *login.Options) {
		o.Names = func(context.Context) (map[string]string, error) {
			return map[string]string{"acme": "Acme & Co", "other": "Other Ltd"}, nil
		}
	})
	link, _, err := s.Invite("", login.Company{ID: "beta", Name: "Beta GmbH"}, "", nil)
	require.NoError(t, err)
	_, body := s.callback(s.browser, url.Values{"state": {s.open(s.browser, link)}, "code": {"c"}})
	assert.NotContains(t, body, `name="company"`)
	assert.Contains(t, body, "For Beta GmbH.")
	assert.Contains(t, body, "moves from Acme &amp; Co to Beta GmbH")
	assert.Contains(t, body, "moves from Other Ltd to Beta GmbH")
	assert.Contains(t, body, `value="1" checked`)
	assert.NotContains(t, body, `value="2" checked`, "the page is acme's")
	guard := csrf.FindStringSubmatch(body)[1]
	status, _ := s.choose(s.browser, url.Values{"csrf": {guard}, "page": {"1", "2"}, "company": {" mine "}})
	assert.Equal(t, http.StatusOK, status)
	assert.Equal(t, "beta", s.flow.company)
	assert.Equal(t, []domain.PageID{"1", "2"}, s.flow.move)
}

// The policy allows the page's style and no scripts.
func TestPolicyAllowsTheStyle(t *testing.T) {
	s := newFixture(t)
	resp, err := s.browser.Get(s.srv.URL + "/oauth/start")
	require.NoError(t, err)
	_, body, head := s.read(resp)
	style := regexp.MustCompile(`(?s)<style>(.*)</style>`).FindStringSubmatch(body)
	require.NotNil(t, style)
	sum := sha256.Sum256([]byte(style[1]))
	assert.Contains(
		t, head.Get("Content-Security-Policy"), "style-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'",
	)
	assert.Contains(t, head.Get("Content-Security-Policy"), "default-src 'none'")
	assert.Equal(t, "nosniff", head.Get("X-Content-Type-Options"))
	assert.Equal(t, "no-referrer", head.Get("Referrer-Policy"))
	assert.NotContains(t, body, "<script")
}
