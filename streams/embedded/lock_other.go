//go:build !unix || solaris || aix

package embedded

import (
	"fmt"
	"os"
)

// lockFile opens the file without a lock: where there is no flock, two
// processes on one directory are the operator's to prevent.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	return f, nil
}
