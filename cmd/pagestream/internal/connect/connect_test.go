package connect_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/seal"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
)

const (
	page  = domain.PageID("1906385232743451")
	token = "EAABsbCS1iHgBAFakeTokenForTests0123456789"
)

// refusal returns an error of Graph.
func refusal(code, sub int, words string) *meta.Error {
	return &meta.Error{Status: 400, Code: code, Subcode: sub, Message: words}
}

var errGone = errors.New("graph did not answer")

// ownApp is the test app's id at Meta.
const ownApp = "123456789012345"

// fakeGraph is a Graph with one page and one app's subscription to it.
type fakeGraph struct {
	t       *testing.T
	token   string
	fields  []string
	on      bool
	others  []graph.App
	drops   []string // fields that it accepts and does not list
	fail    map[string]error
	asked   []string
	onAsked func(call string)
}

func (g *fakeGraph) ask(call, id, access string) error {
	g.asked = append(g.asked, call)
	if g.onAsked != nil {
		g.onAsked(call)
	}
	assert.Equal(g.t, string(page), id, call)
	if err := g.fail[call]; err != nil {
		return err
	}
	if access != g.token {
		return refusal(190, 0, "Invalid OAuth access token.")
	}
	return nil
}

func (g *fakeGraph) AppID() string { return ownApp }

func (g *fakeGraph) Page(_ context.Context, id, access string) (string, string, error) {
	return "Dian Aul", "17841400000000001", g.ask("page", id, access)
}

func (g *fakeGraph) SubscribedApps(_ context.Context, id, access string) ([]graph.App, error) {
	if err := g.ask("list", id, access); err != nil {
		return nil, err
	}
	apps := slices.Clone(g.others)
	if g.on {
		apps = append(apps, graph.App{ID: ownApp, Name: "Own", Fields: slices.Clone(g.fields)})
	}
	return apps, nil
}

func (g *fakeGraph) Subscribe(_ context.Context, id, access string, fields []string) error {
	if err := g.ask("subscribe", id, access); err != nil {
		return err
	}
	g.on = true
	g.fields = slices.DeleteFunc(slices.Clone(fields), func(f string) bool { return slices.Contains(g.drops, f) })
	return nil
}

func (g *fakeGraph) Unsubscribe(_ context.Context, id, access string) error {
	if err := g.ask("unsubscribe", id, access); err != nil {
		return err
	}
	g.on, g.fields = false, nil
	return nil
}

// client is a connect.Graph: the calls about a page, and those about a person.
type client struct {
	*fakeGraph
	*login
}

// fixture is a connector with a fake Graph and an in-memory stream, from which it
// computes what the read models would have.
type fixture struct {
	t      *testing.T
	graph  *fakeGraph
	keys   *seal.KeyRing
	events []domain.Event
	ids    int
	fail   error
	// login is the fake person, appFields what the app itself is subscribed to.
	login     *login
	appFields []string
	appErr    error
	// appCallback and appInactive are those of the app's subscription.
	appCallback string
	appInactive bool
	// onKnown is called at the end of each call of Known.
	onKnown func()
	secrets *memory
	*connect.Connector
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	keys, err := seal.NewKeyRing()
	require.NoError(t, err)
	f := &fixture{
		t:     t,
		keys:  keys,
		graph: &fakeGraph{t: t, token: token, fail: map[string]error{}},
		login: &login{fail: map[string]error{}}, secrets: &memory{},
	}
	f.Connector = connect.New(connect.Options{
		Graph: func(app string) (connect.Graph, string, bool) {
			return client{f.graph, f.login}, "main", app == "" || app == "main"
		},
		AppSubscriptions: func(context.Context, string) ([]meta.AppSubscription, bool, error) {
			s := meta.AppSubscription{
				Object: meta.ObjectPage, CallbackURL: f.appCallback, Fields: f.appFields, Active: !f.appInactive,
			}
			return []meta.AppSubscription{s}, f.appFields != nil, f.appErr
		},
		Endpoint: func(app string) string { return "https://x/webhooks/" + app },
		Pages:    f, Publisher: f, Secrets: f.secrets, Sealer: keys,
		Now:   func() time.Time { return time.Unix(1790000000, 0) },
		NewID: func() string { f.ids++; return fmt.Sprint("id", f.ids) },
	})
	return f
}

// memory is a connect.Secrets in memory.
type memory struct {
	list []connect.Secret
	fail error
}

