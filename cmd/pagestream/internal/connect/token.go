package connect

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pagestream/pagestream/domain"
)

// TokenInfo is what Graph knows of a token.
type TokenInfo struct {
	// App is Meta's id of the app that the token is of.
	App string
	// Kind is "PAGE", "USER" or "APP".
	Kind string
	// Page is the page of a page token, User the app-scoped id of who granted it.
	Page, User string
	Valid      bool
	// The times are zero for never or unknown.
	Expires, DataAccessExpires time.Time
	Scopes                     []string
	// Granted lists the objects that a scope was granted for; a scope that is not
	// in it was granted for all.
	Granted map[string][]string
	// Code, Subcode and Words say why it is not valid.
	Code, Subcode int
	Words         string
}

// The states of a [TokenReport].
const (
	TokenValid   = "valid"
	TokenInvalid = "invalid"
	// TokenDeselected is a token that lives, of a person who has taken the page
	// out of what the app may use.
	TokenDeselected = "deselected"
	TokenUnknown    = "unknown"
)

// TokenReport is what [Connector.Probe] found.
type TokenReport struct {
	Page                       domain.PageID
	State                      string
	Code, Subcode              int
	Reason                     string
	Expires, DataAccessExpires time.Time
	Scopes, MissingScopes      []string
	// Seq is the event that the probe stored, 0 if there was nothing to say.
	Seq uint64
}

// neededScopes are what a page token must have: without the first there are no
// messages, without the second no subscription.
func neededScopes() []string { return []string{"pages_messaging", "pages_manage_metadata"} }

// deselectedPrefix begins the reason of a token that is no longer for its page.
const deselectedPrefix = "deselected: "

// Probe asks Graph about a connected page's token. A token that is dead, or no
// longer for this page, is stated as page.token_invalidated, once; one that was
// thought dead and is good as page.token_refreshed. An error means that Graph
// did not tell.
func (c *Connector) Probe(ctx context.Context, page domain.PageID) (TokenReport, error) {
	v, err := c.verb(ctx, page)
	if err != nil {
		return TokenReport{}, err
	}
	out := TokenReport{Page: page, State: TokenUnknown}
	if err := v.open(); err != nil {
		return out, err
	}
	login, _, ok := c.login(v.conn.App)
	if !ok {
		return out, fmt.Errorf("app %q of page %s: %w", v.conn.App, page, ErrUnknownApp)
	}
	info, err := login.Debug(ctx, v.token)
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
		out.State, out.Code, out.Subcode = TokenInvalid, info.Code, info.Subcode
		out.Reason = fmt.Sprintf("%d/%d: %s", info.Code, info.Subcode, info.Words)
	case !granted(info, string(page)):
		out.State = TokenDeselected
		out.Reason = deselectedPrefix + "the page is not among those that its admin lets the app use"
	default:
		out.State = TokenValid
		for _, s := range neededScopes() {
			if !slices.Contains(info.Scopes, s) {
				out.MissingScopes = append(out.MissingScopes, s)
			}
		}
	}
	switch {
	case out.State != TokenValid && !v.known.TokenDead:
		conn.Reason, conn.Code, conn.Subcode = out.Reason, out.Code, out.Subcode
		out.Seq, err = v.append(ctx, v.lastPage, domain.PageTokenInvalidated, domain.Data{Connection: &conn})
	case out.State == TokenValid && v.known.TokenDead:
		conn.Reason = "valid again"
		conn.SealedToken, conn.SealedVerifyToken = v.conn.SealedToken, v.conn.SealedVerifyToken
		out.Seq, err = v.append(ctx, v.lastPage, domain.PageTokenRefreshed, domain.Data{Connection: &conn})
	}
	return out, err
}

// granted reports whether the token's person lets the app use the page.
func granted(info TokenInfo, page string) bool {
	for _, scope := range neededScopes() {
		if targets, listed := info.Granted[scope]; listed && !slices.Contains(targets, page) {
			return false
		}
	}
	return true
}

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// Refresh gives a connected page another token and subscribes it again with it.
// It fails with [ErrTokenRefused], and nothing is changed, if Graph does not
// accept the token for this page. Admin is who granted it; where it is empty,
// Graph is asked, and if it does not tell, it stays who it was.
func (c *Connector) Refresh(ctx context.Context, page domain.PageID, token, admin string) (Outcome, error) {
	return c.refresh(ctx, Request{Page: page, Token: token, Admin: admin})
}

// refresh is Refresh; the fields that r names become the wanted ones.
func (c *Connector) refresh(ctx context.Context, r Request) (Outcome, error) {
	v, err := c.verb(ctx, r.Page)
	if err != nil {
		return Outcome{}, err
	}
	if r.Token == "" {
		return Outcome{}, fmt.Errorf("%w: it has no page token", ErrRequest)
	}
	name, instagram, err := identify(ctx, v.graph, r.Page, r.Token)
	if err != nil {
		return Outcome{}, err
	}
	r.App = v.conn.App
	c.ask(ctx, &r)
	v.token = r.Token
	conn := domain.Connection{
		ConnectionID: v.conn.ConnectionID, App: v.conn.App, Name: name, Instagram: instagram, Admin: r.Admin,
		SealedVerifyToken: v.conn.SealedVerifyToken, Reason: "another token",
	}
	r.facts.note(&conn)
	if conn.SealedToken, err = c.opts.Sealer.Seal([]byte(r.Token), TokenAAD(r.Page)); err != nil {
		return Outcome{}, fmt.Errorf("seal page token: %w", err)
	}
	if len(r.Fields) > 0 {
		conn.Fields = sorted(r.Fields)
		v.conn.Fields = conn.Fields
	}
	if v.lastPage, err = v.append(ctx, v.lastPage, domain.PageTokenRefreshed, domain.Data{Connection: &conn}); err != nil {
		return Outcome{}, err
	}
	v.conn.Name, v.known.TokenDead = name, false
	return v.subscribe(ctx)
}

