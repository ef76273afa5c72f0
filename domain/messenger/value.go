package messenger

import (
	"crypto/sha256"
	"encoding/hex"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/pagestream/pagestream/domain"
)

// asID decodes an id that may be a string or a number of any length. A number is
// never converted to a float64: ids have 17 digits and more. It returns "" for
// text that can't be decoded without loss (bytes that are not UTF-8, half a
// surrogate pair), since two different ids could have the same result.
func asID(v value) string {
	switch c := v.first(); {
	case c == '"':
		s, _ := asText(v)
		if strings.Contains(s, "\ufffd") {
			return ""
		}
		return s
	case c == '-' || c >= '0' && c <= '9':
		return integer(string(v.raw()))
	}
	return ""
}

// asIDs decodes an array of ids and skips elements that are not ids.
func asIDs(v value) []string {
	var ids []string
	for item := v.elements(); item.next(); {
		if id := asID(item.value); id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

// maxID is the maximum length of a page or contact id in bytes. Meta's ids have
// about 17 digits; a user_ref is chosen by the website and may be longer.
const maxID = 512

// bounded returns id, or its subject token if it is longer than [maxID]. Package
// streams puts these ids in headers and rejects an event whose headers are too
// long, which would block the whole delivery.
func bounded(id string) string {
	if len(id) > maxID {
		return domain.PageID(id).Token()
	}
	return id
}

// integer returns a JSON number without exponent or fraction if it is an integer,
// and unchanged otherwise.
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

// float returns the number with that name, nil if there is none.
func (v value) float(name string) *float64 {
	f, err := strconv.ParseFloat(string(v.get(name).raw()), 64)
	if err != nil {
		return nil
	}
	return &f
}

// number returns the integer with that name, which may be a string; 0 if there is
// none.
func (v value) number(name string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(v.id(name)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// millis returns the time with that name in Unix milliseconds; 0 if there is none.
func (v value) millis(name string) int64 { return asMillis(v.get(name)) }

// asMillis decodes a time in any of Meta's forms, in Unix milliseconds: a number
// or a string of milliseconds or seconds, or an ISO 8601 string. It returns 0,
// unknown, for any other value. The magnitude of a number decides its unit: 1e11 s
// is in the year 5138, 1e11 ms in 1973. Micro- and nanoseconds, which Meta is not
// known to send, are recognized in the same way, so that no number is a time after
// the year 9999.
func asMillis(v value) int64 {
	if v.first() == 0 {
		return 0
	}
	n, err := strconv.ParseInt(string(v.raw()), 10, 64)
	if err != nil {
		text := strings.TrimSpace(asID(v))
		if n, err = strconv.ParseInt(text, 10, 64); err != nil {
			return isoMillis(text)
		}
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

// isoMillis decodes an ISO 8601 time, in Unix milliseconds.
func isoMillis(text string) int64 {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05-0700"} {
		if t, err := time.Parse(layout, text); err == nil {
			// In UTC, the last hours of 9999 in a zone west of it are in 10000.
			if t.UTC().Year() > 9999 {
				return 0
			}
			return max(t.UnixMilli(), 0)
		}
	}
	return 0
}

// fromMillis converts Unix milliseconds to a time in UTC; 0 is the zero time.
func fromMillis(millis int64) time.Time {
	if millis == 0 {
		return time.Time{}
	}
	return time.UnixMilli(millis).UTC()
}

// formatInt returns n in decimal, or "" for 0, which means that there is none.
func formatInt(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

// digest returns the SHA-256 of b in hex.
func digest(b []byte) string {
	sum := sha256.Sum256(b)
	var text [2 * sha256.Size]byte
	hex.Encode(text[:], sum[:])
	return string(text[:])
}
