package tokens_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/tokens"
	"github.com/pagestream/pagestream/streams/streamstest"
)

const (
	admin  = "the-admin-token-of-this-test-is-long"
	reader = "the-other-token-of-this-test-is-long"
)

// open returns the tokens of one node.
func open(t *testing.T, s *streamstest.Server, now func() time.Time) *tokens.Tokens {
	t.Helper()
	k, err := tokens.New(tokens.Options{JS: s.JS, Admin: admin, Reader: reader, Now: now})
	require.NoError(t, err)
	require.NoError(t, k.Open(t.Context()))
	t.Cleanup(k.Close)
	return k
}

// eventually waits until a token has an error, or none.
func eventually(t *testing.T, k *tokens.Tokens, text string, want error) {
	t.Helper()
	streamstest.Eventually(t, streamstest.Limit, func() error {
		_, err := k.Find(text)
		if !errors.Is(err, want) {
			return fmt.Errorf("the error is %w, not %w", err, want)
		}
		return nil
	})
}

func TestTokensOfFiles(t *testing.T) {
	k, err := tokens.New(tokens.Options{Admin: admin, Reader: reader})
	require.NoError(t, err)
	for text, want := range map[string]tokens.Scope{admin: tokens.Admin, reader: tokens.Reader} {
		h, err := k.Find(text)
		require.NoError(t, err)
		assert.Equal(t, want, h.Scope)
		assert.Equal(t, "file:"+string(want), h.Name)
		named, err := k.Named(h.Name)
		require.NoError(t, err)
		assert.Equal(t, h, named)
	}
	for _, text := range []string{"", "pst_x", admin + " ", admin[1:], strings.ToUpper(admin)} {
		_, err := k.Find(text)
		require.ErrorIs(t, err, tokens.ErrInvalid, text)
	}
	_, err = k.Named("")
	require.ErrorIs(t, err, tokens.ErrInvalid)
	_, err = tokens.New(tokens.Options{Admin: "short"})
	require.Error(t, err)
	_, err = tokens.New(tokens.Options{Admin: admin, Reader: "short"})
	require.Error(t, err)
}

// TestRevokedOnEveryNode checks that a token is valid on two nodes, also after a restart of
// the server, until it is revoked on one of them, and that what it has open then ends.
func TestRevokedOnEveryNode(t *testing.T) {
	s := streamstest.Run(t)
	a, b := open(t, s, nil), open(t, s, nil)
	added, err := a.Add(t.Context(), tokens.Token{Name: "crm", Scope: tokens.Company, Company: "Acme / Söhne", Send: true})
	require.NoError(t, err)
	assert.Regexp(t, `^pst_[A-Za-z0-9_-]{43}$`, added.Text)
	h, err := a.Find(added.Text)
	require.NoError(t, err, "at once where it was made")
	assert.Equal(t, "Acme / Söhne", h.Company)
	assert.True(t, h.Send)
	eventually(t, b, added.Text, nil)
	other, err := b.Find(added.Text)
	require.NoError(t, err)
	_, err = b.Add(t.Context(), tokens.Token{Name: "crm", Scope: tokens.Reader})
	require.ErrorIs(t, err, tokens.ErrExists)

	here, cancelHere := h.Until(t.Context())
	defer cancelHere()
	there, cancelThere := other.Until(t.Context())
	defer cancelThere()
	require.NoError(t, a.Revoke(t.Context(), "crm"))
	_, err = a.Find(added.Text)
	require.ErrorIs(t, err, tokens.ErrInvalid)
	_, err = a.Named("crm")
	require.ErrorIs(t, err, tokens.ErrInvalid)
	revoked := time.Now()
	eventually(t, b, added.Text, tokens.ErrInvalid)
	t.Logf("the other node refuses it after %s", time.Since(revoked))
	for _, ctx := range []context.Context{here, there} {
		<-ctx.Done()
		require.ErrorIs(t, context.Cause(ctx), tokens.ErrInvalid)
	}
	require.ErrorIs(t, a.Revoke(t.Context(), "crm"), tokens.ErrUnknown)
	require.ErrorIs(t, a.Revoke(t.Context(), "no/such name"), tokens.ErrUnknown)

	// Another token of the name has another proof, so that no session of the first one is valid.
	again, err := b.Add(t.Context(), tokens.Token{Name: "crm", Scope: tokens.Reader})
	require.NoError(t, err)
	next, err := b.Find(again.Text)
	require.NoError(t, err)
	for _, holder := range []tokens.Holder{h, other} {
		assert.True(t, holder.Proves(tokens.ProofOf(added.Text)))
		assert.False(t, holder.Proves(tokens.ProofOf(again.Text)))
	}
	assert.True(t, next.Proves(tokens.ProofOf(again.Text)))
	assert.False(t, next.Proves(tokens.ProofOf(added.Text)))
	_, err = b.Find(added.Text)
	require.ErrorIs(t, err, tokens.ErrInvalid, "the first one")
	eventually(t, a, again.Text, nil)

	s.Halt(t)
	eventually(t, a, again.Text, tokens.ErrUnavailable) // perhaps it was revoked meanwhile
	_, err = a.Find(admin)
	require.NoError(t, err)
	s.Start(t)
	eventually(t, a, again.Text, nil)
	require.NoError(t, b.Revoke(t.Context(), "crm"))
	eventually(t, a, again.Text, tokens.ErrInvalid)
	eventually(t, open(t, s, nil), again.Text, tokens.ErrInvalid)
}

