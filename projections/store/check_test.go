package store_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// filled writes a file with rows of all sizes in several buckets, with branch pages, free pages and rows over several
// pages, and returns its path and its digest.
func filled(t *testing.T) (path, want string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "filled.db")
	s, err := store.Open(path, small)
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(1, 2))
	for range 6 {
		require.NoError(t, s.Update(func(tx *store.Tx) error {
			for i := range 600 {
				key := store.Key("page", uint64(r.IntN(2000)))
				size := r.IntN(120)
				if i%200 == 0 {
					size = 9000
				}
				if err := tx.Bucket("rows").Put(key, []byte(strings.Repeat(string(rune('a'+i%26)), size))); err != nil {
					return err
				}
				if err := tx.Bucket("counts").Add(store.Key(uint64(i%300)), 1); err != nil {
					return err
				}
			}
			for range 60 {
				if err := tx.Bucket("rows").Delete(store.Key("page", uint64(r.IntN(2000)))); err != nil {
					return err
				}
			}
			return errors.Join(tx.Bucket("few").Put([]byte("k"), []byte("v")), store.WriteMeta(tx, store.Meta{Seq: 7}))
		}))
	}
	want = digest(t, s)
	require.NoError(t, s.Close())
	return path, want
}

// unmark sets another time of modification, so that the file is checked when it is opened.
func unmark(t *testing.T, path string) {
	t.Helper()
	require.NoError(t, os.Chtimes(path, time.Unix(1_700_000_000, 0), time.Unix(1_700_000_000, 0)))
}

// TestCheckFileFindsEachDamage changes single bytes, bits and stretches at random places of a file. Each time, either
// the damage is found, or every row of the file is what was written.
func TestCheckFileFindsEachDamage(t *testing.T) {
	path, want := filled(t)
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, store.CheckFile(t.Context(), path))
	r := rand.New(rand.NewPCG(3, 4))
	found := 0
	const rounds = 600
	for round := range rounds {
		b := slices.Clone(content)
		at := r.IntN(len(bytes.TrimRight(b, "\x00"))) // the file grows in large steps
		switch round % 4 {
		case 0:
			b[at] ^= byte(1 << r.IntN(8))
		case 1:
			b[at] = byte(r.IntN(256))
		case 2: // the head of a page, where few bytes do much
			at = at/4096*4096 + r.IntN(64)
			b[at] ^= byte(1 + r.IntN(255))
		default:
			for i := at; i < min(len(b), at+r.IntN(5000)); i++ {
				b[i] = byte(r.IntN(256))
			}
		}
		require.NoError(t, os.WriteFile(path, b, 0o600))
		unmark(t, path)
		s, err := store.Open(path, small)
		require.NoError(t, err)
		if s.Recreated() != "" {
			found++
			require.NoError(t, os.Remove(s.Recreated()))
		} else {
			var meta store.Meta
			require.NoError(t, s.View(func(tx *store.Tx) (err error) { meta, _, err = store.ReadMeta(tx); return err }))
			if meta.Seq == 7 { // else it is the state before the last commit, which had another header
				assert.Equal(t, want, digest(t, s), "round %d, at byte %d", round, at)
			}
		}
		require.NoError(t, s.Close())
		require.NoError(t, os.Remove(path))
	}
	t.Logf("%d of %d were found; the others did not change a row", found, rounds)
	require.Greater(t, found, rounds/3)
}

// TestCheckFileEndsWithAnyTree checks files whose pages point at themselves or at those above them, which make bbolt
// overflow the stack.
func TestCheckFileEndsWithAnyTree(t *testing.T) {
	path, _ := filled(t)
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	branches := 0
	for at := 2 * 4096; at < len(content); at += 4096 {
		if binary.NativeEndian.Uint16(content[at+8:]) != 1 {
			continue
		}
		branches++
		b := slices.Clone(content)
		binary.NativeEndian.PutUint64(b[at+16+8:], uint64(at/4096)) // the first child is the page itself
		require.NoError(t, os.WriteFile(path, b, 0o600))
		unmark(t, path)
		err := store.CheckFile(t.Context(), path)
		if err != nil {
			require.ErrorIs(t, err, store.ErrCorrupt)
		}
	}
	require.Positive(t, branches, "the file has no branch page")
}

