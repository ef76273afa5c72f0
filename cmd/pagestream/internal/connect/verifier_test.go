package connect_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/seal"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// verifying has pages with verify tokens in a read model, and their secrets in memory.
type verifying struct {
	connect.Secrets
	t       testing.TB
	pages   *store.Store
	keys    *seal.KeyRing
	secrets map[string]connect.Secret
	reads   int
	err     error
	seq     uint64
}

func newVerifying(t testing.TB) *verifying {
	t.Helper()
	st, err := store.Open(filepath.Join(t.TempDir(), "pages.db"), store.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	keys, err := seal.NewKeyRing()
	require.NoError(t, err)
	return &verifying{t: t, pages: st, keys: keys, secrets: map[string]connect.Secret{}}
}

func (v *verifying) Get(_ context.Context, page domain.PageID, ref string) (connect.Secret, error) {
	v.reads++
	if v.err != nil {
		return connect.Secret{}, v.err
	}
	s, ok := v.secrets[ref]
	if !ok || s.Page != page {
		return connect.Secret{}, connect.ErrSecretMissing
	}
	return s, nil
}

// connect connects the pages from 1 to n with verify tokens of their own.
func (v *verifying) connect(n int) {
	v.t.Helper()
	require.NoError(v.t, v.pages.Update(func(tx *store.Tx) error {
		for i := range n {
			page := domain.PageID(strconv.Itoa(i + 1))
			if err := v.apply(tx, page, "verify-"+string(page)); err != nil {
				return err
			}
		}
		return nil
	}))
}

// set connects a page with a verify token, or disconnects it if that is empty.
func (v *verifying) set(page domain.PageID, token string) {
	v.t.Helper()
	require.NoError(v.t, v.pages.Update(func(tx *store.Tx) error { return v.apply(tx, page, token) }))
}

func (v *verifying) apply(tx *store.Tx, page domain.PageID, token string) error {
	v.seq++
	e := domain.Event{ID: strconv.FormatUint(v.seq, 10), Type: domain.PageDisconnected, Page: page, Time: time.Now()}
	e.Data.Connection = &domain.Connection{}
	if token != "" {
		sealed, err := v.keys.Seal([]byte(token), connect.VerifyTokenAAD(page))
		if err != nil {
			return err
		}
		ref := "r" + e.ID
		v.secrets[ref] = connect.Secret{Page: page, Ref: ref, VerifyToken: sealed}
		e.Type, e.Data.Connection = domain.PageConnected, &domain.Connection{ConnectionID: ref, App: "main", Secret: ref}
	}
	return pages.New().Apply(tx, streams.Stored{Event: e, Seq: v.seq, At: e.Time})
}

func (v *verifying) tokens() connect.Tokens { return connect.NewTokens(v.pages, v, v.keys, nil) }

func TestVerifyFollowsTheConnections(t *testing.T) {
	v := newVerifying(t)
	synctest.Test(t, func(t *testing.T) {
		tokens := v.tokens()
		verify := func(token string) bool {
			t.Helper()
			time.Sleep(time.Second) // more than a refresh waits
			ok, err := tokens.Verify(t.Context(), token)
			require.NoError(t, err)
			return ok
		}
		require.False(t, verify("verify-1"))
		v.connect(3)
		require.True(t, verify("verify-1"))
		require.Equal(t, 3, v.reads)
		for range 100 {
			require.False(t, verify("wrong"))
			v.set("2", "again") // another page's secret is not read again for it
			require.True(t, verify("again"))
		}
		require.Equal(t, 103, v.reads)
		require.False(t, verify("verify-2"), "the token before")

		// A secret that is missing is found when it is there.
		v.set("4", "verify-4")
		var s connect.Secret
		for ref, found := range v.secrets {
			if found.Page == "4" {
				s = found
				delete(v.secrets, ref)
			}
		}
		require.False(t, verify("verify-4"))
		v.secrets[s.Ref] = s
		time.Sleep(time.Minute)
		require.True(t, verify("verify-4"))

		v.set("4", "")
		ok, err := tokens.Verify(t.Context(), "verify-4")
		require.NoError(t, err)
		require.False(t, ok, "of a page that was disconnected just now")

		// Secrets that can't be read hide no others.
		v.err = errors.New("the bucket is away")
		v.set("5", "verify-5")
		time.Sleep(time.Second)
		_, err = tokens.Verify(t.Context(), "verify-5")
		require.ErrorIs(t, err, v.err)
		require.True(t, verify("verify-3"))
		v.err = nil
		require.True(t, verify("verify-5"))
	})
}

// TestAWrongVerifyTokenCostsTheSame checks that a wrong token reads nothing, however many
// pages there are.
func TestAWrongVerifyTokenCostsTheSame(t *testing.T) {
	v := newVerifying(t)
	v.connect(1000)
	tokens := v.tokens()
	ok, err := tokens.Verify(t.Context(), "verify-1000")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, 1000, v.reads)
	for range 1000 {
		ok, err := tokens.Verify(t.Context(), "wrong")
		require.NoError(t, err)
		require.False(t, ok)
	}
	require.Equal(t, 1000, v.reads, "a wrong token is compared with hashes in memory")
}

func BenchmarkVerifyWrongToken(b *testing.B) {
	for _, n := range []int{0, 1000} {
		b.Run(fmt.Sprintf("pages=%d", n), func(b *testing.B) {
			v := newVerifying(b)
			v.connect(n)
			tokens := v.tokens()
			_, err := tokens.Verify(b.Context(), "verify-1")
			require.NoError(b, err)
			for b.Loop() {
				if ok, err := tokens.Verify(b.Context(), "wrong"); ok || err != nil {
					b.Fatal(ok, err)
				}
			}
		})
	}
}
