package messenger

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// hash is the identity of what has no key of its own: the SHA-256, in hex, of
// its canonical JSON.
func hash(raw json.RawMessage) string { return digest(canonical(raw)) }

// canonical writes a value as encoding/json does without HTML escapes: no white
// space, names sorted, text decoded, numbers as they were written. So the order
// of names and the way text is escaped make no difference.
//
// Where that would lose something (a name that repeats, text that is not
// Unicode), two values that differ could become one, and the second be taken
// for a duplicate. Such a value stays as it is.
func canonical(raw json.RawMessage) []byte {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return raw
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if e.Encode(v) != nil {
		return raw
	}
	b := bytes.TrimSuffix(out.Bytes(), []byte("\n"))
	if bytes.ContainsRune(b, utf8.RuneError) || names(b) != names(raw) {
		return raw
	}
	return b
}

// names counts the members of all objects in a value.
func names(raw []byte) int {
	n := 0
	for i := 0; i < len(raw); {
		switch raw[i] {
		case '"':
			i = skipString(raw, i)
			continue
		case ':':
			n++
		}
		i++
	}
	return n
}

// timeless is an entry without its time, which is when Meta sent it and differs
// between two deliveries of it.
func timeless(entry json.RawMessage) json.RawMessage {
	fields := asObject(entry)
	if fields == nil {
		return entry
	}
	b := make(json.RawMessage, 0, len(entry))
	b = append(b, '{')
	for _, m := range fields {
		if string(m.name) == "time" {
			continue
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(append(append(b, m.quoted...), ':'), m.value...)
	}
	return append(b, '}')
}