func (m *memory) Put(_ context.Context, s connect.Secret) (string, error) {
	s.Ref = fmt.Sprint("ref", len(m.list)+1)
	m.list = append(m.list, s)
	return s.Ref, m.fail
}

func (m *memory) Get(_ context.Context, page domain.PageID, ref string) (connect.Secret, error) {
	for _, s := range m.list {
		if s.Page == page && s.Ref == ref && ref != "" {
			return s, m.fail
		}
	}
	return connect.Secret{}, cmp.Or(m.fail, connect.ErrSecretMissing)
}

func (m *memory) Prune(_ context.Context, page domain.PageID, seq uint64, keep string) error {
	return m.erase(func(s connect.Secret) bool { return s.Page == page && s.Ref != keep && s.After < seq })
}

func (m *memory) Drop(_ context.Context, page domain.PageID, ref string) error {
	return m.erase(func(s connect.Secret) bool { return s.Page == page && s.Ref == ref })
}

// erase clears what it erases, so that references stay unique.
func (m *memory) erase(dead func(connect.Secret) bool) error {
	for i, s := range m.list {
		if m.fail == nil && dead(s) {
			m.list[i] = connect.Secret{}
		}
	}
	return m.fail
}

// refs returns the references of the stored secrets.
func (m *memory) refs() (out []string) {
	for _, s := range m.list {
		if s.Ref != "" {
			out = append(out, s.Ref)
		}
	}
	return out
}

// secret returns the secret that an event refers to.
func (f *fixture) secret(e domain.Event) connect.Secret {
	f.t.Helper()
	s, err := f.secrets.Get(f.t.Context(), e.Page, e.Data.Connection.Secret)
	require.NoError(f.t, err)
	return s
}

func (f *fixture) LastOf(_ context.Context, p domain.PageID, t domain.Type) (uint64, error) {
	for i := len(f.events) - 1; i >= 0; i-- {
		if f.events[i].Page == p && f.events[i].Type.Noun() == t.Noun() {
			return uint64(i + 1), f.fail
		}
	}
	return 0, f.fail
}

func (f *fixture) Append(ctx context.Context, e domain.Event, expected uint64) (streams.Receipt, error) {
	if err := ctx.Err(); err != nil {
		return streams.Receipt{}, err
	}
	if last, _ := f.LastOf(ctx, e.Page, e.Type); last != expected {
		return streams.Receipt{}, fmt.Errorf("append: %w", streams.ErrConflict)
	}
	for _, old := range f.events {
		assert.NotEqual(f.t, e.ID, old.ID, "event id %s is there twice", e.ID)
	}
	for _, secret := range []string{token, "verify-me"} {
		b, err := e.Data.Encode()
		if assert.NoError(f.t, err, "%s has a token in clear, or is not data", e.Type) {
			assert.NotContains(f.t, string(b), secret, "%s has a token in clear, or is not data", e.Type)
		}
	}
	f.events = append(f.events, e)
	return streams.Receipt{Seq: uint64(len(f.events))}, f.fail
}

func (f *fixture) Known(_ context.Context, p domain.PageID, atLeast uint64) (connect.Known, error) {
	assert.LessOrEqual(f.t, atLeast, uint64(len(f.events)), "asked for an event that is not there")
	if f.onKnown != nil {
		defer f.onKnown()
	}
	var k connect.Known
	for _, e := range f.events {
		if e.Page != p {
			continue
		}
		switch e.Type {
		case domain.PageConnected:
			k.Connected, k.Connection, k.TokenDead = true, *e.Data.Connection, false
		case domain.PageDisconnected:
			k = connect.Known{}
		case domain.PageTokenInvalidated:
			k.TokenDead = true
		case domain.PageTokenRefreshed:
			c := e.Data.Connection
			k.TokenDead = false
			k.Connection.Secret = c.Secret
			k.Connection.Admin = cmp.Or(c.Admin, k.Connection.Admin)
		}
		if s := e.Data.Subscription; s != nil {
			k.State, k.Reason = subscriptions.State(e.Type.Verb()), s.Reason
			k.Actual = s.Actual
			if s.Wanted != nil {
				k.Wanted = s.Wanted
			}
		}
	}
	return k, nil
}

