package messenger_test

import (
	"bytes"
	"encoding/json"
	"regexp"
	"testing"
	"time"

	"github.com/pagestream/pagestream/domain"
)

var subjectToken = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// checkEvent checks what is true of every event of every delivery.
func checkEvent(t testing.TB, body []byte, e domain.Event) {
	t.Helper()
	if e.ID == "" || len(e.ID) > 160 || !e.Type.Known() || !e.Type.Inbound() {
		t.Errorf("event %q of type %q", e.ID, e.Type)
	}
	// Package streams rejects headers over 4 KiB, and with them the whole delivery.
	if e.Page == "" || len(e.Page) > 512 || len(e.Contact) > 512 || !subjectToken.MatchString(e.Page.Token()) {
		t.Errorf("%s: page of %d bytes, token %q, contact of %d", e.Type, len(e.Page), e.Page.Token(), len(e.Contact))
	}
	if y := e.Time.Year(); y < 1 || y > 9999 || e.Time.Location() != time.UTC {
		t.Errorf("%s: the time is %s", e.Type, e.Time)
	}
	if e.Data.Source == "" || e.TraceParent != "" {
		t.Errorf("%s: source %q, trace parent %q", e.Type, e.Data.Source, e.TraceParent)
	}
	if e.Standby != (e.Data.Channel == "standby") {
		t.Errorf("%s: standby is %t in %q", e.Type, e.Standby, e.Data.Channel)
	}
	data, err := e.Data.Encode()
	if err != nil {
		t.Fatalf("%s: %v", e.Type, err)
	}
	back, err := domain.DecodeData(data)
	if err != nil {
		t.Fatalf("%s: %v", e.Type, err)
	}
	if e.Type == domain.DeliveryUnreadable {
		if back.Unreadable == nil || back.Unreadable.Reason == "" || !bytes.Equal(back.Unreadable.Body, body) {
			t.Error("the event does not have the complete body")
		}
		return
	}
	if len(e.Data.Raw) == 0 || !bytes.Contains(body, e.Data.Raw) || !bytes.Equal(back.Raw, e.Data.Raw) {
		t.Errorf("%s: the raw item changed", e.Type)
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
