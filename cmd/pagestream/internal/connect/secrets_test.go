package connect_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/seal"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams"
)

// sealed returns a secret with tokens that are sealed with the primary key of a ring.
func sealed(t *testing.T, keys *seal.KeyRing, page domain.PageID, after uint64) connect.Secret {
	t.Helper()
	token, err := keys.Seal([]byte(tokenOf(string(page))), connect.TokenAAD(page))
	require.NoError(t, err)
	verify, err := keys.Seal([]byte("verify-me"), connect.VerifyTokenAAD(page))
	require.NoError(t, err)
	return connect.Secret{Page: page, ConnectionID: "c", Token: token, VerifyToken: verify, After: after}
}

// copies returns the number of stored messages of the bucket.
func (f *streamFixture) copies() int {
	f.t.Helper()
	st, err := f.js.Stream(f.t.Context(), connect.BucketOf(streams.Name))
	require.NoError(f.t, err)
	return int(st.CachedInfo().State.Msgs)
}

// reopened returns the bucket as another process sees it, without a cache.
func (f *streamFixture) reopened() *connect.Bucket {
	f.t.Helper()
	b, err := connect.OpenBucket(f.t.Context(), f.js, streams.Name, 1)
	require.NoError(f.t, err)
	return b
}

func TestBucket(t *testing.T) {
	f := newStreamFixture(t)
	ctx := t.Context()
	empty, err := f.bucket.Empty(ctx)
	require.NoError(t, err)
	assert.True(t, empty)
	kv, err := f.js.KeyValue(ctx, "PAGESTREAM_SECRETS")
	require.NoError(t, err, "it is a key-value bucket")
	info, err := kv.Status(ctx)
	require.NoError(t, err)
	assert.Equal(t, int64(1), info.History())

	one := sealed(t, f.keys, "1", 0)
	ref, err := f.bucket.Put(ctx, one)
	require.NoError(t, err)
	one.Ref = ref
	_, err = f.bucket.Put(ctx, sealed(t, f.keys, "2", 0))
	require.NoError(t, err)
	next, err := f.bucket.Put(ctx, sealed(t, f.keys, "1", 5))
	require.NoError(t, err)
	assert.NotEqual(t, ref, next)
	for _, b := range []*connect.Bucket{f.bucket, f.reopened()} {
		got, err := b.Get(ctx, "1", ref)
		require.NoError(t, err)
		assert.Equal(t, one, got)
		for _, c := range []struct{ page, ref string }{{"2", ref}, {"1", "unknown"}, {"1", ""}} {
			_, err = b.Get(ctx, domain.PageID(c.page), c.ref)
			require.ErrorIs(t, err, connect.ErrSecretMissing, c)
		}
	}
	empty, err = f.bucket.Empty(ctx)
	require.NoError(t, err)
	assert.False(t, empty)

	// Another decision on the page may still be open: its secret is kept.
	later, err := f.bucket.Put(ctx, sealed(t, f.keys, "1", 6))
	require.NoError(t, err)
	require.NoError(t, f.bucket.Prune(ctx, "1", 6, next))
	assert.Equal(t, 3, f.copies())
	for _, b := range []*connect.Bucket{f.bucket, f.reopened()} {
		_, err = b.Get(ctx, "1", ref)
		require.ErrorIs(t, err, connect.ErrSecretMissing)
		for _, ref := range []string{next, later} {
			_, err = b.Get(ctx, "1", ref)
			require.NoError(t, err)
		}
	}
	require.NoError(t, f.bucket.Drop(ctx, "1", later))
	require.NoError(t, f.bucket.Drop(ctx, "1", later))

	// During a copy of the bucket replaced secrets are kept, but not those of a page that
	// is disconnected.
	release := f.bucket.Hold()
	require.NoError(t, f.bucket.Prune(ctx, "1", 7, "another"))
	assert.Equal(t, 2, f.copies())
	require.NoError(t, f.bucket.Prune(ctx, "1", 7, ""))
	assert.Equal(t, 1, f.copies())
	release()
	release()
	require.NoError(t, f.bucket.Prune(ctx, "2", 7, "another"))
	assert.Zero(t, f.copies())
}

