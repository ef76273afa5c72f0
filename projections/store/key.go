package store

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"reflect"
	"strings"
)

// Composite keys. A string ends in 0x00 0x01, a zero byte in it is 0x00 0xff: so
// no key is read as another, keys sort as their parts do, and Key(a) is a
// prefix of Key(a, b) and of no Key(a2, b).
const (
	keyEscape = 0xff
	keyEnd    = 0x01
)

// maxKeyPart bounds one string in a key, in bytes: bbolt takes 32768 a key, and
// what comes from outside must not make a projection fail.
const maxKeyPart = 1024

// Key builds a key of strings (or values of a string kind, or []byte) and
// unsigned integers (8 bytes, big-endian). Put first what is written in order,
// such as page and sequence: random keys cost five times as much.
//
// A string over 1024 bytes is replaced by "sha256:" and its hash. Any other
// kind of part is a mistake in the program and panics.
func Key(parts ...any) []byte {
	key := make([]byte, 0, 64)
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			key = AppendText(key, p)
		case []byte:
			key = AppendText(key, string(p))
		case uint64:
			key = binary.BigEndian.AppendUint64(key, p)
		default:
			switch v := reflect.ValueOf(p); v.Kind() {
			case reflect.String:
				key = AppendText(key, v.String())
			case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
				key = binary.BigEndian.AppendUint64(key, v.Uint())
			default:
				panic(fmt.Sprintf("store: no key of a %T", p))
			}
		}
	}
	return key
}

// AppendText appends a string to a key as [Key] does: for keys that are built for
// each event, where Key's any kind of part costs.
func AppendText(key []byte, s string) []byte {
	if len(s) > maxKeyPart {
		sum := sha256.Sum256([]byte(s))
		s = "sha256:" + hex.EncodeToString(sum[:])
	}
	if strings.IndexByte(s, 0) < 0 {
		return append(append(key, s...), 0, keyEnd)
	}
	for i := range len(s) {
		key = append(key, s[i])
		if s[i] == 0 {
			key = append(key, keyEscape)
		}
	}
	return append(key, 0, keyEnd)
}

// ParseKey reads the parts of a key that [Key] built into pointers to values of
// a string kind and *uint64. It reports whether the key has just these parts.
func ParseKey(key []byte, parts ...any) bool {
	for _, p := range parts {
		if n, ok := p.(*uint64); ok {
			if len(key) < 8 {
				return false
			}
			*n, key = binary.BigEndian.Uint64(key), key[8:]
			continue
		}
		s, rest, ok := cutString(key)
		if !ok {
			return false
		}
		v := reflect.ValueOf(p)
		if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.String {
			panic(fmt.Sprintf("store: no key part in a %T", p))
		}
		v.Elem().SetString(s)
		key = rest
	}
	return len(key) == 0
}

func cutString(key []byte) (s string, rest []byte, ok bool) {
	var out []byte
	for i := 0; i+1 < len(key); i++ {
		switch {
		case key[i] != 0:
			out = append(out, key[i])
		case key[i+1] == keyEscape:
			out = append(out, 0)
			i++
		case key[i+1] == keyEnd:
			return string(out), key[i+2:], true
		default:
			return "", nil, false
		}
	}
	return "", nil, false
}

// Uint64 returns n as an 8-byte value, which [ToUint64] reads.
func Uint64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// ToUint64 reads what [Uint64] wrote, and 0 from anything else.
func ToUint64(v []byte) uint64 {
	if len(v) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}
