//go:build linux || darwin || freebsd

package embedded

import (
	"fmt"
	"math"
	"syscall"
)

// freeSpace returns how many bytes a user without privileges can still write to the disk of dir.
func freeSpace(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("get free disk space: %w", err)
	}
	free := float64(st.Bavail) * float64(st.Bsize)
	return int64(min(free, math.MaxInt64/4)), nil
}
