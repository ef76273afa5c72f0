package server_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/companies"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// companiesFixture is a server with two pages, of the companies acme and beta.
type companiesFixture struct {
	*running
	t     *testing.T
	graph *fakegraph.Graph
	cfg   config.Config
	token string
	mids  int
}

const account = "17841400000000001"

// newCompanies starts the fixture. Page 7000 is acme's and has the Instagram account,
// page 7001 is beta's.
func newCompanies(t *testing.T, change ...func(*config.Config)) *companiesFixture {
	t.Helper()
	g, cfg := newFakeMeta(t, 2, func(o *fakegraph.Options) { o.Pages[0].Instagram = account })
	for _, c := range change {
		c(&cfg)
	}
	f := &companiesFixture{running: start(t, cfg), t: t, graph: g, cfg: cfg}
	var err error
	f.token, err = g.UserToken(testAppID, testUser, false)
	require.NoError(t, err)
	f.ok("pages", "connect", "--user-token", f.token, "--company", "acme", "7000")
	f.ok("pages", "connect", "--user-token", f.token, "--company", "beta", "7001")
	return f
}

// ok runs a command that succeeds, and returns its output.
func (f *companiesFixture) ok(args ...string) string {
	f.t.Helper()
	code, out, stderr := f.command(f.t, args...)
	require.Equal(f.t, cli.ExitOK, code, "%v: %s%s", args, out, stderr)
	return out
}

// fails runs a command that fails, and returns what it prints.
func (f *companiesFixture) fails(args ...string) string {
	f.t.Helper()
	code, out, stderr := f.command(f.t, args...)
	require.NotEqual(f.t, cli.ExitOK, code, "%v: %s", args, out)
	return out + stderr
}

// message delivers one message and returns its sequence.
func (f *companiesFixture) message(page string) uint64 {
	f.t.Helper()
	f.mids++
	body := message(page, "31", fmt.Sprint("m_", f.mids), "hello", 1790000000000+int64(f.mids))
	if page == account {
		body = bytes.Replace(body, []byte(`"object":"page"`), []byte(`"object":"instagram"`), 1)
	}
	require.Equal(f.t, http.StatusOK, post(f.t, f.PublicAddr(), body))
	return lastSeq(f.t, f.running)
}

// ofCompany returns the sequences of the company's messages, by the list and by the
// feed, which must agree.
func (f *companiesFixture) ofCompany(company string, filter ...string) []uint64 {
	f.t.Helper()
	read := func(args ...string) []uint64 {
		out := []uint64{}
		args = append(append(args, "--company", company, "--type", "message.received"), filter...)
		for line := range strings.Lines(f.ok(append([]string{"--ndjson"}, args...)...)) {
			var e struct{ Seq uint64 }
			require.NoError(f.t, json.Unmarshal([]byte(line), &e))
			out = append(out, e.Seq)
		}
		return out
	}
	list := read("events", "list", "--limit", "0")
	assert.Equal(f.t, list[:min(2, len(list))], read("events", "list", "--limit", "2"), "the newest ones")
	slices.Reverse(list)
	if len(list) > 0 {
		assert.Equal(f.t, list, read("events", "tail", "--after", "0", "--count", fmt.Sprint(len(list))))
		assert.Equal(f.t, list[1:], read("events", "list", "--after", fmt.Sprint(list[0])))
	}
	return list
}

// companies returns the known companies as "id name pages".
func (f *companiesFixture) companies() (out []string) {
	f.t.Helper()
	for _, c := range get[api.List[companies.Company]](f.t, f.running, "/api/v1/companies").Items {
		out = append(out, fmt.Sprint(c.ID, "/", c.Name, " ", c.Pages))
	}
	return out
}