func TestSecretIsNotPrinted(t *testing.T) {
	keys, err := seal.NewKeyRing()
	require.NoError(t, err)
	s := sealed(t, keys, "1", 0)
	b, err := json.Marshal(s)
	require.NoError(t, err)
	text := fmt.Sprintf("%v %+v %#v %s %q %x %s", s, s, s, s, s, s, b)
	assert.NotContains(t, text, "v1.")
	assert.Contains(t, text, "secret of page 1")
}

// TestReseal checks that all secrets are sealed with the new key, keep their references
// and need no event, also if a connector has them in its cache.
func TestReseal(t *testing.T) {
	f := newStreamFixture(t)
	ctx := t.Context()
	f.settled(f.Connect(ctx, connect.Request{Page: "1", Token: tokenOf("1"), VerifyToken: "verify-me"}))
	f.settled(f.Connect(ctx, connect.Request{Page: "2", Token: tokenOf("2")}))
	old := f.keys.Primary()
	reseal := func() (done []domain.PageID) {
		t.Helper()
		notPrimary := func(id string) bool { return id != f.keys.Primary() }
		require.NoError(t, f.bucket.Reseal(ctx, f.keys, notPrimary, func(page domain.PageID, err error) {
			require.NoError(t, err)
			done = append(done, page)
		}))
		return done
	}
	assert.Empty(t, reseal())
	head, err := f.models.Head(ctx)
	require.NoError(t, err)
	require.NoError(t, f.keys.Rotate())
	uses, err := f.bucket.Uses(ctx)
	require.NoError(t, err)
	assert.Equal(t, map[string]int{old: 2}, uses)
	assert.Equal(t, []domain.PageID{"1", "2"}, reseal())
	assert.Empty(t, reseal())
	uses, err = f.bucket.Uses(ctx)
	require.NoError(t, err)
	assert.Equal(t, map[string]int{f.keys.Primary(): 2}, uses)
	assert.Equal(t, 2, f.copies())
	last, err := f.models.Head(ctx)
	require.NoError(t, err)
	assert.Equal(t, head, last, "no event is needed")

	c, err := pages.Credentials(f.models.Pages, "1")
	require.NoError(t, err)
	for _, b := range []*connect.Bucket{f.bucket, f.reopened()} {
		s, err := b.Get(ctx, "1", c.Secret)
		require.NoError(t, err)
		for text, want := range map[string]string{s.Token: tokenOf("1"), s.VerifyToken: "verify-me"} {
			assert.False(t, f.keys.NeedsReseal(text))
			aad := connect.TokenAAD("1")
			if want == "verify-me" {
				aad = connect.VerifyTokenAAD("1")
			}
			plain, err := f.keys.Open(text, aad)
			require.NoError(t, err)
			assert.Equal(t, want, string(plain))
		}
	}

	// A secret that can't be opened is not changed.
	other, err := seal.NewKeyRing()
	require.NoError(t, err)
	var failed error
	require.NoError(t, f.bucket.Reseal(ctx, other, func(string) bool { return true }, func(_ domain.PageID, err error) {
		failed = errors.Join(failed, err)
	}))
	require.ErrorIs(t, failed, connect.ErrToken)
	require.ErrorIs(t, failed, seal.ErrUnknownKey)
	uses, err = f.bucket.Uses(ctx)
	require.NoError(t, err)
	assert.Equal(t, map[string]int{f.keys.Primary(): 2}, uses)
}

