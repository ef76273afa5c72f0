package domain

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
	"sync"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// MaxDepth is how many levels of nesting encoding/json and its second version read.
const MaxDepth = 10_000

// Document has the places of all values of a JSON text, which one pass finds. It is for text of which only
// a few values are needed, and their own bytes.
type Document struct {
	Text []byte
	// Nodes has each value, in the order of the text: what an array or an object contains follows it, and in an
	// object each name is before its value.
	Nodes []Node
	// Depth is how many levels of arrays and objects there are.
	Depth int
	count int // of the nodes
	open  []container
}

// Node is one value, or the name of a member.
type Node struct {
	// Start and End are its bytes in the text.
	Start, End int32
	// Next is the index of the node after the value and all that it contains.
	Next int32
	// Escaped is set for a string with a backslash.
	Escaped bool
}

// container is an array or an object whose end was not reached yet.
type container struct {
	first byte
	node  int32
}

const (
	// maxKept bounds the nodes of documents that are used again.
	maxKept = 16 << 10
	// largeText is from how many bytes on the nodes of a text are counted first. They take up to 8 times its memory.
	largeText = 64 << 10
)

var documents = sync.Pool{New: func() any { return new(Document) }}

// ParseJSON returns the document of a text. It returns false if [ValidJSON] does, and for a text of 2 GiB or more.
// The text must not be modified until [Document.Release], which has to be called in any case.
func ParseJSON(text []byte) (*Document, bool) {
	d, _ := documents.Get().(*Document)
	d.Text = text
	if len(text) > math.MaxInt32 {
		return d, false
	}
	if len(text) > largeText { // the exact number of nodes, instead of a slice that grows
		if !d.read(false) {
			return d, false
		}
		d.Nodes = slices.Grow(d.Nodes, d.count)
	}
	ok := d.read(true)
	return d, ok
}

// ValidJSON reports what [encoding/json.Valid] does, in a third of its time.
func ValidJSON(b []byte) bool {
	d, _ := documents.Get().(*Document)
	defer d.Release()
	d.Text = b
	return d.read(false)
}

// Release lets another text use the memory of the document, which must not be used any more.
func (d *Document) Release() {
	d.Text, d.Nodes, d.open, d.Depth = nil, d.Nodes[:0], d.open[:0], 0
	if cap(d.Nodes) <= maxKept {
		documents.Put(d)
	}
}

// String returns the text of a string, the node with index i. As in encoding/json, what is not UTF-8 and halves of
// surrogate pairs become U+FFFD.
func (d *Document) String(i int32) string {
	n := &d.Nodes[i]
	if content := d.Text[n.Start+1 : n.End-1]; !n.Escaped && utf8.Valid(content) {
		return string(content)
	}
	text, _ := jsontext.AppendUnquote(nil, d.Text[n.Start:n.End]) // an error reports what became U+FFFD
	return string(text)
}

// read checks the text and makes its nodes, if they are to be kept. It uses no recursion, so deep nesting needs
// no stack.
func (d *Document) read(keep bool) bool {
	text := d.Text
	d.count = 0
	i := skipSpace(text, 0)
	for i >= 0 && i < len(text) { // a value begins at i
		start, c := i, text[i]
		opened, escaped := false, false
		switch c {
		case '{', '[':
			if len(d.open) == MaxDepth {
				return false
			}
			d.open = append(d.open, container{c, int32(d.count)})
			d.Depth = max(d.Depth, len(d.open))
			i = skipSpace(text, i+1)
			opened = i == len(text) || text[i] != closing(c)
		case '"':
			i, escaped = skipString(text, i)
		case 't':
			i = skipWord(text, i, "true")
		case 'f':
			i = skipWord(text, i, "false")
		case 'n':
			i = skipWord(text, i, "null")
		default:
			i = skipNumber(text, i)
		}
		if i < 0 {
			return false
		}
		d.add(start, i, escaped, keep)
		if opened {
			if c == '{' {
				i = d.name(i, keep)
			}
			continue
		}
		for { // a value has ended before i
			i = skipSpace(text, i)
			if len(d.open) == 0 {
				return i == len(text)
			}
			if i == len(text) {
				return false
			}
			around, c := d.open[len(d.open)-1], text[i]
			i++
			if c == ',' {
				i = skipSpace(text, i)
				if around.first == '{' {
					i = d.name(i, keep)
				}
				break
			}
			if c != closing(around.first) {
				return false
			}
			d.open = d.open[:len(d.open)-1]
			if keep {
				n := &d.Nodes[around.node]
				n.End, n.Next = int32(i), int32(d.count)
			}
		}
	}
	return false
}

