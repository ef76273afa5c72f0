package messenger_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/pagestream/pagestream/domain/messenger"
)

// FuzzSplit checks that Split never panics and never loses an item, and that ids
// do not depend on entry.time, white space, or how text is escaped.
func FuzzSplit(f *testing.F) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, ".golden.json") {
			continue
		}
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
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
		if want := wantEvents(body); len(r.Events) != want || r.Items != want {
			t.Fatalf("%d events for %d items", len(r.Events), want)
		}
		for _, e := range r.Events {
			checkEvent(t, body, e)
		}
		first := ids(body)
		if !slices.Equal(first, ids(bytes.Clone(body))) {
			t.Fatal("the same bytes have other ids the second time")
		}
		v, ok := parse(body)
		if _, has := entriesOf(v); !ok || !has {
			return
		}
		again := render(v)
		if !bytes.ContainsRune(again, utf8.RuneError) && !hasRepeatedName(v) {
			if got := ids(again); !slices.Equal(first, got) {
				t.Fatalf("with other white space: ids %q, want %q", got, first)
			}
		}
		want := ids(render(withEntryTime(v, json.Number("1790000000000"))))
		for _, at := range []any{nil, json.Number("1790000009"), "2026-09-21T14:13:20+0000"} {
			other := ids(render(withEntryTime(v, at)))
			if !slices.Equal(want, other) {
				t.Fatalf("entry.time %v: ids %q, want %q", at, other, want)
			}
		}
	})
}
