package connect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pagestream/pagestream/domain"
)

// ErrUserToken says that a token is not one of a person who has let the app use
// their pages.
var ErrUserToken = errors.New("graph does not accept the token as a user token of this app; log in again")

// applyParallel bounds the pages that [Connector.Apply] works on at once.
const applyParallel = 4

// Login is what Graph does for a person, in one app.
type Login interface {
	// LoginURL is where the person says yes.
	LoginURL(redirectURI, state string) string
	// ExchangeCode returns the user token for the code of a login, once.
	ExchangeCode(ctx context.Context, redirectURI, code string) (userToken string, err error)
	// LongLived returns a token that lives for weeks; page tokens made with it
	// don't end by themselves.
	LongLived(ctx context.Context, userToken string) (longToken string, expires time.Time, err error)
	// Debug tells about any token of the app.
	Debug(ctx context.Context, token string) (TokenInfo, error)
	// Accounts lists every page that the person has a role on and lets the app
	// use, with its token.
	Accounts(ctx context.Context, user, userToken string) ([]Account, error)
}

// Account is a page as its admin's token shows it.
type Account struct {
	Page      domain.PageID
	Name      string
	Token     string `json:"-"`
	Instagram string
	Tasks     []string
}

// String keeps the token out of logs.
func (a Account) String() string { return "account of page " + string(a.Page) }

// GoString keeps the token out of logs.
func (a Account) GoString() string { return a.String() }

// Format keeps the token out of logs.
func (a Account) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, a.String()) }

// LogValue keeps the token out of logs.
func (a Account) LogValue() slog.Value { return slog.StringValue(a.String()) }

// Standing is how a granted page stands to what is connected.
type Standing string

// The standings of a granted page.
const (
	// StandingNew: the page is not connected.
	StandingNew Standing = "new"
	// StandingAgain: this admin has connected it before, in this app.
	StandingAgain Standing = "connected"
	// StandingForeign: it is connected by another admin or through another app.
	// To choose it is to take it over.
	StandingForeign Standing = "foreign"
)

// Granted is a page of a consent.
type Granted struct {
	Account
	Standing Standing
	// Company and App are those of the connection that there is.
	Company, App string
	// Lacking says that the person may not manage the page: to subscribe it
	// will be refused.
	Lacking bool
}

// Grant is a consent: what one person lets one app use. It has tokens in it, and
// nothing that prints it shows them.
type Grant struct {
	App string
	// Admin is the app-scoped id of the person.
	Admin string
	// Pages are in order of their names.
	Pages []Granted
	// Gone are the pages that this person connected before and that this login
	// no longer includes.
	Gone []GonePage
	// MissingScopes are permissions that were not given; without them pages
	// can't be subscribed.
	MissingScopes []string

	facts facts
}

// GonePage is a connected page that a consent no longer includes.
type GonePage struct {
	Page domain.PageID
	Name string
}

// String keeps the tokens out of logs.
func (g Grant) String() string {
	return fmt.Sprintf("grant of %d pages by %s to app %s", len(g.Pages), g.Admin, g.App)
}

// GoString keeps the tokens out of logs.
func (g Grant) GoString() string { return g.String() }

// Format keeps the tokens out of logs.
func (g Grant) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, g.String()) }

// LogValue keeps the tokens out of logs.
func (g Grant) LogValue() slog.Value { return slog.StringValue(g.String()) }

func (c *Connector) login(app string) (Login, string, bool) {
	if c.opts.Login == nil {
		return nil, app, false
	}
	return c.opts.Login(app)
}

// LoginURL is where a person lets the app use their pages.
func (c *Connector) LoginURL(app, redirectURI, state string) (string, error) {
	login, name, ok := c.login(app)
	if !ok {
		return "", fmt.Errorf("app %q: %w", name, ErrUnknownApp)
	}
	return login.LoginURL(redirectURI, state), nil
}

