package connect_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

func (g *fakeGraph) Instagram(ctx context.Context, id, access string) (string, error) {
	_, account, err := g.Page(ctx, id, access)
	return account, err
}

func (f *streamFixture) Instagram(ctx context.Context, page, token string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.blind {
		return "", refusal(10, 0, "(#10) This endpoint requires the instagram_basic permission")
	}
	_, account, err := f.Page(ctx, page, token)
	return account, err
}

// LinkedTo returns the page with the account in the events.
func (f *fixture) LinkedTo(_ context.Context, account string) (page domain.PageID, err error) {
	for _, e := range f.events {
		if c := e.Data.Connection; c != nil && c.Instagram == account && e.Type == domain.PageConnected {
			page = e.Page
		}
	}
	return page, nil
}

func TestPageIsNotMovedSilently(t *testing.T) {
	f := newStreamFixture(t)
	consent, choice := f.grants(3)
	_, err := f.Apply(t.Context(), consent, choice, nil)
	require.NoError(t, err)
	before := f.pageNow("2").ConnectionID

	// Pages 1 and 2 are of acme, page 3 is new.
	_, err = f.Disconnect(t.Context(), "3")
	require.NoError(t, err)
	consent, choice = f.grants(3)
	for _, p := range consent.Pages {
		assert.Equal(t, p.Page != "3", p.Moves("beta"), "page %s", p.Page)
		assert.False(t, p.Moves("acme"))
		assert.False(t, p.Moves(""))
	}
	choice.Company, choice.Move = "beta", []domain.PageID{"1"}
	outs, err := f.Apply(t.Context(), consent, choice, nil)
	require.NoError(t, err)
	require.Len(t, outs, 3)
	assert.True(t, outs[0].Confirmed(), outs[0].Reason)
	assert.Equal(t, subscriptions.Failed, outs[1].State)
	assert.Contains(t, outs[1].Reason, "page 2 moves from acme to beta")
	assert.Contains(t, outs[1].Reason, "--move")
	assert.True(t, outs[2].Confirmed(), outs[2].Reason)
	assert.Equal(t, []string{"beta", "acme", "beta"},
		[]string{f.pageNow("1").Company, f.pageNow("2").Company, f.pageNow("3").Company})
	assert.Equal(t, before, f.pageNow("2").ConnectionID, "a page that is refused stays as it was")

	// What was decided on the company that the page had is not done to another one.
	f.moveTo("1", "gamma")
	choice.Company, choice.Pages = "acme", []domain.PageID{"1"}
	stale, _ := f.grants(3)
	f.moveTo("1", "delta") // meanwhile
	outs, err = f.Apply(t.Context(), stale, choice, nil)
	require.NoError(t, err)
	assert.Contains(t, outs[0].Reason, "page 1 has moved to delta meanwhile")
	assert.Equal(t, "delta", f.pageNow("1").Company)

	// With a page's token.
	r := connect.Request{Page: "2", Token: tokenOf("2"), Company: "beta"}
	_, err = f.Connect(t.Context(), r)
	require.ErrorIs(t, err, connect.ErrMove)
	assert.Equal(t, before, f.pageNow("2").ConnectionID)
	r.Company = ""
	_, err = f.Connect(t.Context(), r)
	require.NoError(t, err)
	assert.Equal(t, "acme", f.pageNow("2").Company, "a page keeps its company")
	r.Company, r.Move = "beta", true
	_, err = f.Connect(t.Context(), r)
	require.NoError(t, err)
	assert.Equal(t, "beta", f.pageNow("2").Company)
}

func (f *streamFixture) moveTo(page domain.PageID, company string) {
	f.t.Helper()
	_, err := f.Connect(f.t.Context(), connect.Request{
		Page: page, Token: tokenOf(string(page)), Company: company, Move: true,
	})
	require.NoError(f.t, err)
	assert.Equal(f.t, company, f.pageNow(page).Company)
}

func TestLinkIsReadAtEachCheck(t *testing.T) {
	f := newStreamFixture(t)
	f.instagram = map[string]string{"1": "9001"}
	consent, choice := f.grants(2)
	_, err := f.Apply(t.Context(), consent, choice, nil)
	require.NoError(t, err)
	check := func(page domain.PageID) meta.Outcome {
		out, err := f.Check(t.Context(), page)
		require.NoError(t, err)
		return out
	}
	assert.Zero(t, check("1").Seq, "nothing has changed")
	holder := func() string {
		page, err := f.models.LinkedTo(t.Context(), "9001") // waits for the last event
		require.NoError(t, err)
		return fmt.Sprintf("%s %s %s", page, f.pageNow("1").Instagram, f.pageNow("2").Instagram)
	}

	// The account moves, and its new page is checked first.
	f.instagram = map[string]string{"2": "9001"}
	out := check("2")
	assert.NotZero(t, out.Seq)
	assert.Equal(t, "2  9001", holder())
	last := out.Seq
	assert.Zero(t, check("1").Seq, "it is unlinked already")
	assert.Equal(t, last, f.last(), "no event")

	// It moves back, and its old page is checked first.
	f.instagram = map[string]string{"1": "9001"}
	assert.NotZero(t, check("2").Seq)
	assert.Equal(t, "  ", holder())
	assert.NotZero(t, check("1").Seq)
	assert.Equal(t, "1 9001 ", holder())

	// A token that may not see the account does not unlink it.
	f.blind = true
	assert.Zero(t, check("1").Seq)
	assert.Equal(t, "1 9001 ", holder())
	f.blind = false

	// A connection moves the link as well.
	f.instagram = map[string]string{"2": "9001"}
	f.moveTo("2", "beta")
	assert.Equal(t, "2  9001", holder())
	assert.Equal(t, pages.Connected, f.pageNow("1").State)
	o, err := pages.Owner(f.models.Pages, "9001", f.last())
	require.NoError(t, err)
	assert.Equal(t, []string{"2", "beta"}, []string{string(o.Page), o.Company})
}

// last returns the sequence of the stream's last event.
func (f *streamFixture) last() uint64 {
	f.t.Helper()
	last, err := f.models.Head(f.t.Context())
	require.NoError(f.t, err)
	return last
}

// pageNow returns a page after the read model has applied the last event.
func (f *streamFixture) pageNow(id domain.PageID) pages.Page {
	f.t.Helper()
	require.NoError(f.t, f.models.Pages.WaitFor(f.t.Context(), f.last()))
	return f.page(id)
}
