package config

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// ByteSize is a number of bytes, written by people as 8MiB or 500MB.
type ByteSize int64

// Sizes.
const (
	Byte ByteSize = 1
	KiB           = 1024 * Byte
	MiB           = 1024 * KiB
	GiB           = 1024 * MiB
	TiB           = 1024 * GiB
)

var errByteSize = errors.New("not a size: write a whole number and a unit, as in 8MiB or 500MB (B, KiB, MiB, GiB, TiB, kB, MB, GB, TB)")

type unit struct {
	suffix string
	size   ByteSize
}

// units begins with the binary ones, the largest first.
var units = []unit{
	{"TiB", TiB},
	{"GiB", GiB},
	{"MiB", MiB},
	{"KiB", KiB},
	{"TB", 1e12},
	{"GB", 1e9},
	{"MB", 1e6},
	{"kB", 1e3},
	{"B", Byte},
	{"", Byte},
}

// UnmarshalText reads a whole number and a unit; upper and lower case and a
// space between them don't matter, and no unit means bytes. "8M" is refused:
// half its readers take it for MB.
func (b *ByteSize) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	digits := strings.TrimRight(s, "BKMGTbkmgti")
	i := slices.IndexFunc(units, func(u unit) bool { return strings.EqualFold(s[len(digits):], u.suffix) })
	n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 63)
	if i < 0 || err != nil {
		return errByteSize
	}
	size := units[i].size
	if n > math.MaxInt64/uint64(size) {
		return fmt.Errorf("too large: at most %d bytes", int64(math.MaxInt64))
	}
	*b = ByteSize(n) * size
	return nil
}

// String is exact: the largest binary unit that divides the size, as in 8MiB.
// [ByteSize.UnmarshalText] reads it back.
func (b ByteSize) String() string {
	if b == 0 {
		return "0"
	}
	for _, u := range units[:4] {
		if b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}

// MarshalText writes [ByteSize.String].
func (b ByteSize) MarshalText() ([]byte, error) { return []byte(b.String()), nil }
