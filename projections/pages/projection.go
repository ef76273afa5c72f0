package pages

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// Buckets. Every event writes traffic, so it is separate from the data that rarely
// changes.
const (
	bucketPages     = "pages"       // page -> connection
	bucketTraffic   = "traffic"     // page -> traffic, of every page with events
	bucketSecrets   = "credentials" // page -> reference of its secret
	bucketInstagram = "instagram"   // account -> page
	bucketUnrouted  = "unrouted"    // one row: traffic of events without a page
	bucketRhythm    = "rhythm"      // page, hour of the week -> inbound events by week
	bucketOwners    = "owners"      // page, first sequence -> owner from there on
	bucketHolders   = "holders"     // account, first sequence -> page that has it from there on
	bucketHeld      = "held"        // company, page or account -> first sequence
)

// Name is the projection's name.
const Name = "pages"

// Projection folds events into pages. All of its state is in the store.
type Projection struct{}

// New returns the projection.
func New() *Projection { return &Projection{} }

// Name returns [Name].
func (*Projection) Name() string { return Name }

// Version returns the version of the rules and of the stored format. When it changes,
// the read model is rebuilt.
func (*Projection) Version() int { return 5 }

// PagedBuckets implements [projections.Paged]. The rows about connections are left out: a page's may depend on
// another page, which had its Instagram account before.
func (*Projection) PagedBuckets() (byPage, byKey []string) {
	return []string{bucketTraffic, bucketRhythm}, nil
}

// Apply applies one event. No content of an event makes it fail; its errors are those
// of the store. Events must be applied in stream order and once each.
func (*Projection) Apply(tx *store.Tx, e streams.Stored) error {
	if e.Page == "" || e.Page == domain.NoPage {
		return count(tx.Bucket(bucketUnrouted), unrouted(), &e)
	}
	key := pageKey(string(e.Page))
	if e.Data.Test {
		return countTest(tx, key, &e)
	}
	if e.Type == domain.PageForgotten {
		return forget(tx, key, e)
	}
	if err := count(tx.Bucket(bucketTraffic), key, &e); err != nil {
		return err
	}
	if delivered(&e) {
		if err := countHour(tx, key, e.At); err != nil {
			return err
		}
	}
	return applyConnection(tx, key, e)
}

// countTest counts a test event. If its page has no other event, it is counted with
// the events without a page.
func countTest(tx *store.Tx, key []byte, e *streams.Stored) error {
	traffic := tx.Bucket(bucketTraffic)
	if !traffic.Has(key) {
		return count(tx.Bucket(bucketUnrouted), unrouted(), e)
	}
	return count(traffic, key, e)
}

// count adds one event to a traffic row.
func count(bucket *store.Bucket, key []byte, e *streams.Stored) error {
	row, found, err := store.GetRow[trafficRow](bucket, key)
	if err != nil {
		return err
	}
	if !found {
		row.V = new(traffic)
	}
	row.V.Page = e.Page
	row.V.count(e)
	return store.PutRow(bucket, key, row)
}

func (t *traffic) count(e *streams.Stored) {
	if e.Data.Test {
		t.Tests++
		return
	}
	at, when := projections.Clean(e.At), projections.When(*e)
	if t.Events == 0 {
		t.FirstAt = at
	}
	t.Events++
	if t.Types == nil {
		t.Types = map[domain.Type]uint64{}
	}
	kind := e.Type
	if !kind.Known() {
		kind = "other" // so that the size of the row is bounded
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
	case domain.ForeignReceived:
		t.ForeignAt, t.ForeignApp = at, e.Data.AppID
	case domain.MessageReceived, domain.MessageEchoed:
		t.LastMessage = latest(t.LastMessage, when)
	}
}

// delivered reports whether the event is from a delivery by Meta. Events of fetched
// history and of sent messages do not show that deliveries arrive, and those of another
// app not that the page's own do.
func delivered(e *streams.Stored) bool {
	return e.Type.Inbound() && e.Data.Source != domain.SourceBackfill && e.Data.Source != domain.SourceSend
}

// handlers apply the events that change a page's connection, by type. Other types do
// not change it.
var handlers = map[domain.Type]func(*fold, *domain.Connection) error{
	domain.PageConnected:        (*fold).connected,
	domain.PageRenamed:          (*fold).renamed,
	domain.PageTokenRefreshed:   (*fold).refreshed,
	domain.PageTokenInvalidated: (*fold).invalidated,
	domain.PageLinked:           (*fold).linked,
	domain.PageDisconnected:     (*fold).disconnected,
	domain.PageAdminErased:      (*fold).adminErased,
	domain.PageTestMarked:       (*fold).testMarked,
	domain.PolicyEnforced:       (*fold).policy,
	domain.ThreadRolesChanged:   (*fold).roles,
}

