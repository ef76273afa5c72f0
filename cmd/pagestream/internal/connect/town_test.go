package connect_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/seal"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// town is a Graph of many pages, a real stream and real read models.
type town struct {
	t      *testing.T
	login  *login
	models connect.Models
	keys   *seal.KeyRing
	opts   connect.Options
	*connect.Connector

	mu         sync.Mutex
	subscribed map[string][]string
	refuse     map[string]error // by page, for Subscribe
	hang       bool             // for Unsubscribe
	instagram  map[string]string
}

func tokenOf(page string) string { return "EAAPageTokenForTests" + page }

func build(t *testing.T) *town {
	t.Helper()
	rig := projectionstest.NewRig(t, pages.New(), subscriptions.New())
	keys, err := seal.NewKeyRing()
	require.NoError(t, err)
	w := &town{
		t: t, login: person(), keys: keys, subscribed: map[string][]string{}, refuse: map[string]error{},
		models: connect.Models{
			Pages: rig.Models[0], Subscriptions: rig.Models[1],
			Head: func(ctx context.Context) (uint64, error) { return streams.Last(ctx, rig.JS, streams.Name) },
		},
	}
	w.opts = connect.Options{
		Graph: func(app string) (connect.Graph, string, bool) {
			return struct {
				*town
				*login
			}{w, w.login}, "main", app == "" || app == "main"
		},
		Pages: w.models, Publisher: rig.Publisher, Sealer: keys,
	}
	w.Connector = connect.New(w.opts)
	return w
}

func (w *town) AppID() string { return ownApp }

func (w *town) Page(_ context.Context, page, token string) (string, string, error) {
	if token != tokenOf(page) {
		return "", "", refusal(190, 0, "Invalid OAuth access token.")
	}
	return "Page " + page, w.instagram[page], nil
}

func (w *town) SubscribedApps(_ context.Context, page, _ string) (apps []graph.App, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if fields, on := w.subscribed[page]; on {
		apps = append(apps, graph.App{ID: ownApp, Fields: fields})
	}
	return apps, nil
}

func (w *town) Subscribe(_ context.Context, page, _ string, fields []string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.refuse[page]; err != nil {
		return err
	}
	w.subscribed[page] = fields
	return nil
}

func (w *town) Unsubscribe(ctx context.Context, page, _ string) error {
	if w.hang {
		<-ctx.Done()
		return ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.subscribed, page)
	return nil
}

// grants lets the person grant pages 1 to n, and returns the consent and a choice
// of all.
func (w *town) grants(n int) (meta.Consent, meta.Choice) {
	w.t.Helper()
	w.login.accounts = nil
	for i := range n {
		id := fmt.Sprint(i + 1)
		w.login.accounts = append(w.login.accounts, graph.Account{ID: id, Name: "Page " + id, Token: tokenOf(id)})
	}
	g, err := w.Consent(w.t.Context(), "", userToken)
	require.NoError(w.t, err)
	choice := meta.Choice{Company: "acme", Fields: []string{"messages", "standby"}}
	for _, p := range g.Pages {
		choice.Pages = append(choice.Pages, p.Page)
	}
	return g, choice
}

func (w *town) page(id domain.PageID) pages.Page {
	w.t.Helper()
	p, err := pages.Get(w.models.Pages, id)
	require.NoError(w.t, err)
	return p
}

