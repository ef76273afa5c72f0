package domain

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// The outgoing form of an event's data is what every part gives to other programs: the
// API, the feed, webhooks and exports. It is one line of valid UTF-8 and not nested
// deeply, whatever Meta sent. The stream keeps the item byte for byte in raw; the
// outgoing form has one of:
//
//   - raw, the item unchanged, if it is all of that already
//   - raw and raw_text, if the item has line breaks: raw has spaces in their places, and
//     raw_text is a string with the exact text
//   - raw_text alone, if the item is nested more than 50 levels deep
//   - raw_base64 alone, if the item is not valid UTF-8

// maxLineDepth is the most levels that raw JSON has in the outgoing form. Common readers
// stop at 64 (System.Text.Json) or 128 (serde_json), and the data is nested itself.
const maxLineDepth = 50

// EncodeLine returns the data in its outgoing form. It fails as [Data.Encode] does.
func (d Data) EncodeLine() ([]byte, error) { return d.encodeLine(false) }

// EncodeLineBase64 is like [Data.EncodeLine], but with the item as raw_base64 in any
// case.
func (d Data) EncodeLineBase64() ([]byte, error) { return d.encodeLine(true) }

func (d Data) encodeLine(asBase64 bool) ([]byte, error) {
	raw := d.Raw
	if !ValidJSON(raw) && len(raw) > 0 {
		return nil, fmt.Errorf("encode raw item: %w", ErrBadData)
	}
	d.Raw = nil
	out, err := d.Encode()
	if err != nil {
		return nil, err
	}
	if len(raw) == 0 {
		return out, nil
	}
	out = out[:len(out)-1] // the closing brace
	if len(out) > 1 {
		out = append(out, ',')
	}
	if asBase64 || !utf8.Valid(raw) {
		out = append(out, `"raw_base64":"`...)
		out = base64.StdEncoding.AppendEncode(out, raw)
		return append(out, `"}`...), nil
	}
	deep, broken := TooDeep(raw), bytes.ContainsAny(raw, "\r\n")
	if !deep {
		out = append(out, `"raw":`...)
		begin := len(out)
		out = append(out, raw...)
		for i := begin; i < len(out); i++ {
			if out[i] == '\r' || out[i] == '\n' { // in JSON only between tokens
				out[i] = ' '
			}
		}
	}
	if deep || broken {
		if !deep {
			out = append(out, ',')
		}
		out = append(out, `"raw_text":`...)
		if out, err = jsontext.AppendQuote(out, raw); err != nil {
			return nil, fmt.Errorf("encode raw item: %w", ErrBadData)
		}
	}
	return append(out, '}'), nil
}

// Line returns the outgoing form of data that [Data.Encode] returned. It returns the
// argument itself if that is the outgoing form, with all that a newer version wrote.
func Line(stored []byte) ([]byte, error) {
	d, err := DecodeData(stored)
	if err != nil {
		return nil, err
	}
	if utf8.Valid(stored) && !bytes.ContainsAny(stored, "\r\n") && !deeper(stored, maxLineDepth+1) {
		if _, changed, err := decodeLine(stored); err == nil && !changed { // it has no member of that name
			return stored, nil
		}
	}
	return d.EncodeLine()
}

// DecodeLine decodes the outgoing form of data. Raw has the exact bytes of the item,
// whichever member has them. Errors wrap [ErrBadData] and never quote the data.
func DecodeLine(line []byte) (Data, error) {
	d, _, err := decodeLine(line)
	return d, err
}

// Unline returns the data as [Data.Encode] returned it before [Line]. Line does not keep
// everything of data that another program wrote, so a caller that needs the same bytes
// must compare them.
func Unline(line []byte) ([]byte, error) {
	d, changed, err := decodeLine(line)
	if err != nil || !changed {
		return line, err
	}
	return d.Encode()
}

// decodeLine also reports whether raw is not the item itself.
func decodeLine(line []byte) (d Data, changed bool, err error) {
	var l struct {
		*Data

		RawText   *string `json:"raw_text"`
		RawBase64 []byte  `json:"raw_base64"`
	}
	l.Data = &d
	if err := jsonv2.Unmarshal(line, &l, likeV1); err != nil {
		return Data{}, false, fmt.Errorf("decode %d bytes: %w", len(line), ErrBadData)
	}
	switch {
	case l.RawBase64 != nil:
		d.Raw = l.RawBase64
	case l.RawText != nil:
		d.Raw = json.RawMessage(*l.RawText)
	default:
		return d, false, nil
	}
	return d, true, nil
}

// TooDeep reports whether JSON is nested more than 50 levels deep.
func TooDeep(b []byte) bool { return deeper(b, maxLineDepth) }

// deeper reports whether JSON is nested more than n levels deep.
func deeper(b []byte, n int) bool {
	depth, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{', c == '[':
			if depth++; depth > n {
				return true
			}
		case c == '}', c == ']':
			depth--
		}
	}
	return false
}
