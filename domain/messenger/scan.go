package messenger

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// The functions of this file walk JSON that [domain.ValidJSON] has accepted, so
// they need not check it again, and give slices of it instead of copies. One
// level is read at a time: what an item's kind has no use for is only skipped
// over.

// object is a JSON object as it was written: every member, in order, also of a
// name that repeats. Its methods take what has the type they are for and skip
// the rest: a field of an unexpected type costs that field, never the item. Of
// a name that repeats they take the last, as encoding/json does.
type object []member

type member struct {
	name   []byte
	quoted json.RawMessage // the name as it was written
	value  json.RawMessage
}

// asObject reads one level; nil if raw is no object.
func asObject(raw json.RawMessage) object {
	if kind(raw) != '{' {
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

// asList reads one level; false if raw is no array.
func asList(raw json.RawMessage) ([]json.RawMessage, bool) {
	if kind(raw) != '[' {
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

// asText reads a string; false if raw is none.
func asText(raw json.RawMessage) (string, bool) {
	if kind(raw) != '"' {
		return "", false
	}
	if in := raw[1 : len(raw)-1]; bytes.IndexByte(in, '\\') < 0 && utf8.Valid(in) {
		return string(in), true
	}
	var s string
	return s, json.Unmarshal(raw, &s) == nil
}

// kind returns the first byte of a value, 0 where there is none or it is null.
func kind(raw json.RawMessage) byte {
	if len(raw) == 0 || raw[0] == 'n' {
		return 0
	}
	return raw[0]
}

// get returns the value of the last member of that name, nil if there is none.
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

func (o object) is(name string) bool { return kind(o.get(name)) == 't' }

func (o object) id(name string) string { return asID(o.get(name)) }

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\r' || b[i] == '\n') {
		i++
	}
	return i
}

// skipString returns the index after the string that begins at i.
func skipString(b []byte, i int) int {
	for i++; b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// skipValue returns the index after the value that begins at i. It keeps a
// count and does not recurse: nesting costs no stack.
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
