package connect

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

// Request asks for one page to be connected.
type Request struct {
	Page domain.PageID
	// Token is the page's own access token.
	Token string
	// VerifyToken is the page's own handshake token, empty for none.
	VerifyToken string
	Company     string
	// App is the name of a configured app; empty is the first.
	App string
	// Fields are the wanted fields; empty is the default.
	Fields []string
	// Name overrides the name that Graph gives.
	Name string
	// Admin is the app-scoped id of the person who granted the token. Where it is
	// empty, Graph is asked.
	Admin string

	// info is what is known of the token beside itself.
	info graph.TokenInfo
}

// Format keeps the tokens out of logs, whatever the verb.
func (r Request) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "request to connect page %s", r.Page)
}

// ask fills in what Graph knows of a page token where the request does not say.
// The page can be connected without, so it may fail.
func (r *Request) ask(ctx context.Context, g Graph) {
	if r.Admin != "" {
		return
	}
	if info, err := g.DebugToken(ctx, r.Token); err == nil && info.Valid && info.Type == "PAGE" {
		r.Admin, r.info = info.User, info
	}
}

// note puts what is known of the token on record.
func (r *Request) note(c *domain.Connection) {
	c.Expires, c.DataAccessExpires, c.Scopes = unix(r.info.Expires), unix(r.info.DataAccessExpires), sorted(r.info.Scopes)
}

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// Connect connects a page with its own token and subscribes it.
//
// It first makes sure, without changing anything, that Graph accepts the token
// for this page: otherwise it fails with [ErrTokenRefused] and there is no
// event. From then on every step is an event, and a refusal by Graph is not an
// error but an Outcome that says failed or drifted. A connection that the page
// had before is replaced.
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
	last, err := c.last(ctx, r.Page, domain.PageConnected)
	if err != nil {
		return meta.Outcome{}, err
	}

	name, instagram, err := identify(ctx, g, r.Page, r.Token)
	if err != nil {
		return meta.Outcome{}, err
	}
	r.ask(ctx, g)
	if r.Name != "" {
		name = r.Name
	}

	conn := domain.Connection{
		ConnectionID: c.opts.NewID(), Company: r.Company, App: app, Name: name, Instagram: instagram,
		Admin: r.Admin, Fields: sorted(fields),
	}
	r.note(&conn)
	if conn.SealedToken, err = c.opts.Sealer.Seal([]byte(r.Token), TokenAAD(r.Page)); err != nil {
		return meta.Outcome{}, fmt.Errorf("seal page token: %w", err)
	}
	if r.VerifyToken != "" {
		conn.SealedVerifyToken, err = c.opts.Sealer.Seal([]byte(r.VerifyToken), VerifyTokenAAD(r.Page))
		if err != nil {
			return meta.Outcome{}, fmt.Errorf("seal verify token: %w", err)
		}
	}
	v := &verb{c: c, graph: g, page: r.Page, token: r.Token, conn: conn, attempt: conn.ConnectionID}
	if _, err := v.append(ctx, last, domain.PageConnected, domain.Data{Connection: &conn}); err != nil {
		return meta.Outcome{}, err
	}
	return v.subscribe(ctx)
}

// identify makes sure, without changing anything, that Graph accepts the token
// as the page's own.
func identify(ctx context.Context, g Graph, page domain.PageID, token string) (name, instagram string, err error) {
	if name, instagram, err = g.Page(ctx, string(page), token); err != nil {
		return "", "", fmt.Errorf("read page %s: %w", page, refusedToken(err))
	}
	// Other tokens may see a page; only its own may see who is subscribed.
	if _, err := g.SubscribedApps(ctx, string(page), token); err != nil {
		return "", "", fmt.Errorf("read subscription of page %s: %w", page, refusedToken(err))
	}
	return name, instagram, nil
}

// refusedToken marks a refusal by Graph; no answer at all says nothing about the
// token.
func refusedToken(err error) error {
	if meta.Refused(err) != nil {
		return fmt.Errorf("%w: %w", ErrTokenRefused, err)
	}
	return err
}

// Disconnect unsubscribes a connected page and ends its connection: the sealed
// tokens are dropped from the read models, the page's events stay.
//
// If Graph refuses for good, for example because the token is dead, the
// connection ends all the same; the outcome is then failed and the reason is on
// record. If Graph can't be reached or can't do it now, nothing changes and
// there is an error.
func (c *Connector) Disconnect(ctx context.Context, page domain.PageID) (meta.Outcome, error) {
	v, err := c.verb(ctx, page)
	if err != nil {
		return meta.Outcome{}, err
	}
	out := v.outcome(subscriptions.Removed)
	out.Wanted = nil
	event, reason := domain.SubscriptionRemoved, "disconnected by the operator"
	words := reason
	if err := v.unsubscribe(ctx); err != nil {
		refusal := meta.Refused(err)
		if final := refusal != nil && !refusal.Temporary(); !final && !errors.Is(err, ErrToken) {
			return meta.Outcome{}, fmt.Errorf("unsubscribe page %s: %w", page, err)
		}
		out.State, event = subscriptions.Failed, domain.SubscriptionFailed
		out.Code, out.Subcode, out.Reason = meta.Explain(err)
		words = out.Reason
		reason += "; graph did not unsubscribe the app: " + words
	}
	if err := v.disconnected(ctx, reason); err != nil {
		return meta.Outcome{}, err
	}
	out.Seq, err = v.say(ctx, event, domain.Subscription{Reason: words, Code: out.Code, Subcode: out.Subcode})
	return out, err
}

// unsubscribe asks Graph to remove the app from the page, if there is something
// to ask with.
func (v *verb) unsubscribe(ctx context.Context) error {
	if v.graph == nil {
		return fmt.Errorf("app %q: %w", v.conn.App, ErrUnknownApp)
	}
	if err := v.open(); err != nil {
		return err
	}
	return v.graph.Unsubscribe(ctx, string(v.page), v.token)
}

// disconnected states the end of the connection, with nothing of the person who
// made it.
func (v *verb) disconnected(ctx context.Context, reason string) error {
	conn := domain.Connection{
		ConnectionID: v.conn.ConnectionID, Company: v.conn.Company, App: v.conn.App, Name: v.conn.Name, Reason: reason,
	}
	_, err := v.append(ctx, v.lastPage, domain.PageDisconnected, domain.Data{Connection: &conn})
	return err
}
