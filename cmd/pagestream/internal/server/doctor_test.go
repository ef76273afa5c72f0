package server_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/doctor"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// runDoctor runs the doctor command and returns its report and exit code.
func (r *running) runDoctor(t *testing.T, pages ...string) (doctor.Report, int) {
	t.Helper()
	code, out, stderr := r.command(t, append([]string{"--json", "doctor"}, pages...)...)
	var report doctor.Report
	require.NoError(t, json.Unmarshal([]byte(out), &report), "%s%s", out, stderr)
	assert.Equal(t, report.Wrong, code == cli.ExitFailed)
	return report, code
}

// causesOf returns the causes of a page's findings, or those of the installation for an unknown page.
func causesOf(r doctor.Report, page string) (out []meta.State) {
	list := r.Install
	for _, p := range r.Pages {
		if string(p.Page) == page {
			list = p.Findings
		}
	}
	for _, f := range list {
		out = append(out, f.Cause)
	}
	return out
}

// proof returns the appsecret_proof of a token.
func proof(token string) string {
	m := hmac.New(sha256.New, []byte(testSecret))
	m.Write([]byte(token))
	return hex.EncodeToString(m.Sum(nil))
}

// shortToken returns a page token as a login returns it before the exchange: it is valid for two
// hours.
func shortToken(t *testing.T, g *fakegraph.Graph, base, page string) string {
	t.Helper()
	user, err := g.UserToken(testAppID, testUser, false)
	require.NoError(t, err)
	resp, err := http.Get(base + "/" + page + "?fields=access_token&appsecret_proof=" + proof(user) +
		"&access_token=" + url.QueryEscape(user))
	require.NoError(t, err)
	var out struct {
		Token string `json:"access_token"`
	}
	require.NoError(t, json.Unmarshal([]byte(read(t, resp)), &out))
	require.NotEmpty(t, out.Token)
	return out.Token
}

// TestDoctorReportsEachCause creates each problem in the fake Meta, one per page, and runs the
// doctor on all pages at once.
func TestDoctorReportsEachCause(t *testing.T) {
	t.Parallel()
	const other = "902" // has not granted messaging
	g, cfg := newFakeMeta(t, 13, func(o *fakegraph.Options) {
		o.Users[0].Pages = slices.DeleteFunc(o.Users[0].Pages, func(p string) bool { return p == "7011" })
		o.Users = append(o.Users, fakegraph.User{
			ID: other, Pages: []string{"7011"}, Scopes: []string{"pages_show_list", "pages_manage_metadata"},
		})
	})
	r := start(t, cfg)
	connectPage := func(page, token string) {
		t.Helper()
		var out meta.Outcome
		in := api.ConnectRequest{Page: domain.PageID(page), Token: token}
		require.NoError(t, r.do(t.Context(), http.MethodPost, "/api/v1/pages", nil, in, &out))
	}
	for i := range 13 {
		page, user := fmt.Sprint(7000+i), testUser
		switch page {
		case "7010":
			g.FailNext("POST 7010/subscribed_apps",
				fakegraph.Failure{Status: 403, Code: 200, Message: "(#200) no"}, 1)
		case "7011":
			user = other
		}
		token, err := g.PageToken(testAppID, user, page)
		require.NoError(t, err)
		if page == "7012" {
			token = shortToken(t, g, cfg.Apps[0].GraphURL, page)
		}
		connectPage(page, token)
	}
	require.Equal(t, 200, post(t, r.PublicAddr(), message("7000", "31", "m_1", "hello", 1790000000000)))
	// Create the problems.
	dead, err := g.PageToken(testAppID, testUser, "7003")
	require.NoError(t, err)
	require.NoError(t, g.KillToken(dead, 460))
	require.NoError(t, g.SetTasks(testUser, "7004", nil))
	g.SetSubscription(testAppID, "7005", "messages")
	g.SetSubscription(testAppID, "7006")
	for i := range 4 {
		body := fmt.Sprintf(`{"object":"page","entry":[{"id":"7007","time":1790000000000,"standby":[`+
			`{"sender":{"id":"31"},"recipient":{"id":"7007"},"timestamp":%d,"message":{"mid":"m_s%d","text":"x"}}]}]}`,
			1790000000000+i, i)
		require.Equal(t, 200, post(t, r.PublicAddr(), []byte(body)))
	}
	restricted := `{"object":"page","entry":[{"id":"7008","time":1790000000000,"messaging":[` +
		`{"recipient":{"id":"7008"},"timestamp":1790000000000,` +
		`"policy_enforcement":{"action":"block","reason":"spam"}}]}]}`
	require.Equal(t, 200, post(t, r.PublicAddr(), []byte(restricted)))
	g.SetUsage("7009", 100, 30)
	g.Throttle("7009", 80006, 1000)
	g.SetGranted(testAppID, testUser, []string{
		"7000", "7001", "7003", "7004", "7005", "7006", "7007", "7008", "7009", "7010", "7012",
	})
	require.NoError(t, r.Model("pages").WaitFor(t.Context(), lastSeq(t, r)))

	report, code := r.runDoctor(t)
	assert.Equal(t, cli.ExitFailed, code)
	for page, want := range map[string][]meta.State{
		"":     nil,
		"7000": {meta.StateHealthy},
		"7001": {meta.StateQuiet},
		"7002": {meta.StateDeselected},
		"7003": {meta.StateTokenDead},
		"7004": {meta.StateRoleLost},
		"7005": {meta.StateFieldsDrifted},
		"7006": {meta.StateUnsubscribedByOthers},
		"7007": {meta.StateStandby},
		"7008": {meta.StateRestricted},
		"7009": {meta.StateThrottled},
		"7010": {meta.StateSubscribeFailed},
		"7011": {meta.StatePermissionMissing, meta.StateSubscribeFailed},
		"7012": {meta.StateTokenExpiring},
	} {
		assert.Equal(t, want, causesOf(report, page), "page %q", page)
	}

	// Problems of the app itself.
	g.SetAppFields(testAppID, "page", []string{"messages", "message_echoes"})
	report, _ = r.runDoctor(t, "7000")
	assert.Equal(t, []meta.State{meta.StateAppFieldMissing}, causesOf(report, "7000"))
	g.SetAppFields(testAppID, "page", nil)
	report, _ = r.runDoctor(t, "7000")
	assert.Equal(t, []meta.State{meta.StateAppFieldMissing}, causesOf(report, "7000"))

	// The output has the cause and the command that fixes it.
	_, out, _ := r.command(t, "doctor", "7003")
	assert.Contains(t, out, "its admin has changed the password")
	assert.Contains(t, out, "> pagestream pages login")
	code, _, stderr := r.command(t, "doctor", "5")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "there is no page \"5\"")
}

