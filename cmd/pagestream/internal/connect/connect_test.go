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

// refusal is what Graph says no with.
func refusal(code, sub int, words string) *meta.Error {
	return &meta.Error{Status: 400, Code: code, Subcode: sub, Message: words}
}

var errGone = errors.New("graph did not answer")

// ownApp is our app's id at Meta.
const ownApp = "123456789012345"

// edge is one page and one app's subscription to it.
type edge struct {
	t       *testing.T
	token   string
	fields  []string
	on      bool
	others  []graph.App
	drops   []string // fields that it takes and does not list
	fail    map[string]error
	asked   []string
	onAsked func(verb string)
}

func (g *edge) ask(verb, id, access string) error {
	g.asked = append(g.asked, verb)
	if g.onAsked != nil {
		g.onAsked(verb)
	}
	if id != string(page) {
		g.t.Errorf("%s about %q", verb, id)
	}
	if err := g.fail[verb]; err != nil {
		return err
	}
	if access != g.token {
		return refusal(190, 0, "Invalid OAuth access token.")
	}
	return nil
}

func (g *edge) AppID() string { return ownApp }

func (g *edge) Page(_ context.Context, id, access string) (string, string, error) {
	return "Dian Aul", "17841400000000001", g.ask("page", id, access)
}

func (g *edge) SubscribedApps(_ context.Context, id, access string) ([]graph.App, error) {
	if err := g.ask("list", id, access); err != nil {
		return nil, err
	}
	apps := slices.Clone(g.others)
	if g.on {
		apps = append(apps, graph.App{ID: ownApp, Name: "Own", Fields: slices.Clone(g.fields)})
	}
	return apps, nil
}

func (g *edge) Subscribe(_ context.Context, id, access string, fields []string) error {
	if err := g.ask("subscribe", id, access); err != nil {
		return err
	}
	g.on = true
	g.fields = slices.DeleteFunc(slices.Clone(fields), func(f string) bool { return slices.Contains(g.drops, f) })
	return nil
}

func (g *edge) Unsubscribe(_ context.Context, id, access string) error {
	if err := g.ask("unsubscribe", id, access); err != nil {
		return err
	}
	g.on, g.fields = false, nil
	return nil
}

// client is Graph: about a page, and about a person.
type client struct {
	*edge
	*login
}

// world is the stream, and the read models as a fold of it.
type world struct {
	t      *testing.T
	graph  *edge
	keys   *seal.KeyRing
	events []domain.Event
	ids    int
	fail   error
	// login is the person, appFields what the app itself is subscribed to.
	login     *login
	appFields []string
	appErr    error
	// onKnown is called after the read models were read.
	onKnown func()
	*connect.Connector
}

func start(t *testing.T) *world {
	t.Helper()
	keys, err := seal.NewKeyRing()
	require.NoError(t, err)
	w := &world{
		t: t, keys: keys, graph: &edge{t: t, token: token, fail: map[string]error{}}, login: &login{fail: map[string]error{}},
	}
	w.Connector = connect.New(connect.Options{
		Graph: func(app string) (connect.Graph, string, bool) {
			return client{w.graph, w.login}, "main", app == "" || app == "main"
		},
		AppFields: func(context.Context, string) ([]string, bool, error) {
			return w.appFields, w.appFields != nil, w.appErr
		},
		Pages: w, Publisher: w, Sealer: keys,
		Now:   func() time.Time { return time.Unix(1790000000, 0) },
		NewID: func() string { w.ids++; return fmt.Sprint("id", w.ids) },
	})
	return w
}

func (w *world) LastOf(_ context.Context, p domain.PageID, t domain.Type) (uint64, error) {
	for i := len(w.events) - 1; i >= 0; i-- {
		if w.events[i].Page == p && w.events[i].Type.Noun() == t.Noun() {
			return uint64(i + 1), w.fail
		}
	}
	return 0, w.fail
}

func (w *world) Append(ctx context.Context, e domain.Event, expected uint64) (streams.Receipt, error) {
	if err := ctx.Err(); err != nil {
		return streams.Receipt{}, err
	}
	if last, _ := w.LastOf(ctx, e.Page, e.Type); last != expected {
		return streams.Receipt{}, fmt.Errorf("append: %w", streams.ErrConflict)
	}
	for _, old := range w.events {
		if old.ID == e.ID {
			w.t.Errorf("event id %s is there twice", e.ID)
		}
	}
	for _, secret := range []string{token, "verify-me"} {
		if b, err := e.Data.Encode(); err != nil || strings.Contains(string(b), secret) {
			w.t.Errorf("%s has a token in clear, or is not data: %v", e.Type, err)
		}
	}
	w.events = append(w.events, e)
	return streams.Receipt{Seq: uint64(len(w.events))}, w.fail
}

