package store

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"reflect"
	"strings"
)

// Encoding of composite keys. A string ends with 0x00 0x01, and a zero byte in it is written as 0x00 0xff.
// So keys are unambiguous and sort as their parts do, and Key(a) is a prefix of Key(a, b) but never of
// Key(a2, b) for another a2.
const (
	keyEscape = 0xff
	keyEnd    = 0x01
)

// maxKeyPart is the most bytes of one string in a key. bbolt allows 32,768 bytes per key, and an id that
// comes from outside must not make a projection fail.
const maxKeyPart = 1024

// Key builds a key from strings (also values of a string kind, or []byte) and unsigned integers (8 bytes,
// big-endian). The first parts should be those that rows are written in order of, such as page and
// sequence: random keys cost five times as much.
//
// A string over 1,024 bytes is replaced by "sha256:" and its hash. Key panics for any other kind of part,
// which is a programming error.
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
				panic(fmt.Sprintf("store: a %T can't be part of a key", p))
			}
		}
	}
	return key
}

// AppendText appends a string to a key as [Key] does. It is for keys that are built for each event: Key
// is slower, since it accepts parts of any kind.
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

// ParseKey stores the parts of a key that [Key] built in parts, which are *uint64 and pointers to values
// of a string kind. It reports whether the key has exactly these parts. It panics for any other kind of
// pointer.
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
			panic(fmt.Sprintf("store: a part of a key can't be stored in a %T", p))
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

// Successor returns the first key after all keys that start with prefix, or nil if there is none.
func Successor(prefix []byte) []byte {
	next := append([]byte(nil), prefix...)
	for i := len(next) - 1; i >= 0; i-- {
		next[i]++
		if next[i] != 0 {
			return next[:i+1]
		}
	}
	return nil
}

// Uint64 encodes n as 8 bytes, big-endian. [ToUint64] decodes it.
func Uint64(n uint64) []byte { return binary.BigEndian.AppendUint64(make([]byte, 0, 8+sumSize), n) }

// ToUint64 decodes a value that [Uint64] encoded. It returns 0 for any other value.
func ToUint64(v []byte) uint64 {
	if len(v) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}
