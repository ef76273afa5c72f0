package pages

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// Buckets. Every event writes traffic, so it is apart from what changes rarely;
// the secrets are apart so that no list can hold them.
const (
	bucketPages     = "pages"       // page -> connection
	bucketTraffic   = "traffic"     // page -> traffic; every page that was heard of
	bucketSecrets   = "credentials" // page -> sealed secrets
	bucketInstagram = "instagram"   // account -> page
	bucketUnrouted  = "unrouted"    // one row: traffic of no page
	bucketRhythm    = "rhythm"      // page, hour of the week -> inbound events by week
)

// Name is the projection's name.
const Name = "pages"

// Projection folds events into pages. It has no state of its own; the
// transaction has all of it.
type Projection struct{}

// New returns the projection.
func New() *Projection { return &Projection{} }

// Name returns [Name].
func (*Projection) Name() string { return Name }

// Version changes when the fold or its layout does, and then the read model is
// rebuilt.
func (*Projection) Version() int { return 3 }

// Apply folds one event in. It never fails on what an event says; errors are the
// store's. Events must come in stream order and each once.
func (*Projection) Apply(tx *store.Tx, e streams.Stored) error {
	if e.Page == "" || e.Page == domain.NoPage {
		return count(tx.Bucket(bucketUnrouted), unrouted(), e)
	}
	key := pageKey(string(e.Page))
	if e.Data.Test {
		return test(tx, key, e)
	}
	if err := count(tx.Bucket(bucketTraffic), key, e); err != nil {
		return err
	}
	if delivered(e) {
		if err := beat(tx, e); err != nil {
			return err
		}
	}
	return connect(tx, key, e)
}

// test counts a test event. One that names no page that we know of counts with
// those of none.
func test(tx *store.Tx, key []byte, e streams.Stored) error {
	traffic := tx.Bucket(bucketTraffic)
	if !traffic.Has(key) {
		return count(tx.Bucket(bucketUnrouted), unrouted(), e)
	}
	return count(traffic, key, e)
}

// count adds one event to a row of traffic.
func count(bucket *store.Bucket, key []byte, e streams.Stored) error {
	row, _, err := store.GetRow[traffic](bucket, key)
	if err != nil {
		return err
	}
	row.Page = e.Page
	row.count(e)
	return store.PutRow(bucket, key, row)
}

// traffic is the row as stored.
type traffic struct {
	Page   domain.PageID `json:"page"`
	Object string        `json:"object,omitempty"`
	Traffic
}

// AppendBinary appends the row's JSON.
func (t *traffic) AppendBinary(b []byte) ([]byte, error) { return store.AppendJSON(b, t) }

// UnmarshalBinary reads it.
func (t *traffic) UnmarshalBinary(b []byte) error { return json.Unmarshal(b, t) }

func (t *traffic) count(e streams.Stored) {
	if e.Data.Test {
		t.Tests++
		return
	}
	at, when := projections.Clean(e.At), projections.When(e)
	if t.Events == 0 {
		t.FirstAt = at
	}
	t.Events++
	if t.Types == nil {
		t.Types = map[domain.Type]uint64{}
	}
	kind := e.Type
	if !kind.Known() {
		kind = "other" // so that the row has a bound
	}
	t.Types[kind]++
	t.LastAt, t.LastSeq, t.LastType = at, e.Seq, kind
	if e.Data.Object != "" {
		t.Object = e.Data.Object
	}
	if t.FirstTime.IsZero() || when.Before(t.FirstTime) {
		t.FirstTime = when
	}
	t.LastTime = latest(t.LastTime, when)
	if e.Standby {
		t.Standby++
	}
	if delivered(e) {
		if t.FirstInboundAt.IsZero() {
			t.FirstInboundAt = at
		}
		t.LastInboundAt = at
	}
	switch e.Type {
	case domain.MessageReceived, domain.PostbackReceived:
		if !delivered(e) {
			break
		}
		if t.StandbyRun++; !e.Standby {
			t.StandbyRun = 0
		}
	}
	switch e.Type {
	case domain.MessageReceived, domain.MessageEchoed:
		t.LastMessage = latest(t.LastMessage, when)
	}
}

// delivered reports whether Meta brought the event. History that we fetched and
// messages that we sent are no sign that deliveries come.
func delivered(e streams.Stored) bool {
	return e.Type.Inbound() && e.Data.Source != "backfill" && e.Data.Source != "send"
}