func (w *world) Known(_ context.Context, p domain.PageID, atLeast uint64) (connect.Known, error) {
	if atLeast > uint64(len(w.events)) {
		w.t.Errorf("asked for event %d of %d", atLeast, len(w.events))
	}
	if w.onKnown != nil {
		defer w.onKnown()
	}
	var k connect.Known
	for _, e := range w.events {
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
			k.Connection.SealedToken, k.Connection.SealedVerifyToken = c.SealedToken, c.SealedVerifyToken
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

func (w *world) ByAdmin(ctx context.Context, app, admin string) (out []domain.PageID, err error) {
	defer func(f func()) { w.onKnown = f }(w.onKnown)
	w.onKnown = nil
	seen := map[domain.PageID]bool{}
	for _, e := range w.events {
		if k, _ := w.Known(ctx, e.Page, 0); !seen[e.Page] && k.Connected && k.Connection.App == app && k.Connection.Admin == admin {
			out = append(out, e.Page)
		}
		seen[e.Page] = true
	}
	return out, nil
}

// said returns the types of the events from n on, and forgets nothing.
func (w *world) said(n int) string {
	var out []string
	for _, e := range w.events[n:] {
		out = append(out, string(e.Type))
	}
	return strings.Join(out, " ")
}

func (w *world) last() domain.Event { return w.events[len(w.events)-1] }

func (w *world) connect() meta.Outcome {
	w.t.Helper()
	out, err := w.Connect(w.t.Context(), connect.Request{Page: page, Token: token, Company: "acme", Fields: []string{"standby", "messages"}})
	require.NoError(w.t, err)
	return out
}

func TestConnect(t *testing.T) {
	w := start(t)
	out, err := w.Connect(t.Context(), connect.Request{Page: page, Token: token, VerifyToken: "verify-me", Company: "acme", Admin: "77"})
	require.NoError(t, err)
	want := slices.Sorted(slices.Values(connect.DefaultFields()))
	assert.Equal(t, meta.Outcome{
		Page: page, ConnectionID: "id1", App: "main", Name: "Dian Aul", State: subscriptions.Confirmed, Wanted: want, Actual: want, Seq: 3,
	}, out)
	assert.Equal(t, "page.connected subscription.requested subscription.confirmed", w.said(0))
	assert.Equal(t, []string{"page", "list", "subscribe", "list"}, w.graph.asked)
	assert.NotContains(t, want, "response_feedback")

	e := w.events[0]
	assert.Equal(t, "pagestream:"+string(page)+":page.connected:id1", e.ID)
	assert.Equal(t, time.Unix(1790000000, 0).UTC(), e.Time)
	c := e.Data.Connection
	require.NotNil(t, c)
	assert.Equal(t, []string{"id1", "acme", "main", "Dian Aul", "17841400000000001", "77"},
		[]string{c.ConnectionID, c.Company, c.App, c.Name, c.Instagram, c.Admin})
	plain, err := w.keys.Open(c.SealedToken, []byte("page-token:"+string(page)))
	require.NoError(t, err)
	assert.Equal(t, token, string(plain))
	plain, err = w.keys.Open(c.SealedVerifyToken, connect.VerifyTokenAAD(page))
	require.NoError(t, err)
	assert.Equal(t, "verify-me", string(plain))
	_, err = w.keys.Open(c.SealedToken, connect.TokenAAD("1"))
	assert.Error(t, err, "the token opens for another page")
	s := w.last().Data.Subscription
	assert.Equal(t, &domain.Subscription{App: "main", Wanted: want, Actual: want}, s)
	for _, e := range w.events {
		assert.Equal(t, "main", e.Data.App)
	}
}

func TestConnectingAgainReplaces(t *testing.T) {
	w := start(t)
	w.connect()
	out := w.connect()
	assert.Equal(t, "id2", out.ConnectionID)
	assert.Equal(t, "page.connected subscription.requested subscription.confirmed", w.said(3))
}

func TestATokenThatIsNotThePagesChangesNothing(t *testing.T) {
	no := refusal(200, 0, "another page's")
	for name, c := range map[string]struct {
		verb string
		err  error
		want error
	}{
		"page refused":     {"page", refusal(190, 0, "dead"), connect.ErrTokenRefused},
		"list refused":     {"list", no, connect.ErrTokenRefused},
		"graph is away":    {"page", errGone, errGone},
		"away after a bit": {"list", errGone, errGone},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t)
			w.graph.fail[c.verb] = c.err
			_, err := w.Connect(t.Context(), connect.Request{Page: page, Token: token})
			require.ErrorIs(t, err, c.want)
			if errors.Is(c.want, errGone) {
				assert.NotErrorIs(t, err, connect.ErrTokenRefused)
			}
			assert.Empty(t, w.events)
			assert.NotContains(t, w.graph.asked, "subscribe")
			assert.NotContains(t, err.Error(), token)
		})
	}
}

