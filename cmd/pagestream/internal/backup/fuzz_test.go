package backup

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzManifest checks that a backup is accepted only if each file that its manifest names is in it,
// as the manifest says, and no name is outside of the backup's directory.
func FuzzManifest(f *testing.F) {
	base := f.TempDir()
	require.NoError(f, os.WriteFile(filepath.Join(base, "outside"), nil, 0o600))
	dir := filepath.Join(base, "backup")
	require.NoError(f, os.MkdirAll(filepath.Join(dir, "S"), 0o700))
	require.NoError(f, os.WriteFile(filepath.Join(dir, "S", "data"), []byte("data"), 0o600))
	sum, err := sumOf(filepath.Join(dir, "S", "data"))
	require.NoError(f, err)
	good := fmt.Sprintf(`{"format":2,"streams":[{"name":"S","head":1}],"files":{"keys":"S/data"},`+
		`"sums":{"S/data":{"size":4,"sha256":%q}}}`, sum.SHA256)
	f.Add(good)
	f.Add(`{"format":2,"files":{"keys":"../outside"},"sums":{"../outside":{}}}`)
	f.Add(`{"format":2,"files":{"keys":"gone"},"sums":{"gone":{"size":0,"sha256":""}}}`)
	f.Add(`{"format":2,"streams":[{"name":"../S","head":1}]}`)
	f.Add(`{"format":3}`)
	f.Add(`{"format":4}`)
	f.Add(`{"format":2}{"format":1}`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, manifestFile), []byte(text), 0o600))
		m, err := Check(dir)
		require.True(t, err == nil || text != good, "the manifest of a backup is accepted")
		if err != nil {
			return
		}
		require.Contains(t, []int{format, formatEncrypted}, m.Format)
		for name, want := range m.Sums {
			require.True(t, filepath.IsLocal(name), name)
			got, err := sumOf(filepath.Join(dir, name))
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
		for _, name := range m.Files {
			require.Contains(t, m.Sums, name)
		}
		for _, s := range m.Streams {
			require.Equal(t, s.Name, filepath.Base(s.Name))
		}
	})
}
