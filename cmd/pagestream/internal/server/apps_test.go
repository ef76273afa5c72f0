package server_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/apps"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/config"
)

// setUp runs apps setup and returns its result and exit code.
func (r *running) setUp(t *testing.T, args ...string) (apps.Result, int) {
	t.Helper()
	code, out, stderr := r.command(t, append([]string{"--json", "apps", "setup"}, args...)...)
	var result apps.Result
	require.NoError(t, json.Unmarshal([]byte(out), &result), "%s%s", out, stderr)
	return result, code
}

// TestAppsSetup takes an app from nothing at Meta to a complete setup, and from each difference back to
// it. The fake Meta makes its handshake with the running server.
func TestAppsSetup(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 1)
	g.SetAppFields(testAppID, "page", nil)
	r := start(t, cfg)
	endpoint := "http://" + r.PublicAddr() + "/webhooks/main"
	at := func() map[string]meta.AppSubscription {
		t.Helper()
		c, err := graph.New(graph.Options{
			AppID: testAppID, AppSecret: testSecret, BaseURL: cfg.Apps[0].GraphURL, Now: time.Now,
		})
		require.NoError(t, err)
		list, err := c.AppSubscriptions(t.Context())
		require.NoError(t, err)
		out := map[string]meta.AppSubscription{}
		for _, s := range list {
			out[s.Object] = s
		}
		return out
	}
	report, code := r.runDoctor(t)
	assert.Equal(t, cli.ExitFailed, code)
	assert.Equal(t, []meta.State{meta.StateAppNotSubscribed}, causesOf(report, ""))
	assert.Equal(t, []string{"pagestream apps setup main"}, report.Install[0].Do)

	// A dry run changes nothing.
	result, code := r.setUp(t, "--dry-run")
	assert.Equal(t, cli.ExitOK, code)
	require.Len(t, result.Objects, 1)
	assert.Equal(t, []string{"instagram"}, result.LeftOut)
	assert.True(t, result.Objects[0].Before.NotSubscribed)
	assert.False(t, result.Objects[0].Changed)
	assert.Empty(t, at())
	_, out, _ := r.command(t, "apps", "setup", "main", "--dry-run")
	assert.Contains(t, out, "object page: would be set, 13 fields to "+endpoint)
	assert.Contains(t, out, "before: the app is not subscribed to the object page")

	// The object instagram is left out while no page uses it: Meta refuses it for an app without Instagram.
	result, code = r.setUp(t)
	assert.Equal(t, cli.ExitOK, code)
	assert.True(t, result.Complete())
	assert.Len(t, result.Objects, 1)
	assert.NotContains(t, at(), "instagram")
	_, out, _ = r.command(t, "apps", "setup")
	assert.Contains(t, out, "object instagram: left out, since no connected page of the app uses it; to set it, add --instagram")
	result, code = r.setUp(t, "--instagram")
	assert.Equal(t, cli.ExitOK, code)
	assert.Len(t, result.Objects, 2)
	g.SetAppFields(testAppID, "page", nil)
	g.SetAppFields(testAppID, "instagram", nil)
	result, code = r.setUp(t, "--instagram")
	assert.Equal(t, cli.ExitOK, code)
	assert.True(t, result.Complete())
	for _, o := range result.Objects {
		assert.True(t, o.Changed, o.Object)
		assert.Equal(t, endpoint, at()[o.Object].CallbackURL)
		assert.Equal(t, slices.Sorted(slices.Values(o.Fields)), at()[o.Object].Fields)
	}
	assert.Subset(t, at()["page"].Fields, meta.DefaultFields())
	assert.Contains(t, at()["instagram"].Fields, "messaging_seen")
	g.SetInstagram("7000", "17841400000007000") // a page uses it from now on
	r.connectAll(t, g)
	report, code = r.runDoctor(t)
	assert.Equal(t, cli.ExitOK, code)
	assert.Empty(t, report.Install)

	// Repeated, it asks and changes nothing.
	result, code = r.setUp(t, "main")
	assert.Equal(t, cli.ExitOK, code)
	assert.False(t, result.Objects[0].Changed || result.Objects[1].Changed)
	_, out, _ = r.command(t, "apps", "setup")
	assert.Contains(t, out, "object instagram: unchanged")

	// Somebody changes it in the dashboard: fields, callback URL, and off. A field that nobody here
	// wants stays.
	g.SetAppFields(testAppID, "page", []string{"messages", "feed"})
	g.SetAppCallback(testAppID, "page", "https://old.example.com/hook", false)
	report, code = r.runDoctor(t)
	assert.Equal(t, cli.ExitFailed, code)
	assert.Equal(t, []meta.State{meta.StateAppNotSubscribed}, causesOf(report, ""))
	assert.Equal(t, []meta.State{meta.StateAppFieldMissing}, causesOf(report, "7000"))
	assert.Contains(t, report.Pages[0].Findings[0].Do, "pagestream apps setup main")
	code, out, _ = r.command(t, "pages", "check", "7000")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, out, "the app's subscription to the object page is inactive; type: pagestream apps setup main")
	assert.Contains(t, out, "Meta delivers the object page to https://old.example.com/hook")
	g.SetAppCallback(testAppID, "page", "https://old.example.com/hook", true)
	report, _ = r.runDoctor(t)
	assert.Equal(t, []meta.State{meta.StateCallbackElsewhere}, causesOf(report, ""))
	code, _, stderr := r.command(t, "apps", "setup")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "Meta delivers the object page to https://old.example.com/hook, not to "+endpoint)
	assert.Contains(t, stderr, "type: pagestream apps setup main --yes")
	assert.Equal(t, "https://old.example.com/hook", at()["page"].CallbackURL)
	_, out, _ = r.command(t, "apps", "setup", "--dry-run")
	assert.Contains(t, out, "needs --yes")
	result, code = r.setUp(t, "--yes")
	assert.Equal(t, cli.ExitOK, code)
	assert.True(t, result.Objects[0].Changed)
	assert.False(t, result.Objects[1].Changed, "instagram lacked nothing")
	assert.Contains(t, at()["page"].Fields, "feed")
	assert.Equal(t, endpoint, at()["page"].CallbackURL)

	// Meta refuses the object instagram: the result says so, and the page is set all the same.
	g.SetAppFields(testAppID, "page", nil)
	g.SetAppFields(testAppID, "instagram", nil)
	g.FailNext("POST "+testAppID+"/subscriptions", fakegraph.Failure{
		Status: 400, Code: 100, Message: "(#100) Param object must be one of {page}",
	}, 1)
	result, code = r.setUp(t)
	assert.Equal(t, cli.ExitFailed, code)
	assert.Equal(t, 100, result.Objects[0].Code)
	assert.Contains(t, result.Objects[0].Reason, "must be one of")
	assert.True(t, result.Objects[1].Changed, "the other object is set all the same")
	assert.False(t, result.Complete())
	_, code = r.setUp(t)
	assert.Equal(t, cli.ExitOK, code)

	// Errors that ask for something else in the configuration.
	code, _, stderr = r.command(t, "apps", "setup", "other")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "no such app is configured")
	for _, secret := range []string{testSecret, testVerifyToken, proof(testAppID + "|" + testSecret)} {
		assert.NotContains(t, r.log.String(), secret)
	}
}

