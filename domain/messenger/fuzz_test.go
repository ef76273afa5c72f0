package messenger_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
)

// ownTime returns the timestamp of a messaging item, read in another way than the
// package does; 0 for other items and where there is none.
func ownTime(e domain.Event) int64 {
	v, ok := parse(e.Data.Raw)
	item, isObject := v.(tree)
	if !ok || !isObject || e.Data.Channel != "messaging" && e.Data.Channel != "standby" {
		return 0
	}
	var last any
	for _, value := range item.all("timestamp") {
		last = value
	}
	n, ok := last.(json.Number)
	if !ok {
		return 0
	}
	at, err := n.Int64()
	if err != nil {
		return 0
	}
	return max(at, 0)
}

// FuzzSplit checks that Split never panics and never loses an item, that ids do not
// depend on white space or on how text is escaped, and that they depend on entry.time
// for exactly those items that have no identity of their own.
func FuzzSplit(f *testing.F) {
	files, err := filepath.Glob("testdata/*.json")
	require.NoError(f, err)
	for _, file := range files {
		if strings.HasSuffix(file, ".golden.json") {
			continue
		}
		b, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(b)
	}
	for _, s := range []string{
		`{"entry":[{"messaging":{"a":1},"standby":[null]},7]}`,
		`{"entry":[{"id":"1","messaging":[1],"messaging":[2]}],"entry":[]}`,
		`{"object":7,"entry":[{"id":1.5e3,"changes":[` +
			`{"field":"messages","value":{"sender":{"user_ref":"u"},"message":{"mid":"m"}}}]}]}`,
		"{\"entry\":[{\"id\":\"\xff\",\"standby\":[{\"new\":\"\\ud800\"},{\"m\\u0065ssage\":{\"mid\":\"\\ud83d\"}}]}]}",
		`{"entry":[{"time":"9999-12-31T23:59:59-1200","messaging":[{"timestamp":99999999999999999,"read":{"watermark":-1}}]}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r := messenger.Split(body, messenger.Options{})
		items := wantEvents(body)
		require.Len(t, r.Events, items)
		require.Equal(t, items, r.Items)
		for _, e := range r.Events {
			checkEvent(t, body, e)
		}
		first := ids(body)
		require.Equal(t, ids(bytes.Clone(body)), first, "the same bytes have other ids the second time")
		v, ok := parse(body)
		if _, has := entriesOf(v); !ok || !has {
			return
		}
		again := render(v)
		if !bytes.ContainsRune(again, utf8.RuneError) && !hasRepeatedName(v) {
			require.Equal(t, first, ids(again), "with other white space")
		}
		want := messenger.Split(render(withEntryTime(v, json.Number("1790000000000"))), messenger.Options{}).Events
		for _, at := range []any{nil, json.Number("1790000009"), "2026-09-21T14:13:21+0000"} {
			other := messenger.Split(render(withEntryTime(v, at)), messenger.Options{}).Events
			require.Len(t, other, len(want))
			for i, e := range other {
				untimed := want[i].Data.Fact != ""
				require.Equal(t, untimed, e.ID != want[i].ID, "entry.time %v: ids %q and %q", at, e.ID, want[i].ID)
				if at != nil {
					require.Equal(t, want[i].Data.Fact, e.Data.Fact)
				}
				if untimed {
					require.Zero(t, ownTime(e), "%s has a time of its own", e.Type)
				}
			}
		}
	})
}