func (f *fixture) ByAdmin(ctx context.Context, hash string, _ time.Time) (out []domain.PageID, err error) {
	defer func(old func()) { f.onKnown = old }(f.onKnown)
	f.onKnown = nil
	seen := map[domain.PageID]bool{}
	for _, e := range f.events {
		k, _ := f.Known(ctx, e.Page, 0)
		if !seen[e.Page] && k.Connected && domain.AdminHash(k.Connection.App, k.Connection.Admin) == hash {
			out = append(out, e.Page)
		}
		seen[e.Page] = true
	}
	return out, nil
}

// eventTypes returns the types of the events from index n on.
func (f *fixture) eventTypes(n int) string {
	var out []string
	for _, e := range f.events[n:] {
		out = append(out, string(e.Type))
	}
	return strings.Join(out, " ")
}

func (f *fixture) last() domain.Event { return f.events[len(f.events)-1] }

func (f *fixture) connect() meta.Outcome {
	f.t.Helper()
	out, err := f.Connect(
		f.t.Context(),
		connect.Request{Page: page, Token: token, Company: "acme", Fields: []string{"standby", "messages"}},
	)
	require.NoError(f.t, err)
	return out
}

func TestConnect(t *testing.T) {
	f := newFixture(t)
	out, err := f.Connect(
		t.Context(), connect.Request{Page: page, Token: token, VerifyToken: "verify-me", Company: "acme", Admin: "77"},
	)
	require.NoError(t, err)
	want := slices.Sorted(slices.Values(connect.DefaultFields()))
	assert.Equal(t, meta.Outcome{
		Page:         page,
		ConnectionID: "id1",
		App:          "main",
		Name:         "Dian Aul",
		State:        subscriptions.Confirmed,
		Wanted:       want,
		Actual:       want,
		Seq:          3,
	}, out)
	assert.Equal(t, "page.connected subscription.requested subscription.confirmed", f.eventTypes(0))
	assert.Equal(t, []string{"page", "list", "subscribe", "list"}, f.graph.asked)
	assert.NotContains(t, want, "response_feedback")

	e := f.events[0]
	assert.Equal(t, "pagestream:"+string(page)+":page.connected:id1", e.ID)
	assert.Equal(t, time.Unix(1790000000, 0).UTC(), e.Time)
	c := e.Data.Connection
	require.NotNil(t, c)
	assert.Equal(t, []string{"id1", "acme", "main", "Dian Aul", "17841400000000001", "77"},
		[]string{c.ConnectionID, c.Company, c.App, c.Name, c.Instagram, c.Admin})
	secret := f.secret(e)
	assert.Equal(t, "id1", secret.ConnectionID)
	plain, err := f.keys.Open(secret.Token, []byte("page-token:"+string(page)))
	require.NoError(t, err)
	assert.Equal(t, token, string(plain))
	plain, err = f.keys.Open(secret.VerifyToken, connect.VerifyTokenAAD(page))
	require.NoError(t, err)
	assert.Equal(t, "verify-me", string(plain))
	_, err = f.keys.Open(secret.Token, connect.TokenAAD("1"))
	require.Error(t, err, "the token opens for another page")
	s := f.last().Data.Subscription
	assert.Equal(t, &domain.Subscription{App: "main", Wanted: want, Actual: want}, s)
	for _, e := range f.events {
		assert.Equal(t, "main", e.Data.App)
	}
}

func TestConnectReplacesTheConnection(t *testing.T) {
	f := newFixture(t)
	f.connect()
	out := f.connect()
	assert.Equal(t, "id2", out.ConnectionID)
	assert.Equal(t, "page.connected subscription.requested subscription.confirmed", f.eventTypes(3))
}

func TestConnectWithAnotherTokenChangesNothing(t *testing.T) {
	no := refusal(200, 0, "another page's")
	for name, c := range map[string]struct {
		call string
		err  error
		want error
	}{
		"page refused":     {"page", refusal(190, 0, "dead"), connect.ErrTokenRefused},
		"list refused":     {"list", no, connect.ErrTokenRefused},
		"graph is away":    {"page", errGone, errGone},
		"away after a bit": {"list", errGone, errGone},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.graph.fail[c.call] = c.err
			_, err := f.Connect(t.Context(), connect.Request{Page: page, Token: token})
			require.ErrorIs(t, err, c.want)
			if errors.Is(c.want, errGone) {
				assert.NotErrorIs(t, err, connect.ErrTokenRefused)
			}
			assert.Empty(t, f.events)
			assert.NotContains(t, f.graph.asked, "subscribe")
			assert.NotContains(t, err.Error(), token)
		})
	}
}