// TestRetiredKeyIsRefused checks that a process which still has a retired key can't
// store what it seals with it.
func TestRetiredKeyIsRefused(t *testing.T) {
	f := newStreamFixture(t)
	require.NoError(t, f.bucket.Retire(t.Context(), f.keys.Primary()))
	_, err := f.Connect(t.Context(), connect.Request{Page: "1", Token: tokenOf("1")})
	require.ErrorIs(t, err, connect.ErrKeyRetired)
	head, err := f.models.Head(t.Context())
	require.NoError(t, err)
	assert.Zero(t, head, "no event refers to it")
	uses, err := f.bucket.Uses(t.Context())
	require.NoError(t, err)
	assert.Empty(t, uses)
	require.NoError(t, f.keys.Rotate())
	_, err = f.Connect(t.Context(), connect.Request{Page: "1", Token: tokenOf("1")})
	require.NoError(t, err)
}

// cutOff is a publisher that fails or stops before or after an event is stored.
type cutOff struct {
	streams.Decider
	before, after func()
}

func (c cutOff) Append(ctx context.Context, e domain.Event, expected uint64) (streams.Receipt, error) {
	if c.before != nil && e.Type.Noun() == "page" {
		c.before()
	}
	r, err := c.Decider.Append(ctx, e, expected)
	if c.after != nil && e.Type.Noun() == "page" {
		c.after()
	}
	return r, err
}

// TestCrashKeepsTheCurrentSecret crashes after the new secret is stored, and after the
// event is stored, of a first connection, another connection and a new token. Each time
// the page's last event refers to a stored secret; what is left over is erased by a
// sweep when it is old enough, and not before.
func TestCrashKeepsTheCurrentSecret(t *testing.T) {
	type crash struct{}
	for _, point := range []string{"before", "after"} {
		t.Run(point, func(t *testing.T) {
			f := newStreamFixture(t)
			ctx := t.Context()
			opts, stop := f.opts, cutOff{Decider: f.opts.Publisher}
			if point == "before" {
				stop.before = func() { panic(crash{}) }
			} else {
				stop.after = func() { panic(crash{}) }
			}
			opts.Publisher = stop
			crashing := connect.New(opts)
			crashed := func(operation func() error) {
				t.Helper()
				assert.PanicsWithValue(t, crash{}, func() { _ = operation() })
			}
			access := func() error {
				head, err := f.models.Head(ctx)
				require.NoError(t, err)
				f.models.Settle(ctx, head)
				_, err = connect.NewTokens(f.models.Pages, f.reopened(), f.keys, f.appID).Access(ctx, "1")
				return err
			}
			again := func() error {
				_, err := crashing.Connect(ctx, connect.Request{Page: "1", Token: tokenOf("1")})
				return err
			}
			crashed(again)
			assert.Equal(t, 1, f.copies())
			if point == "after" {
				require.NoError(t, access())
			}
			f.settled(f.Connect(ctx, connect.Request{Page: "1", Token: tokenOf("1")}))
			require.NoError(t, access())
			crashed(again)
			require.NoError(t, access())
			crashed(func() error {
				_, err := crashing.Refresh(ctx, "1", tokenOf("1"), admin)
				return err
			})
			require.NoError(t, access())
			left := f.copies()
			assert.Greater(t, left, 1)
			require.NoError(t, connect.Sweep(ctx, f.bucket, time.Now()))
			assert.Equal(t, left, f.copies(), "an event may still come")
			require.NoError(t, connect.Sweep(ctx, f.bucket, time.Now().Add(2*time.Hour)))
			assert.Equal(t, 1, f.copies())
			require.NoError(t, access())

			if point == "after" {
				crashed(func() error {
					_, err := crashing.Disconnect(ctx, "1")
					return err
				})
				require.ErrorContains(t, access(), "not connected")
				require.NoError(t, connect.Sweep(ctx, f.bucket, time.Now().Add(2*time.Hour)))
				assert.Zero(t, f.copies())
			}
		})
	}
}

func (f *streamFixture) appID(string) (string, bool) { return ownApp, true }

