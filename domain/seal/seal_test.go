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
	"slices"
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
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestRoundTrip(t *testing.T) {
	k, other := newRing(t), newRing(t)
	rapid.Check(t, func(r *rapid.T) {
		plain := rapid.SliceOf(rapid.Byte()).Draw(r, "plain")
		aad := rapid.SliceOf(rapid.Byte()).Draw(r, "aad")
		sealed, err := k.Seal(plain, aad)
		if err != nil {
			r.Fatal(err)
		}
		got, err := k.Open(sealed, aad)
		if err != nil || !bytes.Equal(got, plain) {
			r.Fatalf("got %x, %v", got, err)
		}
		again, _ := k.Seal(plain, aad)
		if again == sealed {
			r.Fatal("sealing twice returned the same text")
		}
		parts := strings.Split(sealed, ".")
		if len(parts) != 3 || parts[0] != "v1" || parts[1] != k.Primary() {
			r.Fatalf("format: %s", sealed)
		}
		if len(plain) > 8 && strings.Contains(sealed, base64.RawURLEncoding.EncodeToString(plain)) {
			r.Fatal("plain text in sealed text")
		}
		wrong := rapid.SliceOf(rapid.Byte()).Filter(func(b []byte) bool { return !bytes.Equal(b, aad) }).Draw(r, "wrong")
		if got, err := k.Open(sealed, wrong); !errors.Is(err, seal.ErrNotAuthentic) || got != nil {
			r.Fatalf("with other aad: %x, %v", got, err)
		}
		if got, err := other.Open(sealed, aad); !errors.Is(err, seal.ErrUnknownKey) || got != nil {
			r.Fatalf("with another ring: %x, %v", got, err)
		}
	})
}

// TestOtherKeyWithTheSameID checks that a ring with the right key id but another
// key fails as for a changed text.
func TestOtherKeyWithTheSameID(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "k.json")
	k := newRing(t)
	if err := k.Save(path); err != nil {
		t.Fatal(err)
	}
	sealed, err := k.Seal([]byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var file map[string]any
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	file["keys"].([]any)[0].(map[string]any)["key"] = base64.StdEncoding.EncodeToString(make([]byte, 32))
	b, _ = json.Marshal(file)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	wrong, err := seal.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wrong.Open(sealed, nil); !errors.Is(err, seal.ErrNotAuthentic) {
		t.Errorf("got %v", err)
	}
}