// TestDamageAtRestIsFound checks that a file is checked unless its own process closed it, and that a valid one is kept.
func TestDamageAtRestIsFound(t *testing.T) {
	for name, c := range map[string]struct {
		change         func(path string) error
		checks, intact bool
	}{
		"closed":  {func(string) error { return nil }, false, true},
		"touched": {func(path string) error { return os.Chtimes(path, time.Now(), time.Now()) }, true, true},
		"copied": {func(path string) error {
			b, err := os.ReadFile(path)
			return errors.Join(err, os.Remove(path), os.WriteFile(path, b, 0o600))
		}, true, true},
		"emptied":   {func(path string) error { return os.Truncate(path, 0) }, true, false},
		"cut short": {func(path string) error { return os.Truncate(path, 3*4096) }, true, false},
		"one byte in a row": {func(path string) error {
			b, err := os.ReadFile(path)
			changed := strings.ReplaceAll(string(b), strings.Repeat("q", 60), strings.Repeat("q", 59)+"Q")
			return errors.Join(err, streamstest.WriteAt(path, 0, []byte(changed)))
		}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			path, want := filled(t)
			require.NoError(t, c.change(path))
			checked := false
			o := small
			o.Check = func(path string) error { checked = true; return store.CheckFile(t.Context(), path) }
			s, err := store.Open(path, o)
			require.NoError(t, err)
			defer func() { assert.NoError(t, s.Close()) }()
			require.Equal(t, c.checks, checked)
			require.Equal(t, c.intact, s.Recreated() == "")
			if c.intact {
				require.Equal(t, want, digest(t, s))
			}
		})
	}
	t.Run("not closed", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "a.db")
		s := open(t, path)
		put(t, s, "b", "k", "v")
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		killed := path + ".killed"
		require.NoError(t, os.WriteFile(killed, b, 0o600)) // what a killed process leaves
		checked := false
		o := small
		o.Check = func(string) error { checked = true; return nil }
		k, err := store.Open(killed, o)
		require.NoError(t, err)
		require.True(t, checked)
		require.NoError(t, k.Close())
	})
}

// TestChangedFileIsNotRead checks that a file which another process changes is not read any more, and that the store
// can be closed.
func TestChangedFileIsNotRead(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"truncated to 0":    func(path string) error { return os.Truncate(path, 0) },
		"truncated":         func(path string) error { return os.Truncate(path, 5*4096) },
		"deleted":           os.Remove,
		"overwritten":       func(path string) error { return streamstest.WriteAt(path, 3*4096, []byte(strings.Repeat("x", 9000))) },
		"grown":             func(path string) error { return os.Truncate(path, 100<<20) },
		"page in a circle":  streamstest.Circle,
		"headers of zeroes": func(path string) error { return streamstest.WriteAt(path, 0, make([]byte, 2*4096)) },
	} {
		t.Run(name, func(t *testing.T) {
			path, _ := filled(t)
			s, err := store.Open(path, small)
			require.NoError(t, err)
			streamstest.Tick(t, path)
			require.NoError(t, change(path))
			read := func() error {
				return s.View(func(tx *store.Tx) error {
					tx.Bucket("rows").Get(store.Key("page", uint64(77)))
					return nil
				})
			}
			require.ErrorIs(t, read(), store.ErrCorrupt)
			err = s.Update(func(tx *store.Tx) error { return tx.Bucket("b").Put([]byte("k"), nil) })
			require.ErrorIs(t, err, store.ErrCorrupt)
			require.ErrorIs(t, s.Suspicion(), store.ErrCorrupt)
			require.ErrorIs(t, s.Inspect(), store.ErrCorrupt)
			began := time.Now()
			if err := s.Close(); err != nil {
				require.ErrorIs(t, err, store.ErrHangs)
			}
			require.Less(t, time.Since(began), 15*time.Second, "it waits for a transaction that can't end")
			s, err = store.Open(path, small)
			require.NoError(t, err)
			put(t, s, "b", "k", "v")
			require.NoError(t, s.Close())
		})
	}
}

