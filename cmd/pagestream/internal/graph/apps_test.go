package graph_test

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
)

// apps returns an app without a client and one whose client calls s.
func (s *server) apps() *graph.Apps {
	s.t.Helper()
	a, err := graph.NewApps([]graph.AppOptions{
		{Name: "main", Options: graph.Options{
			BaseURL: s.URL, Version: "v25.0", AppID: appID, AppSecret: appSecret, Now: func() time.Time { return s.now },
		}},
		{Name: "deaf", Options: graph.Options{BaseURL: s.URL, AppSecret: appSecret}},
	})
	require.NoError(s.t, err)
	return a
}

func TestApps(t *testing.T) {
	s := start(t, success.usage(`App-Usage: {"call_count":28}`))
	a := s.apps()
	assert.Equal(t, []string{"main", "deaf"}, a.Names())
	for app, want := range map[string]struct {
		name, id string
		ok       bool
	}{
		"": {"main", appID, true}, "main": {"main", appID, true}, "deaf": {"deaf", "", false}, "nope": {"nope", "", false},
	} {
		c, name, ok := a.Client(app)
		assert.Equal(t, want.name, name)
		assert.Equal(t, want.ok, ok, app)
		assert.Equal(t, want.ok, c != nil, app)
		id, ok := a.ID(app)
		assert.Equal(t, want.id, id)
		assert.Equal(t, want.ok, ok, app)
		assert.Equal(t, want.ok, c != nil && c.AppID() == id, app)
	}
	assert.Empty(t, a.Usage()["main"])
	c, _, _ := a.Client("main")
	require.NoError(t, c.Unsubscribe(t.Context(), page, token))
	require.Len(t, a.Usage(), 1, "only of an app that calls")
	require.Len(t, a.Usage()["main"], 1)
	assert.Equal(t, 28, a.Usage()["main"][0].CallCount)

	none, err := graph.NewApps(nil)
	require.NoError(t, err)
	_, _, ok := none.Client("")
	assert.False(t, ok)
	_, err = graph.NewApps([]graph.AppOptions{{Name: "main", Options: graph.Options{AppID: appID}}})
	require.ErrorIs(t, err, graph.ErrOptions)
	assert.ErrorContains(t, err, "main")
}

func TestCachedSubscriptions(t *testing.T) {
	s := start(t,
		answer{200, `{"data":[{"object":"instagram","fields":["comments"]},` +
			`{"object":"page","active":true,"fields":["standby","messages"]}]}`},
		answer{400, `{"error":{"code":190}}`},
		answer{200, `{"data":[]}`},
	)
	a := s.apps()
	read := func(want []string, wantKnown bool) error {
		t.Helper()
		list, known, err := a.CachedSubscriptions(t.Context(), "")
		assert.Equal(t, want, meta.AppDelivers(list, meta.ObjectPage))
		assert.Equal(t, wantKnown, known)
		return err
	}
	require.NoError(t, read([]string{"messages", "standby"}, true))
	s.now = s.now.Add(5*time.Second - 1)
	require.NoError(t, read([]string{"messages", "standby"}, true))
	assert.Len(t, s.requests, 1)
	s.now = s.now.Add(1)
	for range 2 { // an error is cached as well
		assert.Equal(t, meta.TokenDead, meta.ClassOf(read([]string{}, false)))
	}
	assert.Len(t, s.requests, 2)
	s.now = s.now.Add(5 * time.Second)
	require.NoError(t, read([]string{}, true), "the app is not subscribed to anything")

	for _, app := range []string{"deaf", "nope"} {
		list, known, err := a.CachedSubscriptions(t.Context(), app)
		require.NoError(t, err)
		assert.False(t, known)
		assert.Empty(t, list)
	}
	assert.Len(t, s.requests, 3)

	// A canceled call does not affect the others.
	s.now = s.now.Add(5 * time.Second)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, known, err := a.CachedSubscriptions(gone, "main")
	require.ErrorIs(t, err, context.Canceled)
	assert.False(t, known)
	require.NoError(t, read([]string{}, true))
}

func TestConcurrentSubscriptionsShareOneCall(t *testing.T) {
	s := start(t)
	var n atomic.Int64
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n.Add(1)
		_, _ = w.Write([]byte(`{"data":[{"object":"page","active":true,"fields":["messages"]}]}`))
	})
	a := s.apps()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			list, known, err := a.CachedSubscriptions(t.Context(), "main")
			if !assert.NoError(t, err) {
				return
			}
			assert.True(t, known)
			assert.Equal(t, []string{"messages"}, meta.AppDelivers(list, meta.ObjectPage))
		})
	}
	all.Wait()
	assert.Equal(t, int64(1), n.Load())
}

// The methods that take an access call Graph for its page, with the client of its
// app.
func TestAppsCallByAccess(t *testing.T) {
	for name, c := range map[string]struct {
		path string
		body string
		call func(a *graph.Apps, access meta.Access) error
	}{
		"send": {"/v25.0/" + page + "/messages", `{"message_id":"m_1"}`, func(a *graph.Apps, access meta.Access) error {
			sent, err := a.Send(t.Context(), access, outgoing)
			assert.Equal(t, err == nil, sent.MessageID == "m_1")
			return err
		}},
		"profile": {"/v25.0/" + contact, `{"username":"peter"}`, func(a *graph.Apps, access meta.Access) error {
			got, err := a.Profile(t.Context(), access, contact, true)
			assert.Equal(t, err == nil, got.Name == "peter")
			return err
		}},
		"lead": {"/v25.0/" + leadID, `{"id":"` + leadID + `"}`, func(a *graph.Apps, access meta.Access) error {
			got, _, err := a.Lead(t.Context(), access, leadID)
			assert.Equal(t, err == nil, got.ID == leadID)
			return err
		}},
		"conversations": {
			"/v25.0/" + page + "/conversations",
			`{"data":[{"id":"` + thread + `","updated_time":"2026-11-20T10:33:13+0000"}]}`,
			func(a *graph.Apps, access meta.Access) error {
				list, next, err := a.Conversations(t.Context(), access, "messenger", "", 10)
				assert.Equal(t, err == nil, len(list) == 1)
				assert.Empty(t, next)
				return err
			},
		},
		"messages": {"/v25.0/" + thread + "/messages", `{"data":[{"id":"m_1"}]}`, func(a *graph.Apps, access meta.Access) error {
			list, next, err := a.Messages(t.Context(), access, thread, "")
			assert.Equal(t, err == nil, len(list) == 1)
			assert.Empty(t, next)
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, answer{200, c.body})
			a := s.apps()
			require.NoError(t, c.call(a, meta.Access{Page: page, App: "main", AppID: appID, Token: token}))
			require.Len(t, s.requests, 1)
			assert.Equal(t, c.path, s.requests[0].path)
			assert.Equal(t, token, s.requests[0].auth)
			for _, app := range []string{"deaf", "nope"} {
				err := c.call(a, meta.Access{Page: page, App: app, Token: token})
				require.ErrorIs(t, err, meta.ErrNotConnected)
				require.ErrorContains(t, err, `"`+app+`"`)
				assert.NotContains(t, err.Error(), token)
			}
			assert.Len(t, s.requests, 1)
		})
	}
}