// TestDoctorOnTheInstallation checks findings about the installation, not about a page.
func TestDoctorOnTheInstallation(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 2)
	r := start(t, cfg)
	r.connectAll(t, g)
	report, code := r.runDoctor(t)
	assert.Equal(t, cli.ExitOK, code)
	assert.Empty(t, report.Install)

	// Meta signs with a secret that the installation does not have.
	engine, err := fakegraph.NewEngine(fakegraph.EngineOptions{
		Graph: g, Target: "http://" + r.PublicAddr() + "/webhooks/main", Scale: 1,
	})
	require.NoError(t, err)
	engine.SetSecret("changed at the dashboard")
	for range 5 {
		require.Error(t, engine.SendTest(t.Context()))
	}
	report, code = r.runDoctor(t)
	assert.Equal(t, cli.ExitFailed, code)
	assert.Equal(t, []meta.State{meta.StateAppSecretWrong}, causesOf(report, ""))

	// Answers that are too late for Meta, and refused deliveries.
	for range 500 {
		r.Recent().Answered(time.Now(), http.StatusOK, 6*time.Second)
	}
	r.Recent().Answered(time.Now(), http.StatusServiceUnavailable, time.Second)
	report, _ = r.runDoctor(t)
	assert.Equal(t, []meta.State{meta.StateNotStoring, meta.StateEndpointSlow}, causesOf(report, ""))

	g.FailNext("subscribed_apps", fakegraph.Failure{Status: http.StatusServiceUnavailable}, 100)
	g.FailNext("debug_token", fakegraph.Failure{Status: http.StatusBadGateway}, 100)
	report, _ = r.runDoctor(t, "7001")
	assert.Equal(t, []meta.State{meta.StateGraphUnreachable}, causesOf(report, "7001"))
}

// TestDoctorAfterAnOutage checks the findings after the webhook endpoint was unreachable: Meta gives
// up after an hour of its simulated clock and unsubscribes the page.
func TestDoctorAfterAnOutage(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 1)
	cfg.HTTP.BaseURL = "http://127.0.0.1:1"
	r := start(t, cfg)
	r.connectAll(t, g)
	engine, err := fakegraph.NewEngine(fakegraph.EngineOptions{
		Graph: g, Target: cfg.HTTP.BaseURL + "/webhooks/main", Rate: 200, Scale: 36000,
		Flush: 10 * time.Millisecond, Timeout: 200 * time.Millisecond,
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { assert.NoError(t, engine.Run(ctx)) })
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if _, on := g.SubscribedFields(testAppID, "7000"); on {
			return fmt.Errorf("still subscribed")
		}
		return nil
	})
	cancel()
	running.Wait()
	report, code := r.runDoctor(t)
	assert.Equal(t, cli.ExitFailed, code)
	assert.Equal(t, []meta.State{meta.StateEndpointUnreachable}, causesOf(report, ""))
	assert.Equal(t, []meta.State{meta.StateUnsubscribedByMeta}, causesOf(report, "7000"))
	_, out, _ := r.command(t, "doctor")
	assert.Contains(t, out, "because of endpoint_unreachable")
}
