package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
)

// TestAllViewsShowTheSameJudgement checks that console, doctor, pages list, status, API and metrics
// show the same state of each page, before the doctor has asked Graph and afterwards.
func TestAllViewsShowTheSameJudgement(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 5)
	r := start(t, cfg)
	r.connectAll(t, g)
	send := func(page, kind string, n int) {
		for i := range n {
			item := fmt.Sprintf(`{"sender":{"id":"31"},"recipient":{"id":%q},"timestamp":%d,`+
				`"message":{"mid":"m_%s_%d","text":"x"}}`,
				page, 1790000000000+i, page, i)
			body := fmt.Sprintf(`{"object":"page","entry":[{"id":%q,"time":1790000000000,%q:[%s]}]}`, page, kind, item)
			require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), []byte(body)))
		}
	}
	// 7001: a check finds its token invalid, by code 102.
	g.FailNext("GET 7001/subscribed_apps", fakegraph.Failure{Status: 400, Code: 102, Message: "session key invalid"}, 1)
	dead, err := g.PageToken(testAppID, testUser, "7001")
	require.NoError(t, err)
	code, _, _ := r.command(t, "pages", "check", "7001")
	require.Equal(t, cli.ExitFailed, code)
	require.NoError(t, g.KillToken(dead, 0))
	// 7002: the last three messages are standby; 7003: only two.
	send("7002", "standby", 3)
	send("7003", "standby", 2)
	// 999: never connected. 7004: fields are missing. 7000: healthy.
	send("999", "messaging", 1)
	send("7000", "messaging", 1)
	g.SetSubscription(testAppID, "7004", "messages")
	r.command(t, "pages", "check", "7004")

	want := map[string]meta.State{
		"7000": meta.StateHealthy, "7001": meta.StateTokenDead, "7002": meta.StateStandby, "7003": meta.StateHealthy,
		"7004": meta.StateFieldsDrifted, "999": meta.StateNotConnected,
	}
	severity := map[meta.State]meta.Severity{
		meta.StateHealthy: meta.Fine, meta.StateTokenDead: meta.Wrong, meta.StateStandby: meta.Warning,
		meta.StateFieldsDrifted: meta.Wrong, meta.StateNotConnected: meta.Wrong,
	}
	check := func(when string) {
		t.Helper()
		get[json.RawMessage](t, r, "/api/v1/pages") // waits for the read models

		var list []operate.Page
		_, out, _ := r.command(t, "--json", "pages", "list")
		require.NoError(t, json.Unmarshal([]byte(out), &list))
		require.Len(t, list, len(want))
		for _, p := range list {
			assert.Equal(t, want[string(p.ID)], p.Judgement.State, "%s: pages list, page %s", when, p.ID)
			assert.Equal(t, severity[p.Judgement.State], p.Judgement.Severity, "%s: pages list, page %s", when, p.ID)
			assert.NotEmpty(t, p.Judgement.Findings)
			one := get[operate.Page](t, r, "/api/v1/pages/"+string(p.ID))
			assert.Equal(t, p.Judgement.State, one.Judgement.State, "%s: API, page %s", when, p.ID)
		}
		_, table, _ := r.command(t, "pages", "list")

		s := status(t, r).Pages
		assert.Equal(t, 3, s.Wrong, when)
		assert.Equal(t, 1, s.Warnings, when)
		ill := map[string]operate.UnhealthyPage{}
		for _, p := range s.Unhealthy {
			ill[string(p.Page)] = p
		}
		_, statusTable, _ := r.command(t, "status")

		req := func(path string) string {
			resp, err := r.send(t.Context(), http.MethodGet, path, nil, nil, "text/html")
			require.NoError(t, err)
			return read(t, resp)
		}
		metrics := req("/metrics")
		overview, pages := consolePages(t, r, want)
		for page, state := range want {
			unhealthy := severity[state] != meta.Fine
			badge := fmt.Sprintf(`<span class="badge %s"`, severity[state])
			assert.Contains(t, pages[page], badge, "%s: console, page %s", when, page)
			assert.Contains(t, pages[page], ">"+state.Words()+"</span>", "%s: console, page %s", when, page)
			assert.Contains(t, overview, ">"+state.Words()+"</span>", "%s: console", when)
			assert.Contains(t, table, state.Words(), "%s: pages list", when)
			if assert.Equal(t, unhealthy, ill[page].State != "", "%s: status, page %s", when, page); unhealthy {
				assert.Equal(t, state, ill[page].State, "%s: status, page %s", when, page)
				assert.Contains(t, statusTable, state.Words(), when)
			}
			level := map[meta.Severity]int{meta.Warning: 1, meta.Wrong: 2}[severity[state]]
			assert.Contains(t, metrics, fmt.Sprintf("pagestream_page_severity{page=%q} %d", page, level), when)
		}
		for state, n := range s.States {
			assert.Contains(t, metrics, fmt.Sprintf("pagestream_pages{state=%q} %d", state, n), when)
		}
	}
	check("before the doctor")
	report, code := r.runDoctor(t)
	assert.Equal(t, cli.ExitFailed, code)
	assert.Len(t, report.Pages, len(want), "the doctor includes the page that nobody connected")
	for _, p := range report.Pages {
		assert.Equal(t, want[string(p.Page)], p.State, "doctor, page %s", p.Page)
		assert.Equal(t, severity[p.State], p.Severity, "doctor, page %s", p.Page)
	}
	check("after the doctor")
}

// newSignedInClient returns an HTTP client that is signed in to the console.
func newSignedInClient(t *testing.T, r *running) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	browser := &http.Client{Jar: jar}
	token, err := os.ReadFile(r.cfg.HTTP.TokenFile)
	require.NoError(t, err)
	resp, err := browser.PostForm(r.base()+"/sign-in", url.Values{"token": {strings.TrimSpace(string(token))}})
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode, read(t, resp))
	return browser
}

// consolePages returns the HTML of the console's overview, and the upper part of the console's view
// of each page.
func consolePages(t *testing.T, r *running, pages map[string]meta.State) (overview string, of map[string]string) {
	t.Helper()
	browser := newSignedInClient(t, r)
	of = map[string]string{}
	for page := range pages {
		resp, err := browser.Get(r.base() + "/pages/" + page)
		require.NoError(t, err)
		body := read(t, resp)
		head, _, _ := strings.Cut(body, `<div class="columns">`)
		of[page] = head
	}
	resp, err := browser.Get(r.base() + "/")
	require.NoError(t, err)
	return read(t, resp), of
}