// TestConflictKeepsTheOtherSecret checks that the decision that loses erases its own
// secret and no other.
func TestConflictKeepsTheOtherSecret(t *testing.T) {
	f := newStreamFixture(t)
	ctx := t.Context()
	f.settled(f.Connect(ctx, connect.Request{Page: "1", Token: tokenOf("1"), VerifyToken: "verify-me"}))
	opts := f.opts
	once := true
	opts.Publisher = cutOff{Decider: f.opts.Publisher, before: func() {
		if once {
			once = false
			f.settled(f.Refresh(ctx, "1", tokenOf("1"), admin))
		}
	}}
	_, err := connect.New(opts).Refresh(ctx, "1", tokenOf("1"), admin)
	require.ErrorIs(t, err, connect.ErrChanged)
	assert.Equal(t, 1, f.copies())
	_, err = connect.NewTokens(f.models.Pages, f.reopened(), f.keys, f.appID).Access(ctx, "1")
	require.NoError(t, err)
	found, err := f.tokens(f.keys).Verify(ctx, "verify-me")
	require.NoError(t, err)
	assert.True(t, found, "a new token keeps the page's verify token")
}

// TestMissingSecret checks what is possible with a page whose secret was lost: an error
// says so, a new token replaces it, and the page can be disconnected.
func TestMissingSecret(t *testing.T) {
	f := newStreamFixture(t)
	ctx := t.Context()
	for _, id := range []domain.PageID{"1", "2"} {
		f.settled(f.Connect(ctx, connect.Request{Page: id, Token: tokenOf(string(id)), VerifyToken: "verify-me"}))
	}
	require.NoError(t, f.bucket.Prune(ctx, "1", 1000, ""))
	_, err := f.tokens(f.keys).Access(ctx, "1")
	require.ErrorIs(t, err, connect.ErrToken)
	require.ErrorIs(t, err, connect.ErrSecretMissing)
	require.ErrorContains(t, err, "connect the page again")
	_, err = f.Check(ctx, "1")
	require.ErrorIs(t, err, connect.ErrSecretMissing)
	report, err := f.Probe(ctx, "1")
	require.ErrorIs(t, err, connect.ErrToken)
	assert.Zero(t, report.Seq)
	found, err := f.tokens(f.keys).Verify(ctx, "verify-me")
	require.NoError(t, err)
	assert.True(t, found, "the other page has it")

	f.settled(f.Refresh(ctx, "1", tokenOf("1"), admin))
	access, err := f.tokens(f.keys).Access(ctx, "1")
	require.NoError(t, err)
	assert.Equal(t, tokenOf("1"), access.Token)
	require.NoError(t, f.bucket.Prune(ctx, "1", 1000, ""))
	f.settled(f.Disconnect(ctx, "1"))
	assert.Equal(t, pages.Disconnected, f.page("1").State)

	// If the store does not answer, that is not a missing secret.
	require.NoError(t, f.js.DeleteStream(ctx, connect.BucketOf(streams.Name)))
	away, err := jetstream.New(f.js.Conn())
	require.NoError(t, err)
	b, err := connect.OpenBucket(ctx, away, streams.Name, 1)
	require.NoError(t, err)
	require.NoError(t, f.js.DeleteStream(ctx, connect.BucketOf(streams.Name)))
	_, err = b.Get(ctx, "2", "ref")
	require.Error(t, err)
	assert.NotErrorIs(t, err, connect.ErrSecretMissing)
}

// TestImportedSecret checks that tokens of an earlier version get the same reference
// each time, and are stored once.
func TestImportedSecret(t *testing.T) {
	f := newStreamFixture(t)
	s := sealed(t, f.keys, "1", 0)
	ref, err := f.bucket.Import(t.Context(), s)
	require.NoError(t, err)
	for _, b := range []*connect.Bucket{f.bucket, f.reopened()} {
		again, err := b.Import(t.Context(), s)
		require.NoError(t, err)
		assert.Equal(t, ref, again)
	}
	assert.Equal(t, 1, f.copies())
	got, err := f.bucket.Get(t.Context(), "1", ref)
	require.NoError(t, err)
	assert.Equal(t, s.Token, got.Token)
}
