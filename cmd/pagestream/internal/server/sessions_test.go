package server_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/tokens"
	"github.com/pagestream/pagestream/domain/seal"
)

// hasSession reports whether the console takes a cookie for a session, and an administrator's one.
func (r *running) hasSession(t *testing.T, cookie string) bool {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.base()+"/tokens", nil)
	require.NoError(t, err)
	req.AddCookie(&http.Cookie{Name: "pagestream_session", Value: cookie})
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Contains(t, []int{http.StatusOK, http.StatusSeeOther}, resp.StatusCode)
	return resp.StatusCode == http.StatusOK
}

// forgeSession makes a session's cookie as the console does.
func forgeSession(t *testing.T, key []byte, name string, proof [sha256.Size]byte) string {
	t.Helper()
	block, err := aes.NewCipher(key)
	require.NoError(t, err)
	aead, err := cipher.NewGCMWithRandomNonce(block)
	require.NoError(t, err)
	body := binary.BigEndian.AppendUint64(nil, uint64(time.Now().Add(time.Hour).Unix()))
	body = append(append(body, proof[:]...), name...)
	return base64.RawURLEncoding.EncodeToString(aead.Seal(nil, nil, body, nil))
}

// forgeOldSession makes a session's cookie as earlier versions did, for which the hash of a token was enough.
func forgeOldSession(key []byte, name string, hash [sha256.Size]byte) string {
	mac := func(key []byte, parts ...[]byte) []byte {
		m := hmac.New(sha256.New, key)
		m.Write(bytes.Join(parts, nil))
		return m.Sum(nil)
	}
	zero := []byte{0}
	of := mac(key, []byte("console session"), zero, []byte(name), zero, hash[:], zero)
	body := binary.BigEndian.AppendUint64(make([]byte, 16), uint64(time.Now().Add(time.Hour).Unix()))
	body = append(body, name...)
	return base64.RawURLEncoding.EncodeToString(append(body, mac(of, body)...))
}

// TestNoSessionIsMadeFromFiles attacks the console with the key file, the records of all tokens and the data
// directory: they are not enough for a session. The same cookies with a token's text are sessions, so the
// attack does what it should. Without the key file, the text is not enough either.
func TestNoSessionIsMadeFromFiles(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	r := start(t, cfg)
	code, out, stderr := r.command(t, "tokens", "add", "ops", "--scope", "admin")
	require.Zero(t, code, stderr)
	text := strings.TrimSpace(out)
	admin, err := os.ReadFile(cfg.HTTP.TokenFile)
	require.NoError(t, err)
	texts := map[string]string{"ops": text, tokens.AdminName: strings.TrimSpace(string(admin))}
	jar := r.signIn(t, cfg.HTTP.TokenFile).Jar
	require.NotEmpty(t, jar)

	keys, _, err := seal.LoadOrCreate(cfg.Keys.File, false)
	require.NoError(t, err)
	key, err := keys.Derive("console/session")
	require.NoError(t, err)
	kv, err := r.JS().KeyValue(t.Context(), strings.TrimPrefix(tokens.Stream, "KV_"))
	require.NoError(t, err)
	entry, err := kv.Get(t.Context(), "ops")
	require.NoError(t, err)
	var record map[string]string
	require.NoError(t, json.Unmarshal(entry.Value(), &record))
	candidates := [][sha256.Size]byte{{}}
	for _, field := range []string{"sha256", "proof_sha256"} {
		b, err := hex.DecodeString(record[field])
		require.NoError(t, err)
		require.Len(t, b, sha256.Size, field)
		candidates = append(candidates, [sha256.Size]byte(b), sha256.Sum256(b), sha256.Sum256([]byte(record[field])))
	}
	for _, name := range []string{"ops", tokens.AdminName, tokens.ReaderName, ""} {
		for i, c := range candidates {
			assert.False(t, r.hasSession(t, forgeSession(t, key, name, c)), "%s, candidate %d", name, i)
			assert.False(t, r.hasSession(t, forgeOldSession(key, name, c)), "%s, candidate %d, old", name, i)
		}
	}
	other, err := seal.NewKeyRing()
	require.NoError(t, err)
	otherKey, err := other.Derive("console/session")
	require.NoError(t, err)
	for name, text := range texts {
		proof := tokens.ProofOf(text)
		assert.True(t, r.hasSession(t, forgeSession(t, key, name, proof)), "%s: the attack proves nothing", name)
		assert.False(t, r.hasSession(t, forgeSession(t, otherKey, name, proof)), "%s, without the key file", name)
	}

	dir := filepath.Join(t.TempDir(), "backup")
	code, _, stderr = r.command(t, "backup", dir)
	require.Zero(t, code, stderr)
	r.stop(t)
	for name, text := range texts {
		proof := tokens.ProofOf(text)
		forms := []string{
			string(proof[:]), hex.EncodeToString(proof[:]), base64.RawStdEncoding.EncodeToString(proof[:]),
			base64.RawURLEncoding.EncodeToString(proof[:]),
		}
		assert.Empty(t, filesWith(t, cfg.Data.Dir, forms...), "the proof of %s", name)
		assert.Empty(t, filesWith(t, dir, forms...), "the proof of %s", name)
	}
	// A sign-out ends a session in the process that it is made in. Browsers delete the cookie then; one that was copied
	// before is a session again after a restart, until its token is revoked or it expires.
	r = start(t, cfg)
	client := r.signIn(t, cfg.HTTP.TokenFile)
	base, err := url.Parse(r.base())
	require.NoError(t, err)
	require.Len(t, client.Jar.Cookies(base), 1)
	copied := client.Jar.Cookies(base)[0].Value
	require.True(t, r.hasSession(t, copied))
	code, _ = (&devRun{t: t}).fetch(client, r.base()+"/sign-out", url.Values{})
	require.Equal(t, http.StatusOK, code)
	assert.False(t, r.hasSession(t, copied))
	assert.Empty(t, client.Jar.Cookies(base))
	r.stop(t)
	r = start(t, cfg)
	assert.True(t, r.hasSession(t, copied), "guarantees.md names this limit")
}
