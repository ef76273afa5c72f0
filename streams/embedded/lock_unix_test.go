//go:build unix && !solaris && !aix

package embedded_test

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/streams/embedded"
)

// TestShutdownUnlocksForTheNextStart checks that a copy of the lock's descriptor, as a child process has it while
// it is started, does not keep the directory locked after a shutdown.
func TestShutdownUnlocksForTheNextStart(t *testing.T) {
	const descriptors = "/proc/self/fd"
	if _, err := os.Stat(descriptors); err != nil {
		t.Skip("the system does not list the open files of a process")
	}
	o := embedded.Options{Dir: t.TempDir()}
	s := start(t, o)
	open, err := os.ReadDir(descriptors)
	require.NoError(t, err)
	copied := -1
	for _, d := range open {
		target, err := os.Readlink(filepath.Join(descriptors, d.Name()))
		if err == nil && target == filepath.Join(o.Dir, "lock") {
			fd, err := strconv.Atoi(d.Name())
			require.NoError(t, err)
			copied, err = syscall.Dup(fd)
			require.NoError(t, err)
		}
	}
	require.GreaterOrEqual(t, copied, 0, "the lock is not open")
	defer syscall.Close(copied)
	stop(t, s)
	start(t, o)
}
