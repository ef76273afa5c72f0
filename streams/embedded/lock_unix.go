//go:build unix && !solaris && !aix

package embedded

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// takeLock takes an exclusive lock, which the system releases when the process ends, however it ends.
// ErrInUse is returned when another process has it.
func takeLock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrInUse
	}
	if err != nil {
		return fmt.Errorf("take lock: %w", err)
	}
	return nil
}

// releaseLock releases the lock. Closing the file is not enough: a child process that is being started at
// that moment has it open too, until it runs its program. A file that is closed has no lock.
func releaseLock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
	if err != nil && !errors.Is(err, syscall.EBADF) {
		return fmt.Errorf("release lock: %w", err)
	}
	return nil
}
