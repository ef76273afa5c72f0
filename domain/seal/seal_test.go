package seal_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pagestream/pagestream/domain/seal"
)

func newRing(t testing.TB) *seal.KeyRing {
	t.Helper()
	k, err := seal.NewKeyRing()
	require.NoError(t, err)
	return k
}

func TestRoundTrip(t *testing.T) {
	k, other := newRing(t), newRing(t)
	rapid.Check(t, func(r *rapid.T) {
		plain := rapid.SliceOf(rapid.Byte()).Draw(r, "plain")
		aad := rapid.SliceOf(rapid.Byte()).Draw(r, "aad")
		sealed, err := k.Seal(plain, aad)
		require.NoError(r, err)
		got, err := k.Open(sealed, aad)
		require.NoError(r, err)
		require.Equal(r, string(plain), string(got))
		again, _ := k.Seal(plain, aad)
		require.NotEqual(r, sealed, again, "sealing twice returned the same text")
		parts := strings.Split(sealed, ".")
		require.Len(r, parts, 3, "format: %s", sealed)
		require.Equal(r, "v1", parts[0], "format: %s", sealed)
		require.Equal(r, k.Primary(), parts[1], "format: %s", sealed)
		if len(plain) > 8 {
			require.NotContains(r, sealed, base64.RawURLEncoding.EncodeToString(plain), "plain text in sealed text")
		}
		wrong := rapid.SliceOf(rapid.Byte()).Filter(func(b []byte) bool { return !bytes.Equal(b, aad) }).Draw(r, "wrong")
		got, err = k.Open(sealed, wrong)
		require.ErrorIs(r, err, seal.ErrNotAuthentic, "with other aad")
		require.Nil(r, got, "with other aad")
		got, err = other.Open(sealed, aad)
		require.ErrorIs(r, err, seal.ErrUnknownKey, "with another ring")
		require.Nil(r, got, "with another ring")
	})
}

// TestOtherKeyWithTheSameID checks that a ring with the right key id but another
// key fails as for a changed text.
func TestOtherKeyWithTheSameID(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "k.json")
	k := newRing(t)
	require.NoError(t, k.Save(path))
	sealed, err := k.Seal([]byte("x"), nil)
	require.NoError(t, err)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	var file map[string]any
	require.NoError(t, json.Unmarshal(b, &file))
	file["keys"].([]any)[0].(map[string]any)["key"] = base64.StdEncoding.EncodeToString(make([]byte, 32))
	b, _ = json.Marshal(file)
	require.NoError(t, os.WriteFile(path, b, 0o600))
	wrong, err := seal.Load(path)
	require.NoError(t, err)
	_, err = wrong.Open(sealed, nil)
	require.ErrorIs(t, err, seal.ErrNotAuthentic)
}

func TestChangedTextsAreRejected(t *testing.T) {
	k := newRing(t)
	// a changed id may name another key
	require.NoError(t, k.Rotate())
	rapid.Check(t, func(r *rapid.T) {
		plain := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(r, "plain")
		sealed, err := k.Seal(plain, []byte("page:1"))
		require.NoError(r, err)
		other := rapid.Byte().Draw(r, "other")
		for i := range len(sealed) {
			changed := []byte(sealed)
			if changed[i] == other {
				continue
			}
			changed[i] = other
			requireRejected(r, k, string(changed))
			requireRejected(r, k, sealed[:i])
			requireRejected(r, k, sealed[:i]+string(rune(other))+sealed[i:])
		}
		requireRejected(r, k, sealed+string(rune(other)))
		requireRejected(r, k, sealed+"\n")
	})
}

// requireRejected fails the test unless Open rejects the text.
func requireRejected(t rapid.TB, k *seal.KeyRing, sealed string) {
	got, err := k.Open(sealed, []byte("page:1"))
	require.Nil(t, got, "%q opened", sealed)
	if !errors.Is(err, seal.ErrMalformed) && !errors.Is(err, seal.ErrUnknownKey) {
		require.ErrorIs(t, err, seal.ErrNotAuthentic, "%q opened", sealed)
	}
}

