package store_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/projections/store"
)

// BenchmarkDeletePrefix deletes 100,000 rows in one transaction, in a table in memory.
func BenchmarkDeletePrefix(b *testing.B) {
	s := openMemory(b, filepath.Join(b.TempDir(), "a.db"), func(o *store.Options) { o.Memory = 256 << 20 })
	for b.Loop() {
		b.StopTimer()
		require.NoError(b, s.Update(func(tx *store.Tx) error {
			for i := range uint64(100_000) {
				if err := tx.Bucket("rows").Put(store.Key("page", i), []byte{1}); err != nil {
					return err
				}
			}
			return nil
		}))
		require.NoError(b, s.Flush())
		b.StartTimer()
		require.NoError(b, s.Update(func(tx *store.Tx) error {
			return store.DeletePrefix(tx, store.Key("page"), "rows")
		}))
	}
}
