package connect

import (
	"context"
	"errors"
	"fmt"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/seal"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
)

// Tokens opens the sealed tokens of connected pages. Create it with [NewTokens].
type Tokens struct {
	pages   projections.Viewer
	secrets Secrets
	sealer  *seal.KeyRing
	appID   func(app string) (string, bool)
	// verifier is shared by the copies of a Tokens.
	verifier *verifier
}

var _ meta.Tokens = Tokens{}

// NewTokens returns the tokens of the pages in a read model. AppID maps the name of
// a configured app to its id at Meta, as graph.Apps.ID does.
func NewTokens(
	model projections.Viewer, secrets Secrets, sealer *seal.KeyRing, appID func(app string) (string, bool),
) Tokens {
	return Tokens{pages: model, secrets: secrets, sealer: sealer, appID: appID, verifier: newVerifier()}
}

// Access returns what a call of Graph for a page needs. For an Instagram account it
// returns the access of the page that the account is linked to.
// [meta.ErrNotConnected] is returned if the page is not connected or its app can't
// call Graph, [meta.ErrTokenDead] if its token is recorded as invalid, and [ErrToken]
// if its token is missing or can't be opened.
func (t Tokens) Access(ctx context.Context, id domain.PageID) (meta.Access, error) {
	page := id
	c, err := pages.Credentials(t.pages, page)
	if errors.Is(err, pages.ErrNoCredentials) {
		if page, err = pages.ByInstagram(t.pages, string(id)); err == nil {
			c, err = pages.Credentials(t.pages, page)
		}
	}
	switch {
	case errors.Is(err, pages.ErrNoCredentials), errors.Is(err, pages.ErrNotFound):
		return meta.Access{}, fmt.Errorf("page %s: %w", id, meta.ErrNotConnected)
	case err != nil:
		return meta.Access{}, fmt.Errorf("read credentials of page %s: %w", id, err)
	case c.Token == pages.TokenInvalid:
		return meta.Access{}, fmt.Errorf("page %s: %w", page, meta.ErrTokenDead)
	}
	appID, ok := t.appID(c.App)
	if !ok {
		return meta.Access{}, fmt.Errorf("app %q of page %s: %w", c.App, page, meta.ErrNotConnected)
	}
	p, err := pages.Get(t.pages, page)
	if err != nil {
		return meta.Access{}, fmt.Errorf("read page %s: %w", page, err)
	}
	token, err := openToken(ctx, t.secrets, t.sealer, page, c.Secret)
	if err != nil {
		return meta.Access{}, err
	}
	return meta.Access{
		Page: page, Instagram: domain.PageID(p.Instagram), App: c.App, AppID: appID, Token: token,
	}, nil
}

// Verify reports whether a connected page has this verify token. It takes the same time
// for every token that no page has, whatever the number of pages. A page that was
// connected while wrong tokens were checked may be noticed [verifyPace] later.
func (t Tokens) Verify(ctx context.Context, token string) (bool, error) {
	if token == "" {
		return false, nil
	}
	if ok, err := t.verifier.find(t, token); ok || err != nil {
		return ok, err
	}
	if err := t.verifier.refresh(ctx, t); err != nil {
		// What could be read counts.
		ok, _ := t.verifier.find(t, token)
		return ok, fmt.Errorf("read verify tokens of pages: %w", err)
	}
	return t.verifier.find(t, token)
}