// Reseal seals a connected page's tokens with the newest key, if they are under
// another. It may be repeated.
func (c *Connector) Reseal(ctx context.Context, page domain.PageID) (changed bool, err error) {
	needs, ok := c.opts.Sealer.(interface{ NeedsReseal(sealed string) bool })
	if !ok {
		return false, nil
	}
	v, err := c.begin(ctx, page)
	if errors.Is(err, ErrNotConnected) {
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
		if s.from == "" || !needs.NeedsReseal(s.from) {
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

// Plan tells what [Connector.Resubscribe] would find and change. There is no
// event and no change at Graph.
func (c *Connector) Plan(ctx context.Context, page domain.PageID) (Outcome, error) {
	v, err := c.verb(ctx, page)
	if err != nil {
		return Outcome{}, err
	}
	if err := v.open(); err != nil {
		return Outcome{}, err
	}
	actual, subscribed, err := v.graph.SubscribedFields(ctx, string(page), v.token)
	if err != nil {
		out := v.outcome(Failed)
		var refusal Refusal
		if !errors.As(err, &refusal) {
			return out, fmt.Errorf("read subscription of page %s: %w", page, err)
		}
		out.Code, out.Subcode, out.Reason = explain(err)
		return out, nil
	}
	return v.compare(ctx, actual, subscribed), nil
}

// How DisconnectAdmin deals with what is in its way.
const (
	adminParallel = 4
	// unsubscribeFor bounds all its calls of Graph together: Meta waits for the
	// answer.
	unsubscribeFor = 5 * time.Second
	// endTries is how often it begins again when another verb was faster.
	endTries = 4
)

// DisconnectAdmin ends every connection that the person with this app-scoped id
// has made through the app. Their tokens are dead by then: Graph is asked to
// unsubscribe a page only once its end is on record, for a few seconds in all,
// and whatever it says, or does not say, stops nothing. What is recorded does
// not name the person.
//
// All pages are tried; the errors are joined. It may be repeated.
func (c *Connector) DisconnectAdmin(ctx context.Context, app, admin, reason string) ([]Outcome, error) {
	if admin == "" {
		return nil, fmt.Errorf("%w: it names no admin", ErrRequest)
	}
	if _, name, ok := c.opts.Graph(app); ok {
		app = name
	}
	list, err := c.opts.Pages.ByAdmin(ctx, app, admin)
	if err != nil {
		return nil, fmt.Errorf("find pages of the admin: %w", err)
	}
	asking, cancel := context.WithTimeout(ctx, unsubscribeFor)
	defer cancel()
	outs, errs := make([]Outcome, len(list)), make([]error, len(list))
	parallel(adminParallel, len(list), func(i int) {
		for range endTries {
			outs[i], errs[i] = c.end(ctx, asking, list[i], admin, reason)
			if !errors.Is(errs[i], ErrChanged) {
				return
			}
		}
	})
	outs = slices.DeleteFunc(outs, func(o Outcome) bool { return o.State == "" })
	return outs, errors.Join(errs...)
}

// end ends one connection if it is still that person's; else the outcome is the
// zero one.
func (c *Connector) end(ctx, asking context.Context, page domain.PageID, admin, reason string) (Outcome, error) {
	v, err := c.begin(ctx, page)
	if errors.Is(err, ErrNotConnected) || err == nil && v.conn.Admin != admin {
		return Outcome{}, nil
	}
	if err != nil {
		return Outcome{}, err
	}
	if err := v.disconnected(ctx, reason); err != nil {
		return Outcome{}, err
	}
	out := v.outcome(Removed)
	out.Wanted, out.Reason = nil, reason
	event := domain.SubscriptionRemoved
	if err := v.unsubscribe(asking); err != nil {
		out.State, event = Failed, domain.SubscriptionFailed
		out.Code, out.Subcode, out.Reason = explain(err)
	}
	out.Seq, err = v.say(ctx, event, domain.Subscription{Reason: out.Reason, Code: out.Code, Subcode: out.Subcode})
	if errors.Is(err, ErrChanged) {
		return out, nil // the connection is over, and somebody has said more since
	}
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

// position is how Graph names one of the fields that it was sent.
var position = regexp.MustCompile(`subscribed_fields\[(\d{1,3})\]`)

// refusedField finds the field that Graph refused all the others for: by its
// place among those that were sent, or because the words name no other. The
// words are not documented, so it is for the eye only.
func refusedField(sent []string, code int, words string) string {
	if code != 10 && code != 100 && (code < 200 || code > 299) {
		return ""
	}
	if m := position.FindStringSubmatch(words); m != nil {
		if i, err := strconv.Atoi(m[1]); err == nil && i < len(sent) {
			return sent[i]
		}
		return ""
	}
	named := strings.FieldsFunc(words, func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') })
	found := ""
	for _, f := range sent {
		switch {
		case !slices.Contains(named, f):
		case found != "":
			return "" // it may be any of them
		default:
			found = f
		}
	}
	return found
}
