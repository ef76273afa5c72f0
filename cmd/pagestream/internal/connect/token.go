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

// TokenAAD is the additional data that a page's token is sealed with.
func TokenAAD(page domain.PageID) []byte { return []byte("page-token:" + string(page)) }

// VerifyTokenAAD is the additional data that a page's own verify token is sealed
// with.
func VerifyTokenAAD(page domain.PageID) []byte { return []byte("verify-token:" + string(page)) }

// Probe asks Graph about a connected page's token. A token that is dead, or no
// longer for this page, is stated as page.token_invalidated, once; one that was
// thought dead and is good as page.token_refreshed. An error means that Graph
// did not tell.
func (c *Connector) Probe(ctx context.Context, page domain.PageID) (meta.TokenReport, error) {
	v, err := c.verb(ctx, page)
	if err != nil {
		return meta.TokenReport{}, err
	}
	out := meta.TokenReport{Page: page, State: meta.TokenUnknown}
	if err := v.open(); err != nil {
		return out, err
	}
	info, err := v.graph.DebugToken(ctx, v.token)
	if err != nil {
		return out, fmt.Errorf("ask about token of page %s: %w", page, err)
	}
	out.Expires, out.DataAccessExpires, out.Scopes = info.Expires, info.DataAccessExpires, info.Scopes
	conn := domain.Connection{
		ConnectionID: v.conn.ConnectionID, App: v.conn.App, Scopes: info.Scopes,
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
	case out.State != meta.TokenValid && !v.known.TokenDead:
		conn.Reason, conn.Code, conn.Subcode = out.Reason, out.Code, out.Subcode
		out.Seq, err = v.append(ctx, v.lastPage, domain.PageTokenInvalidated, domain.Data{Connection: &conn})
	case out.State == meta.TokenValid && v.known.TokenDead:
		conn.Reason = "valid again"
		conn.SealedToken, conn.SealedVerifyToken = v.conn.SealedToken, v.conn.SealedVerifyToken
		out.Seq, err = v.append(ctx, v.lastPage, domain.PageTokenRefreshed, domain.Data{Connection: &conn})
	}
	return out, err
}

// granted reports whether the token's person lets the app use the page.
func granted(info graph.TokenInfo, page string) bool {
	for _, scope := range meta.NeededScopes() {
		if targets, listed := info.Granted[scope]; listed && !slices.Contains(targets, page) {
			return false
		}
	}
	return true
}

// Refresh gives a connected page another token and subscribes it again with it.
// It fails with [ErrTokenRefused], and nothing is changed, if Graph does not
// accept the token for this page. Admin is who granted it; where it is empty,
// Graph is asked, and if it does not tell, it stays who it was.
func (c *Connector) Refresh(ctx context.Context, page domain.PageID, token, admin string) (meta.Outcome, error) {
	return c.refresh(ctx, Request{Page: page, Token: token, Admin: admin})
}

// refresh is Refresh; the fields that r names become the wanted ones.
func (c *Connector) refresh(ctx context.Context, r Request) (meta.Outcome, error) {
	v, err := c.verb(ctx, r.Page)
	if err != nil {
		return meta.Outcome{}, err
	}
	if r.Token == "" {
		return meta.Outcome{}, fmt.Errorf("%w: it has no page token", ErrRequest)
	}
	name, instagram, err := identify(ctx, v.graph, r.Page, r.Token)
	if err != nil {
		return meta.Outcome{}, err
	}
	r.ask(ctx, v.graph)
	v.token = r.Token
	conn := domain.Connection{
		ConnectionID: v.conn.ConnectionID, App: v.conn.App, Name: name, Instagram: instagram, Admin: r.Admin,
		SealedVerifyToken: v.conn.SealedVerifyToken, Reason: "another token",
	}
	r.note(&conn)
	if conn.SealedToken, err = c.opts.Sealer.Seal([]byte(r.Token), TokenAAD(r.Page)); err != nil {
		return meta.Outcome{}, fmt.Errorf("seal page token: %w", err)
	}
	if len(r.Fields) > 0 {
		conn.Fields = sorted(r.Fields)
		v.conn.Fields = conn.Fields
	}
	if v.lastPage, err = v.append(ctx, v.lastPage, domain.PageTokenRefreshed, domain.Data{Connection: &conn}); err != nil {
		return meta.Outcome{}, err
	}
	v.conn.Name, v.known.TokenDead = name, false
	return v.subscribe(ctx)
}

// Reseal seals a connected page's tokens with the newest key, if they are under
// another. It may be repeated.
func (c *Connector) Reseal(ctx context.Context, page domain.PageID) (changed bool, err error) {
	v, err := c.begin(ctx, page)
	if errors.Is(err, meta.ErrNotConnected) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	conn := domain.Connection{ConnectionID: v.conn.ConnectionID, App: v.conn.App, Resealed: true, Reason: "sealed with another key"}
	for _, s := range []struct {
		from string
		to   *string
		aad  []byte
	}{{v.conn.SealedToken, &conn.SealedToken, TokenAAD(page)}, {v.conn.SealedVerifyToken, &conn.SealedVerifyToken, VerifyTokenAAD(page)}} {
		*s.to = s.from
		if s.from == "" || !c.opts.Sealer.NeedsReseal(s.from) {
			continue
		}
		plain, err := c.opts.Sealer.Open(s.from, s.aad)
		if err != nil {
			return false, fmt.Errorf("page %s: %w: %w", page, ErrToken, err)
		}
		if *s.to, err = c.opts.Sealer.Seal(plain, s.aad); err != nil {
			return false, fmt.Errorf("seal tokens of page %s: %w", page, err)
		}
		changed = true
	}
	if !changed {
		return false, nil
	}
	_, err = v.append(ctx, v.lastPage, domain.PageTokenRefreshed, domain.Data{Connection: &conn})
	return err == nil, err
}