// TestStateBeforeTheLastCommitIsNotRead damages the header of the last commit, which makes bbolt take the one before:
// what is written next would lack that commit.
func TestStateBeforeTheLastCommitIsNotRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	o := small
	o.AnyTime = true // as if it happened during a write
	s, err := store.Open(path, o)
	require.NoError(t, err)
	for i := range 4 {
		put(t, s, "b", "k", fmt.Sprint(i))
	}
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	last := 0
	if binary.NativeEndian.Uint64(content[4096+64:]) > binary.NativeEndian.Uint64(content[64:]) { // the ids of transactions
		last = 4096
	}
	require.NoError(t, streamstest.WriteAt(path, int64(last)+70, []byte("xxx")))
	require.ErrorIs(t, s.View(func(*store.Tx) error { return nil }), store.ErrCorrupt)
	require.ErrorIs(t, s.Update(func(*store.Tx) error { return nil }), store.ErrCorrupt)
	require.NoError(t, s.Close())
}

// TestFaultInATransactionEndsIt checks a file that is truncated while a transaction reads it.
func TestFaultInATransactionEndsIt(t *testing.T) {
	path, _ := filled(t)
	s, err := store.Open(path, small)
	require.NoError(t, err)
	err = s.View(func(tx *store.Tx) error {
		if err := os.Truncate(path, 0); err != nil {
			return err
		}
		return tx.Bucket("rows").ForEachPrefix(nil, func([]byte, []byte) error { return nil })
	})
	require.ErrorIs(t, err, store.ErrCorrupt)
	for range 3 {
		require.ErrorIs(t, s.View(func(*store.Tx) error { return nil }), store.ErrCorrupt)
	}
	require.NoError(t, s.Close())
}

// TestCloseEndsWithoutATransactionThatHangs checks that Close gives up, and that the file can be opened again.
func TestCloseEndsWithoutATransactionThatHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	o := small
	o.CloseTimeout = 50 * time.Millisecond
	s, err := store.Open(path, o)
	require.NoError(t, err)
	put(t, s, "b", "k", "v")
	begun, release, ended := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		ended <- s.View(func(*store.Tx) error { close(begun); <-release; return nil })
	}()
	<-begun
	require.ErrorIs(t, s.Close(), store.ErrHangs)
	again := open(t, path)
	put(t, again, "b", "k", "w")
	close(release)
	require.ErrorIs(t, <-ended, store.ErrHangs)
}

// TestRowsOfAnEarlierVersionGetChecksums checks a file without checksums.
func TestRowsOfAnEarlierVersionGetChecksums(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	store.WriteOld(t, path, map[string]map[string]string{"b": {"k": "v", "l": ""}, "meta": {"position": `{"seq":3}`}})
	unmark(t, path)
	s := open(t, path)
	require.Empty(t, s.Recreated())
	require.False(t, s.Summed())
	before := digest(t, s)
	put(t, s, "b", "m", "w")
	require.NotEqual(t, before, digest(t, s))
	before = digest(t, s)
	require.NoError(t, s.AddSums())
	require.True(t, s.Summed())
	require.Equal(t, before, digest(t, s))
	require.NoError(t, s.Close())
	require.NoError(t, store.CheckFile(t.Context(), path))
	s = open(t, path)
	require.True(t, s.Summed())
	require.Equal(t, before, digest(t, s))
	require.NoError(t, s.View(func(tx *store.Tx) error {
		if v := tx.Bucket("b").Get([]byte("m")); string(v) != "w" {
			return fmt.Errorf("got %q", v)
		}
		return nil
	}))
}