// TestPageMovesBetweenCompanies checks that a page is not moved silently, and that each
// company sees the page's events of its time only.
func TestPageMovesBetweenCompanies(t *testing.T) {
	t.Parallel()
	f := newCompanies(t)
	first, of7001 := f.message("7000"), f.message("7001")
	ig := f.message(account)

	// Without --move page 7000 stays; the other page is connected all the same.
	out := f.ok("pages", "connect", "--user-token", f.token, "--company", "beta")
	assert.Regexp(t, "7000 .*acme +moves from acme to beta with --move", out)
	before := get[pages.Page](t, f.running, "/api/v1/pages/7000")
	out = f.fails("pages", "connect", "--user-token", f.token, "--company", "beta", "7000", "7001")
	assert.Contains(t, out, "page 7000 moves from acme to beta: page belongs to another company; to move it, add --move")
	assert.Contains(t, out, "page 7001 Page 01: confirmed")
	token, err := f.graph.PageToken(testAppID, testUser, "7000")
	require.NoError(t, err)
	out = f.fails("pages", "connect", "--token", token, "--company", "beta", "7000")
	assert.Contains(t, out, "--move")
	after := get[pages.Page](t, f.running, "/api/v1/pages/7000")
	assert.Equal(t, "acme", after.Company)
	assert.Equal(t, before.ConnectionID, after.ConnectionID)
	assert.Equal(t, before.Traffic.LastSeq, after.Traffic.LastSeq, "no event")
	second := f.message("7000")
	assert.Equal(t, []uint64{first, ig, second}, f.ofCompany("acme"))
	assert.Equal(t, []uint64{of7001}, f.ofCompany("beta"))

	f.ok("pages", "connect", "--user-token", f.token, "--company", "beta", "--move", "7000")
	third, ig2 := f.message("7000"), f.message(account)
	assert.Equal(t, []uint64{first, ig, second}, f.ofCompany("acme"))
	assert.Equal(t, []uint64{of7001, third, ig2}, f.ofCompany("beta"))
	assert.Equal(t, []uint64{third}, f.ofCompany("beta", "--page", "7000"))
	assert.Equal(t, []string{"acme/acme []", "beta/beta [7000 7001]"}, f.companies())

	// After a disconnect the page is nobody's, until it joins again.
	f.ok("pages", "disconnect", "7000")
	f.message("7000")
	f.message(account)
	assert.Equal(t, []uint64{of7001, third, ig2}, f.ofCompany("beta"))
	f.ok("pages", "connect", "--user-token", f.token, "--company", "beta", "7000")
	fourth := f.message("7000")
	assert.Equal(t, []uint64{of7001, third, ig2, fourth}, f.ofCompany("beta"))
	list := get[api.List[operate.Page]](t, f.running, "/api/v1/pages?company=beta")
	var ids []domain.PageID
	for _, p := range list.Items {
		ids = append(ids, p.ID)
	}
	assert.Equal(t, []domain.PageID{account, "7000", "7001"}, ids)
	assert.Empty(t, get[api.List[operate.Page]](t, f.running, "/api/v1/pages?company=acme").Items)

	// An empty or unknown company is not every company.
	for _, path := range []string{"/api/v1/events", "/api/v1/pages"} {
		for _, query := range []string{"?company=", "?company=nobody", "?company=acme&company=beta"} {
			var p api.Problem
			require.True(t, asProblem(f.do(t.Context(), http.MethodGet, path+query, nil, nil, nil), &p), path+query)
			assert.Equal(t, http.StatusBadRequest, p.Status, path+query)
		}
	}

	// A rebuild gives the same answers.
	f.ok("projections", "verify")
	f.ok("projections", "rebuild", "pages")
	assert.Equal(t, []uint64{first, ig, second}, f.ofCompany("acme"))
}

