package connect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

// Request is a request to connect one page.
type Request struct {
	Page domain.PageID
	// Token is the page's own access token.
	Token string
	// VerifyToken is the page's own handshake token, empty for none.
	VerifyToken string
	// Company owns the page; if it is empty, a connected page keeps its company.
	Company string
	// Move allows a page that is connected for another company to move to Company.
	Move bool
	// App is the name of a configured app; empty means the first.
	App string
	// Fields are the wanted fields; empty means the default.
	Fields []string
	// Name overrides the name that Graph gives.
	Name string
	// Admin is the app-scoped id of the person who granted the token. If it is empty,
	// Graph is asked.
	Admin string

	// info is what is known about the token.
	info graph.TokenInfo
	// seen is the company that the page had when the move was decided on, nil if that is
	// not known.
	seen *string
}

// own sets the company of a request for a page that is connected for the company was:
// that one if the request names none. [ErrMove] is returned if the page would move
// without being told to.
func (r *Request) own(was string) error {
	r.Company = cmp.Or(r.Company, was)
	switch {
	case was == "" || was == r.Company:
		return nil
	case !r.Move:
		return fmt.Errorf("page %s moves from %s to %s: %w; to move it, add --move", r.Page, was, r.Company, ErrMove)
	case r.seen != nil && *r.seen != was:
		return fmt.Errorf("page %s has moved to %s meanwhile: %w; look again", r.Page, was, ErrMove)
	}
	return nil
}

// Format keeps the tokens out of logs, for every format verb.
func (r Request) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "request to connect page %s", r.Page)
}

// fillTokenInfo asks Graph about the page token if the request has no Admin, and
// stores the answer in the request. An error is ignored, since the page can be
// connected without this information.
func (r *Request) fillTokenInfo(ctx context.Context, g Graph) {
	if r.Admin != "" {
		return
	}
	if info, err := g.DebugToken(ctx, r.Token); err == nil && info.Valid && info.Type == "PAGE" {
		r.Admin, r.info = info.User, info
	}
}

// addTokenInfo copies what is known about the token to the connection.
func (r *Request) addTokenInfo(c *domain.Connection) {
	c.Expires, c.DataAccessExpires = unix(r.info.Expires), unix(r.info.DataAccessExpires)
	c.Scopes = sorted(r.info.Scopes)
}

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// Connect connects a page with its own token and subscribes it.
//
// It first checks, without changing anything, that Graph accepts the token for this
// page; otherwise it returns [ErrTokenRefused] and stores no event. After that every
// step is an event, and an error of Graph is not returned as an error but as an
// Outcome of state failed or drifted. An existing connection of the page is
// replaced; [ErrMove] is returned if it is another company's and the request does not
// move the page.
func (c *Connector) Connect(ctx context.Context, r Request) (meta.Outcome, error) {
	switch {
	case r.Page == "" || r.Page == domain.NoPage:
		return meta.Outcome{}, fmt.Errorf("%w: it names no page", ErrRequest)
	case r.Token == "":
		return meta.Outcome{}, fmt.Errorf("%w: it has no page token", ErrRequest)
	}
	g, app, err := c.app(r.App)
	if err != nil {
		return meta.Outcome{}, err
	}
	fields := r.Fields
	if len(fields) == 0 {
		fields = c.opts.Fields
	}
	last, err := c.lastSeq(ctx, r.Page, domain.PageConnected)
	if err != nil {
		return meta.Outcome{}, err
	}
	known, err := c.opts.Pages.Known(ctx, r.Page, last)
	if err != nil {
		return meta.Outcome{}, fmt.Errorf("read page %s: %w", r.Page, err)
	}
	if known.Connected {
		if err := r.own(known.Connection.Company); err != nil {
			return meta.Outcome{}, err
		}
	}

	name, instagram, err := identify(ctx, g, r.Page, r.Token)
	if err != nil {
		return meta.Outcome{}, err
	}
	r.fillTokenInfo(ctx, g)
	if r.Name != "" {
		name = r.Name
	}

	conn := domain.Connection{
		ConnectionID: c.opts.NewID(), Company: r.Company, App: app, AppID: g.AppID(), Name: name, Instagram: instagram,
		Admin: r.Admin, Fields: sorted(fields),
	}
	r.addTokenInfo(&conn)
	var secret Secret
	if secret.Token, err = c.opts.Sealer.Seal([]byte(r.Token), TokenAAD(r.Page)); err != nil {
		return meta.Outcome{}, fmt.Errorf("seal page token: %w", err)
	}
	if r.VerifyToken != "" {
		secret.VerifyToken, err = c.opts.Sealer.Seal([]byte(r.VerifyToken), VerifyTokenAAD(r.Page))
		if err != nil {
			return meta.Outcome{}, fmt.Errorf("seal verify token: %w", err)
		}
	}
	if err := c.unlinkElsewhere(ctx, r.Page, instagram); err != nil {
		return meta.Outcome{}, err
	}
	op := &operation{c: c, graph: g, page: r.Page, token: r.Token, conn: conn, attempt: conn.ConnectionID}
	if _, err := op.appendWithSecret(ctx, last, domain.PageConnected, conn, secret); err != nil {
		return meta.Outcome{}, err
	}
	return op.subscribe(ctx)
}