func TestSizes(t *testing.T) {
	k := newRing(t)
	_, err := k.Seal(make([]byte, seal.MaxPlaintext+1), nil)
	require.ErrorIs(t, err, seal.ErrTooLarge)
	sealed, err := k.Seal(make([]byte, seal.MaxPlaintext), nil)
	require.NoError(t, err)
	got, err := k.Open(sealed, nil)
	require.NoError(t, err)
	require.Len(t, got, seal.MaxPlaintext)
	_, err = k.Open(sealed+"AAAA", nil)
	require.ErrorIs(t, err, seal.ErrMalformed, "over the limit")
}

func TestRotation(t *testing.T) {
	k := newRing(t)
	first := k.Primary()
	old, err := k.Seal([]byte("x"), nil)
	require.NoError(t, err)
	require.False(t, k.NeedsReseal(old), "NeedsReseal is true for a text of the primary key")
	require.NoError(t, k.Rotate())
	require.NotEqual(t, first, k.Primary())
	require.Equal(t, []string{first, k.Primary()}, k.KeyIDs())
	require.True(t, k.NeedsReseal(old), "NeedsReseal is false for a text of the old key")
	plain, err := k.Open(old, nil)
	require.NoError(t, err)
	require.Equal(t, "x", string(plain), "old text")
	again, err := k.Seal(plain, nil)
	require.NoError(t, err)
	require.False(t, k.NeedsReseal(again))
	require.False(t, k.NeedsReseal(""), "NeedsReseal is true for a malformed text")
	require.False(t, k.NeedsReseal("v1.x.y"), "NeedsReseal is true for a malformed text")
	for err == nil {
		err = k.Rotate()
	}
	require.ErrorIs(t, err, seal.ErrTooManyKeys, "%d keys", len(k.KeyIDs()))
	require.Len(t, k.KeyIDs(), seal.MaxKeys, "%d keys", len(k.KeyIDs()))
	path := filepath.Join(t.TempDir(), "k.json")
	require.NoError(t, k.Save(path))
	loaded, err := seal.Load(path)
	require.NoError(t, err)
	require.Equal(t, k.Primary(), loaded.Primary(), "a full ring was not loaded")
	require.Equal(t, k.KeyIDs(), loaded.KeyIDs(), "a full ring was not loaded")
	_, err = loaded.Open(old, nil)
	require.NoError(t, err, "old text with loaded ring")
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "dir", "keys.json")
	k, created, err := seal.LoadOrCreate(path, false)
	require.NoError(t, err)
	require.True(t, created)
	for name, want := range map[string]fs.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		info, err := os.Stat(name)
		require.NoError(t, err, name)
		require.Equal(t, want, info.Mode().Perm(), name)
	}
	again, created, err := seal.LoadOrCreate(path, true)
	require.NoError(t, err)
	require.False(t, created, "second time")
	require.Equal(t, k.Primary(), again.Primary(), "second time")
	require.NoError(t, again.Rotate())
	require.NoError(t, again.Save(path))
	// k does not have the new key: saving k would delete it from the file.
	err = k.Save(path)
	require.ErrorIs(t, err, seal.ErrKeyFileChanged, "save over another process's key")
	require.ErrorContains(t, err, again.Primary(), "save over another process's key")
	loaded, err := seal.Load(path)
	require.NoError(t, err)
	require.Equal(t, again.Primary(), loaded.Primary(), "after that")
	// No other file is left in the directory, and a link stays a link.
	link := filepath.Join(t.TempDir(), "link.json")
	require.NoError(t, os.Symlink(path, link))
	require.NoError(t, loaded.Rotate())
	require.NoError(t, loaded.Save(link))
	info, err := os.Lstat(link)
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&fs.ModeSymlink, "the link was replaced")
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 1, "left over")
}

func TestLoadRejectsAccessibleFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	k, _, err := seal.LoadOrCreate(path, false)
	require.NoError(t, err)
	for mode := range fs.FileMode(0o1000) {
		if mode&0o400 == 0 {
			continue // the owner can't read it either
		}
		require.NoError(t, os.Chmod(path, mode))
		_, err := seal.Load(path)
		if mode&0o077 == 0 {
			require.NoError(t, err, "mode %04o", mode)
			continue
		}
		require.ErrorIs(t, err, seal.ErrKeyFileMode, "mode %04o", mode)
		require.ErrorContains(t, err, "chmod 600 "+path, "mode %04o", mode)
		_, _, err = seal.LoadOrCreate(path, false)
		require.ErrorIs(t, err, seal.ErrKeyFileMode, "mode %04o: LoadOrCreate", mode)
		require.ErrorIs(t, k.Save(path), seal.ErrKeyFileMode, "mode %04o: Save", mode)
	}
}

func TestMissingKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	_, created, err := seal.LoadOrCreate(path, true)
	require.ErrorIs(t, err, seal.ErrKeyMissing)
	require.False(t, created)
	require.ErrorContains(t, err, path)
	require.ErrorContains(t, err, "restore")
	_, err = os.Stat(path)
	require.ErrorIs(t, err, fs.ErrNotExist, "a file was created")
	_, err = seal.Load(path)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = seal.Load(t.TempDir())
	require.Error(t, err, "a directory was loaded")
}

func TestInvalidKeyFiles(t *testing.T) {
	key := strings.Repeat("QUFB", 10) + "QUE=" // 32 bytes
	one := `{"id":"0123456789abcdef","key":"` + key + `"}`
	for name, text := range map[string]string{
		"empty":           "",
		"not JSON":        "hunter2",
		"other type":      `{"version":"hunter2"}`,
		"number":          `{"version":1,"primary":12345,"keys":[]}`,
		"newer version":   `{"version":2}`,
		"no keys":         `{"version":1,"primary":"","keys":[]}`,
		"primary missing": `{"version":1,"primary":"fedcba9876543210","keys":[` + one + `]}`,
		"twice":           `{"version":1,"primary":"0123456789abcdef","keys":[` + one + `,` + one + `]}`,
		"short key":       `{"version":1,"primary":"0123456789abcdef","keys":[{"id":"0123456789abcdef","key":"aHVudGVyMg=="}]}`,
		"bad base64":      `{"version":1,"primary":"0123456789abcdef","keys":[{"id":"0123456789abcdef","key":"hunter2!"}]}`,
		"bad id":          `{"version":1,"primary":"hunter2","keys":[{"id":"hunter2","key":"` + key + `"}]}`,
		"cut off":         `{"version":1,"primary":"0123456789abcdef","keys":[` + one,
		"too many": `{"version":1,"primary":"0123456789abcdef","keys":[` + strings.Repeat(one+",", seal.MaxKeys) +
			one + `]}`,
		"too large": strings.Repeat(" ", 2<<20),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keys.json")
			require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
			_, err := seal.Load(path)
			require.ErrorIs(t, err, seal.ErrKeyFile)
			require.ErrorContains(t, err, path)
			for _, quoted := range []string{"hunter2", "aHVudGVyMg", key, "12345"} {
				require.NotContains(t, strings.ReplaceAll(err.Error(), path, ""), quoted,
					"the error quotes the content: %v", err)
			}
			// An invalid file is never replaced: its keys may be recoverable.
			_, _, err = seal.LoadOrCreate(path, false)
			require.ErrorIs(t, err, seal.ErrKeyFile)
		})
	}
}

func TestConcurrentCreation(t *testing.T) {
	for range 20 {
		path := filepath.Join(t.TempDir(), "new", "keys.json")
		const n = 8
		rings, createds := make([]*seal.KeyRing, n), make([]bool, n)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				var err error
				rings[i], createds[i], err = seal.LoadOrCreate(path, false)
				assert.NoError(t, err)
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		creators := 0
		for i := range n {
			if createds[i] {
				creators++
			}
			require.Equal(t, rings[0].Primary(), rings[i].Primary(), "two callers have different keys")
		}
		require.Equal(t, 1, creators)
	}
}

func TestConcurrentUse(t *testing.T) {
	k := newRing(t)
	path := filepath.Join(t.TempDir(), "keys.json")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				sealed, err := k.Seal([]byte("x"), nil)
				if !assert.NoError(t, err) {
					return
				}
				_, err = k.Open(sealed, nil)
				if !assert.NoError(t, err) {
					return
				}
				k.NeedsReseal(sealed)
				_ = fmt.Sprint(k, k.KeyIDs())
			}
		})
	}
	wg.Go(func() {
		for range 10 {
			assert.NoError(t, errors.Join(k.Rotate(), k.Save(path)))
		}
	})
	wg.Wait()
}

