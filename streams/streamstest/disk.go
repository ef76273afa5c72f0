package streamstest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Disk returns a directory on a disk of its own, an ext4 file system in a file of size bytes, which is
// unmounted at the end of the test. Everything that has files there must be closed by then: by cleanups that
// were added later. The test is skipped, with the reason, where disks can't be mounted.
func Disk(t testing.TB, size int64) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a disk needs root")
	}
	image, dir := filepath.Join(t.TempDir(), "disk.img"), filepath.Join(t.TempDir(), "disk")
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	require.NoError(t, os.Truncate(image, size))
	for _, command := range [][]string{
		{"mkfs.ext4", "-q", "-m", "0", image}, {"mount", "-o", "loop", image, dir},
	} {
		if out, err := run(t, command...); err != nil {
			t.Skipf("a disk can't be mounted: %s: %v: %s", command[0], err, strings.TrimSpace(out))
		}
	}
	t.Cleanup(func() {
		out, err := run(t, "umount", dir)
		assert.NoError(t, err, out)
	})
	return dir
}

// run runs a command and returns what it wrote.
func run(_ testing.TB, command ...string) (string, error) {
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput() //nolint:gosec,noctx // fixed commands, in cleanups too
	return string(out), err
}

// Fill writes a file in dir until the disk is full, except for free bytes, and returns its path.
func Fill(t testing.TB, dir string, free int64) string {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(t, err)
	block := make([]byte, 4<<10)
	for err == nil {
		_, err = f.Write(block)
	}
	require.ErrorContains(t, err, "no space left")
	info, err := f.Stat()
	require.NoError(t, err)
	require.NoError(t, f.Truncate(max(0, info.Size()-free)))
	require.NoError(t, f.Sync())
	require.NoError(t, f.Close())
	return path
}
