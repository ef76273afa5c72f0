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

	"pgregory.net/rapid"

	"github.com/pagestream/pagestream/projections/store"
)

var small = store.Options{MapSize: 1 << 20, LockTimeout: 20 * time.Millisecond}

func open(t *testing.T, path string) *store.Store {
	t.Helper()
	s, err := store.Open(path, small)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func put(t *testing.T, s *store.Store, bucket, key, value string) {
	t.Helper()
	err := s.Update(func(tx *store.Tx) error { return tx.Bucket(bucket).Put([]byte(key), []byte(value)) })
	if err != nil {
		t.Fatal(err)
	}
}

func digest(t *testing.T, s *store.Store) (d string) {
	t.Helper()
	err := s.View(func(tx *store.Tx) (err error) { d, err = store.Digest(tx); return err })
	if err != nil {
		t.Fatal(err)
	}
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
			if k, _ := move(); k != nil {
				t.Errorf("a missing bucket has key %q", k)
			}
		}
		if b.Get([]byte("k")) != nil || b.Has([]byte("k")) || !b.Empty() || b.Len() != 0 {
			t.Error("a missing bucket is not empty")
		}
		return b.Put([]byte("k"), nil)
	})
	if !errors.Is(err, store.ErrReadOnly) {
		t.Fatalf("put in a View: %v", err)
	}
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
	if err != nil {
		t.Fatal(err)
	}
	err = s.View(func(tx *store.Tx) error {
		b := tx.Bucket("b")
		if v := b.Get([]byte("a")); string(v) != "1" {
			t.Errorf("a is %q", v)
		}
		if v := b.Get([]byte("empty")); v == nil || len(v) != 0 {
			t.Errorf("an empty value is %v", v)
		}
		var keys []string
		err := b.ForEachPrefix([]byte("p"), func(k, _ []byte) error { keys = append(keys, string(k)); return nil })
		if !slices.Equal(keys, []string{"p1", "p3"}) {
			t.Errorf("prefix p has %v", keys)
		}
		n := 0
		stopped := b.ForEachPrefix(nil, func([]byte, []byte) error { n++; return store.Stop })
		if n != 1 || stopped != nil {
			t.Errorf("stop: %d calls, %v", n, stopped)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
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
	if !errors.Is(err, boom) || digest(t, s) != before {
		t.Fatalf("after a failed update: %v", err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a panic was swallowed")
			}
		}()
		_ = s.Update(func(tx *store.Tx) error {
			_ = tx.Bucket("c").Put([]byte("k"), []byte("2"))
			panic(boom)
		})
	}()
	if digest(t, s) != before {
		t.Error("a panic changed the store")
	}
	put(t, s, "b", "k", "3") // the lock must have been released
}

func TestDigestDependsOnKeysAndValuesOnly(t *testing.T) {
	dir := t.TempDir()
	a, b := open(t, filepath.Join(dir, "a.db")), open(t, filepath.Join(dir, "b.db"))
	put(t, a, "x", "k", "12")
	put(t, a, "y", "k", "v")
	put(t, b, "y", "k", "v")
	put(t, b, "x", "k", "12")
	if digest(t, a) != digest(t, b) {
		t.Error("the digest depends on the order of writes")
	}
	same := digest(t, a)
	err := a.Update(func(tx *store.Tx) error {
		tx.Bucket("empty")
		return errors.Join(tx.Bucket("_framework").Put([]byte("k"), []byte("v")), store.WriteMeta(tx, store.Meta{Seq: 7}))
	})
	if err != nil || digest(t, a) != same {
		t.Errorf("internal and empty buckets change the digest (%v)", err)
	}
	for _, other := range [][3]string{{"x", "k1", "2"}, {"xk", "1", "2"}, {"x", "k", "122"}} {
		c := open(t, filepath.Join(t.TempDir(), "c.db"))
		put(t, c, "y", "k", "v")
		put(t, c, other[0], other[1], other[2])
		if digest(t, c) == same {
			t.Errorf("%v has the same digest", other)
		}
	}
}

func TestOpenFailsWhileTheFileIsLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	s := open(t, path)
	_, err := store.Open(path, small)
	if !errors.Is(err, store.ErrLocked) || !strings.Contains(err.Error(), "another pagestream") {
		t.Fatalf("open twice: %v", err)
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if err := s.View(func(*store.Tx) error { return nil }); !errors.Is(err, store.ErrClosed) {
		t.Errorf("view after close: %v", err)
	}
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
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(valid)
	if err != nil {
		t.Fatal(err)
	}
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
			if err := os.WriteFile(path, f(slices.Clone(content)), 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := store.Open(path, small)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}()
			if s.Recreated() == "" {
				// The damage may be in free pages only.
				if err := s.Verify(); !errors.Is(err, store.ErrCorrupt) && (err != nil || digest(t, s) != want) {
					t.Fatalf("the damage was neither repaired nor detected: %v", err)
				}
				return
			}
			if _, err := os.Stat(s.Recreated()); err != nil {
				t.Errorf("the corrupt file was not kept: %v", err)
			}
			put(t, s, "b", "k", "v")
			if err := s.Verify(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSetAsideKeepsTheNewestThreeFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.db")
	for i := range 6 {
		if err := os.WriteFile(path, []byte{byte(i)}, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := store.SetAside(path, time.Unix(1_700_000_000+int64(i), 0)); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := filepath.Glob(path + ".corrupt-*")
	if err != nil || len(kept) != 3 || !strings.HasSuffix(kept[2], "1700000005000000000") {
		t.Errorf("kept %v (%v)", kept, err)
	}
}

func TestWriteToWritesAnEqualStore(t *testing.T) {
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "a.db"))
	put(t, s, "b", "k", "v")
	f, err := os.Create(filepath.Join(dir, "copy.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.WriteTo(f); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if c := open(t, f.Name()); digest(t, c) != digest(t, s) {
		t.Error("the copy differs")
	}
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
		if !store.ParseKey(k1, &page, &s, &u) || string(page) != a || s != b || u != n {
			t.Fatalf("%q is parsed as %q %q %d", k1, page, s, u)
		}
		if store.ParseKey(k1, &page, &u) && len(b) > 0 && store.ParseKey(k1, &page) {
			t.Fatal("the key is parsed as other parts")
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
		if got := bytes.Compare(k1, k2); got != order {
			t.Fatalf("the keys compare as %d, their parts as %d", got, order)
		}
		if bytes.HasPrefix(k1, store.Key(c)) != (a == c) {
			t.Fatalf("prefix %q of %q", store.Key(c), k1)
		}
	})
	long := strings.Repeat("x", 100_000)
	k, other := store.Key(long, uint64(math.MaxUint64)), store.Key(long+"x", uint64(math.MaxUint64))
	if len(k) > 200 || bytes.Equal(k, other) {
		t.Errorf("a long part makes a key of %d bytes", len(k))
	}
}

func TestMetaIsStored(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "a.db"))
	want := store.Meta{Identity: "S@1", Version: 3, Seq: 1 << 60, Dropped: 2, Malformed: 1}
	err := s.Update(func(tx *store.Tx) error {
		if _, found, err := store.ReadMeta(tx); found || err != nil {
			t.Errorf("a new store has a position (%v)", err)
		}
		return store.WriteMeta(tx, want)
	})
	if err != nil {
		t.Fatal(err)
	}
	err = s.View(func(tx *store.Tx) error {
		got, found, err := store.ReadMeta(tx)
		if got != want || !found {
			t.Errorf("got %+v", got)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A View inside another must not wait for a Close that waits for the outer one.
func TestViewInsideViewFailsWhileClosing(t *testing.T) {
	s, err := store.Open(filepath.Join(t.TempDir(), "x.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	err = s.View(func(*store.Tx) error {
		go func() { closed <- s.Close() }()
		for {
			if err := s.View(func(*store.Tx) error { return nil }); err != nil {
				return err
			}
		}
	})
	if !errors.Is(err, store.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}
