//go:build !linux && !darwin && !freebsd

package disk

import (
	"errors"
	"io/fs"
)

// of is not supported on this platform.
func of(string) (Space, error) { return Space{}, errors.ErrUnsupported }

func occupied(info fs.FileInfo) int64 { return info.Size() }