func TestRequestsAreChecked(t *testing.T) {
	w := start(t)
	for _, r := range []connect.Request{{Token: token}, {Page: domain.NoPage, Token: token}, {Page: page}} {
		_, err := w.Connect(t.Context(), r)
		assert.ErrorIs(t, err, connect.ErrRequest)
	}
	_, err := w.Connect(t.Context(), connect.Request{Page: page, Token: token, App: "nope"})
	assert.ErrorIs(t, err, connect.ErrUnknownApp)
	assert.Empty(t, w.graph.asked)
	r := connect.Request{Page: page, Token: token, VerifyToken: "verify-me"}
	assert.NotContains(t, fmt.Sprintf("%v %+v %#v", r, r, r), token)
	assert.NotContains(t, fmt.Sprintf("%v %+v %#v", r, r, r), "verify-me")
}

func TestSubscribeRefused(t *testing.T) {
	w := start(t)
	w.graph.fail["subscribe"] = refusal(200, 5, "pages_messaging is needed")
	out := w.connect()
	assert.Equal(t, subscriptions.Failed, out.State)
	assert.Equal(t, []any{200, 5, "pages_messaging is needed"}, []any{out.Code, out.Subcode, out.Reason})
	assert.Equal(t, "page.connected subscription.requested subscription.failed", w.said(0))
	s := w.last().Data.Subscription
	assert.Equal(t, []any{200, 5, "pages_messaging is needed"}, []any{s.Code, s.Subcode, s.Reason})
	assert.Equal(t, uint64(3), out.Seq)

	// And later it works.
	delete(w.graph.fail, "subscribe")
	out, err := w.Resubscribe(t.Context(), page)
	require.NoError(t, err)
	assert.Equal(t, subscriptions.Confirmed, out.State)
	assert.Equal(t, "subscription.requested subscription.confirmed", w.said(3))
}

func TestGraphAwayWhileSubscribing(t *testing.T) {
	w := start(t)
	w.graph.fail["subscribe"] = errGone
	out := w.connect()
	assert.Equal(t, subscriptions.Failed, out.State)
	assert.Zero(t, out.Code)
	assert.Contains(t, out.Reason, "did not answer")
	assert.Equal(t, "page.connected subscription.requested subscription.failed", w.said(0))
}

// What was begun is recorded even if the caller goes away.
func TestTheCallerGoesAway(t *testing.T) {
	w := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	w.graph.onAsked = func(verb string) {
		if verb == "subscribe" {
			cancel()
			w.graph.fail["subscribe"] = ctx.Err()
		}
	}
	out, err := w.Connect(ctx, connect.Request{Page: page, Token: token})
	require.NoError(t, err)
	assert.Equal(t, subscriptions.Failed, out.State)
	assert.Equal(t, domain.SubscriptionFailed, w.last().Type)
}

func TestWhatIsReadBackCounts(t *testing.T) {
	w := start(t)
	w.graph.drops = []string{"standby"}
	out := w.connect()
	assert.Equal(t, subscriptions.Drifted, out.State)
	assert.Equal(t, []string{"standby"}, out.Missing)
	assert.Equal(t, []string{"messages"}, out.Actual)
	assert.Equal(t, "page.connected subscription.requested subscription.drifted", w.said(0))
}

