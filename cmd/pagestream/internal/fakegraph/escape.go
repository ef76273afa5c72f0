package fakegraph

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

// marshal encodes v as Meta does: in ASCII, other characters as \uXXXX in
// lower-case hex (two of them above U+FFFF), and every slash as \/. The signature
// is computed over exactly these bytes.
func marshal(v any) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(fmt.Sprintf("fakegraph: encode value: %v", err)) // can't happen for maps and strings
	}
	// Slashes and characters beyond ASCII occur in strings only, and no slash is
	// escaped yet.
	out := make([]byte, 0, buf.Len()*9/8)
	for _, r := range string(bytes.TrimRight(buf.Bytes(), "\n")) {
		switch {
		case r == '/':
			out = append(out, `\/`...)
		case r < utf8.RuneSelf:
			out = append(out, byte(r))
		default:
			for _, unit := range utf16.AppendRune(nil, r) {
				out = fmt.Appendf(out, `\u%04x`, unit)
			}
		}
	}
	return out
}
