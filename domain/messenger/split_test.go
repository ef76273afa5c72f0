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
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
)

var update = flag.Bool("update", false, "write the golden files")

// golden is an event in a golden file.
type golden struct {
	ID      string           `json:"id"`
	Type    domain.Type      `json:"type"`
	Page    domain.PageID    `json:"page"`
	Contact domain.ContactID `json:"contact,omitempty"`
	Time    time.Time        `json:"time,omitzero"`
	Standby bool             `json:"standby,omitempty"`
	Data    json.RawMessage  `json:"data"`
}

// TestGolden compares the events of each fixture with its golden file. Write the
// golden files with -update and check the diff.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	require.NoError(t, err)
	fixtures := 0
	for _, file := range files {
		if strings.HasSuffix(file, ".golden.json") {
			continue
		}
		fixtures++
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			body, err := os.ReadFile(file)
			require.NoError(t, err)
			var got []golden
			for _, e := range messenger.Split(body, messenger.Options{App: "main"}).Events {
				checkEvent(t, body, e)
				data, err := e.Data.Encode()
				require.NoError(t, err)
				got = append(got, golden{e.ID, e.Type, e.Page, e.Contact, e.Time, e.Standby, data})
			}
			b, err := json.MarshalIndent(got, "", "  ")
			require.NoError(t, err)
			b = append(b, '\n')
			path := strings.TrimSuffix(file, ".json") + ".golden.json"
			if *update {
				require.NoError(t, os.WriteFile(path, b, 0o644))
			}
			want, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Empty(t, cmp.Diff(string(want), string(b)))
		})
	}
	require.NotZero(t, fixtures, "there are no fixtures")
}

// ids returns the ids of a delivery's events.
func ids(body []byte) []string {
	var out []string
	for _, e := range messenger.Split(body, messenger.Options{}).Events {
		out = append(out, e.ID)
	}
	return out
}

func TestFiftyItemsInOneEntry(t *testing.T) {
	var items []string
	for i := range 50 {
		items = append(items, fmt.Sprintf(`{"sender":{"id":"9"},"recipient":{"id":"7"},"timestamp":%d,`+
			`"message":{"mid":"m_%d"}}`, 1790000000000+i, i))
	}
	body := `{"object":"page","entry":[{"id":"7","time":1790000000000,"messaging":[` + strings.Join(items, ",") + `]}]}`
	events := messenger.Split([]byte(body), messenger.Options{}).Events
	require.Len(t, events, 50)
	for i, e := range events {
		require.Equal(t, fmt.Sprintf("page:7:msg:m_%d", i), e.ID, "event %d", i)
	}
}

func TestUnreadableEventHasTheCompleteBody(t *testing.T) {
	for _, body := range []string{
		"", "{", "null", "[]", "17", `"text"`, "{}", `{"object":"page"}`, `{"entry":{}}`, `{"entry":null}`,
		`{"object":"page","entry":[]} trailing`, "\xef\xbb\xbf{}", "\x00\xff", strings.Repeat("[", 20_000),
	} {
		events := messenger.Split([]byte(body), messenger.Options{}).Events
		require.Len(t, events, 1)
		require.Equal(t, domain.DeliveryUnreadable, events[0].Type)
		require.Equal(t, body, string(events[0].Data.Unreadable.Body))
		require.Equal(t, domain.NoPage, events[0].Page)
		checkEvent(t, []byte(body), events[0])
	}
}

