package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// inMemory has changes in memory until a test flushes them.
var inMemory = store.Options{MapSize: 64 << 20, NoSync: true, Memory: 1 << 20, FlushEvery: time.Hour}

func openMemory(t testing.TB, path string, change ...func(*store.Options)) *store.Store {
	t.Helper()
	o := inMemory
	for _, f := range change {
		f(&o)
	}
	s, err := store.Open(path, o)
	require.NoError(t, err)
	require.Empty(t, s.Recreated())
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	return s
}

// checkAll compares a state with maps, forwards and backwards.
func checkAll(t *rapid.T, tx *store.Tx, want map[string]map[string]string) {
	for name, rows := range want {
		checkEqual(t, tx.Bucket(name), rows)
		got := map[string]string{}
		c, last := tx.Bucket(name).Cursor(), ""
		for k, v := c.Last(); k != nil; k, v = c.Prev() {
			require.True(t, last == "" || string(k) < last, "%s after %s", k, last)
			last, got[string(k)] = string(k), string(v)
		}
		require.Equal(t, rows, got, "backwards")
	}
}

func cloneAll(m map[string]map[string]string) map[string]map[string]string {
	c := make(map[string]map[string]string, len(m))
	for name, rows := range m {
		c[name] = maps.Clone(rows)
	}
	return c
}

// TestMemoryIsReadLikeTheFile makes the same random changes in a store with memory, in one without and in maps, with
// flushes and new starts in between. Views that began before changes and flushes must see their old state.
func TestMemoryIsReadLikeTheFile(t *testing.T) {
	dir, files := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		files++
		path := filepath.Join(dir, fmt.Sprint(files))
		s, err := store.Open(path, inMemory)
		require.NoError(t, err)
		defer func() { require.NoError(t, s.Close()) }()
		plain, err := store.Open(path+".plain", store.Options{MapSize: 1 << 20, NoSync: true})
		require.NoError(t, err)
		defer plain.Close()
		stored := map[string]map[string]string{"a": {}, "b": {}}
		views := 0
		var actions func(n int)
		actions = func(n int) {
			for range n {
				switch rapid.IntRange(0, 6).Draw(t, "action") {
				case 0:
					require.NoError(t, s.Flush())
				case 1:
					if views == 0 {
						require.NoError(t, s.Close())
						s, err = store.Open(path, inMemory)
						require.NoError(t, err)
						require.Empty(t, s.Recreated())
					}
				case 2:
					if views == 2 {
						continue
					}
					views++
					old := cloneAll(stored)
					require.NoError(t, s.View(func(tx *store.Tx) error {
						actions(rapid.IntRange(1, 4).Draw(t, "meanwhile"))
						checkAll(t, tx, old)
						return nil
					}))
					views--
				default:
					model := cloneAll(stored)
					roll := rapid.Bool().Draw(t, "roll back")
					err := s.Update(func(tx *store.Tx) error {
						for range rapid.IntRange(0, 20).Draw(t, "steps") {
							name := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "bucket")
							if err := step(t, tx.Bucket(name), model[name]); err != nil {
								return err
							}
						}
						checkAll(t, tx, model)
						if roll {
							return errEncode
						}
						return nil
					})
					require.Equal(t, errors.Is(err, errEncode), roll, "update: %v", err)
					if !roll {
						stored = model
					}
				}
			}
		}
		actions(rapid.IntRange(1, 12).Draw(t, "actions"))
		require.NoError(t, plain.Update(func(tx *store.Tx) error {
			for name, rows := range stored {
				for k, v := range rows {
					if err := tx.Bucket(name).Put([]byte(k), []byte(v)); err != nil {
						return err
					}
				}
			}
			return nil
		}))
		same := func() {
			require.NoError(t, s.View(func(a *store.Tx) error {
				checkAll(t, a, stored)
				return plain.View(func(b *store.Tx) error {
					one, err := store.Digest(a)
					require.NoError(t, err)
					two, err := store.Digest(b)
					require.Equal(t, two, one)
					_, differ, diffErr := store.Diff(a, b)
					require.False(t, differ)
					return errors.Join(err, diffErr)
				})
			}))
		}
		same()
		require.NoError(t, s.Flush())
		same()
	})
}

// rounds is a state in which all rows have the number of one Update, and those of other rounds are deleted.
const roundRows = 50

func writeRound(s *store.Store, n uint64) error {
	return s.Update(func(tx *store.Tx) error {
		b := tx.Bucket("rows")
		for i := range uint64(roundRows) {
			if err := b.Put(store.Key(i, n%3), store.Uint64(n)); err != nil {
				return err
			}
			if err := b.Delete(store.Key(i, (n+2)%3)); err != nil {
				return err
			}
		}
		return store.WriteMeta(tx, store.Meta{Seq: n})
	})
}

