package disk

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// SyncData makes the bytes of a file durable, and its size. Its times may be older after a power cut.
func SyncData(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("sync file: %w", err)
		}
		return nil
	}
}

// SyncAll makes everything durable that was written to the file system of d, by any process. d is an open
// directory or file: an error is returned when a write failed since d was opened, even if another process
// was told of it. That needs Linux 5.8 or later.
func SyncAll(d *os.File, _ string) error {
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("sync file system: %w", err)
	}
	return nil
}