func TestKeysAreNeverShown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	k, _, err := seal.LoadOrCreate(path, false)
	require.NoError(t, err)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	var file struct {
		Keys []struct {
			Key []byte `json:"key"`
		} `json:"keys"`
	}
	err = json.Unmarshal(b, &file)
	require.NoError(t, err)
	require.Len(t, file.Keys, 1)
	require.Len(t, file.Keys[0].Key, 32)
	raw := file.Keys[0].Key

	var out bytes.Buffer
	type holder struct {
		Ring *seal.KeyRing
		ring *seal.KeyRing
	}
	h := holder{k, k}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		for _, v := range []any{k, h, &h, []*seal.KeyRing{k}, fmt.Errorf("x: %v", k)} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "ring", k, "holder", h)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "ring", k, "holder", h)
	j, err := json.Marshal(h)
	require.NoError(t, err)
	out.Write(j)
	for _, form := range []string{
		string(raw), fmt.Sprintf("%x", raw), fmt.Sprintf("%X", raw), fmt.Sprint(raw),
		strings.Trim(fmt.Sprintf("%#v", raw), "[]byte{}"),
		base64.StdEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw), fmt.Sprint(raw[:8])[1:10],
	} {
		require.NotContains(t, out.String(), form, "a key is shown")
	}
	require.Contains(t, out.String(), "seal.KeyRing(primary "+k.Primary()+", 1 keys)", "the description is not shown")
	var none *seal.KeyRing
	require.Equal(t, "seal.KeyRing(nil)", fmt.Sprint(none))
}

// FuzzOpen checks that Open never panics and rejects every text that Seal did not
// return.
func FuzzOpen(f *testing.F) {
	k := newRing(f)
	sealed, err := k.Seal([]byte("token"), []byte("page:1"))
	require.NoError(f, err)
	f.Add(sealed, []byte("page:1"))
	f.Add("v1."+k.Primary()+".", []byte(nil))
	f.Add("v1."+k.Primary()+"."+strings.Repeat("A", 40), []byte("x"))
	f.Add("v2.0123456789abcdef.AAAA", []byte("x"))
	f.Add("", []byte(""))
	f.Fuzz(func(t *testing.T, s string, aad []byte) {
		k.NeedsReseal(s)
		got, err := k.Open(s, aad)
		if err == nil {
			require.Equal(t, sealed, s)
			require.Equal(t, "page:1", string(aad))
			require.Equal(t, "token", string(got))
		}
		if err != nil {
			require.Nil(t, got, "plaintext was returned with an error")
		}
	})
}

func TestRotateFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	ring, _, err := seal.LoadOrCreate(path, false)
	require.NoError(t, err)
	old, err := ring.Seal([]byte("secret"), nil)
	require.NoError(t, err)
	before := ring.Primary()
	require.NoError(t, ring.RotateFile(path))
	assert.NotEqual(t, before, ring.Primary())
	assert.True(t, ring.NeedsReseal(old))
	loaded, err := seal.Load(path)
	require.NoError(t, err)
	assert.Equal(t, ring.Primary(), loaded.Primary(), "the file has it before anything is sealed")
	plain, err := loaded.Open(old, nil)
	require.NoError(t, err)
	assert.Equal(t, "secret", string(plain))

	// If the file can't be written, the ring is unchanged.
	now := ring.Primary()
	require.Error(t, ring.RotateFile(filepath.Join(t.TempDir(), "no", "keys.json")))
	assert.Equal(t, now, ring.Primary())
	assert.Equal(t, []string{before, now}, ring.KeyIDs())
}