// TestMalformedDeliveriesLoseNoItem checks that every item of an unusual delivery
// has its event, and that two different facts never have the same id.
func TestMalformedDeliveriesLoseNoItem(t *testing.T) {
	deep := strings.Repeat("[", 9_990) + strings.Repeat("]", 9_990)
	for name, c := range map[string]struct {
		body  string
		types string
	}{
		"no entries": {` {"object":"page", "entry":[]} `, "delivery.unrecognized"},
		"no entries, deep": {
			`{"entry":[],"x":` + strings.Repeat("[", 9_999) + strings.Repeat("]", 9_999) + `}`,
			"delivery.unreadable",
		},
		"empty entry": {`{"entry":[{}]}`, "delivery.unrecognized"},
		"entry with no items": {
			`{"entry":[{"id":"7","messaging":[],"standby":null,"new_array":[{"a":1}]}]}`,
			"delivery.unrecognized",
		},
		"not entry objects": {
			`{"entry":[1,null,"x",[],{"id":"7","messaging":[{"message":{}}]}]}`,
			"delivery.unrecognized delivery.unrecognized delivery.unrecognized delivery.unrecognized message.received",
		},
		"object, not array": {
			`{"entry":[{"id":"7","messaging":{"message":{"mid":"m"}},"changes":[{"field":"feed"}]}]}`,
			"delivery.unrecognized change.received",
		},
		"two entry arrays": {`{"entry":[{"id":"7","messaging":[{"message":{"mid":"a"}}]}],"entry":[{"id":"8","messaging":[{"message":{"mid":"b"}}]}]}`, "message.received message.received"},
		"two messaging":    {`{"entry":[{"id":"7","messaging":[{"message":{"mid":"a"}}],"messaging":[{"message":{"mid":"b"}}]}]}`, "message.received message.received"},
		"repeated names": {
			`{"entry":[{"id":"7","messaging":[{"new":1,"new":2},{"new":3,"new":2}]}]}`,
			"delivery.unrecognized delivery.unrecognized",
		},
		"half surrogates": {`{"entry":[{"id":"7","messaging":[{"new":"\ud800"},{"new":"\ud801"},{"message":{"mid":"\ud800"}},{"message":{"mid":"\ud801"}}]}]}`, "delivery.unrecognized delivery.unrecognized message.received message.received"},
		"not UTF-8":       {"{\"entry\":[{\"id\":\"7\",\"messaging\":[{\"new\":\"\xfe\"},{\"new\":\"\xff\"},{\"\xff\":1}]},{\"\xfe\":1},{\"\xff\":1}]}", "delivery.unrecognized delivery.unrecognized delivery.unrecognized delivery.unrecognized delivery.unrecognized"},
		"deep items": {`{"entry":[{"id":"7","messaging":[{"new":` + deep + `},{"message":{"mid":"m","x":` + deep +
			`}}]}]}`, "delivery.unrecognized message.received"},
		"two user_refs": {`{"entry":[{"id":"7","messaging":[{"sender":{"user_ref":"a"},"read":{"watermark":1790000000000}},{"sender":{"user_ref":"b"},"read":{"watermark":1790000000000}}]}]}`, "message.read message.read"},
		"long ids": {
			`{"entry":[{"id":"7","messaging":[{"sender":{"id":"` + strings.Repeat("9", 5000) +
				`"},"read":{"mid":"m"}},{"message":{"mid":"` + strings.Repeat("m", 5000) + `"}}]}]}`,
			"message.read message.received",
		},
		"unknown object": {`{"object":"whatsapp","entry":[{"id":"7","messaging":[{"message":{}}]}]}`, "message.received"},
		"no object":      {`{"entry":[{"id":"7","messaging":[{"message":{}}]}]}`, "message.received"},
	} {
		t.Run(name, func(t *testing.T) {
			var types []string
			seen := map[string]bool{}
			for _, e := range messenger.Split([]byte(c.body), messenger.Options{}).Events {
				checkEvent(t, []byte(c.body), e)
				types = append(types, string(e.Type))
				require.False(t, seen[e.ID], "two events have id %s", e.ID)
				seen[e.ID] = true
			}
			require.Equal(t, c.types, strings.Join(types, " "))
		})
	}
}

func TestSource(t *testing.T) {
	body := delivery("messaging", "1", `{"message":{"mid":"m"}}`)
	e := messenger.Split(body, messenger.Options{App: "main", Source: "backfill"}).Events[0]
	require.Equal(t, "main", e.Data.App)
	require.Equal(t, "backfill", e.Data.Source)
}

