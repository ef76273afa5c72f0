package messenger

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"github.com/pagestream/pagestream/domain"
)

// value is one value of a document. The zero value is an absent one. Its methods return the zero value for a
// field of another type than the method's, and for any field of what is not an object: the item loses that
// field only. Of a repeated name they use the last value, as encoding/json does.
type value struct {
	doc *domain.Document
	at  int32
}

// exists reports whether there is a value.
func (v value) exists() bool { return v.doc != nil }

// raw returns the value's own bytes, nil if it is absent.
func (v value) raw() json.RawMessage {
	if v.doc == nil {
		return nil
	}
	n := &v.doc.Nodes[v.at]
	return v.doc.Text[n.Start:n.End:n.End]
}

// first returns the first byte of a value, which tells its JSON type; 0 for
// an absent value and for null.
func (v value) first() byte {
	if v.doc == nil {
		return 0
	}
	if c := v.doc.Text[v.doc.Nodes[v.at].Start]; c != 'n' {
		return c
	}
	return 0
}

// asText decodes a string. It returns false if v is not a string.
func asText(v value) (string, bool) {
	if v.first() != '"' {
		return "", false
	}
	return v.doc.String(v.at), true
}

// content returns the decoded text of a string. Without escapes, those are its own bytes, also where they are not
// UTF-8.
func (v value) content() []byte {
	if n := &v.doc.Nodes[v.at]; !n.Escaped {
		return v.doc.Text[n.Start+1 : n.End-1]
	}
	return []byte(v.doc.String(v.at))
}

// name returns the decoded name of a member whose value is v.
func (v value) name() []byte { return value{v.doc, v.at - 1}.content() }

// cursor walks over the members of an object or the elements of an array:
//
//	for c := v.members(); c.next(); {
type cursor struct {
	value     // the current one, after next has returned true
	from, end int32
	named     int32 // 1 for members
}

// members walks over the values of an object's members.
func (v value) members() cursor { return v.children('{', 1) }

// elements walks over the values of an array.
func (v value) elements() cursor { return v.children('[', 0) }

func (v value) children(first byte, named int32) cursor {
	if v.first() != first {
		return cursor{}
	}
	return cursor{value{doc: v.doc}, v.at + 1, v.doc.Nodes[v.at].Next, named}
}

func (c *cursor) next() bool {
	if c.from >= c.end {
		return false
	}
	c.at = c.from + c.named
	c.from = c.doc.Nodes[c.at].Next
	return true
}

// get returns the value of the last member with that name, the zero value if there is none.
func (v value) get(name string) (last value) {
	if v.first() != '{' {
		return last
	}
	nodes := v.doc.Nodes
	for i, end := v.at+1, nodes[v.at].Next; i < end; i = nodes[i+1].Next {
		n := &nodes[i]
		if int(n.End-n.Start) == len(name)+2 && string(v.doc.Text[n.Start+1:n.End-1]) == name ||
			n.Escaped && string(value{v.doc, i + 1}.name()) == name {
			last = value{v.doc, i + 1}
		}
	}
	return last
}

// count returns how many members have that name.
func (v value) count(name string) int {
	n := 0
	for m := v.members(); m.next(); {
		if string(m.name()) == name {
			n++
		}
	}
	return n
}

func (v value) object(name string) value {
	if o := v.get(name); o.first() == '{' {
		return o
	}
	return value{}
}

func (v value) list(name string) cursor { return v.get(name).elements() }

func (v value) text(name string) string { s, _ := asText(v.get(name)); return s }

// maybeText returns the string with that name, nil if there is none.
func (v value) maybeText(name string) *string {
	if s, ok := asText(v.get(name)); ok {
		return &s
	}
	return nil
}

// payload returns what a developer set as a payload: a string, or the JSON text of any
// other value.
func (v value) payload(name string) string {
	p := v.get(name)
	if s, ok := asText(p); ok {
		return s
	}
	var text bytes.Buffer
	if p.first() == 0 || json.Compact(&text, p.raw()) != nil {
		return ""
	}
	return strings.ToValidUTF8(text.String(), "\ufffd")
}

// sorted returns the values of an object's members in the byte order of their names.
func sorted(v value) (out []value) {
	for m := v.members(); m.next(); {
		out = append(out, m.value)
	}
	slices.SortStableFunc(out, func(a, b value) int { return bytes.Compare(a.name(), b.name()) })
	return out
}

// is reports whether the member with that name is true.
func (v value) is(name string) bool { return v.get(name).first() == 't' }

func (v value) id(name string) string { return asID(v.get(name)) }
