package connect

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// Errors of the verbs. None has a token in it.
var (
	// ErrRequest says that a request lacks something or has it wrong.
	ErrRequest = errors.New("request is not complete")
	// ErrUnknownApp says that no app of that name is configured.
	ErrUnknownApp = errors.New("no such app is configured")
	// ErrNotConnected says that the verb needs a connected page.
	ErrNotConnected = errors.New("page is not connected; type: pagestream pages connect PAGE")
	// ErrChanged says that another verb changed the page meanwhile. What Graph
	// was asked to do may have been done: check the page.
	ErrChanged = errors.New("page was changed by somebody else meanwhile; type: pagestream pages check PAGE")
	// ErrToken says that the stored token can't be opened.
	ErrToken = errors.New("stored page token can't be opened; connect the page again, or restore the key file")
	// ErrTokenRefused says that Graph did not accept the token for the page.
	// Nothing was changed.
	ErrTokenRefused = errors.New("graph does not accept the token for this page")
)

// DefaultFields returns the webhook fields that a page is subscribed to if
// nothing else is asked for: all of messaging but response_feedback, which
// would change what the page's customers see.
func DefaultFields() []string {
	return []string{
		"messages", "message_echoes", "message_deliveries", "message_reads", "message_reactions", "message_edits",
		"messaging_postbacks", "messaging_optins", "messaging_referrals", "messaging_handovers", "standby",
		"messaging_policy_enforcement", "messaging_account_linking",
	}
}

// TokenAAD is the additional data that a page's token is sealed with.
func TokenAAD(page domain.PageID) []byte { return []byte("page-token:" + string(page)) }

// VerifyTokenAAD is the additional data that a page's own verify token is sealed
// with.
func VerifyTokenAAD(page domain.PageID) []byte { return []byte("verify-token:" + string(page)) }

// Graph is what Graph does for one app. Each call names the page and brings that
// page's own token. A refusal implements [Refusal].
type Graph interface {
	// Page returns the page's name and linked Instagram account.
	Page(ctx context.Context, page, token string) (name, instagram string, err error)
	// SubscribedFields returns the app's own fields on the page, and whether it
	// is subscribed at all.
	SubscribedFields(ctx context.Context, page, token string) (fields []string, subscribed bool, err error)
	// Subscribe replaces the app's fields on the page.
	Subscribe(ctx context.Context, page, token string, fields []string) error
	// Unsubscribe removes the app from the page.
	Unsubscribe(ctx context.Context, page, token string) error
}

// Refusal is an error that Graph itself answered with, found by errors.As.
type Refusal interface {
	error
	// Codes returns Graph's code and subcode.
	Codes() (code, subcode int)
	// Words returns Graph's own message, without tokens.
	Words() string
	// Temporary reports whether the same call may be accepted later.
	Temporary() bool
}

// Publisher appends events; streams.Publisher is one.
type Publisher interface {
	// LastOf returns the sequence of the page's last event with the noun of t,
	// 0 where there is none.
	LastOf(ctx context.Context, page domain.PageID, t domain.Type) (uint64, error)
	// Append stores e if the page's last event of that noun is still at
	// expectedLast, else it fails with streams.ErrConflict.
	Append(ctx context.Context, e domain.Event, expectedLast uint64) (streams.Receipt, error)
}

// Sealer encrypts tokens; seal.KeyRing is one.
type Sealer interface {
	Seal(plaintext, aad []byte) (string, error)
	Open(sealed string, aad []byte) ([]byte, error)
}

// Known is what the read models say of a page.
type Known struct {
	// Connected says that Connection stands.
	Connected  bool
	Connection domain.Connection
	// TokenDead says that the connection's token is known to be invalid.
	TokenDead bool
	// State is the verb of the last subscription event to that app, "confirmed"
	// for example, empty where there is none, and Reason what it says. Wanted and
	// Actual are its lists.
	State  string
	Reason string
	Wanted []string
	Actual []string
}

// Pages tells what is known of a page.
type Pages interface {
	// Known returns the state of the page once the read models hold event
	// atLeast. A page that was never seen is the zero Known, not an error.
	Known(ctx context.Context, page domain.PageID, atLeast uint64) (Known, error)
	// ByAdmin lists the connected pages that the person with this app-scoped id
	// has connected through the app.
	ByAdmin(ctx context.Context, app, admin string) ([]domain.PageID, error)
}

