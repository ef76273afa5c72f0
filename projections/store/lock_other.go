//go:build !unix || solaris || aix || android

package store

import (
	"os"
	"time"
)

// unlock closes a file.
func unlock(f *os.File) error { return f.Close() }

// openLocked opens or creates a file. On this system it can't be locked before bbolt does it.
func openLocked(path string, _ time.Duration) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, fileMode)
}