// Sixty pages in one consent, one of which fails.
func TestManyPagesAtOnce(t *testing.T) {
	w := build(t)
	w.login.info.DataAccessExpires = time.Unix(1797072000, 0)
	g, choice := w.grants(60)
	require.Len(t, g.Pages, 60)
	w.refuse["17"] = refusal(200, 0, "(#200) To subscribe to the standby field, one of these permissions is needed: pages_messaging")
	told := 0
	outs, err := w.Apply(t.Context(), g, choice, func(meta.Outcome) { told++ })
	require.NoError(t, err)
	assert.Equal(t, 60, told)
	require.Len(t, outs, 60)
	last := uint64(0)
	for i, o := range outs {
		assert.Equal(t, choice.Pages[i], o.Page)
		last = max(last, o.Seq)
		if o.Page != "17" {
			assert.Equal(t, subscriptions.Confirmed, o.State, o.Page)
			continue
		}
		assert.Equal(t, subscriptions.Failed, o.State)
		assert.Equal(t, "standby", o.Field)
	}
	_, err = w.models.Known(t.Context(), "1", last)
	require.NoError(t, err)
	first := w.page("1")
	assert.Equal(t, []any{"acme", admin, []string{"messages", "standby"}}, []any{first.Company, first.Admin, first.Fields})
	assert.Equal(t, int64(1797072000), first.DataAccessExpires.Unix())
	assert.ElementsMatch(t, allScopes(), first.Scopes)

	// Once more, with fewer pages and fields: the connections stay.
	delete(w.refuse, "17")
	w.login.accounts = w.login.accounts[:57]
	g, err = w.Consent(t.Context(), "main", userToken)
	require.NoError(t, err)
	assert.Len(t, g.Gone, 3)
	assert.Equal(t, meta.StandingConnected, g.Pages[16].Standing)
	w.login.info.Granted = map[string][]string{"pages_messaging": {"1"}}
	outs, err = w.Apply(t.Context(), g, meta.Choice{Pages: []domain.PageID{"1", "17"}, Fields: []string{"messages"}}, nil)
	require.NoError(t, err)
	assert.Equal(t, []subscriptions.State{subscriptions.Confirmed, subscriptions.Confirmed}, []subscriptions.State{outs[0].State, outs[1].State})
	_, err = w.models.Known(t.Context(), "1", max(outs[0].Seq, outs[1].Seq))
	require.NoError(t, err)
	again := w.page("1")
	assert.Equal(t, []any{first.ConnectionID, "acme", []string{"messages"}}, []any{again.ConnectionID, again.Company, again.Fields})
	for _, gone := range g.Gone {
		streamstest.Eventually(t, streamstest.Limit, func() error {
			if p := w.page(gone.Page); p.State != pages.Connected || p.Token != pages.TokenInvalid || !strings.HasPrefix(p.TokenReason, "deselected: ") {
				return fmt.Errorf("page %s is %s, its token %s (%s)", gone.Page, p.State, p.Token, p.TokenReason)
			}
			return nil
		})
	}
}

// Graph hangs while an admin's pages are disconnected: they are.
func TestAGraphThatHangsStopsNoEnd(t *testing.T) {
	t.Parallel() // it waits
	w := build(t)
	g, choice := w.grants(6)
	_, err := w.Apply(t.Context(), g, choice, nil)
	require.NoError(t, err)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if list, err := w.models.ByAdmin(t.Context(), "main", admin); err != nil || len(list) != 6 {
			return fmt.Errorf("%d pages, %w", len(list), err)
		}
		return nil
	})
	_, err = w.DisconnectAdmin(t.Context(), "main", "", "x")
	require.ErrorIs(t, err, connect.ErrRequest)
	w.hang = true
	ended := make(chan []meta.Outcome)
	go func() {
		outs, err := w.DisconnectAdmin(t.Context(), "", admin, "the person removed the app")
		assert.NoError(t, err)
		ended <- outs
	}()
	streamstest.Eventually(t, 4*time.Second, func() error {
		if p := w.page("1"); p.State != pages.Disconnected || p.StateReason != "the person removed the app" {
			return fmt.Errorf("page is %s (%s)", p.State, p.StateReason)
		}
		return nil
	})
	outs := <-ended
	require.Len(t, outs, 6)
	for _, o := range outs {
		assert.Equal(t, subscriptions.Failed, o.State)
		streamstest.Eventually(t, streamstest.Limit, func() error {
			if p := w.page(o.Page); p.State != pages.Disconnected {
				return fmt.Errorf("page %s is %s", o.Page, p.State)
			}
			return nil
		})
	}
}

// A consent shows its tokens in no way.
func TestAConsentKeepsItsTokens(t *testing.T) {
	w := start(t)
	w.login = person()
	g, err := w.Consent(t.Context(), "", userToken)
	require.NoError(t, err)
	require.NotEmpty(t, g.Pages)
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "consent", g, "page", g.Pages[0], "account", w.login.accounts[0])
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "consent", g, "page", g.Pages[0], "account", w.login.accounts[0])
	for _, v := range []any{g, &g, g.Pages, g.Pages[0], w.login.accounts[0], w.login.accounts} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
			fmt.Fprintf(&log, verb, v)
		}
		b, err := json.Marshal(v)
		require.NoError(t, err)
		log.Write(b)
	}
	assert.NotContains(t, log.String(), "EAA")
	assert.NotContains(t, log.String(), fmt.Sprintf("%x", token))
}