// changes are what events do to a page's connection; most types do nothing.
var changes = map[domain.Type]func(*fold, *domain.Connection) error{
	domain.PageConnected:        (*fold).connected,
	domain.PageRenamed:          (*fold).renamed,
	domain.PageTokenRefreshed:   (*fold).refreshed,
	domain.PageTokenInvalidated: (*fold).invalidated,
	domain.PageDisconnected:     (*fold).disconnected,
	domain.PolicyEnforced:       (*fold).policy,
	domain.ThreadRolesChanged:   (*fold).roles,
}

// connect folds in what an event says of the page's connection.
func connect(tx *store.Tx, key []byte, e streams.Stored) error {
	change := changes[e.Type]
	if change == nil || e.Type == domain.ThreadRolesChanged && (e.Contact != "" || e.Data.Thread == nil) {
		return nil
	}
	pages := tx.Bucket(bucketPages)
	p, found, err := store.GetJSON[Page](pages, key)
	if err != nil {
		return err
	}
	if !found {
		p = Page{ID: e.Page, State: Unknown, Token: TokenNone}
	}
	f := &fold{tx: tx, key: key, e: e, time: projections.When(e), p: p}
	c := e.Data.Connection
	if c == nil {
		c = &domain.Connection{}
	}
	if err := change(f, c); err != nil {
		return err
	}
	return store.PutJSON(pages, key, f.p)
}

// fold is the work on one event about a connection.
type fold struct {
	tx   *store.Tx
	key  []byte
	e    streams.Stored
	time time.Time
	p    Page
}

// connected starts a connection; nothing of an earlier one stays but the name.
func (f *fold) connected(c *domain.Connection) error {
	if f.e.Data.Connection == nil {
		f.p.Ignored++
		return nil
	}
	if f.p.State != Connected || f.p.ConnectionID != c.ConnectionID {
		f.p.StateSince = f.time
	}
	f.p.State, f.p.StateReason = Connected, c.Reason
	f.p.ConnectionID, f.p.Company, f.p.Admin = c.ConnectionID, c.Company, c.Admin
	f.p.App = cmp.Or(c.App, f.e.Data.App)
	f.p.Name = cmp.Or(c.Name, f.p.Name)
	f.p.Fields = slices.Clone(c.Fields)
	token := TokenValid
	if c.SealedToken == "" {
		token = TokenNone
	}
	f.token(token)
	f.forget()
	f.granted(c)
	if err := f.link(c.Instagram); err != nil {
		return err
	}
	return f.seal(c.SealedToken, c.SealedVerifyToken)
}

func (f *fold) renamed(c *domain.Connection) error {
	if c.Name == "" {
		f.p.Ignored++
		return nil
	}
	f.p.Name = c.Name
	return nil
}

// current reports whether c is about the connection that stands. What is about
// an earlier one, or comes when there is none, must not bring a token back.
func (f *fold) current(c *domain.Connection) bool {
	if f.e.Data.Connection != nil && f.p.State == Connected &&
		(c.ConnectionID == "" || f.p.ConnectionID == "" || c.ConnectionID == f.p.ConnectionID) {
		return true
	}
	f.p.Ignored++
	return false
}

func (f *fold) refreshed(c *domain.Connection) error {
	if !f.current(c) {
		return nil
	}
	old, err := secrets(f.tx, f.key)
	if err != nil {
		return err
	}
	token, verify := cmp.Or(c.SealedToken, old.SealedToken), cmp.Or(c.SealedVerifyToken, old.SealedVerifyToken)
	if c.Resealed { // the same tokens under another key say nothing new
		return f.seal(token, verify)
	}
	f.p.Admin = cmp.Or(c.Admin, f.p.Admin)
	f.p.Name = cmp.Or(c.Name, f.p.Name)
	f.p.Company = cmp.Or(c.Company, f.p.Company)
	f.p.App = cmp.Or(c.App, f.p.App)
	if c.Fields != nil {
		f.p.Fields = slices.Clone(c.Fields)
	}
	if c.Instagram != "" {
		if err := f.link(c.Instagram); err != nil {
			return err
		}
	}
	if token == "" {
		f.p.Ignored++ // valid, it says, but there is none
		return nil
	}
	f.token(TokenValid)
	if token != old.SealedToken {
		f.forget()
	}
	f.granted(c)
	return f.seal(token, verify)
}