// GrantCode is [Connector.Grant] for the code at the end of a login.
func (c *Connector) GrantCode(ctx context.Context, app, redirectURI, code string) (Grant, error) {
	login, name, ok := c.login(app)
	if !ok {
		return Grant{}, fmt.Errorf("app %q: %w", name, ErrUnknownApp)
	}
	token, err := login.ExchangeCode(ctx, redirectURI, code)
	if err != nil {
		return Grant{}, fmt.Errorf("exchange login code: %w", err)
	}
	return c.Grant(ctx, name, token)
}

// Grant looks at what a person has let the app use and holds it against what is
// connected. Nothing is changed by it, at Graph or here.
func (c *Connector) Grant(ctx context.Context, app, userToken string) (Grant, error) {
	login, name, ok := c.login(app)
	if !ok {
		return Grant{}, fmt.Errorf("app %q: %w", name, ErrUnknownApp)
	}
	if userToken == "" {
		return Grant{}, fmt.Errorf("%w: it has no user token", ErrRequest)
	}
	long, _, err := login.LongLived(ctx, userToken)
	if err != nil {
		return Grant{}, fmt.Errorf("make user token long-lived: %w", refusedUser(err))
	}
	info, err := login.Debug(ctx, long)
	if err != nil {
		return Grant{}, fmt.Errorf("ask about user token: %w", refusedUser(err))
	}
	if !info.Valid || info.Kind != "USER" || info.User == "" {
		return Grant{}, fmt.Errorf("%w (it is of kind %q)", ErrUserToken, info.Kind)
	}
	accounts, err := login.Accounts(ctx, info.User, long)
	if err != nil {
		return Grant{}, fmt.Errorf("list pages of the user: %w", refusedUser(err))
	}
	// A page token made with a long-lived one has no end of its own.
	g := Grant{App: name, Admin: info.User, facts: facts{dataAccessExpires: info.DataAccessExpires, scopes: info.Scopes}}
	for _, s := range append([]string{"pages_show_list"}, neededScopes()...) {
		if !slices.Contains(info.Scopes, s) {
			g.MissingScopes = append(g.MissingScopes, s)
		}
	}
	included := map[domain.PageID]bool{}
	for _, a := range accounts {
		if included[a.Page] {
			continue
		}
		included[a.Page] = true
		page, err := c.stand(ctx, g, a)
		if err != nil {
			return Grant{}, err
		}
		g.Pages = append(g.Pages, page)
	}
	slices.SortFunc(g.Pages, func(a, b Granted) int {
		return strings.Compare(a.Name+"\x00"+string(a.Page), b.Name+"\x00"+string(b.Page))
	})
	before, err := c.opts.Pages.ByAdmin(ctx, name, info.User)
	if err != nil {
		return Grant{}, fmt.Errorf("find pages of the admin: %w", err)
	}
	for _, page := range before {
		if included[page] {
			continue
		}
		known, err := c.opts.Pages.Known(ctx, page, 0)
		if err != nil {
			return Grant{}, fmt.Errorf("read page %s: %w", page, err)
		}
		g.Gone = append(g.Gone, GonePage{Page: page, Name: known.Connection.Name})
	}
	return g, nil
}

// stand holds one page of a consent against what is connected.
func (c *Connector) stand(ctx context.Context, g Grant, a Account) (Granted, error) {
	known, err := c.opts.Pages.Known(ctx, a.Page, 0)
	if err != nil {
		return Granted{}, fmt.Errorf("read page %s: %w", a.Page, err)
	}
	out := Granted{Account: a, Standing: StandingNew, Lacking: lacking(a.Tasks)}
	if known.Connected {
		out.Standing, out.Company, out.App = StandingForeign, known.Connection.Company, known.Connection.App
		if known.Connection.App == g.App && (known.Connection.Admin == "" || known.Connection.Admin == g.Admin) {
			out.Standing = StandingAgain
		}
	}
	return out, nil
}

// lacking reports whether the tasks are known and none lets subscribe the page.
// https://developers.facebook.com/docs/graph-api/reference/page/subscribed_apps
func lacking(tasks []string) bool {
	return len(tasks) > 0 && !slices.ContainsFunc(tasks, func(t string) bool {
		return t == "MODERATE" || t == "MANAGE" || t == "CREATE_CONTENT"
	})
}

