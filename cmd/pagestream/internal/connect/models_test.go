package connect_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

func TestModels(t *testing.T) {
	f := newStreamFixture(t)
	known, err := f.models.Known(t.Context(), "1", 0)
	require.NoError(t, err)
	assert.Equal(t, connect.Known{}, known, "a page that was never seen")

	f.instagram = map[string]string{"1": "17841400000000001"}
	for _, r := range []connect.Request{
		{
			Page: "1", Token: tokenOf("1"), Admin: admin, Company: "acme", Fields: []string{"messages"},
			VerifyToken: "verify-me",
		},
		{Page: "2", Token: tokenOf("2"), Admin: "somebody else"},
		{Page: "3", Token: tokenOf("3")},
	} {
		_, err := f.Connect(t.Context(), r)
		require.NoError(t, err)
	}
	// An event that was just stored is visible: Known waits for the models.
	all := func(pages.Page) bool { return true }
	list, err := f.models.Connected(t.Context(), all)
	require.NoError(t, err)
	assert.Equal(t, []domain.PageID{"1", "2", "3"}, list)
	list, err = f.models.Connected(t.Context(), func(p pages.Page) bool { return p.Company == "acme" })
	require.NoError(t, err)
	assert.Equal(t, []domain.PageID{"1"}, list)
	for _, c := range []struct {
		app, admin string
		want       []domain.PageID
	}{{"main", admin, []domain.PageID{"1"}}, {"other", admin, nil}, {"main", "", nil}} {
		list, err := f.models.ByAdmin(t.Context(), domain.AdminHash(c.app, c.admin), always)
		require.NoError(t, err)
		assert.Equal(t, c.want, list, "%s in %s", c.admin, c.app)
	}

	known, err = f.models.Known(t.Context(), "1", 0)
	require.NoError(t, err)
	secret, err := f.bucket.Get(t.Context(), "1", known.Connection.Secret)
	require.NoError(t, err)
	token, err := f.keys.Open(secret.Token, connect.TokenAAD("1"))
	require.NoError(t, err)
	assert.Equal(t, tokenOf("1"), string(token))
	assert.NotEmpty(t, secret.VerifyToken)
	assert.NotEmpty(t, known.Connection.ConnectionID)
	known.Connection.Secret, known.Connection.ConnectionID = "", ""
	assert.WithinDuration(t, time.Now(), known.AdminSince, time.Minute)
	before, err := f.models.ByAdmin(t.Context(), domain.AdminHash("main", admin), known.AdminSince)
	require.NoError(t, err)
	assert.Empty(t, before, "the grant was not made before itself")
	known.AdminSince = time.Time{}
	fields := []string{"messages"}
	assert.Equal(t, connect.Known{
		Connected: true, State: subscriptions.Confirmed, Wanted: fields, Actual: fields,
		Connection: domain.Connection{
			Company: "acme", App: "main", Name: "Page 1", Instagram: "17841400000000001", Admin: admin, Fields: fields,
		},
	}, known)

	f.settled(f.Disconnect(t.Context(), "1"))
	known, err = f.models.Known(t.Context(), "1", 0)
	require.NoError(t, err)
	assert.False(t, known.Connected)
	assert.Empty(t, known.Connection.Secret)
	list, err = f.models.Connected(t.Context(), all)
	require.NoError(t, err)
	assert.Equal(t, []domain.PageID{"2", "3"}, list)

	// Waiting for an event that never comes ends with the caller's context.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = f.models.Known(ctx, "1", 1_000_000)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	f.models.Settle(ctx, 1_000_000)
	away := f.models
	away.Head = func(context.Context) (uint64, error) { return 0, errGone }
	_, err = away.Connected(t.Context(), all)
	require.ErrorIs(t, err, errGone)
}
