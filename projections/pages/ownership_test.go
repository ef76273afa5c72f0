package pages_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

func (f *fixture) owner(id domain.PageID, seq uint64) pages.Ownership {
	f.t.Helper()
	o, err := pages.Owner(f.st, id, seq)
	require.NoError(f.t, err)
	return o
}

func onPage(id domain.PageID, t domain.Type, c domain.Connection) domain.Event {
	e := connection(t, 1000, c)
	e.Page = id
	return e
}

func TestOwnerBySequence(t *testing.T) {
	f := newFixture(t)
	acme := domain.Connection{ConnectionID: "c1", Company: "acme", App: "main"}
	beta := domain.Connection{ConnectionID: "c2", Company: "beta", App: "other"}
	f.apply(
		message(page, 1), // 1
		connection(domain.PageConnected, 2, acme),
		message(page, 3),
		connection(domain.PageTokenInvalidated, 4, domain.Connection{ConnectionID: "c1"}),
		message(page, 5),
		connection(domain.PageConnected, 6, beta), // 6
		message(page, 7),
		connection(domain.PageDisconnected, 8, domain.Connection{ConnectionID: "c1"}), // of an earlier connection
		connection(domain.PageDisconnected, 9, domain.Connection{}),                   // 9
		message(page, 10),
		connection(domain.PageConnected, 11, beta), // 11
		message(page, 12),
	)
	ofAcme := pages.Ownership{Page: page, Company: "acme", App: "main", ConnectionID: "c1"}
	ofBeta := pages.Ownership{Page: page, Company: "beta", App: "other", ConnectionID: "c2"}
	var nobody pages.Ownership
	for seq, want := range []pages.Ownership{
		nobody, nobody, ofAcme, ofAcme, ofAcme, ofAcme, ofBeta, ofBeta, ofBeta, ofBeta, nobody, ofBeta, ofBeta,
	} {
		assert.Equal(t, want, f.owner(page, uint64(seq)), "event %d", seq)
	}
	assert.Zero(t, f.owner("nobody", 5))
	assert.Zero(t, f.owner("10", 5), "an id that is the beginning of another")

	list, err := pages.Companies(f.st)
	require.NoError(t, err)
	assert.Equal(t, []pages.Company{
		{Name: "acme", Pages: []domain.PageID{}}, {Name: "beta", Pages: []domain.PageID{page}},
	}, list)
	held, err := pages.Held(f.st, "beta")
	require.NoError(t, err)
	assert.Equal(t, []pages.Holding{{ID: page, From: 6}}, held)
	held, err = pages.Held(f.st, "")
	require.NoError(t, err)
	assert.Empty(t, held, "pages without a company are nobody's")
}

func TestOwnerOfInstagramAccount(t *testing.T) {
	f := newFixture(t)
	const account = domain.PageID("9001")
	f.apply(
		onPage("104", domain.PageConnected, domain.Connection{ConnectionID: "a", Company: "acme", Instagram: "9001"}),
		onPage("105", domain.PageConnected, domain.Connection{ConnectionID: "b", Company: "beta"}),
		message(account, 3),
		// The account moves; the old page is not checked before.
		onPage("105", domain.PageLinked, domain.Connection{ConnectionID: "b", Instagram: "9001"}), // 4
		message(account, 5),
		onPage("104", domain.PageLinked, domain.Connection{ConnectionID: "a"}), // 6: has no account any more
		message(account, 7),
		// The page moves, and its account with it.
		onPage("105", domain.PageConnected, domain.Connection{ConnectionID: "c", Company: "acme", Instagram: "9001"}), // 8
		message(account, 9),
		onPage("105", domain.PageLinked, domain.Connection{ConnectionID: "c"}), // 10
		message(account, 11),
	)
	for seq, want := range map[uint64]string{
		1: "104 acme", 3: "104 acme", 4: "105 beta", 5: "105 beta", 7: "105 beta", 8: "105 acme", 9: "105 acme",
		10: " ", 11: " ",
	} {
		o := f.owner(account, seq)
		assert.Equal(t, want, fmt.Sprintf("%s %s", o.Page, o.Company), "event %d", seq)
	}
	assert.Empty(t, f.page("104").Instagram)
	assert.Empty(t, f.page("105").Instagram)
	_, err := pages.ByInstagram(f.st, "9001")
	require.ErrorIs(t, err, pages.ErrNotFound)
	held, err := pages.Held(f.st, "acme")
	require.NoError(t, err)
	assert.Equal(t, []pages.Holding{{ID: "104", From: 1}, {ID: "105", From: 8}, {ID: account, From: 1}}, held)
	held, err = pages.Held(f.st, "beta")
	require.NoError(t, err)
	assert.Equal(t, []pages.Holding{{ID: "105", From: 2}, {ID: account, From: 4}}, held)
}

// TestLinkMovesToAnotherPage checks that an account is linked to one page only.
func TestLinkMovesToAnotherPage(t *testing.T) {
	f := newFixture(t)
	linked := domain.Connection{ConnectionID: "a", Company: "acme", Instagram: "9001"}
	f.apply(onPage("104", domain.PageConnected, linked), onPage("105", domain.PageConnected, linked),
		message("104", 3))
	assert.Empty(t, f.page("104").Instagram)
	assert.Equal(t, "9001", f.page("105").Instagram)
	list, err := pages.OfCompany(f.st, "acme")
	require.NoError(t, err)
	assert.Equal(t, []domain.PageID{"104", "105", "9001"}, list)
	f.apply(onPage("104", domain.PageLinked, domain.Connection{ConnectionID: "other", Instagram: "9001"}))
	assert.Equal(t, "9001", f.page("105").Instagram, "an event about another connection")
}