// TestInstagramAccountMoves checks that a check moves the link, and that each company
// sees the account's events of its time only.
func TestInstagramAccountMoves(t *testing.T) {
	t.Parallel()
	f := newCompanies(t)
	first := f.message(account)
	f.graph.SetInstagram("7001", account)
	f.ok("pages", "check", "7001")
	second := f.message(account)
	assert.Equal(t, []uint64{first}, f.ofCompany("acme"))
	assert.Equal(t, []uint64{second}, f.ofCompany("beta"))
	assert.Empty(t, get[pages.Page](t, f.running, "/api/v1/pages/7000").Instagram)
	assert.Equal(t, account, get[pages.Page](t, f.running, "/api/v1/pages/7001").Instagram)
	assert.Equal(t, domain.PageID("7001"), get[pages.Page](t, f.running, "/api/v1/pages/"+account).LinkedPage)
	err := f.do(t.Context(), http.MethodPost, "/api/v1/pages/"+account+"/test", nil, nil, nil)
	require.ErrorContains(t, err, "can't be a test", "it is an account of a real page")
	assert.Equal(t, 1, f.events(t, "7000")[domain.PageLinked])
	assert.Equal(t, 1, f.events(t, "7001")[domain.PageLinked])
	o := streams.ReadOptions{Filters: streams.Filter("7000", domain.PageLinked)}
	_, err = streams.Read(t.Context(), f.JS(), o, func(e streams.Stored) error {
		assert.Empty(t, e.Data.Connection.Instagram)
		assert.NotContains(t, e.Data.Connection.Reason, "7001", "acme need not know who has it")
		return nil
	})
	require.NoError(t, err)

	// The account is taken away: it is nobody's from the check on.
	f.graph.SetInstagram("7001", "")
	f.ok("pages", "check", "--all")
	f.message(account)
	assert.Equal(t, []uint64{first}, f.ofCompany("acme"))
	assert.Equal(t, []uint64{second}, f.ofCompany("beta"))
}

// TestReconcileMovesTheLink checks that the loop reads the linked account.
func TestReconcileMovesTheLink(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 2, func(o *fakegraph.Options) { o.Pages[0].Instagram = account })
	cfg.Reconcile.Interval = 2 * time.Second
	r := start(t, cfg)
	r.connectAll(t, g)
	g.SetInstagram("7001", account)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		a, b := get[pages.Page](t, r, "/api/v1/pages/7000"), get[pages.Page](t, r, "/api/v1/pages/7001")
		if a.Instagram != "" || b.Instagram != account {
			return fmt.Errorf("the pages have %q and %q", a.Instagram, b.Instagram)
		}
		return nil
	})
}

// TestInvitationNamesItsCompany checks that whoever opens a link can't choose the
// company.
func TestInvitationNamesItsCompany(t *testing.T) {
	t.Parallel()
	f := newCompanies(t)
	assert.Contains(t, f.fails("pages", "login"), "--company")
	assert.Contains(t, f.fails("pages", "login", "--company", "new one"), "--new-company")
	for _, in := range []operate.InviteRequest{{}, {Company: "new one"}, {Company: " ", NewCompany: true}} {
		var p api.Problem
		require.True(t, asProblem(f.do(t.Context(), http.MethodPost, "/api/v1/invites", nil, in, nil), &p))
		assert.Equal(t, http.StatusUnprocessableEntity, p.Status)
	}
	assert.Equal(t, []string{"acme/acme [7000]", "beta/beta [7001]"}, f.companies(), "nothing was added")
	assert.Contains(t, f.ok("pages", "login", "--company", "new one", "--new-company"), "/oauth/start?invite=")
	assert.Contains(t, f.ok("pages", "login", "--company", "new one"), "/oauth/start?invite=")
	assert.Contains(t, f.companies(), "new one/new one []")

	// The form shows what would move, and moves what is chosen.
	link := strings.TrimSpace(f.ok("pages", "login", "--company", "beta"))
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	browser := &http.Client{Jar: jar}
	resp, err := browser.Get(link)
	require.NoError(t, err)
	body := read(t, resp)
	assert.NotContains(t, body, `name="company"`)
	assert.Contains(t, body, "moves from acme to beta")
	assert.Contains(t, body, `value="7001" checked`)
	assert.NotContains(t, body, `value="7000" checked`)
	form := url.Values{
		"csrf": {csrfField.FindStringSubmatch(body)[1]}, "page": {"7000", "7001"}, "company": {"mine"},
	}
	resp, err = browser.PostForm("http://"+f.PublicAddr()+"/oauth/callback", form)
	require.NoError(t, err)
	assert.Contains(t, connected(t, browser, resp), "2 of 2 pages are connected and subscribed")
	assert.Equal(t, []string{"acme/acme []", "beta/beta [7000 7001]", "new one/new one []"}, f.companies())
}

