package config

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// ByteSize is a number of bytes. Its text form is a number and a unit, such as
// 8MiB or 500MB.
type ByteSize int64

// Sizes.
const (
	Byte ByteSize = 1
	KiB           = 1024 * Byte
	MiB           = 1024 * KiB
	GiB           = 1024 * MiB
	TiB           = 1024 * GiB
)

var errByteSize = errors.New("not a size: write a whole number and a unit, as in 8MiB or 500MB " +
	"(B, KiB, MiB, GiB, TiB, kB, MB, GB, TB)")

type unit struct {
	suffix string
	size   ByteSize
}

// units starts with the binary units, the largest first; see [ByteSize.String].
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

// UnmarshalText parses a whole number and a unit. Case is ignored, a space between
// them is allowed, and no unit means bytes. "8M" is an error, since it could mean
// MB or MiB.
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

// String returns the exact size in the largest binary unit that divides it, such
// as 8MiB. [ByteSize.UnmarshalText] accepts it.
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

// MarshalText returns [ByteSize.String].
func (b ByteSize) MarshalText() ([]byte, error) { return []byte(b.String()), nil }
