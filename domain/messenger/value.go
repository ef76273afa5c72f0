package messenger

import (
	"bytes"
	"encoding/json"
	"math/big"
	"strconv"
	"strings"
	"time"
)

// object is a JSON object whose values are not decoded yet. Its methods take
// what has the type they are for and skip the rest: a field of an unexpected
// type costs that field, never the item.
type object map[string]json.RawMessage

// asObject decodes one level; nil if raw is no object.
func asObject(raw json.RawMessage) object {
	if kind(raw) != '{' {
		return nil
	}
	var o object
	if json.Unmarshal(raw, &o) != nil {
		return nil
	}
	return o
}

// asList decodes one level; false if raw is no array.
func asList(raw json.RawMessage) ([]json.RawMessage, bool) {
	if kind(raw) != '[' {
		return nil, false
	}
	var l []json.RawMessage
	return l, json.Unmarshal(raw, &l) == nil
}

// kind returns the first byte of a value, 0 where there is none or it is null.
func kind(raw json.RawMessage) byte {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	if len(raw) == 0 || raw[0] == 'n' {
		return 0
	}
	return raw[0]
}

func (o object) object(key string) object { return asObject(o[key]) }

func (o object) list(key string) []json.RawMessage { l, _ := asList(o[key]); return l }

func (o object) text(key string) string {
	if kind(o[key]) != '"' {
		return ""
	}
	var s string
	_ = json.Unmarshal(o[key], &s)
	return s
}

func (o object) is(key string) bool { return kind(o[key]) == 't' }

func (o object) id(key string) string { return asID(o[key]) }

// asID reads an id that may be a string or a number of any length. A number is
// never a float64: ids have up to 17 digits and more.
func asID(raw json.RawMessage) string {
	switch c := kind(raw); {
	case c == '"':
		var s string
		_ = json.Unmarshal(raw, &s)
		return s
	case c == '-' || c >= '0' && c <= '9':
		return integer(string(bytes.TrimSpace(raw)))
	}
	return ""
}

// integer writes a JSON number without exponent or fraction, if it is an
// integer; else as it is.
func integer(literal string) string {
	if !strings.ContainsAny(literal, ".eE") || len(literal) > 64 {
		return literal
	}
	if _, exp, found := strings.Cut(strings.ToLower(literal), "e"); found {
		if n, err := strconv.Atoi(exp); err != nil || n > 64 || n < -64 {
			return literal // too large to write out
		}
	}
	r, ok := new(big.Rat).SetString(literal)
	if !ok || !r.IsInt() {
		return literal
	}
	return r.Num().String()
}

func (o object) float(key string) *float64 {
	f, err := strconv.ParseFloat(string(bytes.TrimSpace(o[key])), 64)
	if err != nil {
		return nil
	}
	return &f
}

// number reads a whole number that may be a string; 0 where there is none.
func (o object) number(key string) int64 {
	n, _ := strconv.ParseInt(asID(o[key]), 10, 64)
	return n
}

// millis reads a time as Unix milliseconds; 0 where there is none.
func (o object) millis(key string) int64 { return asMillis(o[key]) }

// Meta's times are milliseconds or seconds, as numbers or strings, or ISO text;
// 0 and absent mean unknown. Magnitude tells the unit: 1e11 s is in the year
// 5138, 1e11 ms in 1973.
func asMillis(raw json.RawMessage) int64 {
	text := strings.TrimSpace(asID(raw))
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05-0700"} {
			if t, err := time.Parse(layout, text); err == nil {
				n = t.UnixMilli()
				if n < 0 {
					n = 0
				}
				return n
			}
		}
		return 0
	}
	switch {
	case n <= 0:
		return 0
	case n < 1e11:
		return n * 1000
	case n < 1e14:
		return n
	case n < 1e17:
		return n / 1e3
	}
	return n / 1e6
}

// at turns milliseconds into a time; 0 is the zero time.
func at(millis int64) time.Time {
	if millis == 0 {
		return time.Time{}
	}
	return time.UnixMilli(millis).UTC()
}
