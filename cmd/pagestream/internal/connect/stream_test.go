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

	"github.com/nats-io/nats.go/jetstream"
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

// streamFixture is a connector with a fake Graph of many pages, a real stream and real
// read models.
type streamFixture struct {
	t      *testing.T
	login  *login
	models connect.Models
	keys   *seal.KeyRing
	opts   connect.Options
	js     jetstream.JetStream
	bucket *connect.Bucket
	*connect.Connector

	mu         sync.Mutex
	subscribed map[string][]string
	refuse     map[string]error // by page, for Subscribe
	hang       bool             // for Unsubscribe
	instagram  map[string]string
	blind      bool // for Instagram
}

func tokenOf(page string) string { return "EAAPageTokenForTests" + page }

func newStreamFixture(t *testing.T) *streamFixture {
	t.Helper()
	server := projectionstest.NewRig(t, pages.New(), subscriptions.New())
	keys, err := seal.NewKeyRing()
	require.NoError(t, err)
	bucket, err := connect.OpenBucket(t.Context(), server.JS, streams.Name, 1)
	require.NoError(t, err)
	f := &streamFixture{
		t: t, login: person(), keys: keys, js: server.JS, bucket: bucket, subscribed: map[string][]string{}, refuse: map[string]error{},
		models: connect.Models{
			Pages: server.Models[0], Subscriptions: server.Models[1],
			Head: func(ctx context.Context) (uint64, error) { return streams.Last(ctx, server.JS, streams.Name) },
		},
	}
	f.opts = connect.Options{
		Graph: func(app string) (connect.Graph, string, bool) {
			return struct {
				*streamFixture
				*login
			}{f, f.login}, "main", app == "" || app == "main"
		},
		Pages: f.models, Publisher: server.Publisher, Secrets: bucket, Sealer: keys,
	}
	f.Connector = connect.New(f.opts)
	return f
}

func (f *streamFixture) AppID() string { return ownApp }

func (f *streamFixture) Page(_ context.Context, page, token string) (string, string, error) {
	if token != tokenOf(page) {
		return "", "", refusal(190, 0, "Invalid OAuth access token.")
	}
	return "Page " + page, f.instagram[page], nil
}

func (f *streamFixture) SubscribedApps(_ context.Context, page, _ string) (apps []graph.App, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fields, on := f.subscribed[page]; on {
		apps = append(apps, graph.App{ID: ownApp, Fields: fields})
	}
	return apps, nil
}

func (f *streamFixture) Subscribe(_ context.Context, page, _ string, fields []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.refuse[page]; err != nil {
		return err
	}
	f.subscribed[page] = fields
	return nil
}

func (f *streamFixture) Unsubscribe(ctx context.Context, page, _ string) error {
	if f.hang {
		<-ctx.Done()
		return ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.subscribed, page)
	return nil
}

// grants makes the person grant pages 1 to n, and returns the consent and a choice of
// all of them.
func (f *streamFixture) grants(n int) (meta.Consent, meta.Choice) {
	f.t.Helper()
	f.login.accounts = nil
	for i := range n {
		id := fmt.Sprint(i + 1)
		f.login.accounts = append(f.login.accounts, graph.Account{ID: id, Name: "Page " + id, Token: tokenOf(id)})
	}
	g, err := f.Consent(f.t.Context(), "", userToken)
	require.NoError(f.t, err)
	choice := meta.Choice{Company: "acme", Fields: []string{"messages", "standby"}}
	for _, p := range g.Pages {
		choice.Pages = append(choice.Pages, p.Page)
	}
	return g, choice
}

func (f *streamFixture) page(id domain.PageID) pages.Page {
	f.t.Helper()
	p, err := pages.Get(f.models.Pages, id)
	require.NoError(f.t, err)
	return p
}

