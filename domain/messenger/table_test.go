package messenger_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
)

// sample is an item of a kind in an entry of page 7.
type sample struct {
	kind messenger.Kind
	item map[string]any
	sent int64
}

// sampleOf returns the kind's example with the fields that every messaging item has.
func sampleOf(t *testing.T, k messenger.Kind) sample {
	t.Helper()
	s := sample{kind: k, sent: 1790000009000}
	d := json.NewDecoder(strings.NewReader(k.Example))
	d.UseNumber()
	require.NoError(t, d.Decode(&s.item), k.Example)
	if k.Channel != "messaging" {
		return s
	}
	person, page := map[string]any{"id": "31"}, map[string]any{"id": "7"}
	s.item["timestamp"], s.item["recipient"] = json.Number("1790000000001"), page
	switch k.Contact {
	case "sender.id":
		s.item["sender"] = person
	case "recipient.id":
		s.item["sender"], s.item["recipient"] = page, person
	}
	return s
}

// split returns the event of the sample in an array of that name.
func (s sample) split(t *testing.T, channel string) domain.Event {
	t.Helper()
	return splitOne(t, delivery(channel, strconv.FormatInt(s.sent, 10), string(s.encode(t))))
}

// encode returns the item in its canonical form.
func (s sample) encode(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	require.NoError(t, e.Encode(s.item))
	return bytes.TrimSpace(b.Bytes())
}

// at returns the text of the value at a path of the item, and of a list its items.
func (s sample) at(path string) (out []string) {
	if path == "" {
		return []string{""}
	}
	var v any = s.item
	for name := range strings.SplitSeq(path, ".") {
		v = v.(map[string]any)[name]
	}
	if list, ok := v.([]any); ok {
		for _, e := range list {
			out = append(out, fmt.Sprint(e))
		}
		return out
	}
	return []string{fmt.Sprint(v)}
}

// wantTime returns the time that the row names.
func (s sample) wantTime(t *testing.T) time.Time {
	t.Helper()
	if s.kind.Time == "entry.time" {
		return time.UnixMilli(s.sent).UTC()
	}
	n, err := strconv.ParseInt(s.at(s.kind.Time)[0], 10, 64)
	require.NoError(t, err, s.kind.Time)
	if n < 1e11 {
		n *= 1000
	}
	return time.UnixMilli(n).UTC()
}

// wantID returns the id that the row describes.
func (s sample) wantID(t *testing.T, channel string) string {
	t.Helper()
	sum := func(text string) string {
		h := sha256.Sum256([]byte(text))
		return hex.EncodeToString(h[:])
	}
	class, rule, _ := strings.Cut(s.kind.ID, " ")
	names := strings.Split(rule, ", ")
	var parts []string
	if s.kind.Type == domain.PostbackReceived && channel == "standby" {
		parts = append(parts, "standby")
	}
	for _, name := range names {
		switch name {
		case "item":
			parts = append(parts, sum(string(s.encode(t))))
		case "entry.time":
			parts = []string{sum(strings.Join(parts, "|") + "|" + strconv.FormatInt(s.sent, 10) + "|0")}
		case "delivery.mids":
			parts = append(parts, sum(strings.Join(s.at(name), "\n"))[:32])
		default:
			parts = append(parts, s.at(name)...)
		}
	}
	return domain.DedupID("page", "7", class, strings.Join(parts, "|"))
}

// check compares an event of the sample with what the row says.
func (s sample) check(t *testing.T, channel string, e domain.Event, what string) {
	t.Helper()
	assert.Equal(t, s.wantID(t, channel), e.ID, "id: %s", what)
	assert.Equal(t, s.at(s.kind.Contact)[0], string(e.Contact), "contact: %s", what)
	assert.Equal(t, s.wantTime(t), e.Time, "time: %s", what)
	assert.Equal(t, strings.HasSuffix(s.kind.ID, "entry.time"), e.Data.Fact != "", "fact: %s", what)
}

// mutate calls f after each change of one value of v, which it takes back.
func mutate(v any, name string, set func(any), f func(name string)) {
	var other any
	switch v := v.(type) {
	case map[string]any:
		for name, member := range v {
			mutate(member, name, func(x any) { v[name] = x }, f)
		}
		return
	case []any:
		for i, e := range v {
			mutate(e, name, func(x any) { v[i] = x }, f)
		}
		return
	case string:
		other = v + "9"
	case bool:
		other = !v
	case json.Number:
		if n, err := v.Int64(); err == nil {
			other = json.Number(strconv.FormatInt(n+1000, 10))
		} else {
			other = v + "1"
		}
	}
	set(other)
	f(name)
	set(v)
}

// decide are the values that decide on the type of an item.
var decide = []string{"field", "item", "verb", "action", "status", "is_echo", "is_deleted"}