func TestRequestsAreChecked(t *testing.T) {
	f := newFixture(t)
	for _, r := range []connect.Request{{Token: token}, {Page: domain.NoPage, Token: token}, {Page: page}} {
		_, err := f.Connect(t.Context(), r)
		require.ErrorIs(t, err, connect.ErrRequest)
	}
	_, err := f.Connect(t.Context(), connect.Request{Page: page, Token: token, App: "nope"})
	require.ErrorIs(t, err, connect.ErrUnknownApp)
	assert.Empty(t, f.graph.asked)
	r := connect.Request{Page: page, Token: token, VerifyToken: "verify-me"}
	assert.NotContains(t, fmt.Sprintf("%v %+v %#v", r, r, r), token)
	assert.NotContains(t, fmt.Sprintf("%v %+v %#v", r, r, r), "verify-me")
}

func TestSubscribeRefused(t *testing.T) {
	f := newFixture(t)
	f.graph.fail["subscribe"] = refusal(200, 5, "pages_messaging is needed")
	out := f.connect()
	assert.Equal(t, subscriptions.Failed, out.State)
	assert.Equal(t, []any{200, 5, "pages_messaging is needed"}, []any{out.Code, out.Subcode, out.Reason})
	assert.Equal(t, "page.connected subscription.requested subscription.failed", f.eventTypes(0))
	s := f.last().Data.Subscription
	assert.Equal(t, []any{200, 5, "pages_messaging is needed"}, []any{s.Code, s.Subcode, s.Reason})
	assert.Equal(t, uint64(3), out.Seq)

	// A later call succeeds.
	delete(f.graph.fail, "subscribe")
	out, err := f.Resubscribe(t.Context(), page)
	require.NoError(t, err)
	assert.Equal(t, subscriptions.Confirmed, out.State)
	assert.Equal(t, "subscription.requested subscription.confirmed", f.eventTypes(3))
}

func TestConnectWithGraphUnreachable(t *testing.T) {
	f := newFixture(t)
	f.graph.fail["subscribe"] = errGone
	out := f.connect()
	assert.Equal(t, subscriptions.Failed, out.State)
	assert.Zero(t, out.Code)
	assert.Contains(t, out.Reason, "did not answer")
	assert.Equal(t, "page.connected subscription.requested subscription.failed", f.eventTypes(0))
}

// A failure is recorded even if the caller's context is canceled.
func TestFailureIsRecordedAfterCancel(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	f.graph.onAsked = func(call string) {
		if call == "subscribe" {
			cancel()
			f.graph.fail["subscribe"] = ctx.Err()
		}
	}
	out, err := f.Connect(ctx, connect.Request{Page: page, Token: token})
	require.NoError(t, err)
	assert.Equal(t, subscriptions.Failed, out.State)
	assert.Equal(t, domain.SubscriptionFailed, f.last().Type)
}

func TestConnectReadsTheFieldsBack(t *testing.T) {
	f := newFixture(t)
	f.graph.drops = []string{"standby"}
	out := f.connect()
	assert.Equal(t, subscriptions.Drifted, out.State)
	assert.Equal(t, []string{"standby"}, out.Missing)
	assert.Equal(t, []string{"messages"}, out.Actual)
	assert.Equal(t, "page.connected subscription.requested subscription.drifted", f.eventTypes(0))
}

func TestCheck(t *testing.T) {
	f := newFixture(t)
	f.connect()
	check := func() meta.Outcome {
		t.Helper()
		out, err := f.Check(t.Context(), page)
		require.NoError(t, err)
		return out
	}
	out := check()
	assert.Equal(t, subscriptions.Confirmed, out.State)
	assert.Zero(t, out.Seq)
	assert.Empty(t, f.eventTypes(3), "an event without news")

	f.graph.fields = []string{"messages"}
	out = check()
	assert.Equal(t, subscriptions.Drifted, out.State)
	assert.Equal(t, "subscription.drifted", f.eventTypes(3))
	assert.Equal(t, uint64(4), out.Seq)
	check()
	assert.Len(t, f.events, 4, "drift was stated twice")

	f.graph.fields, f.graph.on = nil, false
	out = check()
	assert.Equal(t, subscriptions.Drifted, out.State)
	assert.Contains(t, out.Reason, "not subscribed")
	assert.Len(t, out.Missing, 2)
	assert.Len(t, f.events, 5)

	f.graph.fields, f.graph.on = []string{"feed", "standby", "messages"}, true
	out = check()
	assert.Equal(t, subscriptions.Confirmed, out.State, "more fields than wanted are fine")
	assert.Equal(t, []string{"feed", "messages", "standby"}, out.Actual)
	assert.Equal(t, "subscription.confirmed", f.eventTypes(5))
}