// roundOf checks that a state is that of one round, and returns which.
func roundOf(s *store.Store) (seq uint64, err error) {
	err = s.View(func(tx *store.Tx) error {
		meta, _, err := store.ReadMeta(tx)
		if err != nil {
			return err
		}
		seq = meta.Seq
		rows := uint64(0)
		c := tx.Bucket("rows").Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			var i, of uint64
			if !store.ParseKey(k, &i, &of) || i != rows || of != seq%3 || store.ToUint64(v) != seq {
				return fmt.Errorf("round %d has row %d of %d with %d", seq, i, of, store.ToUint64(v))
			}
			rows++
		}
		if seq > 0 && rows != roundRows {
			return fmt.Errorf("round %d has %d rows", seq, rows)
		}
		return nil
	})
	return seq, err
}

// TestViewSeesOnePosition reads while the table is changed and written all the time.
func TestViewSeesOnePosition(t *testing.T) {
	s := openMemory(t, filepath.Join(t.TempDir(), "a.db"), func(o *store.Options) { o.FlushEvery = time.Millisecond })
	const last = 1500
	var running sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		running.Go(func() {
			before := uint64(0)
			for {
				seq, err := roundOf(s)
				assert.True(t, err == nil && seq >= before, "%d after %d: %v", seq, before, err)
				before = seq
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for n := uint64(1); n <= last; n++ {
		require.NoError(t, writeRound(s, n))
	}
	close(stop)
	running.Wait()
	seq, err := roundOf(s)
	require.NoError(t, err)
	require.Equal(t, uint64(last), seq)
}

// TestUpdateChangesNoTreeThatAViewSees makes Updates of one bucket each while a View is in the middle of both. Without a
// View they change the table in place.
func TestUpdateChangesNoTreeThatAViewSees(t *testing.T) {
	s := openMemory(t, filepath.Join(t.TempDir(), "a.db"))
	names := []string{"a", "b"}
	set := func(name, value string) {
		t.Helper()
		require.NoError(t, s.Update(func(tx *store.Tx) error {
			for i := range uint64(200) {
				if err := tx.Bucket(name).Put(store.Key(i), []byte(value)); err != nil {
					return err
				}
			}
			return tx.Bucket(name).Put(store.Key(uint64(1000), value), []byte(value))
		}))
	}
	at := store.Active(s)
	for _, value := range []string{"0", "1"} {
		for _, name := range names {
			set(name, value)
			require.Same(t, at, store.Active(s), "nobody sees the table")
		}
	}
	require.NoError(t, s.View(func(tx *store.Tx) error {
		cursors := make([]*store.Cursor, len(names))
		for i, name := range names {
			cursors[i] = tx.Bucket(name).Cursor()
			cursors[i].Seek(store.Key(uint64(100)))
		}
		for _, name := range names { // the second table has the bucket that the first Update did not change
			set(name, "2")
			set(name, "3")
		}
		for i, name := range names {
			rows := 1
			for k, v := cursors[i].Next(); k != nil; k, v = cursors[i].Next() {
				rows++
				require.Contains(t, []string{"0", "1"}, string(v), "row %x of %s", k, name)
			}
			require.Equal(t, 102, rows)
			require.Equal(t, 202, tx.Bucket(name).Len())
			require.Equal(t, "1", string(tx.Bucket(name).Get(store.Key(uint64(7)))))
		}
		return nil
	}))
	require.NotSame(t, at, store.Active(s), "a View saw the table")
	at = store.Active(s)
	for _, name := range names {
		set(name, "4")
		require.Same(t, at, store.Active(s), "the View has ended")
	}
	require.NoError(t, s.View(func(tx *store.Tx) error {
		for _, name := range names {
			require.Equal(t, 205, tx.Bucket(name).Len())
			require.Equal(t, "4", string(tx.Bucket(name).Get(store.Key(uint64(7)))))
		}
		return nil
	}))
}

// TestUpdateThatFailsChangesNothing covers Updates that write changes before their end, because a cursor reads them, and
// such that fail at their end, where a row of another bucket is not encoded.
func TestUpdateThatFailsChangesNothing(t *testing.T) {
	s := openMemory(t, filepath.Join(t.TempDir(), "a.db"))
	require.NoError(t, writeRound(s, 1))
	put(t, s, "old", "k", "v")
	at, size := store.Active(s), store.InMemory(s)
	change := func(tx *store.Tx) error {
		rows := tx.Bucket("rows")
		return errors.Join(rows.Delete(store.Key(uint64(0), uint64(1))), rows.Put([]byte("new"), []byte("v")),
			tx.Bucket("old").Put([]byte("k"), []byte("w")), tx.Bucket("more").Put([]byte("k"), []byte("v")))
	}
	early := func(tx *store.Tx) { require.Equal(t, roundRows, tx.Bucket("rows").Len()) }
	broken := func(tx *store.Tx) error { return store.PutRow(tx.Bucket("broken"), []byte("k"), counter{13}) }
	for name, f := range map[string]func(*store.Tx) error{
		"fails":                     func(tx *store.Tx) error { return errors.Join(change(tx), errEncode) },
		"fails after a flush":       func(tx *store.Tx) error { err := change(tx); early(tx); return errors.Join(err, errEncode) },
		"not encoded":               func(tx *store.Tx) error { return errors.Join(change(tx), broken(tx)) },
		"not encoded after a flush": func(tx *store.Tx) error { err := change(tx); early(tx); return errors.Join(err, broken(tx)) },
		"not encoded before a flush": func(tx *store.Tx) error {
			err := broken(tx)
			tx.Bucket("broken").Len()
			return errors.Join(err, change(tx))
		},
	} {
		require.ErrorIs(t, s.Update(f), errEncode, name)
		seq, err := roundOf(s)
		require.NoError(t, err, name)
		require.Equal(t, uint64(1), seq, name)
		require.NoError(t, s.View(func(tx *store.Tx) error {
			require.Equal(t, "v", string(tx.Bucket("old").Get([]byte("k"))), name)
			require.True(t, tx.Bucket("more").Empty(), name)
			return nil
		}))
		require.Same(t, at, store.Active(s), name)
		require.Equal(t, size, store.InMemory(s), name)
	}
	require.NoError(t, writeRound(s, 2))
}

// TestViewOfBeforeAFlushSeesTheOldPosition also covers a table that is written while it is read.
func TestViewOfBeforeAFlushSeesTheOldPosition(t *testing.T) {
	s := openMemory(t, filepath.Join(t.TempDir(), "a.db"))
	require.NoError(t, writeRound(s, 1))
	require.NoError(t, s.Flush())
	require.NoError(t, writeRound(s, 2))
	seqs := func(tx *store.Tx) (seqs []uint64) {
		meta, _, err := store.ReadMeta(tx)
		require.NoError(t, err)
		seqs = append(seqs, meta.Seq)
		require.NoError(t, tx.Bucket("rows").ForEachPrefix(nil, func(_, v []byte) error {
			seqs = append(seqs, store.ToUint64(v))
			return nil
		}))
		return seqs
	}
	require.NoError(t, s.View(func(tx *store.Tx) error {
		for n := uint64(3); n < 6; n++ {
			require.NoError(t, writeRound(s, n))
			require.NoError(t, s.Flush())
			require.Zero(t, store.InMemory(s))
		}
		require.Len(t, seqs(tx), roundRows+1)
		for _, seq := range seqs(tx) {
			require.Equal(t, uint64(2), seq)
		}
		return nil
	}))
	seq, err := roundOf(s)
	require.NoError(t, err)
	require.Equal(t, uint64(5), seq)
}

// TestCrashDuringAFlushLeavesAnEarlierUpdate copies the file at many moments of flushes, as a killed process leaves it.
func TestCrashDuringAFlushLeavesAnEarlierUpdate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.db")
	s := openMemory(t, path)
	require.NoError(t, writeRound(s, 1))
	require.NoError(t, s.Flush())
	during := 0
	for n := uint64(2); n < 80; n++ {
		require.NoError(t, writeRound(s, n))
		require.NoError(t, s.Update(func(tx *store.Tx) error { // makes the flush longer
			return tx.Bucket("more").Put([]byte("k"), bytes.Repeat([]byte{byte(n)}, 300_000))
		}))
		done := make(chan error, 1)
		go func() { done <- s.Flush() }()
		time.Sleep(time.Duration(n) * 10 * time.Microsecond) // any moment will do
		crashed := filepath.Join(dir, fmt.Sprint(n))
		copyFile(t, path, crashed)
		require.NoError(t, <-done)
		require.NoError(t, store.CheckFile(t.Context(), crashed))
		c, err := store.Open(crashed, inMemory)
		require.NoError(t, err)
		seq, err := roundOf(c)
		require.NoError(t, err)
		require.Contains(t, []uint64{n - 1, n}, seq)
		if seq == n-1 {
			during++
		}
		require.NoError(t, writeRound(c, seq+1)) // it goes on from there
		require.NoError(t, c.Close())
		require.NoError(t, os.Remove(crashed))
	}
	t.Logf("%d of 78 copies are of before", during)
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	require.NoError(t, err)
	defer in.Close()
	out, err := os.Create(to)
	require.NoError(t, err)
	_, err = io.Copy(out, in)
	require.NoError(t, errors.Join(err, out.Close()))
}

// TestFlushThatFailsLosesNothing makes each write to the file fail for a while.
func TestFlushThatFailsLosesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	const limit = 64 << 10
	s := openMemory(t, path, func(o *store.Options) { o.Memory, o.FlushEvery = limit, 5*time.Millisecond })
	require.NoError(t, writeRound(s, 1))
	require.NoError(t, s.Flush())
	mend := projectionstest.BreakDisk(t, path)
	applied := uint64(1)
	for n := uint64(2); n < 3000; n++ {
		if err := writeRound(s, n); err != nil {
			require.NotErrorIs(t, err, store.ErrCorrupt)
			break
		}
		applied = n
		require.Less(t, store.InMemory(s), 3*limit)
	}
	require.Less(t, applied, uint64(2999), "no Update has failed")
	require.Error(t, s.Flush())
	require.Error(t, s.Unwritten())
	require.Error(t, writeRound(s, applied+1))
	seq, err := roundOf(s)
	require.NoError(t, err)
	require.Equal(t, applied, seq, "what was applied can be read")
	mend()
	streamstest.Eventually(t, streamstest.Limit, func() error { return errors.Join(s.Unwritten(), unflushed(s)) })
	require.NoError(t, writeRound(s, applied+1))
	require.NoError(t, s.Flush())
	copyFile(t, path, path+".copy")
	seq, err = roundOf(openMemory(t, path+".copy"))
	require.NoError(t, err)
	require.Equal(t, applied+1, seq)
}

func unflushed(s *store.Store) error {
	if n := store.InMemory(s); n > 0 {
		return fmt.Errorf("%d bytes in memory", n)
	}
	return nil
}

// TestClosedStoreIsInItsFile also covers changes that Sync and WriteTo find in memory.
func TestClosedStoreIsInItsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	s := openMemory(t, path)
	require.NoError(t, writeRound(s, 1))
	var b bytes.Buffer
	_, err := s.WriteTo(&b)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path+".copy", b.Bytes(), 0o600))
	seq, err := roundOf(openMemory(t, path+".copy"))
	require.NoError(t, err)
	require.Equal(t, uint64(1), seq)
	require.NoError(t, writeRound(s, 2))
	require.NoError(t, s.Sync())
	require.Zero(t, store.InMemory(s))
	require.NoError(t, writeRound(s, 3))
	require.NoError(t, s.Close())
	require.ErrorIs(t, writeRound(s, 4), store.ErrClosed)
	require.ErrorIs(t, s.Flush(), store.ErrClosed)
	seq, err = roundOf(open(t, path))
	require.NoError(t, err)
	require.Equal(t, uint64(3), seq)
}

