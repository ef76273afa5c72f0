package store_test

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pagestream/pagestream/projections/store"
)

var small = store.Options{MapSize: 1 << 20, LockTimeout: 20 * time.Millisecond}

func open(t *testing.T, path string) *store.Store {
	t.Helper()
	s, err := store.Open(path, small)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	return s
}

func put(t *testing.T, s *store.Store, bucket, key, value string) {
	t.Helper()
	err := s.Update(func(tx *store.Tx) error { return tx.Bucket(bucket).Put([]byte(key), []byte(value)) })
	require.NoError(t, err)
}

func digest(t *testing.T, s *store.Store) (d string) {
	t.Helper()
	err := s.View(func(tx *store.Tx) (err error) { d, err = store.Digest(tx); return err })
	require.NoError(t, err)
	return d
}

func TestBucketOperations(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "new", "a.db"))
	err := s.View(func(tx *store.Tx) error {
		b := tx.Bucket("missing")
		c := b.Cursor()
		for _, move := range []func() ([]byte, []byte){
			c.First, c.Last, c.Next, c.Prev, func() ([]byte, []byte) { return c.Seek(nil) },
		} {
			k, _ := move()
			assert.Nil(t, k, "a missing bucket has a key")
		}
		assert.Nil(t, b.Get([]byte("k")), "a missing bucket is not empty")
		assert.False(t, b.Has([]byte("k")), "a missing bucket is not empty")
		assert.True(t, b.Empty(), "a missing bucket is not empty")
		assert.Zero(t, b.Len(), "a missing bucket is not empty")
		return b.Put([]byte("k"), nil)
	})
	require.ErrorIs(t, err, store.ErrReadOnly, "put in a View")
	value := []byte("1")
	err = s.Update(func(tx *store.Tx) error {
		b := tx.Bucket("b")
		for _, k := range []string{"a", "p1", "p2", "p3", "q"} {
			if err := b.Put([]byte(k), value); err != nil {
				return err
			}
		}
		value[0] = '9' // the bucket has a copy
		b.Get([]byte("a"))[0] = '9'
		return errors.Join(b.Delete([]byte("p2")), b.Delete([]byte("none")), b.Put([]byte("empty"), nil))
	})
	require.NoError(t, err)
	err = s.View(func(tx *store.Tx) error {
		b := tx.Bucket("b")
		assert.Equal(t, "1", string(b.Get([]byte("a"))))
		v := b.Get([]byte("empty"))
		if assert.NotNil(t, v, "an empty value") {
			assert.Empty(t, v, "an empty value")
		}
		var keys []string
		err := b.ForEachPrefix([]byte("p"), func(k, _ []byte) error { keys = append(keys, string(k)); return nil })
		assert.Equal(t, []string{"p1", "p3"}, keys, "prefix p")
		n := 0
		stopped := b.ForEachPrefix(nil, func([]byte, []byte) error { n++; return store.Stop })
		assert.Equal(t, 1, n)
		assert.NoError(t, stopped)
		return err
	})
	require.NoError(t, err)
}

func TestUpdateIsAllOrNothing(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "a.db"))
	put(t, s, "b", "k", "1")
	before := digest(t, s)
	boom := errors.New("boom")
	err := s.Update(func(tx *store.Tx) error {
		if err := tx.Bucket("b").Put([]byte("k"), []byte("2")); err != nil {
			return err
		}
		return boom
	})
	require.ErrorIs(t, err, boom, "after a failed update")
	require.Equal(t, before, digest(t, s), "after a failed update")
	func() {
		defer func() { assert.Equal(t, boom, recover(), "the panic of the update") }()
		_ = s.Update(func(tx *store.Tx) error {
			_ = tx.Bucket("c").Put([]byte("k"), []byte("2"))
			panic(boom)
		})
	}()
	require.Equal(t, before, digest(t, s), "a panic changed the store")
	put(t, s, "b", "k", "3") // the lock must have been released
}

