package erasures

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
)

func TestErasuresFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "erasures.log")
	f := Open(path)
	list, err := f.List()
	require.NoError(t, err)
	assert.Empty(t, list, "there is no file yet")
	at := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	one := meta.Erasure{Time: at, Page: "104", Contact: "aa"}
	two := meta.Erasure{Time: at.Add(time.Hour), Admin: &meta.AdminErasure{Hash: "bb", Before: at, Request: "r"}}
	require.NoError(t, f.Append(one))

	// A crash has cut the last line: it was never acknowledged.
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, append(b, `{"time":"2026-06`...), 0o600))
	list, err = Read(path)
	require.NoError(t, err)
	assert.Equal(t, []meta.Erasure{one}, list)
	require.NoError(t, f.Merge([]meta.Erasure{one, two}))
	require.NoError(t, f.Merge([]meta.Erasure{two}))
	list, err = f.List()
	require.NoError(t, err)
	assert.Equal(t, []meta.Erasure{one, two}, list)

	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	beside := filepath.Join(t.TempDir(), "copy")
	require.NoError(t, f.Copy(beside))
	list, err = Read(beside)
	require.NoError(t, err)
	assert.Len(t, list, 2)
	require.ErrorIs(t, f.Copy(beside), ErrExists)
	empty := filepath.Join(t.TempDir(), "empty")
	require.NoError(t, Open(filepath.Join(t.TempDir(), "absent")).Copy(empty))
	list, err = Read(empty)
	require.NoError(t, err)
	assert.Empty(t, list)
}

// TestRecordedErasuresAreAdded checks that only what another node has erased is added, once.
func TestRecordedErasuresAreAdded(t *testing.T) {
	at := func(page domain.PageID, contact string, ms int) meta.Erasure {
		return meta.Erasure{Time: time.UnixMilli(1790000000000 + int64(ms)).UTC(), Page: page, Contact: contact}
	}
	f := Open(filepath.Join(t.TempDir(), "erasures.log"))
	own := []meta.Erasure{at("104", "aa", 10), at("104", "aa", 50), at("104", "bb", 10)}
	require.NoError(t, f.Append(own...))
	records := []meta.Erasure{
		at(domain.NoPage, "aa", 12), at("104", "aa", 12), at("104", "aa", 12), // two parts, and what has no page
		at("104", "aa", 30), at("104", "aa", 50),
		at("104", "bb", 9), at("104", "bb", 10),
		at(domain.NoPage, "bb", 11), at("105", "aa", 12),
		at(domain.NoPage, "cc", 5), at("104", "cc", 5),
	}
	want := append(slices.Clone(own), at("104", "cc", 5), at("104", "bb", 9), at(domain.NoPage, "bb", 11), at("105", "aa", 12),
		at("104", "aa", 30))
	for range 2 {
		require.NoError(t, f.Complete(records))
		list, err := f.List()
		require.NoError(t, err)
		assert.Equal(t, want, list)
	}
}

// TestOtherFilesAreRefused checks that a file which was given by mistake does not count as a list without erasures.
func TestOtherFilesAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"text": "hello\n", "other JSON": "{}\n", "no time": `{"page":"1","contact":"a"}` + "\n",
		"both":              `{"time":"2026-06-01T12:00:00Z","page":"1","contact":"a","admin":{}}` + "\n",
		"damage in between": "x\n" + `{"time":"2026-06-01T12:00:00Z","page":"1","contact":"a"}` + "\n",
	} {
		path := filepath.Join(t.TempDir(), "file")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := Read(path)
		require.ErrorIs(t, err, ErrFile, name)
	}
	_, err := Read(filepath.Join(t.TempDir(), "absent"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
