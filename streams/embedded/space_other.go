//go:build !linux && !darwin && !freebsd

package embedded

import "errors"

// freeSpace is not supported on this platform.
func freeSpace(string) (int64, error) { return 0, errors.ErrUnsupported }