// One of sixty pages of a consent fails.
func TestApplySixtyPages(t *testing.T) {
	f := newStreamFixture(t)
	f.login.info.DataAccessExpires = time.Unix(1797072000, 0)
	g, choice := f.grants(60)
	require.Len(t, g.Pages, 60)
	f.refuse["17"] = refusal(
		200, 0, "(#200) To subscribe to the standby field, one of these permissions is needed: pages_messaging",
	)
	progressCalls := 0
	outs, err := f.Apply(t.Context(), g, choice, func(meta.Outcome) { progressCalls++ })
	require.NoError(t, err)
	assert.Equal(t, 60, progressCalls)
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
	_, err = f.models.Known(t.Context(), "1", last)
	require.NoError(t, err)
	first := f.page("1")
	assert.Equal(
		t, []any{"acme", admin, []string{"messages", "standby"}}, []any{first.Company, first.Admin, first.Fields},
	)
	assert.Equal(t, int64(1797072000), first.DataAccessExpires.Unix())
	assert.ElementsMatch(t, allScopes(), first.Scopes)

	// Applying fewer pages and fields keeps the connections.
	delete(f.refuse, "17")
	f.login.accounts = f.login.accounts[:57]
	g, err = f.Consent(t.Context(), "main", userToken)
	require.NoError(t, err)
	assert.Len(t, g.Gone, 3)
	assert.Equal(t, meta.StandingConnected, g.Pages[16].Standing)
	f.login.info.Granted = map[string][]string{"pages_messaging": {"1"}}
	outs, err = f.Apply(
		t.Context(), g, meta.Choice{Pages: []domain.PageID{"1", "17"}, Fields: []string{"messages"}}, nil,
	)
	require.NoError(t, err)
	assert.Equal(
		t, []subscriptions.State{subscriptions.Confirmed, subscriptions.Confirmed},
		[]subscriptions.State{outs[0].State, outs[1].State},
	)
	_, err = f.models.Known(t.Context(), "1", max(outs[0].Seq, outs[1].Seq))
	require.NoError(t, err)
	again := f.page("1")
	assert.Equal(
		t, []any{first.ConnectionID, "acme", []string{"messages"}},
		[]any{again.ConnectionID, again.Company, again.Fields},
	)
	for _, gone := range g.Gone {
		streamstest.Eventually(t, streamstest.Limit, func() error {
			p := f.page(gone.Page)
			if p.State != pages.Connected || p.Token != pages.TokenInvalid ||
				!strings.HasPrefix(p.TokenReason, "deselected: ") {
				return fmt.Errorf("page %s is %s, its token %s (%s)", gone.Page, p.State, p.Token, p.TokenReason)
			}
			return nil
		})
	}
}

// An admin's pages are disconnected even if Graph does not answer.
func TestDisconnectAdminIfGraphHangs(t *testing.T) {
	t.Parallel() // it waits
	f := newStreamFixture(t)
	g, choice := f.grants(6)
	_, err := f.Apply(t.Context(), g, choice, nil)
	require.NoError(t, err)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if list, err := f.models.ByAdmin(t.Context(), domain.AdminHash("main", admin), always); err != nil || len(list) != 6 {
			return fmt.Errorf("%d pages, %w", len(list), err)
		}
		return nil
	})
	_, err = f.DisconnectAdmin(t.Context(), "main", "", always, "x")
	require.ErrorIs(t, err, connect.ErrRequest)
	f.hang = true
	ended := make(chan []meta.Outcome)
	go func() {
		outs, err := f.DisconnectAdmin(t.Context(), "", admin, always, "the person removed the app")
		assert.NoError(t, err)
		ended <- outs
	}()
	streamstest.Eventually(t, 4*time.Second, func() error {
		if p := f.page("1"); p.State != pages.Disconnected || p.StateReason != "the person removed the app" {
			return fmt.Errorf("page is %s (%s)", p.State, p.StateReason)
		}
		return nil
	})
	outs := <-ended
	require.Len(t, outs, 6)
	for _, o := range outs {
		assert.Equal(t, subscriptions.Failed, o.State)
		streamstest.Eventually(t, streamstest.Limit, func() error {
			if p := f.page(o.Page); p.State != pages.Disconnected {
				return fmt.Errorf("page %s is %s", o.Page, p.State)
			}
			return nil
		})
	}
}