func TestDeadTokenIsRecordedOnce(t *testing.T) {
	f := newFixture(t)
	f.connect()
	f.graph.fail["list"] = refusal(190, 460, "password changed")
	for range 2 {
		out, err := f.Check(t.Context(), page)
		require.NoError(t, err)
		assert.Equal(t, subscriptions.Failed, out.State)
		assert.Equal(t, 460, out.Subcode)
	}
	assert.Equal(t, "page.token_invalidated", f.eventTypes(3))
	c := f.last().Data.Connection
	assert.Equal(t, "id1", c.ConnectionID)
	assert.Equal(t, "190/460: password changed", c.Reason)

	// Another error, or no answer, does not invalidate the token.
	f = newFixture(t)
	f.connect()
	f.graph.fail["list"] = refusal(4, 0, "too many")
	out, err := f.Check(t.Context(), page)
	require.NoError(t, err)
	assert.Equal(t, 4, out.Code)
	f.graph.fail["list"] = errGone
	_, err = f.Check(t.Context(), page)
	require.ErrorIs(t, err, errGone)
	assert.Empty(t, f.eventTypes(3))

	f.graph.fail["subscribe"] = refusal(190, 458, "")
	out, err = f.Resubscribe(t.Context(), page)
	require.NoError(t, err)
	assert.Equal(t, subscriptions.Failed, out.State)
	assert.Equal(t, "subscription.requested subscription.failed page.token_invalidated", f.eventTypes(3))
}

// Graph has several codes for a dead token.
func TestEveryDeadTokenCodeInvalidatesTheToken(t *testing.T) {
	for _, code := range []int{190, 102, 104} {
		f := newFixture(t)
		f.connect()
		f.graph.fail["list"] = refusal(code, 0, "dead")
		for range 2 {
			out, err := f.Check(t.Context(), page)
			require.NoError(t, err)
			assert.Equal(t, subscriptions.Failed, out.State)
			assert.Equal(t, code, out.Code)
		}
		assert.Equal(t, "page.token_invalidated", f.eventTypes(3), "once")
		c := f.last().Data.Connection
		assert.Equal(t, code, c.Code)
		assert.Equal(t, fmt.Sprintf("%d/0: dead", code), c.Reason)
	}
}

// The retry time is in whole seconds, rounded up.
func TestRetryAfterIsRoundedUp(t *testing.T) {
	f := newFixture(t)
	f.connect()
	for after, want := range map[time.Duration]int{
		0: 0, 1: 1, time.Second: 1, 1500 * time.Millisecond: 2, time.Minute: 60,
	} {
		f.graph.fail["list"] = &meta.Error{Status: 429, Held: true, After: after}
		out, err := f.Check(t.Context(), page)
		require.NoError(t, err)
		assert.Equal(t, want, out.RetryAfter, after)
	}
}

// The app's subscription is found by the app's id; the other apps are listed in
// Others.
func TestOtherAppsAreListed(t *testing.T) {
	f := newFixture(t)
	f.graph.others = []graph.App{{ID: "77", Name: "Inbox Pro", Fields: []string{"feed"}}, {ID: "78"}}
	want := []string{"77 Inbox Pro", "78"}
	assert.Equal(t, want, f.connect().Others)
	for name, call := range map[string]func(context.Context, domain.PageID) (meta.Outcome, error){
		"check": f.Check, "plan": f.Plan, "resubscribe": f.Resubscribe,
	} {
		out, err := call(t.Context(), page)
		require.NoError(t, err)
		assert.Equal(t, subscriptions.Confirmed, out.State, name)
		assert.Equal(t, want, out.Others, name)
		assert.Equal(t, []string{"messages", "standby"}, out.Actual, name)
	}
	f.graph.fields, f.graph.on = nil, false
	out, err := f.Check(t.Context(), page)
	require.NoError(t, err)
	assert.Equal(t, subscriptions.Drifted, out.State)
	assert.Equal(t, "the app is not subscribed to the page", out.Reason)
	assert.Equal(t, want, out.Others)
	assert.Empty(t, out.Actual)
}