// Options configure a [Connector]. Graph, Pages, Publisher and Sealer are
// required.
type Options struct {
	// Graph returns the Graph of a configured app. The empty name is the first
	// app; name is what it is called.
	Graph func(app string) (g Graph, name string, ok bool)
	// Login returns what the app does for a person. Without it pages are
	// connected by their own tokens only, and tokens are not probed.
	Login func(app string) (l Login, name string, ok bool)
	// AppFields returns the fields that the app itself is subscribed to for
	// pages: Meta delivers only what is subscribed on both. known is false where
	// nobody can tell. Nil leaves the app's own fields out of every check.
	AppFields func(ctx context.Context, app string) (fields []string, known bool, err error)
	Pages     Pages
	Publisher Publisher
	Sealer    Sealer
	// Fields are wanted where a request names none; default [DefaultFields].
	Fields []string
	Now    func() time.Time
	// NewID makes connection ids and attempt ids: unique, short, printable.
	NewID func() string
}

// Connector carries out the verbs. It is safe for concurrent use. Make one with
// [New].
type Connector struct{ opts Options }

// New returns a connector. It panics if a required option is missing, which is a
// mistake in the wiring.
func New(o Options) *Connector {
	if o.Graph == nil || o.Pages == nil || o.Publisher == nil || o.Sealer == nil {
		panic("connect: Graph, Pages, Publisher and Sealer are required")
	}
	if len(o.Fields) == 0 {
		o.Fields = DefaultFields()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.NewID == nil {
		o.NewID = newID
	}
	return &Connector{opts: o}
}

func newID() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	return hex.EncodeToString(b[:])
}

// Request asks for one page to be connected.
type Request struct {
	Page domain.PageID
	// Token is the page's own access token.
	Token string
	// VerifyToken is the page's own handshake token, if it shall have one.
	VerifyToken string
	Company     string
	// App is the name of a configured app; empty is the first.
	App string
	// Fields are the wanted fields; empty is the default.
	Fields []string
	// Name overrides the name that Graph gives.
	Name string
	// Admin is the app-scoped id of the person who granted the token. Where it is
	// empty, and the app has a login, Graph is asked.
	Admin string

	facts facts
}

// facts are what is known of a token beside itself.
type facts struct {
	expires, dataAccessExpires time.Time
	scopes                     []string
}

// note puts the facts on record.
func (f facts) note(c *domain.Connection) {
	c.Expires, c.DataAccessExpires, c.Scopes = unix(f.expires), unix(f.dataAccessExpires), sorted(f.scopes)
}

// ask fills in what Graph knows of a page token where the request does not say.
// The page can be connected without, so it may fail.
func (c *Connector) ask(ctx context.Context, r *Request) {
	login, _, ok := c.login(r.App)
	if !ok || r.Admin != "" {
		return
	}
	info, err := login.Debug(ctx, r.Token)
	if err != nil || !info.Valid || info.Kind != "PAGE" {
		return
	}
	r.Admin = info.User
	r.facts = facts{expires: info.Expires, dataAccessExpires: info.DataAccessExpires, scopes: info.Scopes}
}

// String keeps the tokens out of logs.
func (r Request) String() string { return "request to connect page " + string(r.Page) }

// GoString keeps the tokens out of logs.
func (r Request) GoString() string { return r.String() }

// The states of an [Outcome], the verbs of the subscription's last event.
const (
	Confirmed = "confirmed"
	Drifted   = "drifted"
	Failed    = "failed"
	Removed   = "removed"
)

// Outcome is the state of a page's subscription after a verb.
type Outcome struct {
	Page domain.PageID
	// ConnectionID, App and Name are those of the connection.
	ConnectionID string
	App          string
	Name         string
	// State is [Confirmed], [Drifted], [Failed] or [Removed].
	State string
	// Wanted is what we ask for, Actual what Graph lists, Missing what is wanted
	// and not listed. All are sorted.
	Wanted, Actual, Missing []string
	// AppFields is what the app itself is subscribed to for pages, AppMissing
	// what is wanted and not there. Both are empty where it was not asked for.
	AppFields, AppMissing []string
	// Field is the wanted field that Graph's refusal names, for the eye.
	Field string
	// RetryAfter is how long Graph wants to be left alone, 0 if it does not say.
	RetryAfter time.Duration
	// Reason says why it is not confirmed. It is Graph's own words, with Code
	// and Subcode, where Graph refused.
	Reason        string
	Code, Subcode int
	// Seq is the last event that the verb stored, 0 if there was nothing to say.
	Seq uint64
}

