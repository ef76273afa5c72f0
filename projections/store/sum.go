package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Each row ends with a checksum of its bucket, key and value, so that a damaged row is never read as a valid one:
// bbolt has none for its pages. The checksums are not part of the values that callers see, and [Digest] leaves
// them out.
const (
	// sumsBucket marks a file whose rows have checksums.
	sumsBucket = "_sums"
	sumSize    = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// nameSum returns the part of a bucket's checksums that is the same for all rows.
func nameSum(bucket string) uint32 { return crc32.Checksum([]byte(bucket), castagnoli) }

// rowSum returns the checksum of a row. The length of the key is part of it, so that a byte can't move from the
// key to the value.
func rowSum(name uint32, key, value []byte) uint32 {
	sum := ^name // the two bytes of the length; crc32.Update would allocate them
	for _, b := range [2]byte{byte(len(key)), byte(len(key) >> 8)} {
		sum = castagnoli[byte(sum)^b] ^ sum>>8
	}
	sum = crc32.Update(^sum, castagnoli, key)
	return crc32.Update(sum, castagnoli, value)
}

// withSum appends the checksum to a value.
func withSum(name uint32, key, value []byte) []byte {
	return binary.BigEndian.AppendUint32(value, rowSum(name, key, value))
}

// cutSum returns the value of a stored row, or false if the checksum does not match.
func cutSum(name uint32, key, stored []byte) ([]byte, bool) {
	n := len(stored) - sumSize
	if n < 0 || binary.BigEndian.Uint32(stored[n:]) != rowSum(name, key, stored[:n]) {
		return nil, false
	}
	return stored[:n:n], true
}

// damage is the value of a panic that ends a transaction on a damaged file.
type damage struct{ err error }

// Error returns what is damaged. It wraps [ErrCorrupt].
func (d *damage) Error() string { return d.err.Error() }
func (d *damage) Unwrap() error { return d.err }

// Damage returns an error that wraps [ErrCorrupt] if v, the value of a recovered panic, was caused by a damaged
// file, and nil for any other value. A function that recovers from panics in a transaction must return that error.
func Damage(v any) error {
	if fault, ok := v.(interface{ Addr() uintptr }); ok {
		return &damage{fmt.Errorf("%w: fault at %#x", ErrCorrupt, fault.Addr())}
	}
	if err, ok := v.(error); ok {
		var d *damage
		if errors.As(err, &d) {
			return d
		}
	}
	return nil
}

// asDamage returns the error for the value of any panic of bbolt.
func asDamage(v any) error {
	if err := Damage(v); err != nil {
		return err
	}
	return fmt.Errorf("%w: %v", ErrCorrupt, v)
}

// guard is deferred around the calls of bbolt: a panic in there means that the file is damaged.
func guard() {
	if v := recover(); v != nil {
		panic(&damage{asDamage(v)})
	}
}