// TestRenameKeepsEverything checks that a renamed company keeps its pages and events, is
// found by both names, and is in a backup.
func TestRenameKeepsEverything(t *testing.T) {
	t.Parallel()
	f := newCompanies(t)
	first := f.message("7000")
	f.ok("companies", "add", "gamma")
	assert.Contains(t, f.fails("companies", "add", "gamma"), "there is a company of that name")
	assert.Contains(t, f.fails("companies", "rename", "acme", "beta"), "there is a company of that name")
	assert.Contains(t, f.fails("companies", "rename", "nobody", "x"), "there is no company of that name")
	assert.Contains(t, f.fails("companies", "add", " "), "1 to 200 bytes")
	assert.Contains(t, f.fails("companies", "add", "a\x1bb"), "1 to 200 bytes")
	f.ok("companies", "rename", "acme", "Acme / Söhne Ltd")
	want := []string{"acme/Acme / Söhne Ltd [7000]", "beta/beta [7001]", "gamma/gamma []"}
	assert.Regexp(t, `Acme / Söhne Ltd +acme +1`, f.ok("companies", "list"))
	assert.Equal(t, want, f.companies())
	assert.Contains(t, f.fails("companies", "add", "acme"), "there is a company of that name", "its name in events")

	// Both names select it, and connecting with either is no move.
	assert.Equal(t, []uint64{first}, f.ofCompany("acme"))
	f.ok("pages", "connect", "--user-token", f.token, "--company", "Acme / Söhne Ltd", "7000")
	f.ok("pages", "connect", "--user-token", f.token, "--company", "acme", "7000")
	second := f.message("7000")
	assert.Equal(t, []uint64{first, second}, f.ofCompany("Acme / Söhne Ltd"))
	assert.Equal(t, "acme", get[pages.Page](t, f.running, "/api/v1/pages/7000").Company)
	f.ok("companies", "rename", "Acme / Söhne Ltd", "acme")
	f.ok("companies", "rename", "acme", "Acme / Söhne Ltd")

	backup := filepath.Join(t.TempDir(), "backup")
	f.ok("backup", backup)
	f.stop(t)
	f.running = start(t, f.cfg)
	assert.Equal(t, want, f.companies(), "after a restart")
	f.stop(t)
	cfg := testConfig(t.TempDir())
	code, out, stderr := offline(t, cfg, "restore", backup, "--erasures", "none")
	require.Equal(t, cli.ExitOK, code, out+stderr)
	f.running = start(t, cfg)
	assert.Equal(t, want, f.companies(), "after a restore")
	f.ok("companies", "rename", "gamma", "Gamma")
}

// TestEventsOfACompanyAreWhatItsConsumerGets checks that the list of a company's events and its consumer have the same
// events: those of its pages' time, and none about pagestream's own work unless their types are named.
func TestEventsOfACompanyAreWhatItsConsumerGets(t *testing.T) {
	t.Parallel()
	f := newCompanies(t)
	f.message("7000")
	f.message("7001")
	f.message(account)
	f.ok("pages", "disconnect", "7000")
	f.message("7000")
	f.ok("consumers", "add", "acme", "--company", "acme")
	f.ok("consumers", "add", "named", "--company", "acme", "--types", "page.connected,page.disconnected")
	for name, args := range map[string][]string{
		"acme": nil, "named": {"--type", "page.connected,page.disconnected"},
	} {
		want := []uint64{}
		args := append([]string{"--ndjson", "events", "list", "--limit", "0", "--company", "acme"}, args...)
		for line := range strings.Lines(f.ok(args...)) {
			var e struct{ Seq uint64 }
			require.NoError(t, json.Unmarshal([]byte(line), &e))
			want = append(want, e.Seq)
		}
		slices.Reverse(want)
		got := []uint64{}
		for _, e := range outboxOf(t, f.running, name, lastSeq(t, f.running)) {
			got = append(got, e.Seq)
			assert.Equal(t, name == "named", e.Type.Noun() == domain.PageConnected.Noun(), e.Type)
		}
		assert.Equal(t, want, got, name)
		assert.Len(t, got, 2, name)
	}
}