func TestChangedTextsAreRejected(t *testing.T) {
	k := newRing(t)
	if err := k.Rotate(); err != nil { // a changed id may name another key
		t.Fatal(err)
	}
	rapid.Check(t, func(r *rapid.T) {
		plain := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(r, "plain")
		sealed, err := k.Seal(plain, []byte("page:1"))
		if err != nil {
			r.Fatal(err)
		}
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
	if got != nil || !errors.Is(err, seal.ErrMalformed) && !errors.Is(err, seal.ErrUnknownKey) &&
		!errors.Is(err, seal.ErrNotAuthentic) {
		t.Fatalf("%q opened: %x, %v", sealed, got, err)
	}
}

func TestSizes(t *testing.T) {
	k := newRing(t)
	if _, err := k.Seal(make([]byte, seal.MaxPlaintext+1), nil); !errors.Is(err, seal.ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	sealed, err := k.Seal(make([]byte, seal.MaxPlaintext), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.Open(sealed, nil); err != nil || len(got) != seal.MaxPlaintext {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := k.Open(sealed+"AAAA", nil); !errors.Is(err, seal.ErrMalformed) {
		t.Errorf("over the limit: %v", err)
	}
}

func TestRotation(t *testing.T) {
	k := newRing(t)
	first := k.Primary()
	old, err := k.Seal([]byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if k.NeedsReseal(old) {
		t.Error("NeedsReseal is true for a text of the primary key")
	}
	if err := k.Rotate(); err != nil {
		t.Fatal(err)
	}
	if k.Primary() == first || !slices.Equal(k.KeyIDs(), []string{first, k.Primary()}) {
		t.Errorf("primary %s, keys %v", k.Primary(), k.KeyIDs())
	}
	if !k.NeedsReseal(old) {
		t.Error("NeedsReseal is false for a text of the old key")
	}
	plain, err := k.Open(old, nil)
	if err != nil || string(plain) != "x" {
		t.Fatalf("old text: %q, %v", plain, err)
	}
	again, err := k.Seal(plain, nil)
	if err != nil || k.NeedsReseal(again) {
		t.Errorf("resealed: %v", err)
	}
	if k.NeedsReseal("") || k.NeedsReseal("v1.x.y") {
		t.Error("NeedsReseal is true for a malformed text")
	}
	for err == nil {
		err = k.Rotate()
	}
	if !errors.Is(err, seal.ErrTooManyKeys) || len(k.KeyIDs()) != seal.MaxKeys {
		t.Errorf("%d keys, %v", len(k.KeyIDs()), err)
	}
	path := filepath.Join(t.TempDir(), "k.json")
	if err := k.Save(path); err != nil {
		t.Fatal(err)
	}
	loaded, err := seal.Load(path)
	if err != nil || loaded.Primary() != k.Primary() || !slices.Equal(loaded.KeyIDs(), k.KeyIDs()) {
		t.Fatalf("a full ring was not loaded: %v", err)
	}
	if _, err := loaded.Open(old, nil); err != nil {
		t.Errorf("old text with loaded ring: %v", err)
	}
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "dir", "keys.json")
	k, created, err := seal.LoadOrCreate(path, false)
	if err != nil || !created {
		t.Fatalf("created %v, %v", created, err)
	}
	for name, want := range map[string]fs.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	again, created, err := seal.LoadOrCreate(path, true)
	if err != nil || created || again.Primary() != k.Primary() {
		t.Fatalf("second time: created %v, %v", created, err)
	}
	if err := again.Rotate(); err != nil {
		t.Fatal(err)
	}
	if err := again.Save(path); err != nil {
		t.Fatal(err)
	}
	// k does not have the new key: saving k would delete it from the file.
	if err := k.Save(path); !errors.Is(err, seal.ErrKeyFileChanged) || !strings.Contains(err.Error(), again.Primary()) {
		t.Errorf("save over another process's key: %v", err)
	}
	loaded, err := seal.Load(path)
	if err != nil || loaded.Primary() != again.Primary() {
		t.Errorf("after that: %v, %v", loaded, err)
	}
	// No other file is left in the directory, and a link stays a link.
	link := filepath.Join(t.TempDir(), "link.json")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if err := loaded.Rotate(); err != nil {
		t.Fatal(err)
	}
	if err := loaded.Save(link); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link was replaced: %v, %v", info, err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("left over: %v, %v", entries, err)
	}
}

func TestLoadRejectsAccessibleFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	k, _, err := seal.LoadOrCreate(path, false)
	if err != nil {
		t.Fatal(err)
	}
	for mode := range fs.FileMode(0o1000) {
		if mode&0o400 == 0 {
			continue // the owner can't read it either
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := seal.Load(path)
		if mode&0o077 == 0 {
			if err != nil {
				t.Errorf("mode %04o: %v", mode, err)
			}
			continue
		}
		if !errors.Is(err, seal.ErrKeyFileMode) || !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Fatalf("mode %04o: %v", mode, err)
		}
		if _, _, err := seal.LoadOrCreate(path, false); !errors.Is(err, seal.ErrKeyFileMode) {
			t.Fatalf("mode %04o: LoadOrCreate: %v", mode, err)
		}
		if err := k.Save(path); !errors.Is(err, seal.ErrKeyFileMode) {
			t.Fatalf("mode %04o: Save: %v", mode, err)
		}
	}
}

func TestMissingKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	_, created, err := seal.LoadOrCreate(path, true)
	if !errors.Is(err, seal.ErrKeyMissing) || created || !strings.Contains(err.Error(), path) ||
		!strings.Contains(err.Error(), "restore") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file was created: %v", err)
	}
	if _, err := seal.Load(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load: %v", err)
	}
	if _, err := seal.Load(t.TempDir()); err == nil {
		t.Error("a directory was loaded")
	}
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
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := seal.Load(path)
			if !errors.Is(err, seal.ErrKeyFile) || !strings.Contains(err.Error(), path) {
				t.Fatalf("got %v", err)
			}
			for _, quoted := range []string{"hunter2", "aHVudGVyMg", key, "12345"} {
				if strings.Contains(strings.ReplaceAll(err.Error(), path, ""), quoted) {
					t.Errorf("the error quotes the content: %v", err)
				}
			}
			// An invalid file is never replaced: its keys may be recoverable.
			if _, _, err := seal.LoadOrCreate(path, false); !errors.Is(err, seal.ErrKeyFile) {
				t.Errorf("LoadOrCreate: %v", err)
			}
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
				if err != nil {
					t.Error(err)
				}
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
			if rings[i].Primary() != rings[0].Primary() {
				t.Fatal("two callers have different keys")
			}
		}
		if creators != 1 {
			t.Fatalf("%d callers created the file", creators)
		}
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
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := k.Open(sealed, nil); err != nil {
					t.Error(err)
				}
				k.NeedsReseal(sealed)
				_ = fmt.Sprint(k, k.KeyIDs())
			}
		})
	}
	wg.Go(func() {
		for range 10 {
			if err := errors.Join(k.Rotate(), k.Save(path)); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
}

func TestKeysAreNeverShown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	k, _, err := seal.LoadOrCreate(path, false)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Keys []struct {
			Key []byte `json:"key"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(b, &file); err != nil || len(file.Keys) != 1 || len(file.Keys[0].Key) != 32 {
		t.Fatalf("%d keys, %v", len(file.Keys), err)
	}
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
	if err != nil {
		t.Fatal(err)
	}
	out.Write(j)
	for _, form := range []string{
		string(raw), fmt.Sprintf("%x", raw), fmt.Sprintf("%X", raw), fmt.Sprint(raw),
		strings.Trim(fmt.Sprintf("%#v", raw), "[]byte{}"),
		base64.StdEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw), fmt.Sprint(raw[:8])[1:10],
	} {
		if strings.Contains(out.String(), form) {
			t.Fatalf("a key is in:\n%s", out.String())
		}
	}
	if !strings.Contains(out.String(), "seal.KeyRing(primary "+k.Primary()+", 1 keys)") {
		t.Errorf("no description in:\n%s", out.String())
	}
	var none *seal.KeyRing
	if got := fmt.Sprint(none); got != "seal.KeyRing(nil)" {
		t.Errorf("nil: %s", got)
	}
}

// FuzzOpen checks that Open never panics and rejects every text that Seal did not
// return.
func FuzzOpen(f *testing.F) {
	k := newRing(f)
	sealed, err := k.Seal([]byte("token"), []byte("page:1"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed, []byte("page:1"))
	f.Add("v1."+k.Primary()+".", []byte(nil))
	f.Add("v1."+k.Primary()+"."+strings.Repeat("A", 40), []byte("x"))
	f.Add("v2.0123456789abcdef.AAAA", []byte("x"))
	f.Add("", []byte(""))
	f.Fuzz(func(t *testing.T, s string, aad []byte) {
		k.NeedsReseal(s)
		got, err := k.Open(s, aad)
		if err == nil && (s != sealed || string(aad) != "page:1" || string(got) != "token") {
			t.Errorf("opened %q", s)
		}
		if err != nil && got != nil {
			t.Errorf("plaintext was returned with an error: %v", err)
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