func TestConsentDoesNotPrintTokens(t *testing.T) {
	f := newFixture(t)
	f.login = person()
	g, err := f.Consent(t.Context(), "", userToken)
	require.NoError(t, err)
	require.NotEmpty(t, g.Pages)
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "consent", g, "page", g.Pages[0], "account", f.login.accounts[0])
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "consent", g, "page", g.Pages[0], "account", f.login.accounts[0])
	for _, v := range []any{g, &g, g.Pages, g.Pages[0], f.login.accounts[0], f.login.accounts} {
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

func TestRefusedField(t *testing.T) {
	for words, want := range map[string]string{
		`(#200) To subscribe to the messages field, one of these permissions is needed: pages_messaging`: "messages",
		// The list has the allowed fields, the index is that of the refused one.
		`(#100) Param subscribed_fields[1] must be one of {feed, messages, website} - got "standby".`: "standby",
		`(#100) Param subscribed_fields[9] must be one of {feed, messages} - got "x".`:                "",
		`(#200) messages or standby is not permitted`:                                                 "",
		`(#200) no`: "",
	} {
		f := newFixture(t)
		f.graph.fail["subscribe"] = refusal(200, 0, words)
		assert.Equal(t, want, f.connect().Field, words)
	}
	f := newFixture(t)
	f.graph.fail["subscribe"] = refusal(4, 0, "too many calls for messages")
	assert.Empty(t, f.connect().Field)
}

// A token that becomes invalid between the refresh and the subscribe call is recorded.
func TestDeadTokenDuringRefreshIsRecorded(t *testing.T) {
	f := newFixture(t)
	f.connect()
	n := len(f.events)
	f.graph.fail["subscribe"] = refusal(190, 458, "not authorized")
	out, err := f.Refresh(t.Context(), page, token, "")
	require.NoError(t, err)
	assert.Equal(t, subscriptions.Failed, out.State)
	assert.Equal(
		t, "page.token_refreshed subscription.requested subscription.failed page.token_invalidated", f.eventTypes(n),
	)
}

// If a request has no admin, Graph is asked: Meta's callbacks identify connections
// only by the person.
func TestConnectAsksGraphForTheAdmin(t *testing.T) {
	f := newFixture(t)
	f.login.info = graph.TokenInfo{
		Type: "PAGE", Valid: true, User: admin, Scopes: allScopes(), Expires: time.Unix(1795000000, 0),
	}
	f.connect()
	c := f.events[0].Data.Connection
	assert.Equal(t, []any{admin, int64(1795000000), int64(0)}, []any{c.Admin, c.Expires, c.DataAccessExpires})
	assert.Len(t, c.Scopes, 3)

	f = newFixture(t)
	f.login.fail["debug"] = errGone
	assert.Equal(t, subscriptions.Confirmed, f.connect().State, "it is not needed")
	assert.Empty(t, f.events[0].Data.Connection.Admin)
}

// The pages of an app that is no longer configured can be disconnected.
func TestAppIsNotConfiguredAnyMore(t *testing.T) {
	f := newFixture(t)
	f.connectBy(admin, "acme")
	c := connect.New(connect.Options{
		Graph: func(string) (connect.Graph, string, bool) { return nil, "", false },
		Pages: f, Publisher: f, Secrets: f.secrets, Sealer: f.keys,
		NewID: func() string { f.ids++; return fmt.Sprint("id", f.ids) },
	})
	_, err := c.Check(t.Context(), page)
	require.ErrorIs(t, err, connect.ErrUnknownApp)
	outs, err := c.DisconnectAdmin(t.Context(), "main", admin, always, "x")
	require.NoError(t, err)
	require.Len(t, outs, 1)
	assert.Equal(t, "page.disconnected subscription.failed", f.eventTypes(3))
	assert.Empty(t, f.secrets.refs())
}

// A concurrent change does not keep an admin's page connected.
func TestDisconnectAdminRetriesAfterAConflict(t *testing.T) {
	f := newFixture(t)
	f.connectBy(admin, "acme")
	renamed := false
	f.onKnown = func() {
		if !renamed {
			renamed = true
			f.events = append(f.events, domain.Event{ID: "r", Type: domain.PageRenamed, Page: page})
		}
	}
	outs, err := f.DisconnectAdmin(t.Context(), "main", admin, always, "x")
	require.NoError(t, err)
	require.True(t, renamed)
	require.Len(t, outs, 1)
	assert.Equal(t, "page.renamed page.disconnected subscription.removed", f.eventTypes(3))
}

// Fields that the app was known to lack stay missing while its fields can't be read.
func TestAppFieldsCantBeRead(t *testing.T) {
	f := newFixture(t)
	f.appFields = []string{"messages"}
	f.connect()
	n := len(f.events)
	f.appErr = errGone
	out, err := f.Check(t.Context(), page)
	require.NoError(t, err)
	assert.Equal(t, subscriptions.Drifted, out.State)
	assert.Contains(t, out.Reason, "standby")
	assert.Empty(t, f.eventTypes(n))

	// A page that was confirmed stays confirmed.
	f = newFixture(t)
	f.appErr = errGone
	assert.Equal(t, subscriptions.Confirmed, f.connect().State)
	f.graph.fields = []string{"messages"}
	out, err = f.Check(t.Context(), page)
	require.NoError(t, err)
	assert.Equal(t, []string{"standby"}, out.Missing)
}
