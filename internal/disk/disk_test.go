package disk_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/internal/disk"
)

func TestSpaceOfADirectory(t *testing.T) {
	dir := t.TempDir()
	a, err := disk.Of(dir)
	require.NoError(t, err)
	require.Positive(t, a.Free)
	require.LessOrEqual(t, a.Free, a.Total)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "b"), 0o700))
	b, err := disk.Of(filepath.Join(dir, "b"))
	require.NoError(t, err)
	require.True(t, a.Same(b))
	other, err := disk.Of("/proc")
	if err == nil { // there is no /proc on some systems
		require.False(t, a.Same(other))
	}
	missing, err := disk.Of(filepath.Join(dir, "missing", "too"))
	require.NoError(t, err)
	require.True(t, a.Same(missing))
}

func TestUsedCountsFilesBelowADirectory(t *testing.T) {
	dir := t.TempDir()
	require.Zero(t, disk.Used(filepath.Join(dir, "missing")))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "a", "b"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a", "b", "f"), make([]byte, 1<<20), 0o600))
	sparse := filepath.Join(dir, "sparse")
	require.NoError(t, os.WriteFile(sparse, nil, 0o600))
	require.NoError(t, os.Truncate(sparse, 1<<30))
	require.InDelta(t, 1<<20, disk.Used(dir), 1<<16, "a hole of a file occupies nothing")
}

func TestProbeLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, disk.Probe(dir))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
	require.ErrorIs(t, disk.Probe(filepath.Join(dir, "missing")), os.ErrNotExist)
}

// TestReplaceKeepsOneWholeFile checks that writers that replace the same file leave the file of one of them, and
// nothing else.
func TestReplaceKeepsOneWholeFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	var writing sync.WaitGroup
	for i := range 8 {
		writing.Go(func() {
			assert.NoError(t, disk.Replace(path, bytes.Repeat([]byte{byte('a' + i)}, 100_000)))
		})
	}
	writing.Wait()
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, bytes.Repeat(got[:1], 100_000), got)
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.EqualValues(t, 0o600, info.Mode().Perm())
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, list, 1)
	require.ErrorIs(t, disk.Replace(filepath.Join(dir, "none", "state"), nil), fs.ErrNotExist)
	require.ErrorIs(t, disk.SyncDir(filepath.Join(dir, "none")), fs.ErrNotExist)
}
