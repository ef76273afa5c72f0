package pages

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
)

// anyText returns the text of a usual row, or any bytes: text from outside may not be valid UTF-8.
func anyText(usual ...string) *rapid.Generator[string] {
	return rapid.OneOf(rapid.SampledFrom(usual), rapid.Custom(func(t *rapid.T) string {
		return string(rapid.SliceOfN(rapid.Byte(), 0, 5).Draw(t, "bytes"))
	}), rapid.String())
}

// anyTraffic returns rows that a fold could make: each field has a value or is empty.
var anyTraffic = rapid.Custom(func(t *rapid.T) (row traffic) {
	texts, numbers := anyText("104000000000001", "", "page"), rapid.OneOf(rapid.Just(uint64(0)), rapid.Uint64())
	times := rapid.Custom(func(t *rapid.T) time.Time {
		if rapid.Bool().Draw(t, "never") {
			return time.Time{}
		}
		return projections.FromMillis(rapid.Int64Range(0, projections.MaxMillis).Draw(t, "ms"))
	})
	kinds := rapid.OneOf(rapid.SampledFrom(append(domain.Types(), "other")),
		rapid.Map(anyText("x.y"), func(s string) domain.Type { return domain.Type(s) }))
	row.Page, row.Object = domain.PageID(texts.Draw(t, "page")), texts.Draw(t, "object")
	row.LastType, row.ForeignApp = kinds.Draw(t, "last"), texts.Draw(t, "app")
	for _, n := range []*uint64{&row.LastSeq, &row.Events, &row.Standby, &row.StandbyRun, &row.Tests} {
		*n = numbers.Draw(t, "number")
	}
	for _, at := range []*time.Time{
		&row.FirstAt, &row.LastAt, &row.FirstTime, &row.LastTime, &row.FirstInboundAt, &row.LastInboundAt,
		&row.LastMessage, &row.ForeignAt,
	} {
		*at = times.Draw(t, "time")
	}
	row.Types = rapid.MapOfN(kinds, numbers, 0, 20).Draw(t, "types")
	return row
})

// TestTrafficRowIsThatOfEncodingJSON checks that rows have the same bytes and are read as with encoding/json, so that
// rows of earlier versions stay as they are.
func TestTrafficRowIsThatOfEncodingJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		row := anyTraffic.Draw(t, "row")
		want, err := store.AppendJSON([]byte("before"), &row)
		require.NoError(t, err)
		got, err := row.AppendBinary([]byte("before"))
		require.NoError(t, err)
		require.Equal(t, string(want), string(got))
		sameAsJSON(t, got[len("before"):])
		cut := rapid.IntRange(0, len(got)-len("before")).Draw(t, "cut")
		sameAsJSON(t, got[len("before"):][:cut])
	})
}

// TestUsualTrafficRowNeedsNoEncodingJSON reads and writes a row of a usual page, and counts the allocations: the row,
// its page and its types.
func TestUsualTrafficRowNeedsNoEncodingJSON(t *testing.T) {
	at := projections.FromMillis(1_790_000_000_123)
	row := traffic{Page: "104000000000001", Object: "page", Traffic: Traffic{
		FirstAt: at, LastAt: at, LastSeq: 7, FirstTime: at, LastTime: at, LastType: domain.MessageReceived,
		FirstInboundAt: at, LastInboundAt: at, LastMessage: at, Events: 7,
		Types:   map[domain.Type]uint64{domain.MessageReceived: 5, domain.MessageEchoed: 1, "other": 1},
		Standby: 1, StandbyRun: 1, ForeignAt: at, ForeignApp: "app", Tests: 1,
	}}
	b, err := row.AppendBinary(nil)
	require.NoError(t, err)
	sameAsJSON(t, b)
	require.LessOrEqual(t, testing.AllocsPerRun(10, func() {
		var row trafficRow
		if row.UnmarshalBinary(b) == nil {
			_, _ = row.AppendBinary(b[:0])
		}
	}), 6.0)
}

func sameAsJSON(t require.TestingT, b []byte) {
	var want, got traffic
	wantErr := json.Unmarshal(b, &want)
	gotErr := got.UnmarshalBinary(b)
	require.Equal(t, wantErr, gotErr, "%s", b)
	require.Equal(t, want, got, "%s", b)
}

// FuzzTrafficRow checks that any bytes are read as with encoding/json.
func FuzzTrafficRow(f *testing.F) {
	for seed := range 8 {
		row := anyTraffic.Example(seed)
		b, err := row.AppendBinary(nil)
		require.NoError(f, err)
		f.Add(b)
	}
	for _, s := range []string{
		"", "null", "{}", `{"page":"1","events":1,"types":{}}`, `{"page":"1","events":1,"types":{"a":1,"a":2}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) { sameAsJSON(t, b) })
}
