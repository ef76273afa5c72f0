// Package disk tells how much space there is for files, and makes what is written durable.
package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Space is the space of one disk, in bytes.
type Space struct {
	// Free is what a user without privileges can still write, Total the size of the disk.
	Free, Total int64
	// id tells disks apart.
	id uint64
}

// Same reports whether two directories are on the same disk.
func (s Space) Same(other Space) bool { return s.id == other.id }

// Of returns the space of the disk of dir, or that dir will be on if it does not exist yet.
func Of(dir string) (Space, error) {
	for {
		s, err := of(dir)
		if parent := filepath.Dir(dir); errors.Is(err, fs.ErrNotExist) && parent != dir {
			dir = parent
			continue
		}
		return s, err
	}
}

// Used returns how many bytes the regular files below dir occupy. A file that can't be counted is left out,
// and so is a directory that does not exist.
func Used(dir string) (total int64) {
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil //nolint:nilerr // see above
		}
		if info, err := e.Info(); err == nil {
			total += occupied(info)
		}
		return nil
	})
	return total
}

// probeSize is how many bytes Probe writes.
const probeSize = 64 << 10

// Probe writes a small file in dir, syncs it and removes it again. Its error says why files can't be
// written there. Calls for the same directory must not run at the same time.
func Probe(dir string) error {
	path := filepath.Join(dir, "probe")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("create probe: %w", err)
	}
	_, err = f.Write(make([]byte, probeSize))
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close(), os.Remove(path)); err != nil {
		return fmt.Errorf("write probe: %w", err)
	}
	return nil
}
