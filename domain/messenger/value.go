package messenger

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pagestream/pagestream/domain"
)

// asID reads an id that may be a string or a number of any length. A number is
// never a float64: ids have up to 17 digits and more. Text that can't be read
// without loss (bytes that are not UTF-8, half a surrogate pair) is no id: two
// such would become one.
func asID(raw json.RawMessage) string {
	switch c := kind(raw); {
	case c == '"':
		s, _ := asText(raw)
		if strings.ContainsRune(s, utf8.RuneError) {
			return ""
		}
		return s
	case c == '-' || c >= '0' && c <= '9':
		return integer(string(raw))
	}
	return ""
}

// asIDs reads an array of ids, and skips what is none.
func asIDs(raw json.RawMessage) []string {
	var ids []string
	list, _ := asList(raw)
	for _, item := range list {
		if id := asID(item); id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

// maxID bounds the id of a page or contact in bytes. Meta's have about 17; a
// user_ref is the site's own and may be longer.
const maxID = 512

// bounded returns id, or its subject token if it is too long to be one: streams
// carry these ids in headers and refuse an event whose headers are too long,
// which would hold up the whole delivery.
func bounded(id string) string {
	if len(id) > maxID {
		return domain.PageID(id).Token()
	}
	return id
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

func (o object) float(name string) *float64 {
	f, err := strconv.ParseFloat(string(o.get(name)), 64)
	if err != nil {
		return nil
	}
	return &f
}

// number reads a whole number that may be a string; 0 where there is none.
func (o object) number(name string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(o.id(name)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// millis reads a time as Unix milliseconds; 0 where there is none.
func (o object) millis(name string) int64 { return asMillis(o.get(name)) }

// asMillis reads a time in any form that Meta's have: milliseconds or seconds,
// as a number or a string, or ISO text; 0 and absent mean unknown. Magnitude
// tells the unit: 1e11 s is in the year 5138, 1e11 ms in 1973. Micro- and
// nanoseconds, which Meta is not known to send, are told apart likewise, so
// that no number is a time beyond the year 9999.
func asMillis(raw json.RawMessage) int64 {
	text := strings.TrimSpace(asID(raw))
	if text == "" {
		return 0
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05-0700"} {
			if t, err := time.Parse(layout, text); err == nil {
				// An offset can carry the last hours of 9999 over its end.
				if t.UTC().Year() > 9999 {
					return 0
				}
				return max(t.UnixMilli(), 0)
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

// itoa writes a number whose 0 means that there is none.
func itoa(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

// digest returns the SHA-256 of b in hex.
func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
