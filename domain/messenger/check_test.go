package messenger_test

import (
	"bytes"
	"encoding/json"
	"regexp"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
)

var subjectToken = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// checkEvent checks what is true of every event of every delivery.
func checkEvent(t testing.TB, body []byte, e domain.Event) {
	t.Helper()
	if assert.NotEmpty(t, e.ID) {
		assert.LessOrEqual(t, len(e.ID), 160)
		assert.True(t, e.Type.Known())
		assert.True(t, e.Type.Inbound())
	}
	// Package streams rejects headers over 4 KiB, and with them the whole delivery.
	if assert.NotEmpty(t, e.Page, "%s", e.Type) {
		assert.LessOrEqual(t, len(e.Page), 512, "%s", e.Type)
		assert.LessOrEqual(t, len(e.Contact), 512, "%s", e.Type)
		assert.True(t, subjectToken.MatchString(e.Page.Token()), "%s", e.Type)
	}
	y := e.Time.Year()
	assert.GreaterOrEqual(t, y, 1, "%s", e.Type)
	assert.LessOrEqual(t, y, 9999, "%s", e.Type)
	assert.Same(t, time.UTC, e.Time.Location(), "%s", e.Type)
	if assert.NotEmpty(t, e.Data.Source, "%s", e.Type) {
		assert.Empty(t, e.TraceParent, "%s", e.Type)
	}
	assert.Equal(t, e.Data.Channel == "standby", e.Standby, "%s", e.Type)
	data, err := e.Data.Encode()
	require.NoError(t, err, "%s", e.Type)
	back, err := domain.DecodeData(data)
	require.NoError(t, err, "%s", e.Type)
	got, known := e.Data.Decoded(data)
	if known {
		assert.Equal(t, back, got, "%s without decoding it", e.Type)
	}
	assert.Equal(t, e.Type != domain.DeliveryUnreadable && !bytes.ContainsRune(data[:len(data)-len(e.Data.Raw)], utf8.RuneError),
		known, "%s can be handed over without decoding it", e.Type)
	if e.Type == domain.DeliveryUnreadable {
		if assert.NotNil(t, back.Unreadable, "the event does not have the complete body") {
			assert.NotEmpty(t, back.Unreadable.Reason, "the event does not have the complete body")
			assert.Equal(t, string(body), string(back.Unreadable.Body), "the event does not have the complete body")
		}
		return
	}
	if assert.NotEmpty(t, e.Data.Raw, "%s", e.Type) {
		assert.Contains(t, string(body), string(e.Data.Raw), "%s", e.Type)
		assert.Equal(t, string(e.Data.Raw), string(back.Raw), "%s", e.Type)
	}
}

// The functions below parse JSON in another way than the package does: token by
// token, into a tree that keeps the order of names and repeated names.

// field is one name and value of an object.
type field struct {
	name  string
	value any
}

// tree is an object.
type tree []field

func (o tree) all(name string) []any {
	var out []any
	for _, f := range o {
		if f.name == name {
			out = append(out, f.value)
		}
	}
	return out
}

// parse decodes a value; false if body is not JSON.
func parse(body []byte) (any, bool) {
	if !json.Valid(body) {
		return nil, false
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	return parseValue(d)
}

func parseValue(d *json.Decoder) (any, bool) {
	token, err := d.Token()
	if err != nil {
		return nil, false
	}
	switch token {
	case json.Delim('{'):
		o := tree{}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return nil, false
			}
			value, ok := parseValue(d)
			if !ok {
				return nil, false
			}
			o = append(o, field{name.(string), value})
		}
		_, err := d.Token()
		return o, err == nil
	case json.Delim('['):
		list := []any{}
		for d.More() {
			value, ok := parseValue(d)
			if !ok {
				return nil, false
			}
			list = append(list, value)
		}
		_, err := d.Token()
		return list, err == nil
	}
	return token, true
}

// render encodes a tree as JSON with other white space than the original.
func render(v any) []byte {
	var b bytes.Buffer
	switch v := v.(type) {
	case tree:
		b.WriteString("{ ")
		for i, f := range v {
			if i > 0 {
				b.WriteString(" ,\n")
			}
			b.Write(render(f.name))
			b.WriteString(" :\t")
			b.Write(render(f.value))
		}
		b.WriteString("}")
	case []any:
		b.WriteString("[")
		for i, e := range v {
			if i > 0 {
				b.WriteString(" , ")
			}
			b.Write(render(e))
		}
		b.WriteString(" ]")
	default:
		leaf, err := json.Marshal(v)
		if err != nil {
			panic(err) // can't happen: v is a string, number, bool or nil
		}
		b.Write(leaf)
	}
	return b.Bytes()
}

// hasRepeatedName reports whether any object in v has a name more than once.
func hasRepeatedName(v any) bool {
	switch v := v.(type) {
	case tree:
		seen := map[string]bool{}
		for _, f := range v {
			if seen[f.name] || hasRepeatedName(f.value) {
				return true
			}
			seen[f.name] = true
		}
	case []any:
		for _, e := range v {
			if hasRepeatedName(e) {
				return true
			}
		}
	}
	return false
}

// entriesOf returns the entries of a delivery; false if it has no entry array.
func entriesOf(v any) ([]any, bool) {
	top, _ := v.(tree)
	arrays := top.all("entry")
	var entries []any
	for _, a := range arrays {
		list, ok := a.([]any)
		if !ok {
			return nil, false
		}
		entries = append(entries, list...)
	}
	return entries, len(arrays) > 0
}

// wantEvents returns how many events Split must return for a delivery.
func wantEvents(body []byte) int {
	v, ok := parse(body)
	if !ok {
		return 1
	}
	entries, ok := entriesOf(v)
	if !ok {
		return 1
	}
	total := 0
	for _, e := range entries {
		n := 0
		entry, _ := e.(tree)
		for _, channel := range []string{"messaging", "standby", "changes", "changed_fields"} {
			for _, value := range entry.all(channel) {
				switch value := value.(type) {
				case nil:
				case []any:
					n += len(value)
				default:
					n++
				}
			}
		}
		total += max(n, 1)
	}
	return max(total, 1)
}

// withEntryTime replaces the time of every entry, or removes it if at is nil.
func withEntryTime(v any, at any) any {
	top, ok := v.(tree)
	if !ok {
		return v
	}
	var out tree
	for _, f := range top {
		list, ok := f.value.([]any)
		if f.name == "entry" && ok {
			timed := make([]any, len(list))
			for i, e := range list {
				timed[i] = e
				if entry, ok := e.(tree); ok {
					other := tree{}
					for _, g := range entry {
						if g.name != "time" {
							other = append(other, g)
						}
					}
					if at != nil {
						other = append(other, field{"time", at})
					}
					timed[i] = other
				}
			}
			f.value = timed
		}
		out = append(out, f)
	}
	return out
}
