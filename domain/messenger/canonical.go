package messenger

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// hash returns the key of an item that has no natural key: the SHA-256, in hex,
// of its canonical JSON.
func hash(raw json.RawMessage) string { return digest(canonical(raw)) }

// canonical encodes a value as encoding/json does without HTML escapes: no white
// space, names sorted, escapes decoded, numbers as they were written. Two values
// that differ only in the order of names or in escapes have the same result.
//
// A value that would lose information (a repeated name, text that is not valid
// Unicode) is returned unchanged. Otherwise two different values could have the
// same result, and the second would be dropped as a duplicate.
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
	if bytes.ContainsRune(b, utf8.RuneError) || countNames(b) != countNames(raw) {
		return raw
	}
	return b
}

// countNames counts the members of all objects in a value, nested ones included.
func countNames(raw []byte) int {
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

// withoutTime returns an entry without its time field: the time at which Meta
// sent it, which differs between two deliveries of the same entry.
func withoutTime(entry json.RawMessage) json.RawMessage {
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