// TestAppsSetupNeedsTheCallback checks that Meta's failed handshake is reported, and that nothing is set
// then; and what else the setup needs.
func TestAppsSetupNeedsTheCallback(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 1)
	g.SetAppFields(testAppID, "page", nil)
	cfg.HTTP.BaseURL = "http://127.0.0.1:1"
	cfg.Apps = append(cfg.Apps, config.App{
		Name: "deaf", Secrets: []config.Secret{testSecret + "2"}, VerifyToken: testVerifyToken + "2",
	})
	r := start(t, cfg)
	result, code := r.setUp(t)
	assert.Equal(t, cli.ExitFailed, code)
	for _, o := range result.Objects {
		assert.Equal(t, 2200, o.Code)
		assert.Contains(t, o.Reason, "Callback verification failed")
		assert.Contains(t, o.Reason, "type: pagestream doctor")
		assert.True(t, o.After.NotSubscribed)
	}
	_, out, stderr := r.command(t, "apps", "setup", "deaf")
	assert.Empty(t, out)
	assert.Contains(t, stderr, "apps[].id")
	report, _ := r.runDoctor(t)
	assert.Contains(t, causesOf(report, ""), meta.StateAppNotSubscribed)
}

// TestPagesOfABusiness connects pages that the person has through a business: the list of the person's
// pages is empty, and only the token's targets name them.
func TestPagesOfABusiness(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 3, func(o *fakegraph.Options) { o.Users[0].Business = o.Users[0].Pages })
	g.SetGranted(testAppID, testUser, []string{"7000", "7002"})
	r := start(t, cfg)
	r.connectAll(t, g)
	for page, want := range map[string]bool{"7000": true, "7001": false, "7002": true} {
		_, on := g.SubscribedFields(testAppID, page)
		assert.Equal(t, want, on, page)
	}
	report, code := r.runDoctor(t)
	assert.Equal(t, cli.ExitOK, code)
	require.Len(t, report.Pages, 2)
	assert.Equal(t, "Page 00", report.Pages[0].Name)
}

// TestGraphVersionIsOne checks that the default version of each part is that of the table.
func TestGraphVersionIsOne(t *testing.T) {
	for _, v := range []string{config.DefaultGraphVersion, graph.DefaultVersion, fakegraph.DefaultVersion} {
		assert.Equal(t, meta.GraphVersion, v)
	}
}
