package connect

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
)

// TokenAAD returns the additional authenticated data of a page's sealed token.
func TokenAAD(page domain.PageID) []byte { return []byte("page-token:" + string(page)) }

// VerifyTokenAAD returns the additional authenticated data of a page's sealed verify
// token.
func VerifyTokenAAD(page domain.PageID) []byte { return []byte("verify-token:" + string(page)) }

// Probe asks Graph about a connected page's token. For a token that is dead, or no
// longer for this page, page.token_invalidated is stored, once; for a token that was
// recorded as invalid and is valid, page.token_refreshed. An error means that the
// state of the token could not be read.
func (c *Connector) Probe(ctx context.Context, page domain.PageID) (meta.TokenReport, error) {
	op, err := c.startWithApp(ctx, page)
	if err != nil {
		return meta.TokenReport{}, err
	}
	out := meta.TokenReport{Page: page, State: meta.TokenUnknown}
	if err := op.openToken(ctx); err != nil {
		return out, err
	}
	info, err := op.graph.DebugToken(ctx, op.token)
	if err != nil {
		return out, fmt.Errorf("ask about token of page %s: %w", page, err)
	}
	out.Expires, out.DataAccessExpires, out.Scopes = info.Expires, info.DataAccessExpires, info.Scopes
	conn := domain.Connection{
		ConnectionID: op.conn.ConnectionID, App: op.conn.App, Scopes: info.Scopes,
		Expires: unix(info.Expires), DataAccessExpires: unix(info.DataAccessExpires),
	}
	switch {
	case !info.Valid:
		out.State = meta.TokenInvalid
		if info.Err != nil {
			out.Code, out.Subcode, out.Reason = meta.Explain(info.Err)
		}
		out.Reason = fmt.Sprintf("%d/%d: %s", out.Code, out.Subcode, out.Reason)
	case !granted(info, string(page)):
		out.State = meta.TokenDeselected
		out.Reason = meta.DeselectedPrefix + "the page is not among those that its admin lets the app use"
	default:
		out.State, out.MissingScopes = meta.TokenValid, meta.Lack(meta.NeededScopes(), info.Scopes)
	}
	switch {
	case out.State != meta.TokenValid && !op.known.TokenDead:
		conn.Reason, conn.Code, conn.Subcode = out.Reason, out.Code, out.Subcode
		out.Seq, err = op.append(ctx, op.lastPage, domain.PageTokenInvalidated, domain.Data{Connection: &conn})
	case out.State == meta.TokenValid && op.known.TokenDead:
		conn.Reason = "valid again"
		conn.Secret = op.conn.Secret
		out.Seq, err = op.append(ctx, op.lastPage, domain.PageTokenRefreshed, domain.Data{Connection: &conn})
	}
	return out, err
}

// granted reports whether the token's owner still grants the page to the app.
func granted(info graph.TokenInfo, page string) bool {
	for _, scope := range meta.NeededScopes() {
		if targets, listed := info.Granted[scope]; listed && !slices.Contains(targets, page) {
			return false
		}
	}
	return true
}

// Refresh replaces the token of a connected page and subscribes the page again with
// it. [ErrTokenRefused] is returned, and nothing is changed, if Graph does not accept
// the token for this page. Admin is the app-scoped id of the person who granted the
// token; if it is empty, Graph is asked, and without an answer the recorded admin
// stays.
func (c *Connector) Refresh(ctx context.Context, page domain.PageID, token, admin string) (meta.Outcome, error) {
	return c.refresh(ctx, Request{Page: page, Token: token, Admin: admin})
}

// refresh is Refresh with a request whose fields, if any, become the wanted ones.
func (c *Connector) refresh(ctx context.Context, r Request) (meta.Outcome, error) {
	op, err := c.startWithApp(ctx, r.Page)
	if err != nil {
		return meta.Outcome{}, err
	}
	if r.Token == "" {
		return meta.Outcome{}, fmt.Errorf("%w: it has no page token", ErrRequest)
	}
	name, instagram, err := identify(ctx, op.graph, r.Page, r.Token)
	if err != nil {
		return meta.Outcome{}, err
	}
	r.fillTokenInfo(ctx, op.graph)
	op.token = r.Token
	conn := domain.Connection{
		ConnectionID: op.conn.ConnectionID, App: op.conn.App, Name: name, Instagram: instagram, Admin: r.Admin,
		Reason: "another token",
	}
	r.addTokenInfo(&conn)
	// The page's own verify token stays. Nothing else of the old secret is needed: a
	// page whose secret is missing gets a new one.
	secret, err := c.opts.Secrets.Get(ctx, r.Page, op.conn.Secret)
	if err != nil && !errors.Is(err, ErrSecretMissing) {
		return meta.Outcome{}, fmt.Errorf("page %s: %w", r.Page, err)
	}
	if secret.Token, err = c.opts.Sealer.Seal([]byte(r.Token), TokenAAD(r.Page)); err != nil {
		return meta.Outcome{}, fmt.Errorf("seal page token: %w", err)
	}
	if len(r.Fields) > 0 {
		conn.Fields = sorted(r.Fields)
		op.conn.Fields = conn.Fields
	}
	if err := c.unlinkElsewhere(ctx, r.Page, instagram); err != nil {
		return meta.Outcome{}, err
	}
	op.lastPage, err = op.appendWithSecret(ctx, op.lastPage, domain.PageTokenRefreshed, conn, secret)
	if err != nil {
		return meta.Outcome{}, err
	}
	op.conn.Name, op.known.TokenDead = name, false
	return op.subscribe(ctx)
}