func (d *Document) add(start, end int, escaped, keep bool) {
	d.count++
	if keep {
		d.Nodes = append(d.Nodes, Node{int32(start), int32(end), int32(d.count), escaped})
	}
}

// closing returns the closing bracket of an opening one.
func closing(c byte) byte { return c + 2 }

// name reads a member's name and the colon. It returns the index of the member's value, and -1 if there is no
// name.
func (d *Document) name(i int, keep bool) int {
	if i == len(d.Text) || d.Text[i] != '"' {
		return -1
	}
	end, escaped := skipString(d.Text, i)
	if end < 0 {
		return -1
	}
	d.add(i, end, escaped, keep)
	if i = skipSpace(d.Text, end); i == len(d.Text) || d.Text[i] != ':' {
		return -1
	}
	return skipSpace(d.Text, i+1)
}

// skipSpace returns the index of the first byte at or after i that is not white
// space.
func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\r' || b[i] == '\n') {
		i++
	}
	return i
}

// skipString returns the index after the string that starts at i, -1 if it is not valid, and whether it has a
// backslash. Bytes that are not UTF-8 are valid, as they are for encoding/json.
func skipString(b []byte, i int) (end int, escaped bool) {
	const each = 0x0101010101010101 // a byte in each byte of a word
	i++
	for {
		for len(b)-i >= 8 { // a word with none of the bytes that mean something
			w := binary.LittleEndian.Uint64(b[i:])
			quote, slash := w^each*'"', w^each*'\\'
			// The lowest bit is exact: a subtraction carries upwards only.
			found := ((w-each*' ')&^w | (quote-each)&^quote | (slash-each)&^slash) & (each << 7)
			if found != 0 {
				i += bits.TrailingZeros64(found) / 8
				break
			}
			i += 8
		}
		for i < len(b) && b[i] >= ' ' && b[i] != '"' && b[i] != '\\' {
			i++
		}
		if i >= len(b) || b[i] < ' ' {
			return -1, false
		}
		if b[i] == '"' {
			return i + 1, escaped
		}
		escaped = true
		if i += 2; i > len(b) {
			return -1, false
		}
		switch b[i-1] {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		case 'u':
			for range 4 {
				if i == len(b) || !isHex(b[i]) {
					return -1, false
				}
				i++
			}
		default:
			return -1, false
		}
	}
}

func isHex(c byte) bool { return isDigit(c) || c|' ' >= 'a' && c|' ' <= 'f' }

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// skipWord returns the index after a word, -1 if it is not at i.
func skipWord(b []byte, i int, word string) int {
	if len(b)-i < len(word) || string(b[i:i+len(word)]) != word {
		return -1
	}
	return i + len(word)
}

// skipNumber returns the index after the number that starts at i, -1 if there is none.
func skipNumber(b []byte, i int) int {
	if b[i] == '-' {
		i++
	}
	digits := i
	if i = skipDigits(b, i); i < 0 || b[digits] == '0' && i > digits+1 {
		return -1
	}
	if i < len(b) && b[i] == '.' {
		if i = skipDigits(b, i+1); i < 0 {
			return -1
		}
	}
	if i < len(b) && b[i]|' ' == 'e' {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		i = skipDigits(b, i)
	}
	return i
}

// skipDigits returns the index after the digits that start at i, -1 if there is none.
func skipDigits(b []byte, i int) int {
	start := i
	for i < len(b) && isDigit(b[i]) {
		i++
	}
	if i == start {
		return -1
	}
	return i
}
