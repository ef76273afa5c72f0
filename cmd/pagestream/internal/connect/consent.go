package connect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

// LoginURL returns the URL of Meta's login dialog for an app. [ErrUnknownApp] is
// returned if there is no such app.
func (c *Connector) LoginURL(app, redirectURI, state string) (string, error) {
	g, _, err := c.app(app)
	if err != nil {
		return "", err
	}
	return g.LoginURL(redirectURI, state), nil
}

// ConsentByCode is [Connector.Consent] with the code of a login instead of a token.
// The code can be used once.
func (c *Connector) ConsentByCode(ctx context.Context, app, redirectURI, code string) (meta.Consent, error) {
	g, name, err := c.app(app)
	if err != nil {
		return meta.Consent{}, err
	}
	token, err := g.ExchangeCode(ctx, redirectURI, code)
	if err != nil {
		return meta.Consent{}, fmt.Errorf("exchange login code: %w", err)
	}
	return c.Consent(ctx, name, token.Value)
}

// Consent reads which pages a person has granted to the app and compares them with
// the connections. It changes nothing, neither at Graph nor here. [ErrUserToken] is
// returned if Graph does not accept the token as a user token of the app.
func (c *Connector) Consent(ctx context.Context, app, userToken string) (meta.Consent, error) {
	g, name, err := c.app(app)
	if err != nil {
		return meta.Consent{}, err
	}
	if userToken == "" {
		return meta.Consent{}, fmt.Errorf("%w: it has no user token", ErrRequest)
	}
	long, err := g.LongLived(ctx, userToken)
	if err != nil {
		return meta.Consent{}, fmt.Errorf("make user token long-lived: %w", refusedUser(err))
	}
	info, err := g.DebugToken(ctx, long.Value)
	if err != nil {
		return meta.Consent{}, fmt.Errorf("ask about user token: %w", refusedUser(err))
	}
	if !info.Valid || info.Type != "USER" || info.User == "" {
		return meta.Consent{}, fmt.Errorf("%w (its type is %q)", ErrUserToken, info.Type)
	}
	accounts, err := g.Accounts(ctx, info.User, long.Value)
	if err != nil {
		return meta.Consent{}, fmt.Errorf("list pages of the user: %w", refusedUser(err))
	}
	unlisted, err := readUnlisted(ctx, g, info, accounts, long.Value)
	if err != nil {
		return meta.Consent{}, err
	}
	accounts = append(accounts, unlisted...)
	// This comes first, since it waits for the read models.
	before, err := c.opts.Pages.ByAdmin(ctx, domain.AdminHash(name, info.User), time.Time{})
	if err != nil {
		return meta.Consent{}, fmt.Errorf("find pages of the admin: %w", err)
	}
	// The page tokens were made with a long-lived token, so they do not expire.
	out := meta.Consent{
		App: name, Admin: info.User, Pages: []meta.ConsentPage{}, Gone: []meta.ConsentPage{},
		MissingScopes:     meta.Lack(append([]string{"pages_show_list"}, meta.NeededScopes()...), info.Scopes),
		DataAccessExpires: info.DataAccessExpires, Scopes: info.Scopes,
	}
	included := map[domain.PageID]bool{}
	for _, a := range accounts {
		if included[domain.PageID(a.ID)] {
			continue
		}
		included[domain.PageID(a.ID)] = true
		page, err := c.consentPage(ctx, out, a)
		if err != nil {
			return meta.Consent{}, err
		}
		out.Pages = append(out.Pages, page)
	}
	slices.SortFunc(out.Pages, func(a, b meta.ConsentPage) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Page, b.Page))
	})
	for _, page := range before {
		if included[page] {
			continue
		}
		known, err := c.opts.Pages.Known(ctx, page, 0)
		if err != nil {
			return meta.Consent{}, fmt.Errorf("read page %s: %w", page, err)
		}
		out.Gone = append(out.Gone, meta.ConsentPage{Page: page, Name: known.Connection.Name})
	}
	return out, nil
}

// maxUnlisted limits the pages that are read by their ids for one consent.
const maxUnlisted = 2000

// readUnlisted reads the pages that the person has granted to the app and that are not in the list of
// the person's pages: Graph leaves out those that the person has through a business, all of them if
// there are no others. A page that Graph refuses, or for which it gives no token, is left out: the
// person has no role on it any more.
func readUnlisted(
	ctx context.Context, g Graph, info graph.TokenInfo, listed []graph.Account, userToken string,
) ([]graph.Account, error) {
	known := map[string]bool{}
	for _, a := range listed {
		known[a.ID] = true
	}
	var ids []string
	for scope, targets := range info.Granted {
		for _, id := range targets {
			if strings.HasPrefix(scope, "pages_") && !known[id] { // the targets of other scopes are no pages
				known[id] = true
				ids = append(ids, id)
			}
		}
	}
	if len(ids) > maxUnlisted {
		return nil, fmt.Errorf("%w: the login grants %d pages that Graph does not list, and at most %d are read; "+
			"grant fewer at once", ErrRequest, len(ids), maxUnlisted)
	}
	slices.Sort(ids)
	accounts, errs := make([]graph.Account, len(ids)), make([]error, len(ids))
	each(len(ids), func(i int) { accounts[i], errs[i] = g.Account(ctx, ids[i], userToken) })
	var out []graph.Account
	for i, err := range errs {
		refusal := meta.Refused(err)
		switch {
		case err == nil && accounts[i].Token != "":
			out = append(out, accounts[i])
		case err != nil && (refusal == nil || refusal.Temporary() || refusal.Class() == meta.TokenDead):
			return nil, fmt.Errorf("read page %s of the user: %w", ids[i], refusedUser(err))
		}
	}
	return out, nil
}