// TestKindsAreWhatSplitDoes compares each row with the event of its example, and with the
// events of the example with one value changed: so a value that the row does not name
// has no effect, and one that it names has.
func TestKindsAreWhatSplitDoes(t *testing.T) {
	rows := map[domain.Type]bool{}
	for _, k := range messenger.Kinds() {
		rows[k.Type] = true
		t.Run(fmt.Sprint(k.Type, " ", k.Fields[0], " ", k.Items), func(t *testing.T) {
			channels := []string{k.Channel}
			if k.Channel == "messaging" {
				channels = append(channels, "standby")
			}
			for _, channel := range channels {
				s := sampleOf(t, k)
				e := s.split(t, channel)
				require.Equal(t, k.Type, e.Type)
				s.check(t, channel, e, "the example")
				mutate(s.item, "", nil, func(name string) {
					switch e := s.split(t, channel); {
					case e.Type == k.Type:
						s.check(t, channel, e, "another "+name)
					case !slices.Contains(decide, name):
						assert.Equal(t, k.Type, e.Type, "another %s", name)
					}
				})
				s.sent += time.Hour.Milliseconds()
				s.check(t, channel, s.split(t, channel), "another entry.time")
			}
		})
	}
	for _, typ := range domain.Types() {
		untyped := typ == domain.ChangeReceived || typ.Noun() == "delivery"
		assert.Equal(t, typ.Inbound() && !untyped, rows[typ], typ)
	}
}

// TestKindsByFieldItemAndVerb checks that each field, item and verb of a row has the
// row's type, and that a messaging item in a change is the same event.
func TestKindsByFieldItemAndVerb(t *testing.T) {
	for _, k := range messenger.Kinds() {
		require.NotEmpty(t, k.Fields, k.Type)
		assert.Regexp(t, `^https://developers\.facebook\.com/docs/[a-z_/-]+(#[a-z_]+)?$`, k.Source, k.Type)
		s := sampleOf(t, k)
		if k.Channel == "messaging" {
			item := string(s.encode(t))
			for _, field := range k.Fields {
				e := splitOne(t, delivery("changes", "1790000009000", `{"field":"`+field+`","value":`+item+`}`))
				assert.Equal(t, k.Type, e.Type, field)
				assert.Equal(t, s.wantID(t, "messaging"), e.ID, field)
			}
			continue
		}
		value := s.item["value"].(map[string]any)
		verb := "verb"
		if value["action"] != nil {
			verb = "action"
		}
		all := func(names []string) []string { // any text, if the row has none
			if len(names) == 0 {
				return []string{""}
			}
			return names
		}
		for _, field := range k.Fields {
			for _, item := range all(k.Items) {
				for _, name := range all(k.Verbs) {
					s.item["field"], value["item"], value[verb] = field, item, name
					assert.Equal(t, k.Type, s.split(t, "changes").Type, "%s %s %s", field, item, name)
				}
			}
		}
	}
}

// The table is between these lines of the page about webhook kinds.
const (
	kindsBegin = "<!-- This table is written by `task gen:docs`. -->\n"
	kindsEnd   = "<!-- The end of the table. -->\n"
)

// kindsTable returns the kinds as a table in Markdown.
func kindsTable() string {
	code := func(names ...string) string {
		if names[0] == "" {
			return "none"
		}
		return "`" + strings.Join(names, "` `") + "`"
	}
	var b strings.Builder
	b.WriteString("| field | item | event type | contact | time | id | example | Meta's reference |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|\n")
	for _, k := range messenger.Kinds() {
		class, parts, _ := strings.Cut(k.ID, " ")
		item := "any"
		if len(k.Items) > 0 {
			item = code(k.Items...)
		}
		if len(k.Verbs) > 0 {
			item += ": " + code(k.Verbs...)
		}
		name := filepath.Base(k.Source)
		if _, anchor, ok := strings.Cut(name, "#"); ok {
			name = anchor
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | `%s` %s | `%s` | [%s](%s) |\n", code(k.Fields...), item,
			code(string(k.Type)), code(k.Contact), code(k.Time), class, parts, k.Example, name, k.Source)
	}
	return b.String()
}

// TestKindsPage compares the table of docs/kinds.md with the kinds. Write it with -update.
func TestKindsPage(t *testing.T) {
	page := filepath.Join("..", "..", "cmd", "pagestream", "docs", "kinds.md")
	b, err := os.ReadFile(page)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(b), kindsBegin)
	require.True(t, ok, "the page has no %q", kindsBegin)
	_, after, ok := strings.Cut(rest, kindsEnd)
	require.True(t, ok, "the page has no %q", kindsEnd)
	want := before + kindsBegin + "\n" + kindsTable() + "\n" + kindsEnd + after
	if *update {
		require.NoError(t, os.WriteFile(page, []byte(want), 0o644))
		return
	}
	require.Equal(t, want, string(b), "the table is old: task gen:docs")
}