func TestTheFieldThatWasRefused(t *testing.T) {
	for words, want := range map[string]string{
		`(#200) To subscribe to the messages field, one of these permissions is needed: pages_messaging`: "messages",
		// The list is of fields that are fine, the place is that of the wrong one.
		`(#100) Param subscribed_fields[1] must be one of {feed, messages, website} - got "standby".`: "standby",
		`(#100) Param subscribed_fields[9] must be one of {feed, messages} - got "x".`:                "",
		`(#200) messages or standby is not permitted`:                                                 "",
		`(#200) no`: "",
	} {
		w := start(t)
		w.graph.fail["subscribe"] = refusal(200, 0, words)
		assert.Equal(t, want, w.connect().Field, words)
	}
	w := start(t)
	w.graph.fail["subscribe"] = refusal(4, 0, "too many calls for messages")
	assert.Empty(t, w.connect().Field)
}

// A token that dies between the refresh and the subscription is on record.
func TestATokenThatDiesWhileItIsRefreshed(t *testing.T) {
	w := start(t)
	w.connect()
	n := len(w.events)
	w.graph.fail["subscribe"] = refusal(190, 458, "not authorized")
	out, err := w.Refresh(t.Context(), page, token, "")
	require.NoError(t, err)
	assert.Equal(t, subscriptions.Failed, out.State)
	assert.Equal(t, "page.token_refreshed subscription.requested subscription.failed page.token_invalidated", w.said(n))
}

// Who granted a page token is asked where nobody says, for Meta's callbacks name
// the person only.
func TestWhoGrantedATokenIsAsked(t *testing.T) {
	w := start(t)
	w.login.info = graph.TokenInfo{Type: "PAGE", Valid: true, User: admin, Scopes: allScopes(), Expires: time.Unix(1795000000, 0)}
	w.connect()
	c := w.events[0].Data.Connection
	assert.Equal(t, []any{admin, int64(1795000000), int64(0)}, []any{c.Admin, c.Expires, c.DataAccessExpires})
	assert.Len(t, c.Scopes, 3)

	w = start(t)
	w.login.fail["debug"] = errGone
	assert.Equal(t, subscriptions.Confirmed, w.connect().State, "it is not needed")
	assert.Empty(t, w.events[0].Data.Connection.Admin)
}

// An app that is not configured any more does not hold its pages' ends or keys.
func TestThePagesAppIsNotConfigured(t *testing.T) {
	w := start(t)
	w.connectBy(admin, "acme")
	c := connect.New(connect.Options{
		Graph: func(string) (connect.Graph, string, bool) { return nil, "", false },
		Pages: w, Publisher: w, Sealer: w.keys, NewID: func() string { w.ids++; return fmt.Sprint("id", w.ids) },
	})
	_, err := c.Check(t.Context(), page)
	require.ErrorIs(t, err, connect.ErrUnknownApp)
	require.NoError(t, w.keys.Rotate())
	changed, err := c.Reseal(t.Context(), page)
	require.NoError(t, err)
	assert.True(t, changed)
	outs, err := c.DisconnectAdmin(t.Context(), "main", admin, "x")
	require.NoError(t, err)
	require.Len(t, outs, 1)
	assert.Equal(t, "page.token_refreshed page.disconnected subscription.failed", w.said(3))
}

// Somebody else's verb in between does not keep an admin's page connected.
func TestTheEndOfAPageIsTriedAgain(t *testing.T) {
	w := start(t)
	w.connectBy(admin, "acme")
	renamed := false
	w.onKnown = func() {
		if !renamed {
			renamed = true
			w.events = append(w.events, domain.Event{ID: "r", Type: domain.PageRenamed, Page: page})
		}
	}
	outs, err := w.DisconnectAdmin(t.Context(), "main", admin, "x")
	require.NoError(t, err)
	require.True(t, renamed)
	require.Len(t, outs, 1)
	assert.Equal(t, "page.renamed page.disconnected subscription.removed", w.said(3))
}

// While the app can't be asked, what it was known to lack stands.
func TestTheAppsFieldsCantBeRead(t *testing.T) {
	w := start(t)
	w.appFields = []string{"messages"}
	w.connect()
	n := len(w.events)
	w.appErr = errGone
	out, err := w.Check(t.Context(), page)
	require.NoError(t, err)
	assert.Equal(t, subscriptions.Drifted, out.State)
	assert.Contains(t, out.Reason, "standby")
	assert.Empty(t, w.said(n))

	// Against a page that was fine it says nothing.
	w = start(t)
	w.appErr = errGone
	assert.Equal(t, subscriptions.Confirmed, w.connect().State)
	w.graph.fields = []string{"messages"}
	out, err = w.Check(t.Context(), page)
	require.NoError(t, err)
	assert.Equal(t, []string{"standby"}, out.Missing)
}
