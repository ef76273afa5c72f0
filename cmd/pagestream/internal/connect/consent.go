package connect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

// LoginURL is where a person lets the app use their pages.
func (c *Connector) LoginURL(app, redirectURI, state string) (string, error) {
	g, _, err := c.app(app)
	if err != nil {
		return "", err
	}
	return g.LoginURL(redirectURI, state), nil
}

// ConsentByCode is [Connector.Consent] for the code at the end of a login.
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

// Consent looks at what a person has let the app use and holds it against what is
// connected. Nothing is changed by it, at Graph or here.
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
		return meta.Consent{}, fmt.Errorf("%w (it is of kind %q)", ErrUserToken, info.Type)
	}
	accounts, err := g.Accounts(ctx, info.User, long.Value)
	if err != nil {
		return meta.Consent{}, fmt.Errorf("list pages of the user: %w", refusedUser(err))
	}
	// A page token made with a long-lived one has no end of its own.
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
		page, err := c.stand(ctx, out, a)
		if err != nil {
			return meta.Consent{}, err
		}
		out.Pages = append(out.Pages, page)
	}
	slices.SortFunc(out.Pages, func(a, b meta.ConsentPage) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Page, b.Page))
	})
	before, err := c.opts.Pages.ByAdmin(ctx, name, info.User)
	if err != nil {
		return meta.Consent{}, fmt.Errorf("find pages of the admin: %w", err)
	}
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

// stand holds one page of a consent against what is connected.
func (c *Connector) stand(ctx context.Context, consent meta.Consent, a graph.Account) (meta.ConsentPage, error) {
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

// lacking reports whether the tasks are known and none lets subscribe the page.
// https://developers.facebook.com/docs/graph-api/reference/page/subscribed_apps
func lacking(tasks []string) bool {
	return len(tasks) > 0 && !slices.ContainsFunc(tasks, func(t string) bool {
		return t == "MODERATE" || t == "MANAGE" || t == "CREATE_CONTENT"
	})
}

// refusedUser marks a refusal by Graph of a user's token.
func refusedUser(err error) error {
	if refusal := meta.Refused(err); refusal != nil && !refusal.Temporary() {
		return fmt.Errorf("%w: %w", ErrUserToken, err)
	}
	return err
}

// Apply connects the chosen pages of a consent, each for itself: the failure of
// one is its Outcome, failed with the reason, and leaves the others done. The
// outcomes are in the order of the choice; progress, which may be nil, is called
// with each as it comes, one at a time.
//
// A page that was connected before by the same company in the same app keeps its
// connection and gets the new token; any other connection of it is replaced. A
// page that is gone from the consent is only asked about: a dead token is then on
// record.
//
// The error is about the choice itself, and then nothing was done.
func (c *Connector) Apply(
	ctx context.Context, consent meta.Consent, choice meta.Choice, progress func(meta.Outcome),
) ([]meta.Outcome, error) {
	list, err := chosen(consent, choice)
	if err != nil {
		return nil, err
	}
	outs := make([]meta.Outcome, len(list))
	var mu sync.Mutex // one at a time for progress
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
		// What it finds is on record; that it could not ask is no one's outcome.
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

// errNotTried is the reason of a page that no time was left for.
var errNotTried = errors.New("not tried: it was stopped before; connect this page again")

func (c *Connector) applyOne(
	ctx context.Context, consent meta.Consent, p meta.ConsentPage, choice meta.Choice,
) (out meta.Outcome) {
	err := errNotTried
	if ctx.Err() == nil {
		out, err = c.connectOrRefresh(ctx, Request{
			Page: p.Page, Token: p.Token, Company: choice.Company, App: consent.App, Fields: choice.Fields, Name: p.Name,
			Admin: consent.Admin, info: graph.TokenInfo{DataAccessExpires: consent.DataAccessExpires, Scopes: consent.Scopes},
		})
	}
	if err != nil {
		out = meta.Outcome{Page: p.Page, App: consent.App, Name: p.Name, State: subscriptions.Failed}
		out.Code, out.Subcode, out.Reason = meta.Explain(err)
	}
	return out
}

// connectOrRefresh gives a page that the app has connected for the same company
// the new token, and connects any other.
func (c *Connector) connectOrRefresh(ctx context.Context, r Request) (meta.Outcome, error) {
	v, err := c.begin(ctx, r.Page)
	if errors.Is(err, meta.ErrNotConnected) {
		return c.Connect(ctx, r)
	}
	if err != nil {
		return meta.Outcome{}, err
	}
	r.Company = cmp.Or(r.Company, v.conn.Company)
	if v.conn.App != r.App || v.conn.Company != r.Company {
		return c.Connect(ctx, r)
	}
	return c.refresh(ctx, r)
}
