package store

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// filled waits until the filter of a store is of use, and for so many keys.
func filled(t require.TestingT, s *Store, size uint) {
	require.Eventually(t, func() bool {
		s.filter.mu.RLock()
		defer s.filter.mu.RUnlock()
		return s.filter.ready.Load() && s.filter.next == nil && s.filter.size >= size
	}, 30*time.Second, time.Millisecond)
}

func rowKey(n int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

// TestFilteredBucketHasItsRows compares a filtered bucket with a map, with and without a table in memory, while rows are
// put and deleted and the store is opened again.
func TestFilteredBucketHasItsRows(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		o := Options{NoSync: true, MapSize: 64 << 20, Filter: "ids", Memory: rapid.SampledFrom([]int{0, 1 << 20}).Draw(r, "memory")}
		path := filepath.Join(t.TempDir(), "a.db")
		s, err := Open(path, o)
		require.NoError(r, err)
		defer func() { require.NoError(r, s.Close()) }()
		want := map[int]bool{}
		for range rapid.IntRange(1, 20).Draw(r, "steps") {
			switch rapid.SampledFrom([]string{"put", "delete", "flush", "open", "wait"}).Draw(r, "step") {
			case "put":
				for _, n := range rapid.SliceOfN(rapid.IntRange(0, 50), 1, 5).Draw(r, "rows") {
					want[n] = true
					require.NoError(r, s.Update(func(tx *Tx) error { return tx.Bucket("ids").Put(rowKey(n), []byte{1}) }))
				}
			case "delete":
				n := rapid.IntRange(0, 50).Draw(r, "row")
				delete(want, n)
				require.NoError(r, s.Update(func(tx *Tx) error { return tx.Bucket("ids").Delete(rowKey(n)) }))
			case "flush":
				require.NoError(r, s.Flush())
			case "open":
				require.NoError(r, s.Close())
				s, err = Open(path, o)
				require.NoError(r, err)
			case "wait":
				filled(r, s, 0)
			}
			require.NoError(r, s.View(func(tx *Tx) error {
				for n := range 60 {
					require.Equal(r, want[n], tx.Bucket("ids").Has(rowKey(n)), "row %d", n)
				}
				return nil
			}))
		}
	})
}

// TestAFullFilterIsMadeAnew writes many more keys than the filter is for, while others look them up.
func TestAFullFilterIsMadeAnew(t *testing.T) {
	t.Parallel()
	s, err := Open(filepath.Join(t.TempDir(), "a.db"), Options{NoSync: true, MapSize: 1 << 30, Filter: "ids", Memory: 1 << 20})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	filled(t, s, 0)
	require.NoError(t, s.run(func() error { // a small one
		s.updates.Lock()
		defer s.updates.Unlock()
		s.filter.mu.Lock()
		defer s.filter.mu.Unlock()
		s.filter.size = 1000
		return nil
	}))
	const rows = 50_000
	var reading sync.WaitGroup
	defer reading.Wait()
	for n := 0; n < rows; n += 500 {
		require.NoError(t, s.Update(func(tx *Tx) error {
			for i := range 500 {
				if err := tx.Bucket("ids").Put(rowKey(n+i), []byte{1}); err != nil {
					return err
				}
			}
			return nil
		}))
		reading.Go(func() {
			assert.NoError(t, s.View(func(tx *Tx) error {
				for range 100 {
					if i := rand.IntN(n + 500); !tx.Bucket("ids").Has(rowKey(i)) {
						return fmt.Errorf("row %d of %d is missing", i, n+500)
					}
				}
				return nil
			}))
		})
	}
	require.NoError(t, s.Flush())
	filled(t, s, rows/2)
	require.NoError(t, s.View(func(tx *Tx) error {
		found := 0
		for n := range rows {
			require.True(t, tx.Bucket("ids").Has(rowKey(n)))
			if s.filter.lacks(rowKey(rows + n)) {
				found++
			}
		}
		require.Greater(t, found, rows*9/10, "of missing rows the filter knows that they are")
		return nil
	}))
}

// TestMemoryBeginsWhileTheFilterGrows begins to keep changes in memory, as the new file of a rebuild does, while the
// filter is scanned and made anew. The race detector checks it.
func TestMemoryBeginsWhileTheFilterGrows(t *testing.T) {
	t.Parallel()
	for range 3 {
		s, err := Open(filepath.Join(t.TempDir(), "a.db"), Options{NoSync: true, MapSize: 64 << 20, Filter: "ids"})
		require.NoError(t, err)
		require.NoError(t, s.Update(func(tx *Tx) error { return tx.Bucket("ids").Put(rowKey(1), []byte{1}) }))
		filled(t, s, 0)
		signal(s.filter.full)
		s.KeepInMemory(1 << 20)
		require.NoError(t, s.Update(func(tx *Tx) error { return tx.Bucket("ids").Put(rowKey(2), []byte{1}) }))
		require.NoError(t, s.Flush())
		filled(t, s, 2*minFilterKeys)
		require.NoError(t, s.View(func(tx *Tx) error {
			require.True(t, tx.Bucket("ids").Has(rowKey(1)) && tx.Bucket("ids").Has(rowKey(2)))
			return nil
		}))
		require.NoError(t, s.Close())
	}
}
