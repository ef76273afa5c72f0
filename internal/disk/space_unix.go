//go:build linux || darwin || freebsd

package disk

import (
	"fmt"
	"io/fs"
	"math"
	"syscall"
)

// of returns the space of the disk of dir, which must exist.
func of(dir string) (Space, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return Space{}, fmt.Errorf("get free disk space: %w", err)
	}
	var file syscall.Stat_t
	if err := syscall.Stat(dir, &file); err != nil {
		return Space{}, fmt.Errorf("get disk of directory: %w", err)
	}
	bytes := func(blocks float64) int64 { return int64(min(blocks*float64(st.Bsize), math.MaxInt64/4)) }
	return Space{
		Free: bytes(float64(st.Bavail)), Total: bytes(float64(st.Blocks)),
		id: uint64(file.Dev), //nolint:unconvert // it has another type on other systems
	}, nil
}

// occupied returns what a file occupies on the disk, which is less than its size if it has holes.
func occupied(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}
