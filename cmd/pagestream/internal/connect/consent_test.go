package connect_test

import (
	"context"
	"errors"
	"fmt"
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
	"github.com/pagestream/pagestream/projections/subscriptions"
)

const (
	userToken = "EAAUserTokenOfTheTestPerson0123456789"
	admin     = "10215241773831025"
)

// login is the fake Graph's part about one person and their tokens.
type login struct {
	mu       sync.Mutex
	info     graph.TokenInfo
	accounts []graph.Account
	unlisted map[string]graph.Account
	fail     map[string]error
}

func (l *login) LoginURL(redirect, state string) string {
	return "https://login.example/?redirect_uri=" + redirect + "&state=" + state
}

func (l *login) ExchangeCode(_ context.Context, _, code string) (graph.Token, error) {
	if code != "good" {
		return graph.Token{}, refusal(100, 36009, "This authorization code has been used.")
	}
	return graph.Token{Value: userToken}, l.fail["exchange"]
}

func (l *login) LongLived(_ context.Context, access string) (graph.Token, error) {
	if access != userToken {
		return graph.Token{}, refusal(190, 0, "Invalid OAuth access token.")
	}
	return graph.Token{Value: userToken + "Long", Expires: time.Unix(1795000000, 0)}, l.fail["long"]
}

func (l *login) DebugToken(_ context.Context, access string) (graph.TokenInfo, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.info, l.fail["debug"]
}

func (l *login) Accounts(_ context.Context, user, access string) ([]graph.Account, error) {
	if user != admin || access != userToken+"Long" {
		return nil, fmt.Errorf("asked for the pages of %s", user)
	}
	return l.accounts, l.fail["accounts"]
}

// Account reads a page of l.unlisted.
func (l *login) Account(_ context.Context, page, access string) (graph.Account, error) {
	if access != userToken+"Long" {
		return graph.Account{}, fmt.Errorf("asked for page %s", page)
	}
	if err := l.fail["account "+page]; err != nil {
		return graph.Account{}, err
	}
	return l.unlisted[page], nil
}

func allScopes() []string {
	return []string{"pages_show_list", "pages_messaging", "pages_manage_metadata"}
}

// person returns an admin who grants the test's page and two more.
func person() *login {
	return &login{
		info: graph.TokenInfo{AppID: ownApp, Type: "USER", User: admin, Valid: true, Scopes: allScopes()},
		accounts: []graph.Account{
			{ID: "3", Name: "Zoo", Token: "EAAOfPageThree", Tasks: []string{"ANALYZE"}},
			{ID: string(page), Name: "Dian Aul", Token: token, Tasks: []string{"MANAGE"}},
			{ID: string(page), Name: "Dian Aul", Token: token},
		},
		fail: map[string]error{},
	}
}

func TestConsentChangesNothing(t *testing.T) {
	f := newFixture(t)
	f.login = person()
	f.connectBy(admin, "acme")
	n := len(f.events)
	g, err := f.ConsentByCode(t.Context(), "", "https://x/cb", "good")
	require.NoError(t, err)
	assert.Equal(t, "main", g.App)
	assert.Equal(t, admin, g.Admin)
	require.Len(t, g.Pages, 2, "one page named twice is one")
	assert.Equal(t, page, g.Pages[0].Page)
	assert.Equal(t, meta.StandingConnected, g.Pages[0].Standing)
	assert.Equal(t, "acme", g.Pages[0].Company)
	assert.Equal(t, meta.StandingNew, g.Pages[1].Standing)
	assert.True(t, g.Pages[1].Lacking)
	assert.False(t, g.Pages[0].Lacking)
	assert.Empty(t, g.Gone)
	assert.Len(t, f.events, n)
	for _, text := range []string{fmt.Sprint(g), fmt.Sprintf("%+v", g), fmt.Sprintf("%#v", g)} {
		assert.NotContains(t, text, "EAA")
	}

	// The next login does not include the page; another admin's connection is foreign.
	f.login.accounts = f.login.accounts[:1]
	g, err = f.Consent(t.Context(), "main", userToken)
	require.NoError(t, err)
	assert.Equal(t, []meta.ConsentPage{{Page: page, Name: "Dian Aul"}}, g.Gone)
	f.login.accounts, f.login.info.User = person().accounts, admin
	f.connectBy("somebody else", "other")
	g, err = f.Consent(t.Context(), "main", userToken)
	require.NoError(t, err)
	assert.Equal(t, meta.StandingForeign, g.Pages[0].Standing)
	assert.Empty(t, g.Gone)
}