// Connect connects a page with its own token and subscribes it.
//
// It first makes sure, without changing anything, that Graph accepts the token
// for this page: otherwise it fails with [ErrTokenRefused] and there is no
// event. From then on every step is an event, and a refusal by Graph is not an
// error but an Outcome that says failed or drifted. A connection that the page
// had before is replaced.
func (c *Connector) Connect(ctx context.Context, r Request) (Outcome, error) {
	switch {
	case r.Page == "" || r.Page == domain.NoPage:
		return Outcome{}, fmt.Errorf("%w: it names no page", ErrRequest)
	case r.Token == "":
		return Outcome{}, fmt.Errorf("%w: it has no page token", ErrRequest)
	}
	graph, app, ok := c.opts.Graph(r.App)
	if !ok {
		return Outcome{}, fmt.Errorf("app %q: %w", r.App, ErrUnknownApp)
	}
	fields := r.Fields
	if len(fields) == 0 {
		fields = c.opts.Fields
	}
	last, err := c.last(ctx, r.Page, domain.PageConnected)
	if err != nil {
		return Outcome{}, err
	}

	name, instagram, err := identify(ctx, graph, r.Page, r.Token)
	if err != nil {
		return Outcome{}, err
	}
	r.App = app
	c.ask(ctx, &r)
	if r.Name != "" {
		name = r.Name
	}

	conn := domain.Connection{
		ConnectionID: c.opts.NewID(), Company: r.Company, App: app, Name: name, Instagram: instagram,
		Admin: r.Admin, Fields: sorted(fields),
	}
	r.facts.note(&conn)
	if conn.SealedToken, err = c.opts.Sealer.Seal([]byte(r.Token), TokenAAD(r.Page)); err != nil {
		return Outcome{}, fmt.Errorf("seal page token: %w", err)
	}
	if r.VerifyToken != "" {
		if conn.SealedVerifyToken, err = c.opts.Sealer.Seal([]byte(r.VerifyToken), VerifyTokenAAD(r.Page)); err != nil {
			return Outcome{}, fmt.Errorf("seal verify token: %w", err)
		}
	}
	v := &verb{c: c, graph: graph, page: r.Page, token: r.Token, conn: conn, attempt: conn.ConnectionID}
	if _, err := v.append(ctx, last, domain.PageConnected, domain.Data{Connection: &conn}); err != nil {
		return Outcome{}, err
	}
	return v.subscribe(ctx)
}

// identify makes sure, without changing anything, that Graph accepts the token
// as the page's own.
func identify(ctx context.Context, graph Graph, page domain.PageID, token string) (name, instagram string, err error) {
	if name, instagram, err = graph.Page(ctx, string(page), token); err != nil {
		return "", "", fmt.Errorf("read page %s: %w", page, refusedToken(err))
	}
	// Other tokens may see a page; only its own may see who is subscribed.
	if _, _, err := graph.SubscribedFields(ctx, string(page), token); err != nil {
		return "", "", fmt.Errorf("read subscription of page %s: %w", page, refusedToken(err))
	}
	return name, instagram, nil
}

// Resubscribe subscribes a connected page again with all its wanted fields and
// reads them back. A refusal by Graph is an Outcome, not an error.
func (c *Connector) Resubscribe(ctx context.Context, page domain.PageID) (Outcome, error) {
	v, err := c.verb(ctx, page)
	if err != nil {
		return Outcome{}, err
	}
	if err := v.open(); err != nil {
		return Outcome{}, err
	}
	return v.subscribe(ctx)
}

// Check asks Graph what a connected page is subscribed to. There is an event
// only where that differs from what was known: confirmed or drifted.
//
// A token that Graph calls dead is stated as page.token_invalidated, once; the
// outcome is then failed, and what is known of the subscription stays.
func (c *Connector) Check(ctx context.Context, page domain.PageID) (Outcome, error) {
	v, err := c.verb(ctx, page)
	if err != nil {
		return Outcome{}, err
	}
	if err := v.open(); err != nil {
		return Outcome{}, err
	}
	actual, subscribed, err := v.graph.SubscribedFields(ctx, string(page), v.token)
	if err != nil {
		return v.refused(ctx, err, false)
	}
	return v.found(ctx, actual, subscribed, false)
}