func TestCheck(t *testing.T) {
	w := start(t)
	w.connect()
	check := func() meta.Outcome {
		t.Helper()
		out, err := w.Check(t.Context(), page)
		require.NoError(t, err)
		return out
	}
	out := check()
	assert.Equal(t, subscriptions.Confirmed, out.State)
	assert.Zero(t, out.Seq)
	assert.Empty(t, w.said(3), "an event without news")

	w.graph.fields = []string{"messages"}
	out = check()
	assert.Equal(t, subscriptions.Drifted, out.State)
	assert.Equal(t, "subscription.drifted", w.said(3))
	assert.Equal(t, uint64(4), out.Seq)
	check()
	assert.Len(t, w.events, 4, "drift was stated twice")

	w.graph.fields, w.graph.on = nil, false
	out = check()
	assert.Equal(t, subscriptions.Drifted, out.State)
	assert.Contains(t, out.Reason, "not subscribed")
	assert.Len(t, out.Missing, 2)
	assert.Len(t, w.events, 5)

	w.graph.fields, w.graph.on = []string{"feed", "standby", "messages"}, true
	out = check()
	assert.Equal(t, subscriptions.Confirmed, out.State, "more fields than wanted are fine")
	assert.Equal(t, []string{"feed", "messages", "standby"}, out.Actual)
	assert.Equal(t, "subscription.confirmed", w.said(5))
}

func TestADeadTokenIsStatedOnce(t *testing.T) {
	w := start(t)
	w.connect()
	w.graph.fail["list"] = refusal(190, 460, "password changed")
	for range 2 {
		out, err := w.Check(t.Context(), page)
		require.NoError(t, err)
		assert.Equal(t, subscriptions.Failed, out.State)
		assert.Equal(t, 460, out.Subcode)
	}
	assert.Equal(t, "page.token_invalidated", w.said(3))
	c := w.last().Data.Connection
	assert.Equal(t, "id1", c.ConnectionID)
	assert.Equal(t, "190/460: password changed", c.Reason)

	// Another refusal, or no answer, says nothing about the token.
	w = start(t)
	w.connect()
	w.graph.fail["list"] = refusal(4, 0, "too many")
	out, err := w.Check(t.Context(), page)
	require.NoError(t, err)
	assert.Equal(t, 4, out.Code)
	w.graph.fail["list"] = errGone
	_, err = w.Check(t.Context(), page)
	assert.ErrorIs(t, err, errGone)
	assert.Empty(t, w.said(3))

	w.graph.fail["subscribe"] = refusal(190, 458, "")
	out, err = w.Resubscribe(t.Context(), page)
	require.NoError(t, err)
	assert.Equal(t, subscriptions.Failed, out.State)
	assert.Equal(t, "subscription.requested subscription.failed page.token_invalidated", w.said(3))
}

// Graph has more than one code for a token that is dead.
func TestEveryCodeOfADeadTokenIsOne(t *testing.T) {
	for _, code := range []int{190, 102, 104} {
		w := start(t)
		w.connect()
		w.graph.fail["list"] = refusal(code, 0, "dead")
		for range 2 {
			out, err := w.Check(t.Context(), page)
			require.NoError(t, err)
			assert.Equal(t, subscriptions.Failed, out.State)
			assert.Equal(t, code, out.Code)
		}
		assert.Equal(t, "page.token_invalidated", w.said(3), "once")
		c := w.last().Data.Connection
		assert.Equal(t, code, c.Code)
		assert.Equal(t, fmt.Sprintf("%d/0: dead", code), c.Reason)
	}
}

// How long Graph wants to be left alone is told in whole seconds, and never short.
func TestRetryAfterIsRoundedUp(t *testing.T) {
	w := start(t)
	w.connect()
	for after, want := range map[time.Duration]int{0: 0, 1: 1, time.Second: 1, 1500 * time.Millisecond: 2, time.Minute: 60} {
		w.graph.fail["list"] = &meta.Error{Status: 429, Held: true, After: after}
		out, err := w.Check(t.Context(), page)
		require.NoError(t, err)
		assert.Equal(t, want, out.RetryAfter, after)
	}
}

// Our own app is found among all that are subscribed to the page, by its id; the
// others are told.
func TestOtherAppsOfThePage(t *testing.T) {
	w := start(t)
	w.graph.others = []graph.App{{ID: "77", Name: "Inbox Pro", Fields: []string{"feed"}}, {ID: "78"}}
	want := []string{"77 Inbox Pro", "78"}
	assert.Equal(t, want, w.connect().Others)
	for name, verb := range map[string]func(context.Context, domain.PageID) (meta.Outcome, error){
		"check": w.Check, "plan": w.Plan, "resubscribe": w.Resubscribe,
	} {
		out, err := verb(t.Context(), page)
		require.NoError(t, err)
		assert.Equal(t, subscriptions.Confirmed, out.State, name)
		assert.Equal(t, want, out.Others, name)
		assert.Equal(t, []string{"messages", "standby"}, out.Actual, name)
	}
	w.graph.fields, w.graph.on = nil, false
	out, err := w.Check(t.Context(), page)
	require.NoError(t, err)
	assert.Equal(t, subscriptions.Drifted, out.State)
	assert.Equal(t, "the app is not subscribed to the page", out.Reason)
	assert.Equal(t, want, out.Others)
	assert.Empty(t, out.Actual)
}