// TestHookOfACompany checks that an endpoint with a company gets what the company's events are: those of its time,
// of the pages and Instagram accounts that it had then, also after a restart, besides those of named pages.
func TestHookOfACompany(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	got := map[string][]uint64{}
	endpoint := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var e struct{ Sequence string }
		seq := uint64(0)
		err := json.NewDecoder(r.Body).Decode(&e)
		if assert.NoError(t, err) {
			seq, err = strconv.ParseUint(e.Sequence, 10, 64)
			assert.NoError(t, err)
		}
		mu.Lock()
		defer mu.Unlock()
		got[r.URL.Path[1:]] = append(got[r.URL.Path[1:]], seq)
	}))
	t.Cleanup(endpoint.Close)
	var file strings.Builder
	for name, choice := range map[string]string{
		"acme": "company: acme", "messages": "company: acme\n  types: [message.received]", "nobody": "company: nobody",
		"both": "company: acme\n  pages: [\"7001\"]\n  types: [message.received]",
	} {
		fmt.Fprintf(&file, "- name: %s\n  url: %s/%s\n  secrets: [%s]\n  from: 1\n  %s\n",
			name, endpoint.URL, name, hooks.NewSecret(), choice)
	}
	f := newCompanies(t, func(cfg *config.Config) {
		cfg.Hooks.File = filepath.Join(t.TempDir(), "hooks.yaml")
		require.NoError(t, os.WriteFile(cfg.Hooks.File, []byte(file.String()), 0o600))
	})
	acme := []uint64{f.message("7000"), f.message(account)}
	both := append(slices.Clone(acme), f.message("7001"))
	f.ok("pages", "connect", "--user-token", f.token, "--company", "beta", "--move", "7000")
	f.message("7000")
	f.message(account)
	f.ok("pages", "connect", "--user-token", f.token, "--company", "acme", "--move", "7001")
	seq := f.message("7001")
	acme, both = append(acme, seq), append(both, seq)
	f.ok("pages", "disconnect", "7001")
	both = append(both, f.message("7001"))

	received := func(name string, want []uint64) {
		t.Helper()
		streamstest.Eventually(t, streamstest.Limit, func() error {
			mu.Lock()
			defer mu.Unlock()
			sorted := slices.Sorted(slices.Values(got[name])) // there is no order between pages
			if !slices.Equal(slices.Compact(sorted), want) {
				return fmt.Errorf("%s got %v, not %v", name, got[name], want)
			}
			return nil
		})
	}
	received("messages", acme)
	received("acme", acme)
	received("both", both)
	out := f.ok("hooks", "list")
	assert.Regexp(t, `nobody .*there is no company nobody; run: pagestream companies list`, out)
	assert.Equal(t, 1, strings.Count(out, "there is no company"))

	f.stop(t)
	f.running = start(t, f.cfg)
	f.ok("pages", "connect", "--user-token", f.token, "--company", "acme", "7001")
	acme = append(acme, f.message("7001"))
	f.message("7000")
	received("messages", acme)
	received("acme", acme)
	f.ok("companies", "rename", "acme", "Acme Ltd")
	acme = append(acme, f.message("7001"))
	received("acme", acme)
	// All that there is was looked at, so no event of another time follows.
	streamstest.Eventually(t, streamstest.Limit, func() error {
		var list api.List[hooks.Status]
		require.NoError(t, f.do(t.Context(), http.MethodGet, "/api/v1/hooks", nil, nil, &list))
		for _, s := range list.Items {
			if s.Position < lastSeq(t, f.running) {
				return fmt.Errorf("%s is at %d", s.Name, s.Position)
			}
		}
		return nil
	})
	received("acme", acme)
	mu.Lock()
	defer mu.Unlock()
	assert.Empty(t, got["nobody"])
}