// Disconnect unsubscribes a connected page and ends its connection: the sealed
// tokens are dropped from the read models, the page's events stay.
//
// If Graph refuses for good, for example because the token is dead, the
// connection ends all the same; the outcome is then failed and the reason is on
// record. If Graph can't be reached or can't do it now, nothing changes and
// there is an error.
func (c *Connector) Disconnect(ctx context.Context, page domain.PageID) (Outcome, error) {
	v, err := c.verb(ctx, page)
	if err != nil {
		return Outcome{}, err
	}
	unsubscribed := v.open()
	if unsubscribed == nil {
		unsubscribed = v.graph.Unsubscribe(ctx, string(page), v.token)
	}
	out := v.outcome(Removed)
	out.Wanted = nil
	event, reason := domain.SubscriptionRemoved, "disconnected by the operator"
	if unsubscribed != nil {
		var refusal Refusal
		final := errors.As(unsubscribed, &refusal) && !refusal.Temporary()
		if !final && !errors.Is(unsubscribed, ErrToken) {
			return Outcome{}, fmt.Errorf("unsubscribe page %s: %w", page, unsubscribed)
		}
		out.State, event = Failed, domain.SubscriptionFailed
		out.Code, out.Subcode, out.Reason = explain(unsubscribed)
		reason += "; graph did not unsubscribe the app: " + out.Reason
	}
	if err := v.disconnected(ctx, reason); err != nil {
		return Outcome{}, err
	}
	words := out.Reason
	if words == "" {
		words = reason
	}
	out.Seq, err = v.say(ctx, event, domain.Subscription{Reason: words, Code: out.Code, Subcode: out.Subcode})
	return out, err
}

// disconnected states the end of the connection, with nothing of the person who
// made it.
func (v *verb) disconnected(ctx context.Context, reason string) error {
	conn := domain.Connection{ConnectionID: v.conn.ConnectionID, Company: v.conn.Company, App: v.conn.App, Name: v.conn.Name, Reason: reason}
	_, err := v.append(ctx, v.lastPage, domain.PageDisconnected, domain.Data{Connection: &conn})
	return err
}

// last finds where the page's events of a noun end.
func (c *Connector) last(ctx context.Context, page domain.PageID, t domain.Type) (uint64, error) {
	seq, err := c.opts.Publisher.LastOf(ctx, page, t)
	if err != nil {
		return 0, fmt.Errorf("find last %s event of page %s: %w", t.Noun(), page, err)
	}
	return seq, nil
}

// verb begins a verb that asks Graph about a connected page.
func (c *Connector) verb(ctx context.Context, page domain.PageID) (*verb, error) {
	v, err := c.begin(ctx, page)
	if err == nil && v.graph == nil {
		return nil, fmt.Errorf("app %q of page %s: %w", v.conn.App, page, ErrUnknownApp)
	}
	return v, err
}

// begin begins a verb on a connected page. It has no graph where the page's app
// is not configured any more.
func (c *Connector) begin(ctx context.Context, page domain.PageID) (*verb, error) {
	lastPage, err := c.last(ctx, page, domain.PageConnected)
	if err != nil {
		return nil, err
	}
	lastSubscription, err := c.last(ctx, page, domain.SubscriptionRequested)
	if err != nil {
		return nil, err
	}
	known, err := c.opts.Pages.Known(ctx, page, max(lastPage, lastSubscription))
	if err != nil {
		return nil, fmt.Errorf("read page %s: %w", page, err)
	}
	if !known.Connected {
		return nil, fmt.Errorf("page %s: %w", page, ErrNotConnected)
	}
	v := &verb{
		c: c, page: page, conn: known.Connection, known: known, attempt: c.opts.NewID(),
		lastPage: lastPage, lastSubscription: lastSubscription, placed: true,
	}
	if graph, app, ok := c.opts.Graph(known.Connection.App); ok {
		v.graph, v.conn.App = graph, app
	}
	if len(v.conn.Fields) == 0 {
		v.conn.Fields = sorted(c.opts.Fields)
	}
	return v, nil
}