func TestDisconnect(t *testing.T) {
	w := start(t)
	w.connect()
	out, err := w.Disconnect(t.Context(), page)
	require.NoError(t, err)
	assert.Equal(t, subscriptions.Removed, out.State)
	assert.False(t, w.graph.on)
	assert.Equal(t, "page.disconnected subscription.removed", w.said(3))
	assert.Equal(t, "id1", w.events[3].Data.Connection.ConnectionID)
	assert.Empty(t, w.events[3].Data.Connection.SealedToken)
	assert.Equal(t, uint64(5), out.Seq)

	for _, verb := range []func(context.Context, domain.PageID) (meta.Outcome, error){w.Disconnect, w.Check, w.Resubscribe} {
		_, err := verb(t.Context(), page)
		require.ErrorIs(t, err, meta.ErrNotConnected)
		assert.ErrorContains(t, err, "pagestream pages connect")
	}
}

func TestDisconnectWithADeadToken(t *testing.T) {
	w := start(t)
	w.connect()
	w.graph.fail["unsubscribe"] = refusal(190, 458, "app removed")
	out, err := w.Disconnect(t.Context(), page)
	require.NoError(t, err)
	assert.Equal(t, subscriptions.Failed, out.State)
	assert.Equal(t, "page.disconnected subscription.failed", w.said(3))
	assert.Contains(t, w.events[3].Data.Connection.Reason, "app removed")
}

func TestDisconnectWhileGraphIsAway(t *testing.T) {
	for _, cause := range []error{errGone, refusal(2, 0, "try again")} {
		w := start(t)
		w.connect()
		w.graph.fail["unsubscribe"] = cause
		_, err := w.Disconnect(t.Context(), page)
		require.ErrorIs(t, err, cause)
		assert.Empty(t, w.said(3))
	}
}

// Without its key a token can't be used; disconnecting still works.
func TestTheKeyIsGone(t *testing.T) {
	w := start(t)
	w.connect()
	other, err := seal.NewKeyRing()
	require.NoError(t, err)
	c := connect.New(connect.Options{
		Graph: func(string) (connect.Graph, string, bool) { return client{w.graph, w.login}, "main", true },
		Pages: w, Publisher: w, Sealer: other,
	})
	_, err = c.Check(t.Context(), page)
	require.ErrorIs(t, err, connect.ErrToken)
	require.ErrorIs(t, err, seal.ErrUnknownKey)
	_, err = c.Disconnect(t.Context(), page)
	require.NoError(t, err)
	assert.Equal(t, "page.disconnected subscription.failed", w.said(3))
}

// Two verbs at once: the one that began from an older state fails.
func TestSomebodyElseWasFaster(t *testing.T) {
	w := start(t)
	w.connect()
	meanwhile := func(e domain.Event) {
		w.graph.onAsked = func(string) { w.graph.onAsked = nil; e.Page = page; w.events = append(w.events, e) }
	}
	meanwhile(domain.Event{ID: "x", Type: domain.SubscriptionDrifted, Data: domain.Data{Subscription: &domain.Subscription{}}})
	_, err := w.Resubscribe(t.Context(), page)
	require.ErrorIs(t, err, connect.ErrChanged)
	assert.ErrorContains(t, err, "pages check")

	meanwhile(domain.Event{ID: "y", Type: domain.PageRenamed, Data: domain.Data{Connection: &domain.Connection{}}})
	_, err = w.Connect(t.Context(), connect.Request{Page: page, Token: token})
	require.ErrorIs(t, err, connect.ErrChanged)
	assert.Equal(t, domain.PageRenamed, w.last().Type)
}

func TestTheStreamIsAway(t *testing.T) {
	w := start(t)
	w.fail = streams.ErrUnavailable
	_, err := w.Connect(t.Context(), connect.Request{Page: page, Token: token})
	require.ErrorIs(t, err, streams.ErrUnavailable)
	assert.Empty(t, w.graph.asked, "graph was asked for what can't be recorded")
}