// delivery returns the body of a delivery with one item on page 7.
func delivery(channel, entryTime, item string) []byte {
	return []byte(`{"object":"page","entry":[{"id":"7","time":` + entryTime + `,"` + channel + `":[` + item + `]}]}`)
}

// TestSameFactHasSameID checks what does not change an id: two deliveries of the
// same fact may differ in it.
func TestSameFactHasSameID(t *testing.T) {
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
				require.Equal(t, want, ids(other)[0], "with other %s", what)
			}
		})
	}
	item := `{` + who + `"postback":{"mid":"m","title":"T"}}`
	require.NotEqual(t, ids(delivery("standby", "1", item))[0], ids(delivery("messaging", "1", item))[0],
		"a postback in standby, which has no payload, has the same id as the postback")
}

// TestFactsOfOneMessageHaveDifferentIDs checks that a message, its edits, unsend
// and reactions, which all have the same mid, have different ids.
func TestFactsOfOneMessageHaveDifferentIDs(t *testing.T) {
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
		other, found := seen[id]
		require.False(t, found, "%s has the same id as %s", item, other)
		seen[id] = item
	}
	// The same item on another page is another fact.
	one := ids(delivery("messaging", "1", `{"message":{"mid":"m"}}`))[0]
	two := ids(bytes.Replace(delivery("messaging", "1", `{"message":{"mid":"m"}}`), []byte(`"7"`), []byte(`"8"`), 1))[0]
	require.NotEqual(t, two, one, "the same item on two pages has one id")
}

// TestOrderOfEntriesDoesNotChangeIDs checks that an id depends on its item, not on
// the other items of the delivery.
func TestOrderOfEntriesDoesNotChangeIDs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "entries")
		entries := make([]string, n)
		for i := range entries {
			page := rapid.IntRange(1, 3).Draw(t, "page")
			mid := rapid.StringMatching(`m_[a-z]{1,3}`).Draw(t, "mid")
			kind := rapid.SampledFrom([]string{
				`"message":{"mid":"%s"}`, `"message":{"mid":"%s","is_deleted":true}`, `"new":{"x":"%s"}`, `"read":{"mid":"%s"}`,
			}).Draw(t, "kind")
			entries[i] = fmt.Sprintf(`{"id":"%d","time":%d,"messaging":[{"sender":{"id":"9"},%s}]}`, page, i,
				fmt.Sprintf(kind, mid))
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
			require.Zero(t, n, id)
		}
	})
}

// TestStandbyCopyHasSameID checks that a copy in standby has the id of the item in
// messaging, unless it is a postback.
func TestStandbyCopyHasSameID(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom([]string{
			`"message":{"mid":%s}`, `"message":{"mid":%s,"is_echo":true}`, `"message":{"mid":%s,"is_deleted":true}`,
			`"message_edit":{"mid":%s,"num_edit":1}`, `"reaction":{"mid":%s,"action":"react"}`, `"read":{"mid":%s}`,
			`"delivery":{"mids":[%s]}`, `"referral":{"ref":%s}`, `"new_kind":{"x":%s}`, `"postback":{"mid":%s}`,
			`"postback":{"title":%s}`,
		}).Draw(t, "kind")
		text, err := json.Marshal(rapid.String().Draw(t, "text"))
		require.NoError(t, err)
		who := rapid.SampledFrom([]string{
			`"sender":{"id":"9"},"recipient":{"id":"7"},"timestamp":1790000000000,`,
			`"sender":{"id":"7"},"recipient":{"id":"9"},"timestamp":1790000000000,`,
			`"sender":{"user_ref":"u"},"timestamp":1790000000000,`, `"timestamp":1790000000000,`,
		}).Draw(t, "who")
		item := `{` + who + fmt.Sprintf(kind, text) + `}`
		plain, standby := ids(delivery("messaging", "1790000000000", item)), ids(delivery("standby", "1790000009999", item))
		require.NotEqual(t, strings.Contains(kind, "postback"), plain[0] == standby[0],
			item)
	})
}
