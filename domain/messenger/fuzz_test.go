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

	"github.com/pagestream/pagestream/domain/messenger"
)

// FuzzSplit checks that Split never panics and never loses an item, and that ids
// do not depend on entry.time, white space, or how text is escaped.
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
		want := ids(render(withEntryTime(v, json.Number("1790000000000"))))
		for _, at := range []any{nil, json.Number("1790000009"), "2026-09-21T14:13:20+0000"} {
			other := ids(render(withEntryTime(v, at)))
			require.Equal(t, want, other, "entry.time %v", at)
		}
	})
}
