package pages_test

import (
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

const page = domain.PageID("104")

// fixture is a store and the sequence of the last event applied to it.
type fixture struct {
	t   testing.TB
	st  *store.Store
	seq uint64
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	st, err := store.Open(filepath.Join(t.TempDir(), "pages.db"), store.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	return &fixture{t: t, st: st}
}

func (f *fixture) apply(events ...domain.Event) {
	f.t.Helper()
	require.NoError(f.t, f.st.Update(func(tx *store.Tx) error {
		for _, e := range events {
			f.seq++
			if err := pages.New().Apply(tx, streams.Stored{Event: e, Seq: f.seq, At: stored(f.seq)}); err != nil {
				return err
			}
		}
		return nil
	}))
}

func (f *fixture) page(id domain.PageID) pages.Page {
	f.t.Helper()
	p, err := pages.Get(f.st, id)
	require.NoError(f.t, err)
	return p
}

func stored(seq uint64) time.Time { return time.UnixMilli(1_800_000_000_000 + int64(seq)*1000).UTC() }

func ms(n int64) time.Time { return time.UnixMilli(n).UTC() }

func event(t domain.Type, at int64, d domain.Data) domain.Event {
	return domain.Event{ID: fmt.Sprint(t, at), Type: t, Page: page, Time: ms(at), Data: d}
}

func message(p domain.PageID, at int64) domain.Event {
	e := event(domain.MessageReceived, at, domain.Data{Object: "page", Message: &domain.Message{MID: "m"}})
	e.Page, e.Contact = p, "7001"
	return e
}

func connection(t domain.Type, at int64, c domain.Connection) domain.Event {
	return event(t, at, domain.Data{Connection: &c})
}

var full = domain.Connection{
	ConnectionID: "c1", Company: "acme", App: "main", Name: "Acme", Instagram: "9001", Secret: "ref-1",
	Admin: "77", Fields: []string{"messages", "message_echoes"},
}

func TestPageWithoutConnectionIsUnknown(t *testing.T) {
	f := newFixture(t)
	late := message(page, 500)
	late.Standby = true
	back := event(domain.MessageEchoed, 100, domain.Data{Source: "backfill"})
	f.apply(message(page, 1000), late, event(domain.MessageRead, 2000, domain.Data{}), back)
	p := f.page(page)
	assert.Equal(t, pages.Unknown, p.State)
	assert.Equal(t, pages.TokenNone, p.Token)
	assert.Equal(t, "page", p.Object)
	tr := p.Traffic
	assert.Equal(t, uint64(4), tr.Events)
	assert.Equal(t, map[domain.Type]uint64{
		domain.MessageReceived: 2, domain.MessageRead: 1, domain.MessageEchoed: 1,
	}, tr.Types)
	assert.Equal(t, uint64(1), tr.Standby)
	assert.Equal(t, ms(100), tr.FirstTime)
	assert.Equal(t, ms(2000), tr.LastTime)
	assert.Equal(t, ms(1000), tr.LastMessage)
	assert.Equal(t, domain.MessageEchoed, tr.LastType)
	assert.Equal(t, stored(1), tr.FirstAt)
	assert.Equal(t, stored(4), tr.LastAt)
	assert.Equal(t, stored(3), tr.LastInboundAt, "fetched history is not a delivery")
	_, err := pages.Credentials(f.st, page)
	require.ErrorIs(t, err, pages.ErrNoCredentials)
}

func TestConnectionLifecycle(t *testing.T) {
	f := newFixture(t)
	f.apply(message(page, 500), connection(domain.PageConnected, 1000, full))
	p := f.page(page)
	assert.Equal(t, pages.Connected, p.State)
	assert.Equal(t, ms(1000), p.StateSince)
	assert.Equal(t, pages.TokenValid, p.Token)
	assert.Equal(t, []string{"Acme", "acme", "main", "c1", "9001", "77"},
		[]string{p.Name, p.Company, p.App, p.ConnectionID, p.Instagram, p.Admin})
	assert.Equal(t, full.Fields, p.Fields)
	assert.Equal(t, stored(1), p.Traffic.LastInboundAt, "a connection event is not a delivery")
	s, err := pages.Credentials(f.st, page)
	require.NoError(t, err)
	assert.Equal(t, pages.Connection{
		Page: page, ConnectionID: "c1", App: "main", Company: "acme", Secret: "ref-1", Token: pages.TokenValid,
	}, s)

	f.apply(connection(domain.PageRenamed, 1500, domain.Connection{Name: "Acme Ltd"}),
		connection(domain.PageTokenInvalidated, 2000, domain.Connection{ConnectionID: "c1", Reason: "code 190 subcode 463"}),
		connection(domain.PageTokenInvalidated, 2100, domain.Connection{ConnectionID: "c1", Reason: "code 190 subcode 467"}),
		message(page, 2500))
	p = f.page(page)
	assert.Equal(t, "Acme Ltd", p.Name)
	assert.Equal(t, pages.TokenInvalid, p.Token)
	assert.Equal(t, ms(2000), p.TokenSince)
	assert.Equal(t, "code 190 subcode 467", p.TokenReason)
	assert.Equal(t, uint64(2), p.Traffic.Types[domain.MessageReceived], "an invalid token does not stop deliveries")

	f.apply(connection(domain.PageTokenRefreshed, 3000, domain.Connection{ConnectionID: "c1", Secret: "ref-2"}))
	p = f.page(page)
	assert.Equal(t, pages.TokenValid, p.Token)
	assert.Empty(t, p.TokenReason)
	assert.Equal(t, full.Fields, p.Fields)
	s, err = pages.Credentials(f.st, page)
	require.NoError(t, err)
	assert.Equal(t, "ref-2", s.Secret)

	f.apply(connection(domain.PageDisconnected, 4000, domain.Connection{ConnectionID: "c1", Reason: "by the operator"}))
	p = f.page(page)
	assert.Equal(t, pages.Disconnected, p.State)
	assert.Equal(t, "by the operator", p.StateReason)
	assert.Equal(t, pages.TokenNone, p.Token)
	_, err = pages.Credentials(f.st, page)
	require.ErrorIs(t, err, pages.ErrNoCredentials)
	_, err = pages.ByInstagram(f.st, "9001")
	require.ErrorIs(t, err, pages.ErrNotFound)

	// A refresh after the end of the connection must not restore a token.
	f.apply(connection(domain.PageTokenRefreshed, 4100, domain.Connection{ConnectionID: "c1", Secret: "ref-3"}),
		message(page, 4200))
	p = f.page(page)
	assert.Equal(t, pages.Disconnected, p.State)
	assert.Equal(t, uint64(1), p.Ignored)
	_, err = pages.Credentials(f.st, page)
	require.ErrorIs(t, err, pages.ErrNoCredentials)
}

func TestEarlierConnectionIsIgnored(t *testing.T) {
	f := newFixture(t)
	second := full
	second.ConnectionID, second.Secret, second.Name = "c2", "ref-c2", ""
	f.apply(connection(domain.PageConnected, 1000, full), connection(domain.PageConnected, 2000, second),
		connection(domain.PageDisconnected, 3000, domain.Connection{ConnectionID: "c1"}),
		connection(domain.PageTokenInvalidated, 3000, domain.Connection{ConnectionID: "c1"}),
		connection(domain.PageTokenRefreshed, 3000, domain.Connection{ConnectionID: "c1", Secret: "old"}))
	p := f.page(page)
	assert.Equal(t, pages.Connected, p.State)
	assert.Equal(t, "c2", p.ConnectionID)
	assert.Equal(t, "Acme", p.Name)
	assert.Equal(t, ms(2000), p.StateSince)
	assert.Equal(t, pages.TokenValid, p.Token)
	assert.Equal(t, uint64(3), p.Ignored)
	s, err := pages.Credentials(f.st, page)
	require.NoError(t, err)
	assert.Equal(t, "ref-c2", s.Secret)
}

func TestInstagramAccountIsLinkedToItsPage(t *testing.T) {
	f := newFixture(t)
	ig := message("9001", 1200)
	ig.Data.Object = "instagram"
	f.apply(connection(domain.PageConnected, 1000, full), ig)
	got, err := pages.ByInstagram(f.st, "9001")
	require.NoError(t, err)
	assert.Equal(t, page, got)
	p := f.page("9001")
	assert.Equal(t, pages.Unknown, p.State)
	assert.Equal(t, "instagram", p.Object)
	assert.Equal(t, page, p.LinkedPage)

	again := full
	again.Instagram = "9002"
	f.apply(connection(domain.PageConnected, 2000, again))
	_, err = pages.ByInstagram(f.st, "9001")
	require.ErrorIs(t, err, pages.ErrNotFound)

	// The account is linked to another page. Disconnecting the first page keeps that link.
	other := connection(domain.PageConnected, 3000, again)
	other.Page = "105"
	f.apply(other, connection(domain.PageDisconnected, 4000, domain.Connection{}))
	got, err = pages.ByInstagram(f.st, "9002")
	require.NoError(t, err)
	assert.Equal(t, domain.PageID("105"), got)
}

func TestTestEventsAndEventsWithoutPageCreateNoPage(t *testing.T) {
	f := newFixture(t)
	button := message(domain.NoPage, 1000)
	button.Data.Test = true
	unreadable := event(domain.DeliveryUnreadable, 1000, domain.Data{Unreadable: &domain.Unreadable{}})
	unreadable.Page = ""
	onPage := message(page, 1000)
	onPage.Data.Test = true
	f.apply(button, unreadable, onPage)
	list, _, err := pages.List(f.st, "", 0)
	require.NoError(t, err)
	assert.Empty(t, list)
	none, err := pages.Unrouted(f.st)
	require.NoError(t, err)
	assert.Equal(t, uint64(2), none.Tests)
	assert.Equal(t, map[domain.Type]uint64{domain.DeliveryUnreadable: 1}, none.Types)

	f.apply(message(page, 1100), onPage)
	p := f.page(page)
	assert.Equal(t, uint64(1), p.Traffic.Events)
	assert.Equal(t, uint64(1), p.Traffic.Tests)
}

func TestPolicyAndRoles(t *testing.T) {
	f := newFixture(t)
	roles := func(at int64, roles map[string][]string) domain.Event {
		return event(domain.ThreadRolesChanged, at, domain.Data{Thread: &domain.Thread{Roles: roles}})
	}
	withContact := roles(5000, map[string][]string{"2": {"x"}})
	withContact.Contact = "7001"
	f.apply(event(domain.PolicyEnforced, 2000, domain.Data{Policy: &domain.Policy{Action: "block", Reason: "spam"}}),
		event(domain.PolicyEnforced, 1000, domain.Data{Policy: &domain.Policy{Action: "warning"}}),
		roles(3000, map[string][]string{"1": {"primary_receiver"}}),
		withContact)
	p := f.page(page)
	assert.Equal(t, &pages.Policy{Action: "block", Reason: "spam", Time: ms(2000)}, p.Policy, "the newest by time")
	assert.Equal(t, map[string][]string{"1": {"primary_receiver"}}, p.Roles)
	assert.Equal(t, pages.Unknown, p.State)
}

func TestUnusualContent(t *testing.T) {
	f := newFixture(t)
	f.apply(event(domain.PageForgotten, 1, domain.Data{})) // of a page that is not known
	for i, k := range domain.Types() {
		if k != domain.PageForgotten {
			f.apply(event(k, int64(i), domain.Data{}))
		}
	}
	f.apply(event("something.new", 1, domain.Data{}))
	p := f.page(page)
	assert.Equal(t, pages.Disconnected, p.State, "a disconnect needs no data")
	assert.Equal(t, uint64(1), p.Traffic.Types["other"])
	far := event(domain.MessageReceived, math.MaxInt64/2, domain.Data{})
	zero := event(domain.MessageReceived, 0, domain.Data{})
	zero.Time = time.Time{}
	long := domain.PageID(strings.Repeat("9", 70000))
	f.apply(far, zero, message(long, 1))
	assert.Equal(t, 9999, f.page(page).Traffic.LastTime.Year())
	assert.Equal(t, long, f.page(long).ID)
}

// TestForget checks that a page that is not connected is removed with all its rows, that one that is connected stays,
// and that who its events belonged to stays.
func TestForget(t *testing.T) {
	f := newFixture(t)
	other := message("900", 1000)
	f.apply(other)
	before, _, err := projectionstest.Digest(f.st)
	require.NoError(t, err)

	f.apply(event(domain.PageTestMarked, 1, domain.Data{}), message(page, 2000))
	assert.True(t, f.page(page).Test)
	assert.Equal(t, uint64(2), f.page(page).Traffic.Events)
	f.apply(event(domain.PageForgotten, 2, domain.Data{}))
	_, err = pages.Get(f.st, page)
	require.ErrorIs(t, err, pages.ErrNotFound)
	after, _, err := projectionstest.Digest(f.st)
	require.NoError(t, err)
	assert.Equal(t, before, after, "nothing is left")

	f.apply(message(page, 3000))
	assert.Equal(t, uint64(1), f.page(page).Traffic.Events, "it starts anew")
	assert.False(t, f.page(page).Test)

	f.apply(event(domain.PageTestMarked, 4, domain.Data{}), connection(domain.PageConnected, 5, full))
	connected := f.seq
	assert.False(t, f.page(page).Test, "a connected page is no test")
	f.apply(event(domain.PageForgotten, 6, domain.Data{}), event(domain.PageTestMarked, 7, domain.Data{}))
	p := f.page(page)
	assert.Equal(t, pages.Connected, p.State)
	assert.Equal(t, uint64(2), p.Ignored)
	f.apply(connection(domain.PageDisconnected, 8, full), event(domain.PageForgotten, 9, domain.Data{}))
	_, err = pages.Get(f.st, page)
	require.ErrorIs(t, err, pages.ErrNotFound)
	owner, err := pages.Owner(f.st, page, connected)
	require.NoError(t, err)
	assert.Equal(t, full.Company, owner.Company)
}

func TestListPaging(t *testing.T) {
	f := newFixture(t)
	empty, next, err := pages.List(f.st, "", 0)
	require.NoError(t, err)
	assert.NotNil(t, empty)
	assert.Empty(t, next)
	var want []domain.PageID
	for i := range 23 {
		id := domain.PageID(fmt.Sprint(100 + i))
		want = append(want, id)
		f.apply(message(id, 1000))
	}
	var got []domain.PageID
	for cursor := ""; ; {
		list, next, err := pages.List(f.st, cursor, 5)
		require.NoError(t, err)
		require.LessOrEqual(t, len(list), 5)
		for _, p := range list {
			got = append(got, p.ID)
		}
		if cursor = next; next == "" {
			break
		}
	}
	assert.Equal(t, want, got)
	got = nil
	require.NoError(t, pages.Each(f.st, func(p pages.Page) error { got = append(got, p.ID); return nil }))
	assert.Equal(t, want, got)
	_, _, err = pages.List(f.st, "!!", 5)
	require.ErrorIs(t, err, pages.ErrCursor)
	_, err = pages.Get(f.st, "nobody")
	require.ErrorIs(t, err, pages.ErrNotFound)
}

// TestSecretsAreOnlyInTheirBucket checks that no other bucket has the references of
// secrets.
func TestSecretsAreOnlyInTheirBucket(t *testing.T) {
	f := newFixture(t)
	f.apply(connection(domain.PageConnected, 1000, full))
	require.NoError(t, f.st.View(func(tx *store.Tx) error {
		for _, name := range []string{"pages", "traffic", "instagram", "unrouted"} {
			c := tx.Bucket(name).Cursor()
			for k, v := c.First(); k != nil; k, v = c.Next() {
				assert.NotContains(t, string(v), "ref-", name)
			}
		}
		return nil
	}))
}