// verb is one run of a verb on one page.
type verb struct {
	c     *Connector
	graph Graph
	page  domain.PageID
	token string
	conn  domain.Connection
	known Known
	// attempt makes event ids: an event that is appended twice in one attempt is
	// one event, and the next attempt's is another.
	attempt string
	// Where the page's events end as far as this verb knows. placed says that
	// lastSubscription was read.
	lastPage, lastSubscription uint64
	placed                     bool
}

// open unseals the page's token.
func (v *verb) open() error {
	if v.conn.SealedToken == "" {
		return fmt.Errorf("page %s: %w", v.page, ErrToken)
	}
	b, err := v.c.opts.Sealer.Open(v.conn.SealedToken, TokenAAD(v.page))
	if err != nil {
		return fmt.Errorf("page %s: %w: %w", v.page, ErrToken, err)
	}
	v.token = string(b)
	return nil
}

// append stores one event of ours.
func (v *verb) append(ctx context.Context, expected uint64, t domain.Type, data domain.Data) (uint64, error) {
	data.App = v.conn.App
	receipt, err := v.c.opts.Publisher.Append(ctx, domain.Event{
		ID: domain.DedupID("pagestream", v.page, string(t), v.attempt), Type: t, Page: v.page,
		Time: v.c.opts.Now().UTC(), Data: data,
	}, expected)
	if errors.Is(err, streams.ErrConflict) {
		return 0, fmt.Errorf("record %s of page %s: %w", t, v.page, ErrChanged)
	}
	if err != nil {
		return 0, fmt.Errorf("record %s of page %s: %w", t, v.page, err)
	}
	return receipt.Seq, nil
}

// say appends a subscription event after the last one that this verb knows.
func (v *verb) say(ctx context.Context, t domain.Type, s domain.Subscription) (uint64, error) {
	if !v.placed {
		last, err := v.c.last(ctx, v.page, t)
		if err != nil {
			return 0, err
		}
		v.lastSubscription, v.placed = last, true
	}
	s.App = v.conn.App
	seq, err := v.append(ctx, v.lastSubscription, t, domain.Data{Subscription: &s})
	if err != nil {
		return 0, err
	}
	v.lastSubscription = seq
	return seq, nil
}

// subscribe asks for the wanted fields, and believes only what it reads back.
func (v *verb) subscribe(ctx context.Context) (Outcome, error) {
	wanted := v.conn.Fields
	if _, err := v.say(ctx, domain.SubscriptionRequested, domain.Subscription{Wanted: wanted}); err != nil {
		return Outcome{}, err
	}
	if err := v.graph.Subscribe(ctx, string(v.page), v.token, wanted); err != nil {
		return v.refused(ctx, err, true)
	}
	actual, subscribed, err := v.graph.SubscribedFields(ctx, string(v.page), v.token)
	if err != nil {
		return v.refused(ctx, err, true)
	}
	return v.found(ctx, actual, subscribed, true)
}

// found states what Graph lists: always after a request, else if it is news.
func (v *verb) found(ctx context.Context, actual []string, subscribed, requested bool) (Outcome, error) {
	out := v.compare(ctx, actual, subscribed)
	event := domain.SubscriptionConfirmed
	if out.State == Drifted {
		event = domain.SubscriptionDrifted
	}
	if !requested && v.known.State == out.State && v.known.Reason == out.Reason &&
		slices.Equal(sorted(v.known.Actual), out.Actual) && slices.Equal(sorted(v.known.Wanted), out.Wanted) {
		return out, nil
	}
	var err error
	out.Seq, err = v.say(ctx, event, domain.Subscription{Wanted: out.Wanted, Actual: out.Actual, Reason: out.Reason})
	return out, err
}