func (f *fixture) connectBy(admin, company string) {
	f.t.Helper()
	_, err := f.Connect(
		f.t.Context(),
		connect.Request{
			Page: page, Token: token, Company: company, Move: true, Admin: admin, Fields: []string{"messages"},
		},
	)
	require.NoError(f.t, err)
}

func TestConsentRefused(t *testing.T) {
	throttled := refusal(4, 0, "")
	for name, c := range map[string]struct {
		change func(*login)
		app    string
		code   string
		want   error
	}{
		"used code":       {code: "used", want: nil},
		"no such app":     {app: "none", code: "good", want: connect.ErrUnknownApp},
		"page token":      {code: "good", change: func(l *login) { l.info.Type = "PAGE" }, want: connect.ErrUserToken},
		"dead user token": {code: "good", change: func(l *login) { l.info.Valid = false }, want: connect.ErrUserToken},
		"refused listing": {
			code: "good", change: func(l *login) { l.fail["accounts"] = refusal(190, 460, "") },
			want: connect.ErrUserToken,
		},
		"no answer": {code: "good", change: func(l *login) { l.fail["accounts"] = errGone }, want: errGone},
		"throttled": {code: "good", change: func(l *login) { l.fail["debug"] = throttled }, want: throttled},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.login = person()
			if c.change != nil {
				c.change(f.login)
			}
			_, err := f.ConsentByCode(t.Context(), c.app, "https://x/cb", c.code)
			require.Error(t, err)
			if c.want != nil {
				require.ErrorIs(t, err, c.want)
			}
			assert.NotContains(t, err.Error(), "EAA")
			assert.Empty(t, f.events)
		})
	}
	f := newFixture(t)
	f.login = person()
	f.login.info.Scopes = []string{"pages_show_list"}
	g, err := f.Consent(t.Context(), "", userToken)
	require.NoError(t, err)
	assert.Equal(t, []string{"pages_messaging", "pages_manage_metadata"}, g.MissingScopes)
}

func TestApplyContinuesAfterAFailure(t *testing.T) {
	f := newFixture(t)
	f.login = person()
	g, err := f.Consent(t.Context(), "", userToken)
	require.NoError(t, err)
	for _, bad := range [][]domain.PageID{nil, {"99"}, {page, "99"}} {
		_, err := f.Apply(t.Context(), g, meta.Choice{Pages: bad}, nil)
		require.ErrorIs(t, err, connect.ErrRequest)
	}
	assert.Empty(t, f.events)

	// Only one page is chosen: the fake Graph has no other, and the fixture does not
	// support concurrent operations.
	var progressCalls []string
	outs, err := f.Apply(t.Context(), g, meta.Choice{Pages: []domain.PageID{page, page}, Company: "acme"},
		func(o meta.Outcome) { progressCalls = append(progressCalls, string(o.Page)+" "+string(o.State)) })
	require.NoError(t, err)
	require.Len(t, outs, 1)
	assert.Equal(t, subscriptions.Confirmed, outs[0].State)
	assert.Equal(t, []string{string(page) + " confirmed"}, progressCalls)
	assert.Equal(t, "page.connected subscription.requested subscription.confirmed", f.eventTypes(0))

	// When it is repeated, the same connection gets the new token.
	n := len(f.events)
	f.graph.token = "EAAAnotherTokenOfThePage012345678"
	g.Pages[0].Token = f.graph.token
	_, err = f.Apply(t.Context(), g, meta.Choice{Pages: []domain.PageID{page}, Company: "acme"}, nil)
	require.NoError(t, err)
	assert.Equal(t, "page.token_refreshed subscription.requested subscription.confirmed", f.eventTypes(n))
	k, err := f.Known(t.Context(), page, 0)
	require.NoError(t, err)
	assert.Equal(t, outs[0].ConnectionID, k.Connection.ConnectionID)
	secret, err := f.secrets.Get(t.Context(), page, k.Connection.Secret)
	require.NoError(t, err)
	plain, err := f.keys.Open(secret.Token, connect.TokenAAD(page))
	require.NoError(t, err)
	assert.Equal(t, f.graph.token, string(plain))

	// An error of Graph is an outcome that names the field; an ended context is an
	// outcome as well.
	f.graph.fail["subscribe"] = refusal(
		200, 0, "(#200) To subscribe to the message_reads field, one of these permissions is needed: pages_messaging",
	)
	outs, err = f.Apply(t.Context(), g, meta.Choice{Pages: []domain.PageID{page}, Company: "acme"}, nil)
	require.NoError(t, err)
	assert.Equal(t, subscriptions.Failed, outs[0].State)
	assert.Equal(t, "message_reads", outs[0].Field)
	f.graph.fail["page"] = refusal(190, 463, "expired")
	outs, err = f.Apply(t.Context(), g, meta.Choice{Pages: []domain.PageID{page}, Company: "acme"}, nil)
	require.NoError(t, err)
	assert.Equal(t, 463, outs[0].Subcode)
	n = len(f.events)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	outs, err = f.Apply(cancelled, g, meta.Choice{Pages: []domain.PageID{page}}, nil)
	require.NoError(t, err)
	assert.Contains(t, outs[0].Reason, "not tried")
	assert.Len(t, f.events, n)
}