func TestTokenExpires(t *testing.T) {
	s := streamstest.Run(t)
	k := open(t, s, nil)
	added, err := k.Add(t.Context(), tokens.Token{Name: "crm", Scope: tokens.Reader, Expires: time.Now().Add(time.Second)})
	require.NoError(t, err)
	h, err := k.Find(added.Text)
	require.NoError(t, err)
	ctx, cancel := h.Until(t.Context())
	defer cancel()
	<-ctx.Done()
	require.ErrorIs(t, context.Cause(ctx), tokens.ErrInvalid)
	_, err = k.Find(added.Text)
	require.ErrorIs(t, err, tokens.ErrInvalid)
	require.Len(t, k.List(), 1)
	assert.True(t, k.List()[0].Expired(time.Now()))
}

// TestLastUseIsCoarse checks that the last use is written at most once a minute, and never
// brings a revoked token back.
func TestLastUseIsCoarse(t *testing.T) {
	s := streamstest.Run(t)
	var mu sync.Mutex
	now := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
	set := func(d time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(d)
	}
	k := open(t, s, func() time.Time { mu.Lock(); defer mu.Unlock(); return now })
	added, err := k.Add(t.Context(), tokens.Token{Name: "crm", Scope: tokens.Reader})
	require.NoError(t, err)
	messages := func() uint64 {
		st, err := s.JS.Stream(t.Context(), tokens.Stream)
		require.NoError(t, err)
		return st.CachedInfo().State.LastSeq
	}
	for range 3 {
		was := messages()
		for range 100 {
			_, err := k.Find(added.Text)
			require.NoError(t, err)
			set(100 * time.Millisecond)
		}
		streamstest.Eventually(t, streamstest.Limit, func() error {
			if messages() == was {
				return fmt.Errorf("the last use was not written")
			}
			return nil
		})
		assert.Equal(t, was+1, messages())
		set(time.Minute)
	}
	assert.Zero(t, k.List()[0].LastUsed.Second())
	streamstest.Eventually(t, streamstest.Limit, func() error { // a restart keeps it
		if list := open(t, s, nil).List(); !list[0].LastUsed.Equal(k.List()[0].LastUsed) {
			return fmt.Errorf("it is %s", list[0].LastUsed)
		}
		return nil
	})
	for i := range 20 {
		name := fmt.Sprint("t", i)
		added, err := k.Add(t.Context(), tokens.Token{Name: name, Scope: tokens.Reader})
		require.NoError(t, err)
		_, err = k.Find(added.Text)
		require.NoError(t, err)
		require.NoError(t, k.Revoke(t.Context(), name))
		_, err = k.Find(added.Text)
		require.ErrorIs(t, err, tokens.ErrInvalid)
	}
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if n := len(open(t, s, nil).List()); n != 1 {
			return fmt.Errorf("%d tokens", n)
		}
		return nil
	})
}

