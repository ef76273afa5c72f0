//go:build unix

package store

import (
	"os"
	"syscall"
)

// deleted reports whether an open file has no name any more.
func deleted(info os.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Nlink == 0
}