// applyConnection applies an event to the page's connection.
func applyConnection(tx *store.Tx, key []byte, e streams.Stored) error {
	handler := handlers[e.Type]
	if handler == nil || e.Type == domain.ThreadRolesChanged && (e.Contact != "" || e.Data.Thread == nil) {
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
	if err := handler(f, c); err != nil {
		return err
	}
	if err := f.recordOwner(p); err != nil {
		return err
	}
	return store.PutJSON(pages, key, f.p)
}

// fold applies one event to a page's connection.
type fold struct {
	tx   *store.Tx
	key  []byte
	e    streams.Stored
	time time.Time
	p    Page
}

// connected starts a connection. Of an earlier one only the name is kept.
func (f *fold) connected(c *domain.Connection) error {
	if f.e.Data.Connection == nil {
		f.p.Ignored++
		return nil
	}
	if f.p.State != Connected || f.p.ConnectionID != c.ConnectionID {
		f.p.StateSince = f.time
	}
	f.setAdmin(c.Admin, f.p.State != Connected || f.p.ConnectionID != c.ConnectionID)
	f.p.State, f.p.StateReason, f.p.Test = Connected, c.Reason, false
	f.p.ConnectionID, f.p.Company = c.ConnectionID, c.Company
	f.p.App = cmp.Or(c.App, f.e.Data.App)
	if c.AppID != f.p.AppID {
		if f.p.AppID != "" {
			f.p.FormerAppID, f.p.MovedAt = f.p.AppID, f.time
		}
		f.p.AppID = c.AppID
	}
	f.p.Name = cmp.Or(c.Name, f.p.Name)
	f.p.Fields = slices.Clone(c.Fields)
	token := TokenValid
	if c.Secret == "" {
		token = TokenNone
	}
	f.setToken(token)
	f.clearGrant()
	f.setGrant(c)
	if err := f.link(c.Instagram); err != nil {
		return err
	}
	return f.setSecret(c.Secret)
}

func (f *fold) renamed(c *domain.Connection) error {
	if c.Name == "" {
		f.p.Ignored++
		return nil
	}
	f.p.Name = c.Name
	return nil
}

// current reports whether c is about the current connection, and counts the event as
// ignored if it is not. An event about an earlier connection, or without a connection,
// must not restore a token.
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
	old, err := secret(f.tx, f.key)
	if err != nil {
		return err
	}
	ref := cmp.Or(c.Secret, old)
	if c.Resealed { // the same tokens, encrypted with another key
		return f.setSecret(ref)
	}
	if c.Admin != "" {
		f.setAdmin(c.Admin, false)
	}
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
	if ref == "" {
		f.p.Ignored++ // there is no token
		return nil
	}
	f.setToken(TokenValid)
	if ref != old {
		f.clearGrant()
	}
	f.setGrant(c)
	return f.setSecret(ref)
}

// setAdmin sets the person who has granted the token.
func (f *fold) setAdmin(admin string, newConnection bool) {
	switch {
	case admin == "" || admin == domain.ErasedAdmin:
		f.p.AdminSince = time.Time{}
	case newConnection || admin != f.p.Admin:
		f.p.AdminSince = f.time
	}
	f.p.Admin, f.p.AdminSeq = admin, f.e.Seq
	if admin == "" {
		f.p.AdminSeq = 0
	}
}

// adminErased removes the person's id if it is from an event that was erased: the
// tombstone of that event has none either.
func (f *fold) adminErased(*domain.Connection) error {
	if d := f.e.Data.Erasure; d != nil {
		for _, h := range d.Events {
			if h.Seq == f.p.AdminSeq && h.Seq < f.e.Seq {
				f.p.Admin, f.p.AdminSince = domain.ErasedAdmin, time.Time{}
			}
		}
	}
	return nil
}

// clearGrant removes the expiry times and scopes of an earlier token.
func (f *fold) clearGrant() {
	f.p.TokenExpires, f.p.DataAccessExpires, f.p.Scopes = time.Time{}, time.Time{}, nil
}

// setGrant sets the expiry times and scopes of the token that c has.
func (f *fold) setGrant(c *domain.Connection) {
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

// seconds returns the time at s Unix seconds, as [projections.FromMillis] does.
func seconds(s int64) time.Time {
	return projections.FromMillis(min(s, projections.MaxMillis/1000) * 1000)
}

// setToken sets the state of the token, and removes the reason of a refusal.
func (f *fold) setToken(s TokenState) {
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

// linked changes the linked Instagram account; no account means that there is none.
func (f *fold) linked(c *domain.Connection) error {
	if !f.current(c) {
		return nil
	}
	return f.link(c.Instagram)
}

// disconnected ends the connection and deletes the reference to its secret. It ignores an event about
// another connection than the current one.
func (f *fold) disconnected(c *domain.Connection) error {
	other := c.ConnectionID != "" && f.p.ConnectionID != "" && c.ConnectionID != f.p.ConnectionID
	if f.p.State == Connected && other {
		f.p.Ignored++
		return nil
	}
	if f.p.State != Disconnected {
		f.p.StateSince, f.p.TokenSince = f.time, f.time
	}
	f.p.State, f.p.StateReason = Disconnected, c.Reason
	f.p.Token, f.p.TokenReason, f.p.TokenCode, f.p.TokenSubcode = TokenNone, "", 0, 0
	f.clearGrant()
	if err := f.link(""); err != nil {
		return err
	}
	return f.setSecret("")
}

// testMarked marks the page as a test. A connected page is none.
func (f *fold) testMarked(*domain.Connection) error {
	if f.p.State == Connected {
		f.p.Ignored++
		return nil
	}
	f.p.Test = true
	return nil
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

// setSecret stores the reference of the page's secret, or deletes it if it is empty.
func (f *fold) setSecret(ref string) error {
	bucket := f.tx.Bucket(bucketSecrets)
	if ref == "" {
		if err := bucket.Delete(f.key); err != nil {
			return fmt.Errorf("delete reference of secret: %w", err)
		}
		return nil
	}
	return store.PutJSON(bucket, f.key, reference{ref})
}

// reference is the stored row of bucketSecrets.
type reference struct {
	Secret string `json:"secret"`
}

// secret returns the reference of a page's secret, empty if it has none.
func secret(tx *store.Tx, key []byte) (string, error) {
	r, _, err := store.GetJSON[reference](tx.Bucket(bucketSecrets), key)
	return r.Secret, err
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
