package messenger_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden is an event as the golden files show it.
type golden struct {
	ID      string           `json:"id"`
	Type    domain.Type      `json:"type"`
	Page    domain.PageID    `json:"page"`
	Contact domain.ContactID `json:"contact,omitempty"`
	Time    time.Time        `json:"time,omitzero"`
	Standby bool             `json:"standby,omitempty"`
	Data    json.RawMessage  `json:"data"`
}

// TestGolden holds each fixture to the events beside it. Make them anew with
// -update, and read the difference.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, file := range files {
		if strings.HasSuffix(file, ".golden.json") {
			continue
		}
		tried++
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			body, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got []golden
			for _, e := range messenger.Split(body, messenger.Options{App: "main"}).Events {
				checkEvent(t, e)
				data, err := e.Data.Encode()
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, golden{e.ID, e.Type, e.Page, e.Contact, e.Time, e.Standby, data})
			}
			b, err := json.MarshalIndent(got, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			b = append(b, '\n')
			path := strings.TrimSuffix(file, ".json") + ".golden.json"
			if *update {
				if err := os.WriteFile(path, b, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(b)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
	if tried == 0 {
		t.Error("there is no fixture")
	}
}

// checkEvent is what holds for every event of every delivery.
func checkEvent(t testing.TB, e domain.Event) {
	t.Helper()
	if e.ID == "" || len(e.ID) > 160 || e.Page == "" || !e.Type.Known() {
		t.Errorf("event %q of type %q on page %q", e.ID, e.Type, e.Page)
	}
	data, err := e.Data.Encode()
	if err != nil {
		t.Fatalf("%s: %v", e.Type, err)
	}
	back, err := domain.DecodeData(data)
	if err != nil {
		t.Fatalf("%s: %v", e.Type, err)
	}
	if !bytes.Equal(back.Raw, e.Data.Raw) {
		t.Errorf("%s: the raw item changed", e.Type)
	}
	if y := e.Time.Year(); y < 1 || y > 9999 {
		t.Errorf("%s: the year is %d", e.Type, y)
	}
}

// count counts the items of a delivery in its own way: what Split must give.
func count(body []byte) int {
	var v any
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if d.Decode(&v) != nil || d.More() || !json.Valid(body) {
		return 1
	}
	m, ok := v.(map[string]any)
	if !ok {
		return 1
	}
	entries, ok := m["entry"].([]any)
	if !ok || len(entries) == 0 {
		return 1
	}
	total := 0
	for _, e := range entries {
		n := 0
		entry, _ := e.(map[string]any)
		for _, key := range []string{"messaging", "standby", "changes", "changed_fields"} {
			switch list := entry[key].(type) {
			case nil:
			case []any:
				n += len(list)
			default:
				n++
			}
		}
		total += max(n, 1)
	}
	return total
}

func ids(body []byte) []string {
	var out []string
	for _, e := range messenger.Split(body, messenger.Options{}).Events {
		out = append(out, e.ID)
	}
	return out
}

// TestCorpus splits every whole POST that is kept beside the project.
func TestCorpus(t *testing.T) {
	root := filepath.Join("..", "..", "..", "shared", "corpus")
	files, _ := filepath.Glob(filepath.Join(root, "*", "*.json"))
	if len(files) == 0 {
		t.Skip("the corpus is not beside the project")
	}
	typed := map[string]domain.Type{
		"bottender/echo_message.json":                        domain.MessageEchoed,
		"bottender/policy_enforcement.json":                  domain.PolicyEnforced,
		"bottender/connector_webhook_test_request.json":      domain.ChangeReceived,
		"bottender/game_play.json":                           domain.DeliveryUnrecognized,
		"chatwoot/instagram_message_unsend_event.json":       domain.MessageDeleted,
		"chatwoot/messaging_seen_event.json":                 domain.MessageRead,
		"facebook-messenger-gem/feed.json":                   domain.ChangeReceived,
		"fbmessenger-py/numeric_ids_optin.json":              domain.OptinReceived,
		"laravel-fb-messenger/MessageHandover_3.json":        domain.ThreadRolesChanged,
		"messenger4j/HandleTemplateEchoMessageEvent.json":    domain.MessageEchoed,
		"meta-docs/page_message_edit.json":                   domain.MessageEdited,
		"meta-docs/page_postback_changes_form_user_ref.json": domain.PostbackReceived,
		"meta-docs/page_test_curl_message_is_string.json":    domain.DeliveryUnrecognized,
	}
	for _, file := range files {
		name, _ := filepath.Rel(root, file)
		if strings.HasPrefix(name, "graph-responses") {
			continue
		}
		body, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		r := messenger.Split(body, messenger.Options{})
		if want := count(body); len(r.Events) != want || r.Items != want {
			t.Errorf("%s: %d events for %d items", name, len(r.Events), want)
		}
		for _, e := range r.Events {
			checkEvent(t, e)
			if e.Type == domain.DeliveryUnreadable {
				t.Errorf("%s is unreadable", name)
			}
		}
		if want, ok := typed[name]; ok && r.Events[0].Type != want {
			t.Errorf("%s is %s, want %s", name, r.Events[0].Type, want)
		}
	}
}

func TestFiftyItemsInOneEntry(t *testing.T) {
	var items []string
	for i := range 50 {
		items = append(items, fmt.Sprintf(`{"sender":{"id":"9"},"recipient":{"id":"7"},"timestamp":%d,"message":{"mid":"m_%d"}}`, 1790000000000+i, i))
	}
	body := `{"object":"page","entry":[{"id":"7","time":1790000000000,"messaging":[` + strings.Join(items, ",") + `]}]}`
	events := messenger.Split([]byte(body), messenger.Options{}).Events
	if len(events) != 50 {
		t.Fatalf("got %d events", len(events))
	}
	for i, e := range events {
		if want := fmt.Sprintf("page:7:msg:m_%d", i); e.ID != want {
			t.Errorf("event %d is %s, want %s", i, e.ID, want)
		}
	}
}

func TestUnreadableIsKeptWhole(t *testing.T) {
	for _, body := range []string{
		"", "{", "null", "[]", "17", `"text"`, "{}", `{"object":"page"}`, `{"entry":{}}`, `{"entry":null}`,
		`{"object":"page","entry":[]} trailing`, "\xef\xbb\xbf{}", "\x00\xff", strings.Repeat("[", 20_000),
	} {
		events := messenger.Split([]byte(body), messenger.Options{}).Events
		if len(events) != 1 || events[0].Type != domain.DeliveryUnreadable ||
			string(events[0].Data.Unreadable.Body) != body || events[0].Page != domain.NoPage {
			t.Errorf("%.20q: got %d events, the first %s", body, len(events), events[0].Type)
		}
		checkEvent(t, events[0])
	}
}

// item returns one delivery of one item.
func delivery(channel, entryTime, item string) []byte {
	return []byte(`{"object":"page","entry":[{"id":"7","time":` + entryTime + `,"` + channel + `":[` + item + `]}]}`)
}

// TestSameFactSameID: what may differ between two deliveries of one fact.
func TestSameFactSameID(t *testing.T) {
	const who = `"sender":{"id":"9"},"recipient":{"id":"7"},"timestamp":1790000000000,`
	for name, item := range map[string]string{
		"message":  `{` + who + `"message":{"mid":"m","text":"x"}}`,
		"echo":     `{"sender":{"id":"7"},"recipient":{"id":"9"},"message":{"mid":"m","is_echo":true}}`,
		"read":     `{` + who + `"read":{"watermark":1790000000000}}`,
		"delivery": `{` + who + `"delivery":{"watermark":1790000000000,"mids":["a","b"]}}`,
		"referral": `{` + who + `"referral":{"ref":"x"}}`,
		"reaction": `{"sender":{"id":"9"},"recipient":{"id":"7"},"reaction":{"mid":"m","action":"react","emoji":"x"}}`,
		"unknown":  `{` + who + `"new":{"b":1,"a":"\u00e4"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			want := ids(delivery("messaging", "1790000000000", item))[0]
			for what, other := range map[string][]byte{
				"entry.time":  delivery("messaging", "1790009999999", item),
				"standby":     delivery("standby", "1790000000000", item),
				"white space": delivery("messaging", "1790000000000", strings.ReplaceAll(item, ":", " :\n")),
				"escapes":     delivery("messaging", "1790000000000", strings.ReplaceAll(item, `\u00e4`, "ä")),
			} {
				if got := ids(other)[0]; got != want {
					t.Errorf("another %s: %s, not %s", what, got, want)
				}
			}
		})
	}
	item := `{` + who + `"postback":{"mid":"m","title":"T"}}`
	if ids(delivery("messaging", "1", item))[0] == ids(delivery("standby", "1", item))[0] {
		t.Error("a postback in standby, which lacks its payload, has the id of the postback")
	}
}

// TestOneMidManyFacts: a message, its edits, unsend and reactions share a mid.
func TestOneMidManyFacts(t *testing.T) {
	const who = `"sender":{"id":"9"},"recipient":{"id":"7"},"timestamp":1790000000000,`
	seen := map[string]string{}
	for _, item := range []string{
		`{` + who + `"message":{"mid":"m","text":"x"}}`,
		`{` + who + `"message":{"mid":"m","is_deleted":true}}`,
		`{` + who + `"message_edit":{"mid":"m","num_edit":1,"text":"y"}}`,
		`{` + who + `"message_edit":{"mid":"m","num_edit":2,"text":"z"}}`,
		`{` + who + `"postback":{"mid":"m"}}`,
		`{` + who + `"reaction":{"mid":"m","action":"react","emoji":"a"}}`,
		`{` + who + `"reaction":{"mid":"m","action":"unreact"}}`,
		`{"sender":{"id":"8"},"recipient":{"id":"7"},"timestamp":1790000000000,"reaction":{"mid":"m","action":"react","emoji":"a"}}`,
		`{"sender":{"id":"9"},"recipient":{"id":"7"},"timestamp":1790000000001,"reaction":{"mid":"m","action":"react","emoji":"a"}}`,
		`{` + who + `"read":{"mid":"m"}}`,
		`{` + who + `"delivery":{"mids":["m"]}}`,
	} {
		id := ids(delivery("messaging", "1790000000000", item))[0]
		if other, again := seen[id]; again {
			t.Errorf("%s has the id of %s", item, other)
		}
		seen[id] = item
	}
	// The same item on another page is another fact.
	one := ids(delivery("messaging", "1", `{"message":{"mid":"m"}}`))[0]
	two := ids(bytes.Replace(delivery("messaging", "1", `{"message":{"mid":"m"}}`), []byte(`"7"`), []byte(`"8"`), 1))[0]
	if one == two {
		t.Error("two pages share an id")
	}
}

// TestPermutedEntries: an id depends on its item, not on its neighbours.
func TestPermutedEntries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "entries")
		entries := make([]string, n)
		for i := range entries {
			page := rapid.IntRange(1, 3).Draw(t, "page")
			mid := rapid.StringMatching(`m_[a-z]{1,3}`).Draw(t, "mid")
			kind := rapid.SampledFrom([]string{
				`"message":{"mid":"%s"}`, `"message":{"mid":"%s","is_deleted":true}`, `"new":{"x":"%s"}`, `"read":{"mid":"%s"}`,
			}).Draw(t, "kind")
			entries[i] = fmt.Sprintf(`{"id":"%d","time":%d,"messaging":[{"sender":{"id":"9"},%s}]}`, page, i, fmt.Sprintf(kind, mid))
		}
		join := func() []byte {
			return []byte(`{"object":"page","entry":[` + strings.Join(entries, ",") + `]}`)
		}
		before := map[string]int{}
		for _, id := range ids(join()) {
			before[id]++
		}
		rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)).Shuffle(n, func(i, j int) {
			entries[i], entries[j] = entries[j], entries[i]
		})
		for _, id := range ids(join()) {
			before[id]--
		}
		for id, n := range before {
			if n != 0 {
				t.Fatalf("%s: %+d", id, n)
			}
		}
	})
}

// FuzzSplit: never a panic, never an item lost, the same bytes the same ids, and
// another entry.time the same ids.
func FuzzSplit(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.json")
	for _, file := range files {
		if b, err := os.ReadFile(file); err == nil && !strings.Contains(file, "golden") {
			f.Add(b)
		}
	}
	f.Add([]byte(`{"entry":[{"messaging":{"a":1},"standby":[null]},7]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r := messenger.Split(body, messenger.Options{})
		if want := count(body); len(r.Events) != want || r.Items != want {
			t.Fatalf("%d events for %d items", len(r.Events), want)
		}
		first := ids(body)
		for i, e := range r.Events {
			checkEvent(t, e)
			if e.ID != first[i] {
				t.Fatal("the same bytes gave another id")
			}
		}
		if retimed, ok := retime(body); ok {
			same := ids(retimed)
			for i, id := range ids(reencode(body)) {
				if id != same[i] {
					t.Fatalf("another entry.time: %s, not %s", same[i], id)
				}
			}
		}
	})
}

// reencode decodes and encodes a body, which changes its bytes but no value.
func reencode(body []byte) []byte {
	b, _ := transform(body, func(map[string]any) {})
	return b
}

// retime gives every entry another time; false for what has no entries.
func retime(body []byte) ([]byte, bool) {
	return transform(body, func(entry map[string]any) { entry["time"] = 1791234567890 })
}

func transform(body []byte, change func(map[string]any)) ([]byte, bool) {
	var top map[string]any
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if !json.Valid(body) || d.Decode(&top) != nil {
		return body, false
	}
	entries, ok := top["entry"].([]any)
	if !ok || len(entries) == 0 {
		return body, false
	}
	for _, e := range entries {
		if m, ok := e.(map[string]any); ok {
			change(m)
		}
	}
	b, err := json.Marshal(top)
	return b, err == nil
}

func BenchmarkSplit(b *testing.B) {
	for _, n := range []int{1, 100} {
		var items []string
		for i := range n {
			items = append(items, fmt.Sprintf(`{"sender":{"id":"9876543210"},"recipient":{"id":"7000000001"},"timestamp":%d,"message":{"mid":"m_%d","text":"a message of an ordinary length, as people write them"}}`, 1790000000000+i, i))
		}
		body := []byte(`{"object":"page","entry":[{"id":"7000000001","time":1790000000000,"messaging":[` + strings.Join(items, ",") + `]}]}`)
		b.Run(fmt.Sprintf("items=%d", n), func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if r := messenger.Split(body, messenger.Options{}); r.Items != n {
					b.Fatal(r.Items)
				}
			}
		})
	}
}