// TestScrubOverwritesWhatWasInMemory checks that bytes which were deleted in memory do not reach the file later.
func TestScrubOverwritesWhatWasInMemory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	s := openMemory(t, path)
	onDisk := func() bool {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		return bytes.Contains(b, []byte("secret"))
	}
	put(t, s, "b", "in the file", strings.Repeat("secret ", 50))
	require.NoError(t, s.Flush())
	require.True(t, onDisk())
	put(t, s, "b", "in memory", strings.Repeat("secret ", 50))
	require.NoError(t, s.Update(func(tx *store.Tx) error {
		return errors.Join(tx.Bucket("b").Delete([]byte("in the file")), tx.Bucket("b").Delete([]byte("in memory")))
	}))
	require.True(t, store.InScratch(s, "secret"))
	require.NoError(t, s.Scrub(t.Context()))
	require.Zero(t, store.InMemory(s))
	require.False(t, store.InScratch(s, "secret"))
	require.False(t, onDisk())
	require.NoError(t, s.Close())
	require.False(t, onDisk())
}

// TestTableIsWrittenWithoutBeingAsked checks both reasons: its age and its size.
func TestTableIsWrittenWithoutBeingAsked(t *testing.T) {
	for name, c := range map[string]struct {
		o func(*store.Options)
	}{
		"age":  {func(o *store.Options) { o.FlushEvery = 10 * time.Millisecond }},
		"size": {func(o *store.Options) { o.Memory = 1000 }},
	} {
		t.Run(name, func(t *testing.T) {
			s := openMemory(t, filepath.Join(t.TempDir(), "a.db"), c.o)
			for n := range uint64(3) {
				require.NoError(t, writeRound(s, n))
				streamstest.Eventually(t, streamstest.Limit, func() error { return unflushed(s) })
			}
		})
	}
}
