// Package flatjson writes and reads the JSON of a few simple fields, with the same bytes and values as encoding/json
// and without reflection. It is for rows that are written again and again. It can't do all of JSON: what it can't write or
// read sets Odd, and then the caller leaves the whole row to encoding/json.
package flatjson

import (
	"strconv"
	"time"
)

// Writer appends JSON to B.
type Writer struct {
	B []byte
	// Odd is set when something can't be written. B is not valid then.
	Odd bool
}

// Raw appends JSON as it is.
func (w *Writer) Raw(json string) { w.B = append(w.B, json...) }

// Uint appends a number.
func (w *Writer) Uint(n uint64) { w.B = strconv.AppendUint(w.B, n, 10) }

// Int appends a number.
func (w *Writer) Int(n int64) { w.B = strconv.AppendInt(w.B, n, 10) }

// Text appends a string. One that is not ASCII, or that encoding/json would escape, can't be written.
func (w *Writer) Text(s string) {
	for i := range len(s) {
		if c := s[i]; !plain(c) || c == '<' || c == '>' || c == '&' {
			w.Odd = true
			return
		}
	}
	w.B = append(append(append(w.B, '"'), s...), '"')
}

// Time appends a time. One outside of the years 0 to 9999 can't be written.
func (w *Writer) Time(t time.Time) {
	w.Raw(`"`)
	b, err := t.AppendText(w.B)
	if err != nil {
		w.Odd = true
		return
	}
	w.B = b
	w.Raw(`"`)
}

// plain reports whether a byte of a string stands for itself.
func plain(c byte) bool { return c >= ' ' && c < 0x7f && c != '"' && c != '\\' }

// Reader reads JSON in the form that a [Writer] has written it. What has another form, spaces for example, can't be
// read. All that it reads is valid JSON and has the value that encoding/json would read.
type Reader struct {
	b []byte
	// Odd is set when the next field does not have the form that was asked for. The values since then are not valid.
	Odd bool
}

// Read returns a reader of b, which must not change meanwhile.
func Read(b []byte) Reader { return Reader{b: b} }

// Skip skips the JSON if it comes next, and reports whether it does.
func (r *Reader) Skip(json string) bool {
	if len(r.b) < len(json) || string(r.b[:len(json)]) != json {
		return false
	}
	r.b = r.b[len(json):]
	return true
}

// Want skips the JSON, which must come next.
func (r *Reader) Want(json string) {
	if !r.Skip(json) {
		r.Odd = true
	}
}

// End reports whether all was read, and all had the form that was asked for.
func (r *Reader) End() bool { return !r.Odd && len(r.b) == 0 }

// Uint reads a number.
func (r *Reader) Uint() uint64 {
	n, err := strconv.ParseUint(string(r.digits(0)), 10, 64)
	r.Odd = r.Odd || err != nil
	return n
}

// Int reads a number.
func (r *Reader) Int() int64 {
	sign := 0
	if len(r.b) > 0 && r.b[0] == '-' {
		sign = 1
	}
	n, err := strconv.ParseInt(string(r.digits(sign)), 10, 64)
	r.Odd = r.Odd || err != nil
	return n
}

// digits returns the digits that come after so many bytes of a sign, and these bytes.
func (r *Reader) digits(sign int) []byte {
	n := sign
	for n < len(r.b) && r.b[n] >= '0' && r.b[n] <= '9' {
		n++
	}
	if n > sign+1 && r.b[sign] == '0' {
		r.Odd = true // JSON has no leading zeros
	}
	number := r.b[:n]
	r.b = r.b[n:]
	return number
}

// Text reads a string without escapes. It shares memory with what is read.
func (r *Reader) Text() []byte {
	if !r.Skip(`"`) {
		r.Odd = true
		return nil
	}
	for i, c := range r.b {
		if c == '"' {
			text := r.b[:i]
			r.b = r.b[i+1:]
			return text
		}
		if !plain(c) {
			break
		}
	}
	r.Odd = true
	return nil
}

// Time reads a time.
func (r *Reader) Time() (t time.Time) {
	if err := t.UnmarshalText(r.Text()); err != nil {
		r.Odd = true
	}
	return t
}
