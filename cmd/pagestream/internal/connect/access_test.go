package connect_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/seal"
	"github.com/pagestream/pagestream/projections/store"
)

// settled waits until the read models have applied the events of an operation.
func (f *streamFixture) settled(out meta.Outcome, err error) meta.Outcome {
	f.t.Helper()
	require.NoError(f.t, err)
	f.models.Settle(f.t.Context(), out.Seq)
	return out
}

// tokens returns the tokens of the fixture's pages, whose app has an id.
func (f *streamFixture) tokens(sealer *seal.KeyRing) connect.Tokens {
	return connect.NewTokens(f.models.Pages, f.bucket, sealer, func(app string) (string, bool) { return ownApp, app == "main" })
}

// errBroken is the error of the read model broken.
var errBroken = errors.New("the file is not there")

type broken struct{}

func (broken) View(func(*store.Tx) error) error { return errBroken }

func TestAccess(t *testing.T) {
	f := newStreamFixture(t)
	f.instagram = map[string]string{"1": "17841400000000001"}
	for _, page := range []domain.PageID{"1", "2"} {
		f.settled(f.Connect(t.Context(), connect.Request{Page: page, Token: tokenOf(string(page)), Admin: admin}))
	}
	tokens := f.tokens(f.keys)
	want := meta.Access{Page: "1", Instagram: "17841400000000001", App: "main", AppID: ownApp, Token: tokenOf("1")}
	for _, id := range []domain.PageID{"1", "17841400000000001"} {
		got, err := tokens.Access(t.Context(), id)
		require.NoError(t, err)
		assert.Equal(t, want, got, id)
	}
	got, err := tokens.Access(t.Context(), "2")
	require.NoError(t, err)
	assert.Empty(t, got.Instagram)
	assert.Equal(t, tokenOf("2"), got.Token)

	_, err = tokens.Access(t.Context(), "404")
	require.ErrorIs(t, err, meta.ErrNotConnected)
	require.ErrorContains(t, err, "404")
	withoutApps := connect.NewTokens(f.models.Pages, f.bucket, f.keys, func(string) (string, bool) { return "", false })
	_, err = withoutApps.Access(t.Context(), "1")
	require.ErrorIs(t, err, meta.ErrNotConnected, "the app can't call")
	require.ErrorContains(t, err, `"main"`)
	other, err := seal.NewKeyRing()
	require.NoError(t, err)
	_, err = f.tokens(other).Access(t.Context(), "1")
	require.ErrorIs(t, err, seal.ErrUnknownKey)
	_, err = connect.NewTokens(broken{}, f.bucket, f.keys, nil).Access(t.Context(), "1")
	require.ErrorIs(t, err, errBroken)

	f.login.info = graph.TokenInfo{Err: refusal(190, 460, "changed")}
	report, err := f.Probe(t.Context(), "1")
	require.NoError(t, err)
	f.models.Settle(t.Context(), report.Seq)
	for _, id := range []domain.PageID{"1", "17841400000000001"} {
		_, err = tokens.Access(t.Context(), id)
		require.ErrorIs(t, err, meta.ErrTokenDead, id)
		assert.NotContains(t, err.Error(), tokenOf("1"))
	}
	f.settled(f.Disconnect(t.Context(), "2"))
	_, err = tokens.Access(t.Context(), "2")
	require.ErrorIs(t, err, meta.ErrNotConnected)
}

func TestVerify(t *testing.T) {
	f := newStreamFixture(t)
	for i, verify := range []string{"", "verify-me", "another", ""} {
		id := fmt.Sprint(i + 1)
		f.settled(f.Connect(t.Context(), connect.Request{
			Page: domain.PageID(id), Token: tokenOf(id), VerifyToken: verify, Admin: admin,
		}))
	}
	other, err := seal.NewKeyRing()
	require.NoError(t, err)
	verify := func(sealer *seal.KeyRing, token string) bool {
		t.Helper()
		ok, err := f.tokens(sealer).Verify(t.Context(), token)
		require.NoError(t, err)
		return ok
	}
	for token, want := range map[string]bool{
		"verify-me": true, "another": true, "": false, "verify": false, "verify-me2": false, tokenOf("2"): false,
	} {
		assert.Equal(t, want, verify(f.keys, token), "%q", token)
		assert.False(t, verify(other, token), "without the key")
	}
	// A token that can't be opened does not hide the others.
	foreign := f.opts
	foreign.Sealer = other
	f.settled(connect.New(foreign).Connect(t.Context(), connect.Request{
		Page: "1", Token: tokenOf("1"), VerifyToken: "foreign", Admin: admin,
	}))
	for _, token := range []string{"verify-me", "another"} {
		assert.True(t, verify(f.keys, token), token)
	}
	assert.False(t, verify(f.keys, "foreign"))
	assert.True(t, verify(other, "foreign"))
	f.settled(f.Disconnect(t.Context(), "2"))
	assert.False(t, verify(f.keys, "verify-me"), "of a page that is not connected")

	_, err = connect.NewTokens(broken{}, f.bucket, f.keys, nil).Verify(t.Context(), "x")
	require.ErrorIs(t, err, errBroken)
}