func TestDigestDependsOnKeysAndValuesOnly(t *testing.T) {
	dir := t.TempDir()
	a, b := open(t, filepath.Join(dir, "a.db")), open(t, filepath.Join(dir, "b.db"))
	put(t, a, "x", "k", "12")
	put(t, a, "y", "k", "v")
	put(t, b, "y", "k", "v")
	put(t, b, "x", "k", "12")
	require.Equal(t, digest(t, b), digest(t, a), "the digest depends on the order of writes")
	same := digest(t, a)
	err := a.Update(func(tx *store.Tx) error {
		tx.Bucket("empty")
		return errors.Join(tx.Bucket("_framework").Put([]byte("k"), []byte("v")), store.WriteMeta(tx, store.Meta{Seq: 7}))
	})
	require.NoError(t, err)
	require.Equal(t, same, digest(t, a), "internal and empty buckets change the digest")
	for _, other := range [][3]string{{"x", "k1", "2"}, {"xk", "1", "2"}, {"x", "k", "122"}} {
		c := open(t, filepath.Join(t.TempDir(), "c.db"))
		put(t, c, "y", "k", "v")
		put(t, c, other[0], other[1], other[2])
		require.NotEqual(t, same, digest(t, c), "%v has the same digest", other)
	}
}

func TestOpenFailsWhileTheFileIsLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	s := open(t, path)
	_, err := store.Open(path, small)
	require.ErrorIs(t, err, store.ErrLocked, "open twice")
	require.ErrorContains(t, err, "another pagestream", "open twice")
	require.NoError(t, errors.Join(s.Close(), s.Close()))
	require.ErrorIs(t, s.View(func(*store.Tx) error { return nil }), store.ErrClosed, "view after close")
	open(t, path)
}

// A corrupt file is replaced by Open, or detected by Verify. It never causes a panic or crashes the process.
func TestCorruptFileIsReplacedOrDetected(t *testing.T) {
	valid := filepath.Join(t.TempDir(), "valid.db")
	s := open(t, valid)
	for i := range 200 {
		put(t, s, "b", strings.Repeat("k", i+1), strings.Repeat("v", 1000))
	}
	want := digest(t, s)
	require.NoError(t, s.Close())
	content, err := os.ReadFile(valid)
	require.NoError(t, err)
	damage := map[string]func([]byte) []byte{
		"text":          func([]byte) []byte { return []byte("this is no store") },
		"long text":     func([]byte) []byte { return bytes.Repeat([]byte("this is no store"), 4096) },
		"zeroes":        func(b []byte) []byte { return make([]byte, len(b)) },
		"cut to 1 page": func(b []byte) []byte { return b[:4096] },
		"cut to 3":      func(b []byte) []byte { return b[:3*4096] },
		"cut in half":   func(b []byte) []byte { return b[:len(b)/2/4096*4096] },
		"no meta pages": func(b []byte) []byte { copy(b, make([]byte, 2*4096)); return b },
		"pages of ones": func(b []byte) []byte {
			for i := 2 * 4096; i < len(b); i++ {
				b[i] = 0xff
			}
			return b
		},
		"shuffled": func(b []byte) []byte {
			for i := 2 * 4096; i+8192 < len(b); i += 8192 {
				page := slices.Clone(b[i : i+4096])
				copy(b[i:], b[i+4096:i+8192])
				copy(b[i+4096:], page)
			}
			return b
		},
	}
	for name, f := range damage {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a.db")
			require.NoError(t, os.WriteFile(path, f(slices.Clone(content)), 0o600))
			s, err := store.Open(path, small)
			require.NoError(t, err)
			defer func() { assert.NoError(t, s.Close()) }()
			if s.Recreated() == "" {
				// The damage may be in free pages only.
				if err := s.Verify(); !errors.Is(err, store.ErrCorrupt) {
					require.NoError(t, err, "the damage was neither repaired nor detected")
					require.Equal(t, want, digest(t, s), "the damage was neither repaired nor detected")
				}
				return
			}
			_, err = os.Stat(s.Recreated())
			require.NoError(t, err, "the corrupt file was not kept")
			put(t, s, "b", "k", "v")
			require.NoError(t, s.Verify())
		})
	}
}

func TestSetAsideKeepsTheNewestThreeFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.db")
	for i := range 6 {
		require.NoError(t, os.WriteFile(path, []byte{byte(i)}, 0o600))
		_, err := store.SetAside(path, time.Unix(1_700_000_000+int64(i), 0))
		require.NoError(t, err)
	}
	kept, err := filepath.Glob(path + ".corrupt-*")
	require.NoError(t, err)
	require.Len(t, kept, 3)
	require.True(t, strings.HasSuffix(kept[2], "1700000005000000000"))
}

func TestWriteToWritesAnEqualStore(t *testing.T) {
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "a.db"))
	put(t, s, "b", "k", "v")
	f, err := os.Create(filepath.Join(dir, "copy.db"))
	require.NoError(t, err)
	_, err = s.WriteTo(f)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.Equal(t, digest(t, s), digest(t, open(t, f.Name())), "the copy differs")
}

type pageID string

func TestKeysAreUnambiguousAndSortAsTheirParts(t *testing.T) {
	text := rapid.OneOf(rapid.StringOf(rapid.RuneFrom([]rune{0, 1, 0xff, 'a', 'b'})), rapid.String())
	rapid.Check(t, func(t *rapid.T) {
		a, b := text.Draw(t, "a"), text.Draw(t, "b")
		c, d := text.Draw(t, "c"), text.Draw(t, "d")
		n, m := rapid.Uint64().Draw(t, "n"), rapid.Uint64().Draw(t, "m")
		k1, k2 := store.Key(pageID(a), b, n), store.Key(c, d, m)
		var page pageID
		var s string
		var u uint64
		require.True(t, store.ParseKey(k1, &page, &s, &u), "%q", k1)
		require.Equal(t, a, string(page), "%q", k1)
		require.Equal(t, b, s, "%q", k1)
		require.Equal(t, n, u, "%q", k1)
		if store.ParseKey(k1, &page, &u) && len(b) > 0 {
			require.False(t, store.ParseKey(k1, &page), "the key is parsed as other parts")
		}
		order := strings.Compare(a, c)
		if order == 0 {
			order = strings.Compare(b, d)
		}
		if order == 0 && n != m {
			order = 1
			if n < m {
				order = -1
			}
		}
		got := bytes.Compare(k1, k2)
		require.Equal(t, order, got, "the keys compare as their parts")
		require.Equal(t, a == c, bytes.HasPrefix(k1, store.Key(c)), "prefix %q of %q", store.Key(c), k1)
	})
	long := strings.Repeat("x", 100_000)
	k, other := store.Key(long, uint64(math.MaxUint64)), store.Key(long+"x", uint64(math.MaxUint64))
	require.LessOrEqual(t, len(k), 200)
	require.NotEqual(t, string(other), string(k))
}

func TestMetaIsStored(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "a.db"))
	want := store.Meta{Identity: "S@1", Version: 3, Seq: 1 << 60, Dropped: 2, Malformed: 1}
	err := s.Update(func(tx *store.Tx) error {
		_, found, err := store.ReadMeta(tx)
		assert.False(t, found, "a new store has a position")
		require.NoError(t, err, "a new store has a position")
		return store.WriteMeta(tx, want)
	})
	require.NoError(t, err)
	err = s.View(func(tx *store.Tx) error {
		got, found, err := store.ReadMeta(tx)
		assert.Equal(t, want, got)
		assert.True(t, found)
		return err
	})
	require.NoError(t, err)
}

// A View inside another must not wait for a Close that waits for the outer one.
func TestViewInsideViewFailsWhileClosing(t *testing.T) {
	s, err := store.Open(filepath.Join(t.TempDir(), "x.db"), store.Options{})
	require.NoError(t, err)
	closed := make(chan error, 1)
	err = s.View(func(*store.Tx) error {
		go func() { closed <- s.Close() }()
		for {
			if err := s.View(func(*store.Tx) error { return nil }); err != nil {
				return err
			}
		}
	})
	require.ErrorIs(t, err, store.ErrClosed)
	require.NoError(t, <-closed)
}