// refusedUser marks a refusal by Graph of a user's token.
func refusedUser(err error) error {
	var refusal Refusal
	if errors.As(err, &refusal) && !refusal.Temporary() {
		return fmt.Errorf("%w: %w", ErrUserToken, err)
	}
	return err
}

// Choice is what a person wants of a [Grant].
type Choice struct {
	Pages []domain.PageID
	// Company owns the pages; empty leaves a connected page to the one it has.
	Company string
	// Fields are the wanted fields; empty is the default, or what the page has.
	Fields []string
}

// Apply connects the chosen pages of a grant, each for itself: the failure of
// one is its Outcome, failed with the reason, and leaves the others done. The
// outcomes are in the order of the choice; progress, which may be nil, is told of
// each as it comes, one at a time.
//
// A page that was connected before by the same company in the same app keeps its
// connection and gets the new token; any other connection of it is replaced. A
// page that is gone from the grant is only asked about: a dead token is then on
// record.
//
// The error is about the choice itself, and then nothing was done.
func (c *Connector) Apply(ctx context.Context, g Grant, choice Choice, progress func(Outcome)) ([]Outcome, error) {
	accounts := map[domain.PageID]Granted{}
	for _, p := range g.Pages {
		accounts[p.Page] = p
	}
	var list []Granted
	for _, page := range choice.Pages {
		p, ok := accounts[page]
		if !ok {
			return nil, fmt.Errorf("%w: page %s is not in this login", ErrRequest, page)
		}
		if !slices.ContainsFunc(list, func(l Granted) bool { return l.Page == page }) {
			list = append(list, p)
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: no page was chosen", ErrRequest)
	}
	outs := make([]Outcome, len(list))
	var mu sync.Mutex // one at a time for progress
	parallel(applyParallel, len(list), func(i int) {
		out := c.applyOne(ctx, g, list[i], choice)
		mu.Lock()
		defer mu.Unlock()
		outs[i] = out
		if progress != nil {
			progress(out)
		}
	})
	parallel(applyParallel, len(g.Gone), func(i int) {
		// What it finds is on record; that it could not ask is no one's outcome.
		_, _ = c.Probe(ctx, g.Gone[i].Page)
	})
	return outs, nil
}

func (c *Connector) applyOne(ctx context.Context, g Grant, p Granted, choice Choice) Outcome {
	failed := func(err error) Outcome {
		out := Outcome{Page: p.Page, App: g.App, Name: p.Name, State: Failed}
		out.Code, out.Subcode, out.Reason = explain(err)
		return out
	}
	if ctx.Err() != nil {
		return failed(errNotTried)
	}
	out, err := c.connectOrRefresh(ctx, Request{
		Page: p.Page, Token: p.Token, Company: choice.Company, App: g.App, Fields: choice.Fields, Name: p.Name,
		Admin: g.Admin, facts: g.facts,
	})
	if err != nil {
		return failed(err)
	}
	return out
}

// connectOrRefresh gives a page that the app has connected for the same company
// the new token, and connects any other.
func (c *Connector) connectOrRefresh(ctx context.Context, r Request) (Outcome, error) {
	v, err := c.begin(ctx, r.Page)
	if errors.Is(err, ErrNotConnected) {
		return c.Connect(ctx, r)
	}
	if err != nil {
		return Outcome{}, err
	}
	r.Company = cmp.Or(r.Company, v.conn.Company)
	if v.conn.App != r.App || v.conn.Company != r.Company {
		return c.Connect(ctx, r)
	}
	return c.refresh(ctx, r)
}

// errNotTried says that there was no time left for a page.
var errNotTried = errors.New("not tried: it was stopped before; connect this page again")

// parallel calls f for 0 to n-1, at most most at once, and waits for all.
func parallel(most, n int, f func(i int)) {
	var group sync.WaitGroup
	free := make(chan struct{}, most)
	for i := range n {
		free <- struct{}{}
		group.Go(func() {
			defer func() { <-free }()
			f(i)
		})
	}
	group.Wait()
}
