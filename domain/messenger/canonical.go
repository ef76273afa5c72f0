package messenger

import (
	"bytes"
	"encoding/json"
	"slices"
	"unicode/utf8"
)

// hash returns the key of an item that has no natural key: the SHA-256, in hex,
// of its canonical JSON.
func hash(v value) string { return hashWithout(v, "") }

// hashWithout is hash for an object without the members of a name.
func hashWithout(v value, name string) string {
	b, lossless := v.appendCanonical(make([]byte, 0, len(v.raw())), name)
	switch {
	case lossless:
		return digest(b)
	case name != "" && v.first() == '{':
		return digest(without(v, name))
	}
	return digest(v.raw())
}

// appendCanonical appends a value as encoding/json encodes it without HTML escapes: no white
// space, names sorted, escapes decoded, numbers as they were written. Two values
// that differ only in the order of names or in escapes have the same result. Of the value
// itself, the members of the name without are left out, unless that is empty.
//
// It returns false if that loses information (a repeated name, text that is not valid
// Unicode). Two different values could have the same result then, and the second would be
// dropped as a duplicate.
func (v value) appendCanonical(b []byte, without string) ([]byte, bool) {
	switch v.first() {
	case '{':
		return v.appendObject(b, without)
	case '[':
		b = append(b, '[')
		for e := v.elements(); e.next(); {
			var lossless bool
			if b, lossless = e.appendCanonical(b, ""); !lossless {
				return b, false
			}
			b = append(b, ',')
		}
		return append(bytes.TrimSuffix(b, []byte(",")), ']'), true
	case '"':
		return appendText(b, v.content())
	}
	return append(b, v.raw()...), true
}

func (v value) appendObject(b []byte, without string) ([]byte, bool) {
	type member struct {
		name []byte
		value
	}
	var few [8]member
	members := few[:0]
	for m := v.members(); m.next(); {
		if name := m.name(); without == "" || string(name) != without {
			members = append(members, member{name, m.value})
		}
	}
	slices.SortFunc(members, func(a, b member) int { return bytes.Compare(a.name, b.name) })
	b = append(b, '{')
	for i, m := range members {
		if i > 0 {
			if bytes.Equal(m.name, members[i-1].name) {
				return b, false
			}
			b = append(b, ',')
		}
		var lossless bool
		if b, lossless = appendText(b, m.name); !lossless {
			return b, false
		}
		if b, lossless = m.appendCanonical(append(b, ':'), ""); !lossless {
			return b, false
		}
	}
	return append(b, '}'), true
}

// appendText appends a string as encoding/json encodes it. It returns false for text that
// is not UTF-8, or has the character that stands for what is not.
func appendText(b, text []byte) ([]byte, bool) {
	plain, ascii := true, true
	for _, c := range text {
		plain = plain && c >= ' ' && c != '"' && c != '\\'
		ascii = ascii && c < utf8.RuneSelf
	}
	if !ascii {
		if !utf8.Valid(text) || bytes.ContainsRune(text, utf8.RuneError) {
			return b, false
		}
		plain = plain && !bytes.ContainsAny(text, "\u2028\u2029")
	}
	if plain {
		return append(append(append(b, '"'), text...), '"'), true
	}
	var quoted bytes.Buffer
	e := json.NewEncoder(&quoted)
	e.SetEscapeHTML(false)
	if e.Encode(string(text)) != nil {
		return b, false
	}
	return append(b, bytes.TrimSuffix(quoted.Bytes(), []byte("\n"))...), true
}

// without returns an object without the members of a name, and without white space around
// the other ones.
func without(v value, name string) []byte {
	b := []byte{'{'}
	for m := v.members(); m.next(); {
		if string(m.name()) == name {
			continue
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(append(append(b, value{m.doc, m.at - 1}.raw()...), ':'), m.raw()...)
	}
	return append(b, '}')
}