// All selects every page except foreign and lacking ones, and ignores Pages.
func TestApplyToAll(t *testing.T) {
	f := newFixture(t)
	f.login = person()
	consent, err := f.Consent(t.Context(), "", userToken)
	require.NoError(t, err)
	require.Len(t, consent.Pages, 2)
	assert.NotNil(t, consent.Gone, "an empty list, not null")
	outs, err := f.Apply(
		t.Context(), consent, meta.Choice{All: true, Pages: []domain.PageID{"99"}, Company: "acme"}, nil,
	)
	require.NoError(t, err)
	require.Len(t, outs, 1, "the role on the other page does not let connect it")
	assert.Equal(t, page, outs[0].Page)
	assert.Equal(t, subscriptions.Confirmed, outs[0].State)

	f.connectBy("somebody else", "other")
	consent, err = f.Consent(t.Context(), "", userToken)
	require.NoError(t, err)
	n := len(f.events)
	_, err = f.Apply(t.Context(), consent, meta.Choice{All: true}, nil)
	require.ErrorIs(t, err, connect.ErrRequest, "nobody is taken over")
	assert.Empty(t, f.eventTypes(n))
}

func TestApplyProbesPagesThatAreGone(t *testing.T) {
	f := newFixture(t)
	f.login = person()
	f.connectBy(admin, "acme")
	f.login.accounts = f.login.accounts[:1]
	g, err := f.Consent(t.Context(), "", userToken)
	require.NoError(t, err)
	require.Len(t, g.Gone, 1)
	n := len(f.events)
	f.login.info = graph.TokenInfo{
		Type: "PAGE", Valid: true, Scopes: allScopes(), Granted: map[string][]string{"pages_messaging": {"3"}},
	}
	g.Pages[0].Page = "3"
	_, err = f.Apply(
		t.Context(),
		meta.Consent{App: "main", Admin: admin, Pages: []meta.ConsentPage{{Page: page, Token: token}}, Gone: g.Gone},
		meta.Choice{Pages: []domain.PageID{page}, Company: "acme"}, nil,
	)
	require.NoError(t, err)
	assert.Contains(t, f.eventTypes(n), "page.token_invalidated")
	assert.True(t, strings.HasPrefix(f.last().Data.Connection.Reason, "deselected: "))
}

