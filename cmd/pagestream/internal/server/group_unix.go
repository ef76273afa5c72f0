//go:build unix

package server

import (
	"io/fs"
	"os"
	"slices"
	"syscall"
)

// ofOurGroup reports whether a file belongs to root or to a group of this process.
func ofOurGroup(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	groups, _ := os.Getgroups() // it may lack the group of the process
	return stat.Uid == 0 || slices.Contains(append(groups, os.Getegid()), int(stat.Gid))
}