// forget drops what the token before was granted.
func (f *fold) forget() {
	f.p.TokenExpires, f.p.DataAccessExpires, f.p.Scopes = time.Time{}, time.Time{}, nil
}

// granted takes over what c says of its token.
func (f *fold) granted(c *domain.Connection) {
	if c.Expires > 0 {
		f.p.TokenExpires = seconds(c.Expires)
	}
	if c.DataAccessExpires > 0 {
		f.p.DataAccessExpires = seconds(c.DataAccessExpires)
	}
	if c.Scopes != nil {
		f.p.Scopes = slices.Clone(c.Scopes)
	}
}

// seconds is the clean time at s, in Unix seconds.
func seconds(s int64) time.Time {
	return projections.FromMillis(min(s, projections.MaxMillis/1000) * 1000)
}

// token sets a state that no refusal stands behind.
func (f *fold) token(s TokenState) {
	f.p.Token, f.p.TokenSince = s, f.time
	f.p.TokenReason, f.p.TokenCode, f.p.TokenSubcode = "", 0, 0
}

func (f *fold) invalidated(c *domain.Connection) error {
	if !f.current(c) {
		return nil
	}
	if f.p.Token != TokenInvalid {
		f.p.TokenSince = f.time
	}
	f.p.Token, f.p.TokenReason = TokenInvalid, c.Reason
	f.p.TokenCode, f.p.TokenSubcode = c.Code, c.Subcode
	return nil
}

// disconnected ends the connection and drops its secrets. One that names an
// earlier connection than the current one has come too late.
func (f *fold) disconnected(c *domain.Connection) error {
	if f.p.State == Connected && c.ConnectionID != "" && f.p.ConnectionID != "" && c.ConnectionID != f.p.ConnectionID {
		f.p.Ignored++
		return nil
	}
	if f.p.State != Disconnected {
		f.p.StateSince, f.p.TokenSince = f.time, f.time
	}
	f.p.State, f.p.StateReason = Disconnected, c.Reason
	f.p.Token, f.p.TokenReason, f.p.TokenCode, f.p.TokenSubcode = TokenNone, "", 0, 0
	f.forget()
	if err := f.link(""); err != nil {
		return err
	}
	return f.seal("", "")
}

func (f *fold) policy(*domain.Connection) error {
	p := f.e.Data.Policy
	if p == nil {
		return nil
	}
	if f.p.Policy == nil || !f.time.Before(f.p.Policy.Time) {
		f.p.Policy = &Policy{Action: p.Action, Reason: p.Reason, Time: f.time}
	}
	return nil
}

func (f *fold) roles(*domain.Connection) error {
	if !f.time.Before(f.p.RolesAt) {
		f.p.Roles, f.p.RolesAt = f.e.Data.Thread.Roles, f.time
	}
	return nil
}

// link makes the Instagram account the page's one, and lets go of the one before.
func (f *fold) link(account string) error {
	bucket := f.tx.Bucket(bucketInstagram)
	if old := f.p.Instagram; old != "" && old != account && string(bucket.Get(pageKey(old))) == string(f.e.Page) {
		if err := bucket.Delete(pageKey(old)); err != nil {
			return fmt.Errorf("unlink account: %w", err)
		}
	}
	f.p.Instagram = account
	if account == "" {
		return nil
	}
	if err := bucket.Put(pageKey(account), []byte(f.e.Page)); err != nil {
		return fmt.Errorf("link account: %w", err)
	}
	return nil
}

// seal stores the sealed secrets, or drops them if there are none.
func (f *fold) seal(token, verify string) error {
	bucket := f.tx.Bucket(bucketSecrets)
	if token == "" && verify == "" {
		if err := bucket.Delete(f.key); err != nil {
			return fmt.Errorf("drop secrets: %w", err)
		}
		return nil
	}
	return store.PutJSON(bucket, f.key, sealed{token, verify})
}

// sealed is what is stored of [Secrets].
type sealed struct {
	SealedToken       string `json:"sealed_token,omitempty"`
	SealedVerifyToken string `json:"sealed_verify_token,omitempty"`
}

func secrets(tx *store.Tx, key []byte) (sealed, error) {
	s, _, err := store.GetJSON[sealed](tx.Bucket(bucketSecrets), key)
	return s, err
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