func TestProbe(t *testing.T) {
	f := newFixture(t)
	f.connect()
	n := len(f.events)
	f.login.info = graph.TokenInfo{
		Type: "PAGE", Valid: true, Scopes: []string{"pages_messaging"}, DataAccessExpires: time.Unix(1797072000, 0),
	}
	r, err := f.Probe(t.Context(), page)
	require.NoError(t, err)
	assert.Equal(t, meta.TokenValid, r.State)
	assert.Equal(t, []string{"pages_manage_metadata"}, r.MissingScopes)
	assert.Equal(t, int64(1797072000), r.DataAccessExpires.Unix())
	assert.Empty(t, f.eventTypes(n))

	f.login.info = graph.TokenInfo{Err: refusal(190, 460, "changed their password")}
	for range 2 {
		r, err = f.Probe(t.Context(), page)
		require.NoError(t, err)
		assert.Equal(t, meta.TokenInvalid, r.State)
	}
	assert.Equal(t, "page.token_invalidated", f.eventTypes(n), "once")
	assert.Equal(t, 460, f.last().Data.Connection.Subcode)

	f.login.info = graph.TokenInfo{
		Type: "PAGE", Valid: true, Scopes: allScopes(), Granted: map[string][]string{"pages_messaging": {string(page)}},
	}
	_, err = f.Probe(t.Context(), page)
	require.NoError(t, err)
	assert.Equal(t, "page.token_invalidated page.token_refreshed", f.eventTypes(n))
	assert.NotEmpty(t, f.secret(f.last()).Token)

	f.login.fail["debug"] = errGone
	r, err = f.Probe(t.Context(), page)
	require.ErrorIs(t, err, errGone)
	assert.Equal(t, meta.TokenUnknown, r.State)
}

func TestRefreshRefused(t *testing.T) {
	f := newFixture(t)
	f.connect()
	n := len(f.events)
	_, err := f.Refresh(t.Context(), page, "EAAOfSomebodyElse0123456789", "")
	require.ErrorIs(t, err, connect.ErrTokenRefused)
	_, err = f.Refresh(t.Context(), page, "", "")
	require.ErrorIs(t, err, connect.ErrRequest)
	_, err = f.Refresh(t.Context(), "5", token, "")
	require.ErrorIs(t, err, meta.ErrNotConnected)
	assert.Empty(t, f.eventTypes(n))
}

func TestPlanChangesNothing(t *testing.T) {
	f := newFixture(t)
	f.connect()
	f.graph.fields = []string{"messages"}
	n, asked := len(f.events), len(f.graph.asked)
	out, err := f.Plan(t.Context(), page)
	require.NoError(t, err)
	assert.Equal(t, subscriptions.Drifted, out.State)
	assert.Equal(t, []string{"standby"}, out.Missing)
	assert.Empty(t, f.eventTypes(n))
	assert.Equal(t, []string{"list"}, f.graph.asked[asked:])
	f.graph.fail["list"] = refusal(190, 490, "checkpoint")
	out, err = f.Plan(t.Context(), page)
	require.NoError(t, err)
	assert.Equal(t, 490, out.Subcode)
	assert.Empty(t, f.eventTypes(n))
}

func TestAppFieldsAreCompared(t *testing.T) {
	f := newFixture(t)
	f.appFields = []string{"messages"}
	out := f.connect()
	assert.Equal(t, subscriptions.Drifted, out.State)
	assert.Empty(t, out.Missing)
	assert.Equal(t, []string{"standby"}, out.AppMissing)
	assert.Contains(t, out.Reason, "standby")
	assert.Equal(t, []string{"messages", "standby"}, f.last().Data.Subscription.Actual, "the page's own list")
	n := len(f.events)
	_, err := f.Check(t.Context(), page)
	require.NoError(t, err)
	assert.Empty(t, f.eventTypes(n), "no news")
	assert.Contains(t, out.Reason, "pagestream apps setup main")
	f.appFields = []string{"messages", "standby"}
	out, err = f.Check(t.Context(), page)
	require.NoError(t, err)
	assert.Equal(t, subscriptions.Confirmed, out.State)
	assert.Empty(t, out.AppLacks)

	// An inactive subscription delivers nothing. Another callback URL may be another name of ours.
	f.appInactive = true
	out, err = f.Check(t.Context(), page)
	require.NoError(t, err)
	assert.Equal(t, subscriptions.Drifted, out.State)
	assert.Equal(t, []string{"messages", "standby"}, out.AppMissing)
	assert.Equal(t, []string{"the app's subscription to the object page is inactive; type: pagestream apps setup main"}, out.AppLacks)
	f.appInactive, f.appCallback = false, "https://old/webhooks"
	out, err = f.Check(t.Context(), page)
	require.NoError(t, err)
	assert.Equal(t, subscriptions.Confirmed, out.State)
	assert.Equal(t, []string{
		"Meta delivers the object page to https://old/webhooks; type: pagestream apps setup main",
	}, out.AppLacks)
}

