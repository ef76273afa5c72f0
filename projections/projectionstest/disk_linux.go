package projectionstest

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// BreakDisk makes each write to a file that this process has open fail, until the returned function is called. The
// file can still be read, and is unchanged.
func BreakDisk(t testing.TB, path string) (mend func()) {
	t.Helper()
	const dir = "/proc/self/fd/"
	fds, err := os.ReadDir(dir)
	require.NoError(t, err)
	want, err := os.Stat(path)
	require.NoError(t, err)
	var open []int // all of them first: a number may be given again below
	for _, e := range fds {
		var fd int
		if _, err := fmt.Sscan(e.Name(), &fd); err != nil {
			continue
		}
		if got, err := os.Stat(dir + e.Name()); err == nil && os.SameFile(got, want) {
			open = append(open, fd)
		}
	}
	before := map[int]int{}
	for _, fd := range open {
		saved, err := unix.Dup(fd) // it keeps the lock
		require.NoError(t, err)
		f, err := os.Open(path)
		require.NoError(t, err)
		require.NoError(t, unix.Dup3(int(f.Fd()), fd, unix.O_CLOEXEC))
		require.NoError(t, f.Close())
		before[fd] = saved
	}
	require.NotEmpty(t, before, "the file is not open")
	return func() {
		for fd, saved := range before {
			require.NoError(t, unix.Dup3(saved, fd, unix.O_CLOEXEC))
			require.NoError(t, unix.Close(saved))
		}
	}
}