// TestRemoveFromFile checks that a removed key is in neither the ring nor the file, also
// not by its bytes, and that derived keys do not change, whichever key is removed.
func TestRemoveFromFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	ring, _, err := seal.LoadOrCreate(path, false)
	require.NoError(t, err)
	first := ring.Primary()
	written, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.NotContains(t, string(written), "root")
	var file struct {
		Keys []struct{ Key string }
	}
	require.NoError(t, json.Unmarshal(written, &file))
	old, err := ring.Seal([]byte("secret"), nil)
	require.NoError(t, err)
	id, err := seal.KeyID(old)
	require.NoError(t, err)
	assert.Equal(t, first, id)
	_, err = seal.KeyID("v1.secret")
	require.ErrorIs(t, err, seal.ErrMalformed)
	derived, err := ring.Derive("links")
	require.NoError(t, err)

	require.ErrorIs(t, ring.RemoveFromFile(path, first), seal.ErrPrimaryKey)
	require.ErrorIs(t, ring.RemoveFromFile(path, "0123456789abcdef"), seal.ErrUnknownKey)
	require.NoError(t, ring.RotateFile(path))
	second := ring.Primary()
	require.NoError(t, ring.RotateFile(path))
	require.Error(t, ring.RemoveFromFile(filepath.Join(t.TempDir(), "no", "keys.json"), first))
	_, err = ring.Open(old, nil)
	require.NoError(t, err, "if the file can't be written, the ring is unchanged")

	for _, id := range []string{first, second} {
		require.NoError(t, ring.RemoveFromFile(path, id))
		written, err := os.ReadFile(path)
		require.NoError(t, err)
		assert.NotContains(t, string(written), id)
		assert.NotContains(t, string(written), file.Keys[0].Key)
		loaded, err := seal.Load(path)
		require.NoError(t, err)
		for _, k := range []*seal.KeyRing{ring, loaded} {
			assert.NotContains(t, k.KeyIDs(), id)
			_, err = k.Open(old, nil)
			require.ErrorIs(t, err, seal.ErrUnknownKey)
			now, err := k.Derive("links")
			require.NoError(t, err)
			assert.Equal(t, derived, now)
		}
	}
	// Later rotations keep the derived keys as well.
	require.NoError(t, ring.RotateFile(path))
	loaded, err := seal.Load(path)
	require.NoError(t, err)
	now, err := loaded.Derive("links")
	require.NoError(t, err)
	assert.Equal(t, derived, now)
}

// TestFollow checks that a ring takes up what another process changes in its file: a new key as soon as it meets it,
// and a removed one, but not the file of another installation, nor an older copy.
func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	here, _, err := seal.LoadOrCreate(path, false)
	require.NoError(t, err)
	there, err := seal.Load(path)
	require.NoError(t, err)
	there.Follow(path)
	changed, err := there.Refresh()
	require.NoError(t, err)
	require.False(t, changed)
	first := here.Primary()
	older, err := os.ReadFile(path)
	require.NoError(t, err)

	require.NoError(t, here.RotateFile(path))
	sealed, err := here.Seal([]byte("secret"), nil)
	require.NoError(t, err)
	plain, err := there.Open(sealed, nil)
	require.NoError(t, err)
	require.Equal(t, "secret", string(plain))
	require.Equal(t, here.Primary(), there.Primary(), "it seals with the new key")

	require.NoError(t, here.RemoveFromFile(path, first))
	changed, err = there.Refresh()
	require.NoError(t, err)
	require.True(t, changed)
	require.Equal(t, here.KeyIDs(), there.KeyIDs())
	changed, err = there.Refresh()
	require.NoError(t, err)
	require.False(t, changed)

	other, err := seal.NewKeyRing()
	require.NoError(t, err)
	for _, bad := range []func() error{
		func() error { return os.WriteFile(path, older, 0o600) },
		func() error { return errors.Join(os.Remove(path), other.Save(path)) },
		func() error { return os.WriteFile(path, []byte("{}"), 0o600) },
	} {
		require.NoError(t, bad())
		changed, err = there.Refresh()
		require.ErrorIs(t, err, seal.ErrKeyFile)
		require.False(t, changed)
		require.Equal(t, here.KeyIDs(), there.KeyIDs(), "the ring stays as it is")
	}
	plain, err = there.Open(sealed, nil)
	require.NoError(t, err)
	require.Equal(t, "secret", string(plain))
}

func TestDerive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	k, _, err := seal.LoadOrCreate(path, false)
	require.NoError(t, err)
	a, err := k.Derive("links")
	require.NoError(t, err)
	assert.Len(t, a, 32)
	b, err := k.Derive("cookies")
	require.NoError(t, err)
	assert.NotEqual(t, a, b)
	require.NoError(t, k.RotateFile(path))
	again, err := seal.Load(path)
	require.NoError(t, err)
	b, err = again.Derive("links")
	require.NoError(t, err)
	assert.Equal(t, a, b, "the same after a rotation and a restart")
	b, err = newRing(t).Derive("links")
	require.NoError(t, err)
	assert.NotEqual(t, a, b, "another ring")
}
