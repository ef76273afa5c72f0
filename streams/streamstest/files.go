package streamstest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Tick waits until a file that is written now gets a later time of modification than the file at path has: the
// clock of files advances in steps of some milliseconds.
func Tick(t testing.TB, path string) {
	t.Helper()
	before, err := os.Stat(path)
	require.NoError(t, err)
	probe := filepath.Join(t.TempDir(), "probe")
	Eventually(t, Limit, func() error {
		require.NoError(t, os.WriteFile(probe, nil, 0o600))
		now, err := os.Stat(probe)
		require.NoError(t, err)
		if !now.ModTime().After(before.ModTime()) {
			return fmt.Errorf("it is still %s", now.ModTime())
		}
		return nil
	})
}