// TestOldestOwnersAreDropped checks the bound of the turns. What is older than the
// kept ones belongs to nobody.
func TestOldestOwnersAreDropped(t *testing.T) {
	f := newFixture(t)
	const moves = pages.MaxTurns + 50
	var events []domain.Event
	for i := range moves {
		events = append(events, connection(domain.PageConnected, 1, domain.Connection{
			ConnectionID: fmt.Sprint(i), Company: fmt.Sprint("company-", i%2), Instagram: fmt.Sprint(i % 2),
		}))
	}
	f.apply(events...)
	count := func(bucket string) (n int) {
		require.NoError(t, f.st.View(func(tx *store.Tx) error { n = tx.Bucket(bucket).Len(); return nil }))
		return n
	}
	assert.Equal(t, pages.MaxTurns, count("owners"))
	assert.Zero(t, f.owner(page, 50))
	assert.Equal(t, "company-0", f.owner(page, 51).Company)
	assert.Equal(t, "company-1", f.owner(page, moves).Company)

	// Turns that had no event don't use up the bound.
	for range 100 {
		f.apply(connection(domain.PageDisconnected, 1, domain.Connection{}), connection(domain.PageConnected, 1, full))
	}
	assert.Equal(t, pages.MaxTurns, count("owners"))
	assert.Equal(t, "acme", f.owner(page, f.seq).Company)
}

// naive answers as Owner does, by reading all events up to the sequence.
func naive(events []domain.Event, id domain.PageID, seq uint64) pages.Ownership {
	type state struct {
		owner     pages.Ownership
		on        bool
		instagram string
	}
	known := map[domain.PageID]*state{}
	holder := map[string]domain.PageID{}
	link := func(page domain.PageID, account string) {
		s := known[page]
		if s.instagram != account && holder[s.instagram] == page {
			delete(holder, s.instagram)
		}
		if s.instagram = account; account != "" {
			if old := known[holder[account]]; old != nil && old != s {
				old.instagram = ""
			}
			holder[account] = page
		}
	}
	for i, e := range events[:seq] {
		s, c := known[e.Page], e.Data.Connection
		if s == nil {
			s = &state{}
			known[e.Page] = s
		}
		switch e.Type {
		case domain.PageConnected:
			s.on, s.owner = true, pages.Ownership{
				Page: e.Page, Company: c.Company, App: c.App, ConnectionID: c.ConnectionID,
			}
			link(e.Page, c.Instagram)
		case domain.PageLinked:
			if s.on && c.ConnectionID == s.owner.ConnectionID {
				link(e.Page, c.Instagram)
			}
		case domain.PageDisconnected:
			if s.on && c.ConnectionID == s.owner.ConnectionID {
				s.on = false
				link(e.Page, "")
				if uint64(i+1) == seq && e.Page == id {
					return s.owner // the last event of the owner
				}
			}
		}
	}
	for _, page := range []domain.PageID{id, holder[string(id)]} {
		if s := known[page]; s != nil && s.on {
			return s.owner
		}
	}
	return pages.Ownership{}
}

func TestOwnerAgreesWithNaiveModel(t *testing.T) {
	dir, n := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		ids := []domain.PageID{"1", "2", "11"}
		accounts := []string{"", "91", "92"}
		events := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) domain.Event {
			kind := rapid.SampledFrom([]domain.Type{
				domain.PageConnected, domain.PageConnected, domain.PageLinked, domain.PageDisconnected, domain.MessageReceived,
			}).Draw(t, "type")
			e := onPage(rapid.SampledFrom(ids).Draw(t, "page"), kind, domain.Connection{
				ConnectionID: rapid.SampledFrom([]string{"c1", "c2"}).Draw(t, "connection"),
				Company:      rapid.SampledFrom([]string{"", "acme", "beta"}).Draw(t, "company"),
				App:          rapid.SampledFrom([]string{"main", "other"}).Draw(t, "app"),
				Instagram:    rapid.SampledFrom(accounts).Draw(t, "account"),
			})
			return e
		}), 1, 60).Draw(t, "events")
		n++
		st, err := store.Open(filepath.Join(dir, fmt.Sprint(n)), store.Options{NoSync: true})
		require.NoError(t, err)
		defer func() { require.NoError(t, st.Close()) }()
		for from := 0; from < len(events); { // in transactions of any size
			to := min(len(events), from+rapid.IntRange(1, 20).Draw(t, "batch"))
			require.NoError(t, st.Update(func(tx *store.Tx) error {
				for i, e := range events[from:to] {
					seq := uint64(from + i + 1)
					if err := pages.New().Apply(tx, streams.Stored{Event: e, Seq: seq, At: stored(seq)}); err != nil {
						return err
					}
				}
				return nil
			}))
			from = to
		}
		require.NoError(t, pages.Owners(st, func(owner pages.OwnerFunc) error {
			for seq := range uint64(len(events) + 1) {
				for _, id := range []domain.PageID{"1", "2", "11", "91", "92", "9"} {
					got, err := owner(id, seq)
					if err != nil {
						return err
					}
					require.Equal(t, naive(events, id, seq), got, "event %d of %s", seq, id)
				}
			}
			return nil
		}))
	})
}