func TestDisconnect(t *testing.T) {
	f := newFixture(t)
	f.connect()
	out, err := f.Disconnect(t.Context(), page)
	require.NoError(t, err)
	assert.Equal(t, subscriptions.Removed, out.State)
	assert.False(t, f.graph.on)
	assert.Equal(t, "page.disconnected subscription.removed", f.eventTypes(3))
	assert.Equal(t, "id1", f.events[3].Data.Connection.ConnectionID)
	assert.Empty(t, f.events[3].Data.Connection.Secret)
	assert.Empty(t, f.secrets.refs())
	assert.Equal(t, uint64(5), out.Seq)

	for _, call := range []func(context.Context, domain.PageID) (meta.Outcome, error){
		f.Disconnect, f.Check, f.Resubscribe,
	} {
		_, err := call(t.Context(), page)
		require.ErrorIs(t, err, meta.ErrNotConnected)
		assert.ErrorContains(t, err, "pagestream pages connect")
	}
}

func TestDisconnectWithADeadToken(t *testing.T) {
	f := newFixture(t)
	f.connect()
	f.graph.fail["unsubscribe"] = refusal(190, 458, "app removed")
	out, err := f.Disconnect(t.Context(), page)
	require.NoError(t, err)
	assert.Equal(t, subscriptions.Failed, out.State)
	assert.Equal(t, "page.disconnected subscription.failed", f.eventTypes(3))
	assert.Contains(t, f.events[3].Data.Connection.Reason, "app removed")
}

func TestDisconnectFailsIfGraphIsUnreachable(t *testing.T) {
	for _, cause := range []error{errGone, refusal(2, 0, "try again")} {
		f := newFixture(t)
		f.connect()
		f.graph.fail["unsubscribe"] = cause
		_, err := f.Disconnect(t.Context(), page)
		require.ErrorIs(t, err, cause)
		assert.Empty(t, f.eventTypes(3))
	}
}

// A token can't be used without its key, but the page can be disconnected.
func TestTokenCantBeOpened(t *testing.T) {
	f := newFixture(t)
	f.connect()
	other, err := seal.NewKeyRing()
	require.NoError(t, err)
	c := connect.New(connect.Options{
		Graph: func(string) (connect.Graph, string, bool) { return client{f.graph, f.login}, "main", true },
		Pages: f, Publisher: f, Secrets: f.secrets, Sealer: other,
	})
	_, err = c.Check(t.Context(), page)
	require.ErrorIs(t, err, connect.ErrToken)
	require.ErrorIs(t, err, seal.ErrUnknownKey)
	_, err = c.Disconnect(t.Context(), page)
	require.NoError(t, err)
	assert.Equal(t, "page.disconnected subscription.failed", f.eventTypes(3))
}

// Of two concurrent operations, the one that started from an older state fails.
func TestConcurrentChangeIsAnError(t *testing.T) {
	f := newFixture(t)
	f.connect()
	meanwhile := func(e domain.Event) {
		f.graph.onAsked = func(string) { f.graph.onAsked = nil; e.Page = page; f.events = append(f.events, e) }
	}
	meanwhile(
		domain.Event{ID: "x", Type: domain.SubscriptionDrifted, Data: domain.Data{Subscription: &domain.Subscription{}}},
	)
	_, err := f.Resubscribe(t.Context(), page)
	require.ErrorIs(t, err, connect.ErrChanged)
	require.ErrorContains(t, err, "pages check")

	meanwhile(domain.Event{ID: "y", Type: domain.PageRenamed, Data: domain.Data{Connection: &domain.Connection{}}})
	_, err = f.Connect(t.Context(), connect.Request{Page: page, Token: token})
	require.ErrorIs(t, err, connect.ErrChanged)
	assert.Equal(t, domain.PageRenamed, f.last().Type)
}

func TestStreamErrors(t *testing.T) {
	f := newFixture(t)
	f.fail = streams.ErrUnavailable
	_, err := f.Connect(t.Context(), connect.Request{Page: page, Token: token})
	require.ErrorIs(t, err, streams.ErrUnavailable)
	assert.Empty(t, f.graph.asked, "graph was asked for what can't be recorded")
}