// identify checks, without changing anything, that Graph accepts the token as the
// page's own, and returns the page's name and linked Instagram account.
func identify(ctx context.Context, g Graph, page domain.PageID, token string) (name, instagram string, err error) {
	if name, instagram, err = g.Page(ctx, string(page), token); err != nil {
		return "", "", fmt.Errorf("read page %s: %w", page, refusedToken(err))
	}
	// Other tokens may read a page; only its own may list the subscribed apps.
	if _, err := g.SubscribedApps(ctx, string(page), token); err != nil {
		return "", "", fmt.Errorf("read subscription of page %s: %w", page, refusedToken(err))
	}
	return name, instagram, nil
}

// refusedToken wraps an error of Graph in [ErrTokenRefused]. Other errors are returned
// unchanged: a missing answer says nothing about the token.
func refusedToken(err error) error {
	if meta.Refused(err) != nil {
		return fmt.Errorf("%w: %w", ErrTokenRefused, err)
	}
	return err
}

// Disconnect unsubscribes a connected page and ends its connection: its tokens are
// erased, its events are kept.
//
// If Graph refuses permanently, for example because the token is dead, the connection
// ends all the same; the outcome is then failed and the reason is recorded. If Graph
// can't be reached or fails temporarily, nothing changes and an error is returned.
func (c *Connector) Disconnect(ctx context.Context, page domain.PageID) (meta.Outcome, error) {
	op, err := c.startWithApp(ctx, page)
	if err != nil {
		return meta.Outcome{}, err
	}
	out := op.outcome(subscriptions.Removed)
	out.Wanted = nil
	event, reason := domain.SubscriptionRemoved, "disconnected by the operator"
	words := reason
	if err := op.unsubscribe(ctx, op.openToken(ctx)); err != nil {
		refusal := meta.Refused(err)
		if final := refusal != nil && !refusal.Temporary(); !final && !errors.Is(err, ErrToken) {
			return meta.Outcome{}, fmt.Errorf("unsubscribe page %s: %w", page, err)
		}
		out.State, event = subscriptions.Failed, domain.SubscriptionFailed
		out.Code, out.Subcode, out.Reason = meta.Explain(err)
		words = out.Reason
		reason += "; graph did not unsubscribe the app: " + words
	}
	if err := op.recordDisconnected(ctx, reason); err != nil {
		return meta.Outcome{}, err
	}
	out.Seq, err = op.appendSubscription(
		ctx, event, domain.Subscription{Reason: words, Code: out.Code, Subcode: out.Subcode},
	)
	return out, err
}

// unsubscribe asks Graph to remove the app from the page. It fails without a call if
// the app is not configured or the token was not opened: opened is the error of that.
func (op *operation) unsubscribe(ctx context.Context, opened error) error {
	if op.graph == nil {
		return fmt.Errorf("app %q: %w", op.conn.App, ErrUnknownApp)
	}
	if opened != nil {
		return opened
	}
	return op.graph.Unsubscribe(ctx, string(op.page), op.token)
}

// recordDisconnected records the end of the connection and erases its tokens. The event
// has no data of the person who made the connection.
func (op *operation) recordDisconnected(ctx context.Context, reason string) error {
	conn := domain.Connection{
		ConnectionID: op.conn.ConnectionID, Company: op.conn.Company, App: op.conn.App, Name: op.conn.Name, Reason: reason,
	}
	seq, err := op.append(ctx, op.lastPage, domain.PageDisconnected, domain.Data{Connection: &conn})
	if err == nil {
		op.prune(ctx, seq, "")
	}
	return err
}