// compare holds what Graph lists for the page, and for the app, against what is
// wanted: Meta delivers only what both have.
func (v *verb) compare(ctx context.Context, actual []string, subscribed bool) Outcome {
	out := v.outcome(Confirmed)
	out.Actual = sorted(actual)
	out.Missing = lack(out.Wanted, out.Actual)
	var appErr error
	if v.c.opts.AppFields != nil {
		var fields []string
		var known bool
		if fields, known, appErr = v.c.opts.AppFields(ctx, v.conn.App); appErr == nil && known {
			out.AppFields = sorted(fields)
			out.AppMissing = lack(out.Wanted, out.AppFields)
		}
	}
	switch {
	case appErr != nil && subscribed && len(out.Missing) == 0:
		// An app that can't be asked says nothing against the page; but where
		// only the app lacked fields, that stands until it can be asked again.
		if v.known.State != Drifted || len(lack(out.Wanted, v.known.Actual)) > 0 || v.known.Reason == "" {
			return out
		}
		out.Reason = v.known.Reason
	case !subscribed:
		out.Reason = "the app is not subscribed to the page"
	case len(out.Missing) > 0:
		out.Reason = fmt.Sprintf("%d of %d wanted fields are not subscribed", len(out.Missing), len(out.Wanted))
	case len(out.AppMissing) > 0:
		out.Reason = "the app itself lacks fields (app dashboard, Webhooks, Page): " + strings.Join(out.AppMissing, ", ")
	default:
		return out
	}
	out.State = Drifted
	return out
}

// lack returns what is wanted and not there.
func lack(wanted, there []string) (out []string) {
	for _, f := range wanted {
		if !slices.Contains(there, f) {
			out = append(out, f)
		}
	}
	return out
}

// refused states why Graph did not do or tell what it was asked. After a request
// that is subscription.failed; a mere question leaves the subscription as it is.
func (v *verb) refused(ctx context.Context, cause error, requested bool) (Outcome, error) {
	out := v.outcome(Failed)
	out.Code, out.Subcode, out.Reason = explain(cause)
	out.Field = refusedField(out.Wanted, out.Code, out.Reason)
	var wait interface{ RetryAfter() time.Duration }
	if errors.As(cause, &wait) {
		out.RetryAfter = wait.RetryAfter()
	}
	// What happened is recorded even if the caller has gone.
	ctx = context.WithoutCancel(ctx)
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	if requested {
		var err error
		out.Seq, err = v.say(ctx, domain.SubscriptionFailed, domain.Subscription{
			Wanted: out.Wanted, Reason: out.Reason, Code: out.Code, Subcode: out.Subcode,
		})
		if err != nil {
			return out, err
		}
	}
	if out.Code == tokenDead && v.lastPage > 0 && !v.known.TokenDead {
		conn := domain.Connection{
			ConnectionID: v.conn.ConnectionID, App: v.conn.App, Code: out.Code, Subcode: out.Subcode,
			Reason: fmt.Sprintf("%d/%d: %s", out.Code, out.Subcode, out.Reason),
		}
		seq, err := v.append(ctx, v.lastPage, domain.PageTokenInvalidated, domain.Data{Connection: &conn})
		if err != nil {
			return out, err
		}
		out.Seq = seq
	}
	var refusal Refusal
	if !requested && !errors.As(cause, &refusal) {
		return out, fmt.Errorf("read subscription of page %s: %w", v.page, cause)
	}
	return out, nil
}

// tokenDead is Graph's code for a token that is not valid any more.
const tokenDead = 190

// recordTimeout bounds the recording of a failure after the caller has gone.
const recordTimeout = 10 * time.Second

func (v *verb) outcome(state string) Outcome {
	return Outcome{
		Page: v.page, ConnectionID: v.conn.ConnectionID, App: v.conn.App, Name: v.conn.Name,
		State: state, Wanted: sorted(v.conn.Fields),
	}
}

// explain returns Graph's codes and words, or our own words where it gave none.
func explain(err error) (code, subcode int, words string) {
	var refusal Refusal
	if !errors.As(err, &refusal) {
		return 0, 0, err.Error()
	}
	code, subcode = refusal.Codes()
	if words = refusal.Words(); words == "" {
		words = refusal.Error()
	}
	return code, subcode, words
}

// refusedToken marks a refusal by Graph; no answer at all says nothing about the
// token.
func refusedToken(err error) error {
	var refusal Refusal
	if errors.As(err, &refusal) {
		return fmt.Errorf("%w: %w", ErrTokenRefused, err)
	}
	return err
}

// sorted returns a sorted copy without repeats: the order of fields means
// nothing.
func sorted(fields []string) []string {
	out := slices.Clone(fields)
	slices.Sort(out)
	return slices.Compact(out)
}