// consentPage compares one page of a consent with its connection.
func (c *Connector) consentPage(
	ctx context.Context, consent meta.Consent, a graph.Account,
) (meta.ConsentPage, error) {
	out := meta.ConsentPage{
		Page: domain.PageID(a.ID), Name: a.Name, Token: a.Token, Instagram: a.Instagram, Tasks: a.Tasks,
		Standing: meta.StandingNew, Lacking: lacking(a.Tasks),
	}
	known, err := c.opts.Pages.Known(ctx, out.Page, 0)
	if err != nil {
		return meta.ConsentPage{}, fmt.Errorf("read page %s: %w", out.Page, err)
	}
	if known.Connected {
		conn := known.Connection
		out.Standing, out.Company, out.App = meta.StandingForeign, conn.Company, conn.App
		if conn.App == consent.App && (conn.Admin == "" || conn.Admin == consent.Admin) {
			out.Standing = meta.StandingConnected
		}
	}
	return out, nil
}

// lacking reports whether the tasks are known and none of them allows subscribing the
// page.
// https://developers.facebook.com/docs/graph-api/reference/page/subscribed_apps
func lacking(tasks []string) bool {
	return len(tasks) > 0 && !slices.ContainsFunc(tasks, func(t string) bool {
		return t == "MODERATE" || t == "MANAGE" || t == "CREATE_CONTENT"
	})
}

// refusedUser wraps a permanent error of Graph in [ErrUserToken]. Other errors are
// returned unchanged.
func refusedUser(err error) error {
	if refusal := meta.Refused(err); refusal != nil && !refusal.Temporary() {
		return fmt.Errorf("%w: %w", ErrUserToken, err)
	}
	return err
}

// Apply connects the chosen pages of a consent, each independently: the failure of
// one page is its Outcome, failed with the reason, and does not affect the others.
// The outcomes are in the order of the choice; progress, which may be nil, is called
// with each outcome when it is known, one call at a time.
//
// A page that is already connected for the same company in the same app keeps its
// connection and gets the new token; any other connection of it is replaced. A page
// in Gone is only probed, so that a dead token is recorded. A page that belongs to
// another company fails with [ErrMove] unless the choice moves it.
//
// [ErrRequest] is returned if the choice is invalid; then nothing was done.
func (c *Connector) Apply(
	ctx context.Context, consent meta.Consent, choice meta.Choice, progress func(meta.Outcome),
) ([]meta.Outcome, error) {
	list, err := chosen(consent, choice)
	if err != nil {
		return nil, err
	}
	outs := make([]meta.Outcome, len(list))
	var mu sync.Mutex // serializes the calls of progress
	each(len(list), func(i int) {
		out := c.applyOne(ctx, consent, list[i], choice)
		mu.Lock()
		defer mu.Unlock()
		outs[i] = out
		if progress != nil {
			progress(out)
		}
	})
	each(len(consent.Gone), func(i int) {
		// The probe records what it finds. Its error belongs to no outcome.
		_, _ = c.Probe(ctx, consent.Gone[i].Page)
	})
	return outs, nil
}

// chosen returns the pages of a choice, each once.
func chosen(consent meta.Consent, choice meta.Choice) (list []meta.ConsentPage, err error) {
	pages := make(map[domain.PageID]meta.ConsentPage, len(consent.Pages))
	for _, p := range consent.Pages {
		pages[p.Page] = p
		if choice.All && !p.Lacking && p.Standing != meta.StandingForeign {
			list = append(list, p)
		}
	}
	if !choice.All {
		taken := make(map[domain.PageID]bool, len(choice.Pages))
		for _, page := range choice.Pages {
			p, ok := pages[page]
			if !ok {
				return nil, fmt.Errorf("%w: page %s is not in this login", ErrRequest, page)
			}
			if !taken[page] {
				list = append(list, p)
			}
			taken[page] = true
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: no page was chosen", ErrRequest)
	}
	return list, nil
}

// errNotTried is the reason of a page that was not tried before the context ended.
var errNotTried = errors.New("not tried: the operation was stopped before; connect this page again")

func (c *Connector) applyOne(
	ctx context.Context, consent meta.Consent, p meta.ConsentPage, choice meta.Choice,
) (out meta.Outcome) {
	err := errNotTried
	if ctx.Err() == nil {
		out, err = c.connectOrRefresh(ctx, Request{
			Page: p.Page, Token: p.Token, Company: choice.Company, App: consent.App, Fields: choice.Fields, Name: p.Name,
			Move: slices.Contains(choice.Move, p.Page), seen: &p.Company,
			Admin: consent.Admin, info: graph.TokenInfo{DataAccessExpires: consent.DataAccessExpires, Scopes: consent.Scopes},
		})
	}
	if err != nil {
		out = meta.Outcome{Page: p.Page, App: consent.App, Name: p.Name, State: subscriptions.Failed}
		out.Code, out.Subcode, out.Reason = meta.Explain(err)
	}
	return out
}

// connectOrRefresh gives the new token to a page that is connected in the same app
// and for the same company, and connects any other page.
// [ErrMove] is returned if the page would move without being told to.
func (c *Connector) connectOrRefresh(ctx context.Context, r Request) (meta.Outcome, error) {
	op, err := c.start(ctx, r.Page)
	if errors.Is(err, meta.ErrNotConnected) {
		return c.Connect(ctx, r)
	}
	if err != nil {
		return meta.Outcome{}, err
	}
	if err := r.own(op.conn.Company); err != nil {
		return meta.Outcome{}, err
	}
	if op.conn.App != r.App || op.conn.Company != r.Company {
		return c.Connect(ctx, r)
	}
	return c.refresh(ctx, r)
}
