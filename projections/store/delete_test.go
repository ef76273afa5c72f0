package store

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestDeletingStepsOverEachRowOnce counts the moves of cursors while the rows of a prefix are deleted, with and without a
// table in memory.
func TestDeletingStepsOverEachRowOnce(t *testing.T) {
	t.Parallel()
	const n = 10_000
	for _, memory := range []int{0, 64 << 20} {
		o := Options{NoSync: true, MapSize: 64 << 20, Memory: memory, FlushEvery: time.Hour}
		s, err := Open(filepath.Join(t.TempDir(), "a.db"), o)
		require.NoError(t, err)
		require.NoError(t, s.Update(func(tx *Tx) error {
			for i := range uint64(n) {
				for _, page := range []string{"1", "2", "3"} {
					if err := tx.Bucket("rows").Put(Key(page, i), []byte{1}); err != nil {
						return err
					}
				}
			}
			return nil
		}))
		require.NoError(t, s.Flush())
		for _, page := range []string{"2", "1"} { // the rows behind the second one's are deleted
			require.NoError(t, s.Update(func(tx *Tx) error {
				require.NoError(t, DeletePrefix(tx, Key(page), "rows"))
				require.LessOrEqual(t, tx.moves, 3*n, "page %s with %d bytes of memory", page, memory)
				return nil
			}))
		}
		require.NoError(t, s.View(func(tx *Tx) error {
			require.Equal(t, n, tx.Bucket("rows").Len())
			return nil
		}))
		require.NoError(t, s.Close())
	}
}
