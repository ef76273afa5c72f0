package pages_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
)

func TestSince(t *testing.T) {
	f := newFixture(t)
	const account = domain.PageID("9001")
	since := func(id domain.PageID, company string, want uint64) {
		t.Helper()
		from, ok, err := pages.Since(f.st, id, company)
		require.NoError(t, err)
		assert.Equal(t, want, from, "%s of %s", id, company)
		assert.Equal(t, want > 0, ok, "%s of %s", id, company)
		for seq := from; ok && seq < from+20; seq++ {
			assert.Equal(t, company, f.owner(id, seq).Company, "event %d", seq)
		}
		if ok {
			assert.NotEqual(t, company, f.owner(id, from-1).Company, "the event before")
		}
	}
	connected := func(page domain.PageID, id, company, instagram string) domain.Event {
		return onPage(page, domain.PageConnected, domain.Connection{ConnectionID: id, Company: company, Instagram: instagram})
	}
	since(page, "acme", 0)
	f.apply(message(page, 1), connected(page, "a", "acme", "9001")) // 1, 2
	since(page, "acme", 2)
	since(account, "acme", 2)
	since(page, "", 0)
	// An id that is the beginning of another.
	since("10", "acme", 0)
	f.apply(connected(page, "b", "acme", "9001")) // 3
	// It connects again: no break.
	since(page, "acme", 2)
	f.apply(connected(page, "c", "beta", "9001")) // 4
	since(page, "acme", 0)
	since(page, "beta", 4)
	since(account, "beta", 4)
	f.apply(connected(page, "d", "acme", "9001")) // 5
	// Not 2: it was beta's in between.
	since(page, "acme", 5)
	f.apply(onPage(page, domain.PageDisconnected, domain.Connection{ConnectionID: "d"})) // 6
	since(page, "acme", 0)
	since(account, "acme", 0)
	f.apply(message(page, 7), connected(page, "e", "acme", "9001")) // 7, 8
	since(page, "acme", 8)
	f.apply(connected("105", "f", "acme", "")) // 9
	since("105", "acme", 9)
	f.apply(onPage("105", domain.PageLinked, domain.Connection{ConnectionID: "f", Instagram: "9001"})) // 10
	// From one page of the company to another.
	since(account, "acme", 8)
	f.apply(connected("105", "g", "beta", "9001")) // 11
	since(account, "beta", 11)
	since(account, "acme", 0)
	since(page, "acme", 8)
}
