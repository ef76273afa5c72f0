package fakegraph

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

// marshal encodes v as Meta does: ASCII alone, other characters as \uXXXX in
// lower-case hex (two of them above U+FFFF), and every slash as \/. The
// signature is over exactly these bytes.
func marshal(v any) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(fmt.Sprintf("fakegraph: encode our own value: %v", err)) // maps and strings: can't fail
	}
	return escape(bytes.TrimRight(buf.Bytes(), "\n"))
}

// escape rewrites JSON that has no escaped slashes yet. Slashes and characters
// beyond ASCII occur inside of strings only.
func escape(in []byte) []byte {
	const hex = "0123456789abcdef"
	out := make([]byte, 0, len(in)+len(in)/8)
	unit := func(u uint16) { out = append(out, '\\', 'u', hex[u>>12], hex[u>>8&15], hex[u>>4&15], hex[u&15]) }
	for i := 0; i < len(in); {
		if c := in[i]; c < utf8.RuneSelf {
			if c == '/' {
				out = append(out, '\\')
			}
			out = append(out, c)
			i++
			continue
		}
		r, size := utf8.DecodeRune(in[i:])
		i += size
		if r > 0xffff {
			high, low := utf16.EncodeRune(r)
			unit(uint16(high))
			unit(uint16(low))
			continue
		}
		unit(uint16(r))
	}
	return out
}
