package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// SyncDir makes the names in a directory durable: those that were made, replaced or removed before. On a system
// that can't sync directories it does nothing.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	err = d.Sync()
	if errors.Is(err, fs.ErrInvalid) || errors.Is(err, errors.ErrUnsupported) || runtime.GOOS == "windows" {
		err = nil
	}
	if err := errors.Join(err, d.Close()); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}

// Replace writes a file that only its owner can read, and puts it in place of one of that name, if there is one:
// after a crash there is the old file or the whole new one. When it returns without an error the new one is
// durable. Several processes may replace the same file; one of them is the last.
func Replace(path string, data []byte) error {
	err := func() error {
		dir := filepath.Dir(path)
		f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*") // mode 0600
		if err != nil {
			return err
		}
		defer os.Remove(f.Name()) // does nothing after the rename
		_, err = f.Write(data)
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			return err
		}
		if err := os.Rename(f.Name(), path); err != nil {
			return err
		}
		return SyncDir(dir)
	}()
	if err != nil {
		return fmt.Errorf("replace file: %w", err)
	}
	return nil
}