// always is a time after every connection of a test.
var always = time.Date(9000, 1, 1, 0, 0, 0, 0, time.UTC)

func TestDisconnectAdmin(t *testing.T) {
	f := newFixture(t)
	f.connectBy(admin, "acme")
	n := len(f.events)
	for name, failure := range map[string]error{"no answer": errGone, "dead token": refusal(190, 458, "not authorized")} {
		f.graph.fail["unsubscribe"] = failure
		outs, err := f.DisconnectAdmin(t.Context(), "main", admin, always, "the admin has removed the app")
		require.NoError(t, err, name)
		require.Len(t, outs, 1)
		c := f.events[len(f.events)-2].Data.Connection
		assert.Contains(t, c.Reason, "the admin has removed the app")
		assert.Empty(t, c.Admin)
		outs, err = f.DisconnectAdmin(t.Context(), "main", admin, always, "again")
		require.NoError(t, err)
		assert.Empty(t, outs, "it may be repeated")
		f.graph.fail = map[string]error{}
		f.connectBy(admin, "acme")
	}
	outs, err := f.DisconnectAdmin(t.Context(), "other", admin, always, "x")
	require.NoError(t, err)
	assert.Empty(t, outs)
	assert.Contains(t, f.eventTypes(n), "page.disconnected")
	f.fail = errors.New("the stream is not there")
	_, err = f.DisconnectAdmin(t.Context(), "main", admin, always, "x")
	require.Error(t, err)
}

// The person has pages through a business: Graph does not list them, and names them as targets only.
func TestConsentReadsPagesOfABusiness(t *testing.T) {
	f := newFixture(t)
	f.login = person()
	f.login.accounts = nil
	f.login.info.Granted = map[string][]string{
		"pages_messaging": {string(page), "3", "4", "5"}, "pages_show_list": {string(page)}, "business_management": {"77"},
	}
	f.login.unlisted = map[string]graph.Account{
		string(page): {ID: string(page), Name: "Dian Aul", Token: token, Instagram: "178"},
		"3":          {ID: "3", Name: "No token"},
	}
	f.login.fail["account 4"] = refusal(100, 33, "it does not exist")
	f.login.fail["account 5"] = refusal(10, 0, "no permission")
	f.login.fail["account 77"] = errGone // a business is not asked about
	g, err := f.Consent(t.Context(), "main", userToken)
	require.NoError(t, err)
	require.Len(t, g.Pages, 1)
	assert.Equal(t, page, g.Pages[0].Page)
	assert.Equal(t, token, g.Pages[0].Token)
	assert.Equal(t, "178", g.Pages[0].Instagram)
	assert.False(t, g.Pages[0].Lacking, "the tasks are not known")

	// One that is listed is not read again; without an answer the consent is not complete.
	f.login.accounts = person().accounts
	f.login.fail["account "+string(page)] = errGone
	f.login.fail["account 3"] = errGone
	g, err = f.Consent(t.Context(), "main", userToken)
	require.NoError(t, err)
	assert.Len(t, g.Pages, 2)
	for _, failure := range []error{errGone, refusal(80001, 0, "too many calls")} {
		f.login.fail["account 4"] = failure
		_, err = f.Consent(t.Context(), "main", userToken)
		require.ErrorIs(t, err, failure)
		assert.ErrorContains(t, err, "page 4")
	}
}
