//go:build !linux && !darwin && !freebsd

package disk

import (
	"errors"
	"io/fs"
)

// Of is not supported on this platform.
func Of(string) (Space, error) { return Space{}, errors.ErrUnsupported }

func occupied(info fs.FileInfo) int64 { return info.Size() }
