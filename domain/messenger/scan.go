package messenger

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"unicode/utf8"
)

// The functions of this file parse JSON that [domain.ValidJSON] has accepted, so they
// do not check the syntax again. They return subslices of the input instead of
// copies. They parse one level at a time and only skip nested values that are not
// needed.

// object is a JSON object as it was written: every member, in order, including
// repeated names. Its methods return the zero value for a field of another type
// than the method's: the item loses that field only. Of a repeated name they use
// the last value, as encoding/json does.
type object []member

// member is one name and value of an object.
type member struct {
	name   []byte
	quoted json.RawMessage // the name as it was written
	value  json.RawMessage
}

// asObject parses one level of an object. It returns nil if raw is not an object.
func asObject(raw json.RawMessage) object {
	if firstByte(raw) != '{' {
		return nil
	}
	o := make(object, 0, 6)
	for i := skipSpace(raw, 1); raw[i] != '}'; {
		end := skipString(raw, i)
		m := member{name: raw[i+1 : end-1], quoted: raw[i:end]}
		if bytes.IndexByte(m.name, '\\') >= 0 {
			text, _ := asText(m.quoted)
			m.name = []byte(text)
		}
		i = skipSpace(raw, skipSpace(raw, end)+1) // the colon
		end = skipValue(raw, i)
		m.value = raw[i:end:end]
		o = append(o, m)
		i = skipSpace(raw, end)
		if raw[i] == ',' {
			i = skipSpace(raw, i+1)
		}
	}
	return o
}

// asList parses one level of an array. It returns false if raw is not an array.
func asList(raw json.RawMessage) ([]json.RawMessage, bool) {
	if firstByte(raw) != '[' {
		return nil, false
	}
	var list []json.RawMessage
	for i := skipSpace(raw, 1); raw[i] != ']'; {
		end := skipValue(raw, i)
		list = append(list, raw[i:end:end])
		i = skipSpace(raw, end)
		if raw[i] == ',' {
			i = skipSpace(raw, i+1)
		}
	}
	return list, true
}

// countValues returns how many values an array has.
func countValues(raw json.RawMessage) (n int) {
	for i := skipSpace(raw, 1); raw[i] != ']'; n++ {
		i = skipSpace(raw, skipValue(raw, i))
		if raw[i] == ',' {
			i = skipSpace(raw, i+1)
		}
	}
	return n
}

// asText decodes a string. It returns false if raw is not a string.
func asText(raw json.RawMessage) (string, bool) {
	if firstByte(raw) != '"' {
		return "", false
	}
	if content := raw[1 : len(raw)-1]; bytes.IndexByte(content, '\\') < 0 && utf8.Valid(content) {
		return string(content), true
	}
	var s string
	return s, json.Unmarshal(raw, &s) == nil
}

// firstByte returns the first byte of a value, which tells its JSON type; 0 for
// an absent value and for null.
func firstByte(raw json.RawMessage) byte {
	if len(raw) == 0 || raw[0] == 'n' {
		return 0
	}
	return raw[0]
}

// get returns the value of the last member with that name, nil if there is none.
func (o object) get(name string) json.RawMessage {
	for i := len(o) - 1; i >= 0; i-- {
		if string(o[i].name) == name {
			return o[i].value
		}
	}
	return nil
}

// count returns how many members have that name.
func (o object) count(name string) int {
	n := 0
	for _, m := range o {
		if string(m.name) == name {
			n++
		}
	}
	return n
}

func (o object) object(name string) object { return asObject(o.get(name)) }

func (o object) list(name string) []json.RawMessage { l, _ := asList(o.get(name)); return l }

func (o object) text(name string) string { s, _ := asText(o.get(name)); return s }

// maybeText returns the string with that name, nil if there is none.
func (o object) maybeText(name string) *string {
	if s, ok := asText(o.get(name)); ok {
		return &s
	}
	return nil
}

// payload returns what a developer set as a payload: a string, or the JSON text of any
// other value.
func (o object) payload(name string) string {
	raw := o.get(name)
	if s, ok := asText(raw); ok {
		return s
	}
	var text bytes.Buffer
	if firstByte(raw) == 0 || json.Compact(&text, raw) != nil {
		return ""
	}
	return strings.ToValidUTF8(text.String(), "\ufffd")
}

// sorted returns the members of o in the byte order of their names.
func sorted(o object) object {
	return slices.SortedStableFunc(slices.Values(o), func(a, b member) int { return bytes.Compare(a.name, b.name) })
}

// is reports whether the member with that name is true.
func (o object) is(name string) bool { return firstByte(o.get(name)) == 't' }

func (o object) id(name string) string { return asID(o.get(name)) }

// skipSpace returns the index of the first byte at or after i that is not white
// space.
func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\r' || b[i] == '\n') {
		i++
	}
	return i
}

// skipString returns the index after the string that starts at i.
func skipString(b []byte, i int) int {
	for i++; b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// skipValue returns the index after the value that starts at i. It counts
// brackets instead of recursing, so deep nesting needs no stack.
func skipValue(b []byte, i int) int {
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		depth := 0
		for {
			switch b[i] {
			case '"':
				i = skipString(b, i)
				continue
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
			i++
		}
	}
	for i < len(b) {
		switch b[i] {
		case ',', ']', '}', ' ', '\t', '\r', '\n':
			return i
		}
		i++
	}
	return i
}
