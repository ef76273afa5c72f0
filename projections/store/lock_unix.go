//go:build unix && !solaris && !aix && !android

package store

import (
	"errors"
	"os"
	"syscall"
	"time"
)

// lockPoll is the interval between two tries to lock a file.
const lockPoll = 20 * time.Millisecond

// unlock releases the lock of a file and closes it. A memory map would keep the lock of a file that is only closed.
func unlock(f *os.File) error {
	return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.Close())
}

// openLocked opens or creates a file with the exclusive lock that bbolt takes too; it waits for that at most the given
// time.
func openLocked(path string, wait time.Duration) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(wait); ; time.Sleep(lockPoll) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if errors.Is(err, syscall.EWOULDBLOCK) {
			if time.Now().Before(end) {
				continue
			}
			err = ErrLocked
		}
		return nil, errors.Join(err, f.Close())
	}
}
