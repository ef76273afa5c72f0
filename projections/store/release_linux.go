package store

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// ReleaseMemory gives back to the system the memory of what was read of the file: it counts as resident in the process
// although the system may take it at any time, and only hides what the process needs. The system keeps it as cache, from
// which it is read again when it is needed. It may be called at any time.
func (s *Store) ReleaseMemory() error {
	return s.View(func(tx *Tx) error { // the file is not mapped anew meanwhile
		_, _, errno := unix.Syscall(unix.SYS_MADVISE, s.db.Info().Data, uintptr(tx.tx.Size()), unix.MADV_DONTNEED)
		if errno != 0 {
			return fmt.Errorf("release memory: %w", errno)
		}
		return nil
	})
}
