package store_test

import (
	"bytes"
	"testing"

	"github.com/prometheus/procfs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/projections/store"
)

// TestReleaseMemory checks that what was read of a file is not resident in the process any more, also for a View that goes
// on reading it. It is not parallel: others would change how much is resident.
func TestReleaseMemory(t *testing.T) {
	const rows, size = 2000, 16 << 10
	s, err := store.Open(t.TempDir()+"/model.db", store.Options{NoSync: true})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	require.NoError(t, s.Update(func(tx *store.Tx) error {
		for i := range rows {
			if err := tx.Bucket("rows").Put(store.Uint64(uint64(i)), bytes.Repeat([]byte{byte(i)}, size)); err != nil {
				return err
			}
		}
		return nil
	}))
	resident := func() uint64 {
		self, err := procfs.Self()
		require.NoError(t, err)
		status, err := self.NewStatus()
		require.NoError(t, err)
		return status.RssFile
	}
	read := func(tx *store.Tx) error {
		n := 0
		return tx.Bucket("rows").ForEachPrefix(nil, func(_, v []byte) error {
			assert.Equal(t, bytes.Repeat([]byte{byte(n)}, size), v)
			n++
			return nil
		})
	}
	require.NoError(t, s.View(read))
	before := resident()
	require.NoError(t, s.View(func(tx *store.Tx) error {
		require.NoError(t, s.ReleaseMemory())
		assert.Less(t, resident(), before-rows*size/2)
		return read(tx)
	}))
	require.NoError(t, s.Close())
	require.ErrorIs(t, s.ReleaseMemory(), store.ErrClosed)
}