func TestInvalidRequests(t *testing.T) {
	s := streamstest.Run(t)
	k := open(t, s, nil)
	for name, c := range map[string]struct {
		token tokens.Token
		want  error
	}{
		"no name":             {tokens.Token{Scope: tokens.Admin}, tokens.ErrName},
		"a name of files":     {tokens.Token{Name: "file:admin", Scope: tokens.Admin}, tokens.ErrName},
		"a long name":         {tokens.Token{Name: strings.Repeat("a", 41), Scope: tokens.Admin}, tokens.ErrName},
		"a pattern":           {tokens.Token{Name: ">", Scope: tokens.Admin}, tokens.ErrName},
		"no scope":            {tokens.Token{Name: "a"}, tokens.ErrRequest},
		"another scope":       {tokens.Token{Name: "a", Scope: "Admin"}, tokens.ErrRequest},
		"no company":          {tokens.Token{Name: "a", Scope: tokens.Company}, tokens.ErrRequest},
		"a company too many":  {tokens.Token{Name: "a", Scope: tokens.Reader, Company: "acme"}, tokens.ErrRequest},
		"a reader that sends": {tokens.Token{Name: "a", Scope: tokens.Reader, Send: true}, tokens.ErrRequest},
		"expired":             {tokens.Token{Name: "a", Scope: tokens.Reader, Expires: time.Now()}, tokens.ErrRequest},
	} {
		_, err := k.Add(t.Context(), c.token)
		require.ErrorIs(t, err, c.want, name)
	}
	assert.Empty(t, k.List())
}

// TestOnlyTheHashIsStored checks that the text of a token is in no file.
func TestOnlyTheHashIsStored(t *testing.T) {
	s := streamstest.Run(t)
	k := open(t, s, nil)
	added, err := k.Add(t.Context(), tokens.Token{Name: "name-of-it", Scope: tokens.Reader})
	require.NoError(t, err)
	_, err = k.Find(added.Text)
	require.NoError(t, err)
	s.Halt(t)
	assert.NotEmpty(t, streamstest.FilesWith(t, streamstest.Has("name-of-it"), s.Dir))
	assert.Empty(t, streamstest.FilesWith(t, streamstest.Has(strings.TrimPrefix(added.Text, tokens.Prefix)), s.Dir))
	s.Start(t)
}

// TestProofOfAnEarlierRecord checks that nothing proves a token whose record an earlier version wrote, until
// the token's text is used, and that the proof is stored then.
func TestProofOfAnEarlierRecord(t *testing.T) {
	s := streamstest.Run(t)
	k := open(t, s, nil)
	added, err := k.Add(t.Context(), tokens.Token{Name: "old", Scope: tokens.Admin})
	require.NoError(t, err)
	kv, err := s.JS.KeyValue(t.Context(), strings.TrimPrefix(tokens.Stream, "KV_"))
	require.NoError(t, err)
	read := func() map[string]any {
		entry, err := kv.Get(t.Context(), "old")
		require.NoError(t, err)
		var record map[string]any
		require.NoError(t, json.Unmarshal(entry.Value(), &record))
		return record
	}
	record := read()
	require.Contains(t, record, "proof_sha256")
	delete(record, "proof_sha256")
	record["last_used"] = time.Now().UTC().Truncate(time.Minute)
	earlier, err := json.Marshal(record)
	require.NoError(t, err)
	_, err = kv.Put(t.Context(), "old", earlier)
	require.NoError(t, err)
	k.Close()

	k = open(t, s, nil)
	proof := tokens.ProofOf(added.Text)
	h, err := k.Named("old")
	require.NoError(t, err)
	assert.False(t, h.Proves(proof), "nothing was stored to check it with")
	assert.False(t, h.Proves(tokens.Proof{}))
	h, err = k.Find(added.Text)
	require.NoError(t, err)
	assert.True(t, h.Proves(proof))
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if _, ok := read()["proof_sha256"]; !ok {
			return errors.New("the record has no proof")
		}
		return nil
	})
	k.Close()
	h, err = open(t, s, nil).Named("old")
	require.NoError(t, err)
	assert.True(t, h.Proves(proof), "also after a restart")
}
