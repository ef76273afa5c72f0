package flatjson_test

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/internal/flatjson"
)

type flat struct {
	Text string    `json:"text"`
	Uint uint64    `json:"uint"`
	Int  int64     `json:"int"`
	Time time.Time `json:"time"`
}

func write(v flat) flatjson.Writer {
	w := flatjson.Writer{}
	w.Raw(`{"text":`)
	w.Text(v.Text)
	w.Raw(`,"uint":`)
	w.Uint(v.Uint)
	w.Raw(`,"int":`)
	w.Int(v.Int)
	w.Raw(`,"time":`)
	w.Time(v.Time)
	w.Raw("}")
	return w
}

func read(b []byte) (v flat, ok bool) {
	r := flatjson.Read(b)
	r.Want(`{"text":`)
	v.Text = string(r.Text())
	r.Want(`,"uint":`)
	v.Uint = r.Uint()
	r.Want(`,"int":`)
	v.Int = r.Int()
	r.Want(`,"time":`)
	v.Time = r.Time()
	r.Want("}")
	return v, r.End()
}

var values = []flat{
	{},
	{"page.connected", 17, -3, time.UnixMilli(1_790_000_000_123).UTC()},
	{"", math.MaxUint64, math.MinInt64, time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)},
	{"~ /'", 0, math.MaxInt64, time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))},
}

// oddValues can't be written.
var oddValues = []flat{
	{Text: `a"b`},
	{Text: `a\b`},
	{Text: "<"},
	{Text: ">"},
	{Text: "&"},
	{Text: "\x7f"},
	{Text: "\x00"},
	{Text: "\n"},
	{Text: "é"},
	{Text: "\xff"},
	{Text: "\u2028"},
	{Time: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
	{Time: time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC)},
}

// TestSameAsEncodingJSON writes values and reads them, and checks that both are as encoding/json does it.
func TestSameAsEncodingJSON(t *testing.T) {
	for _, v := range values {
		want, err := json.Marshal(v)
		require.NoError(t, err)
		w := write(v)
		require.False(t, w.Odd, "%+v", v)
		require.Equal(t, string(want), string(w.B))
		got, ok := read(w.B)
		require.True(t, ok, "%s", w.B)
		require.True(t, got.Time.Equal(v.Time))
		got.Time = v.Time
		require.Equal(t, v, got)
	}
	for _, v := range oddValues {
		require.True(t, write(v).Odd, "%+v", v)
	}
}

// TestOtherJSONIsNotRead has JSON that encoding/json reads or refuses: none of it is read.
func TestOtherJSONIsNotRead(t *testing.T) {
	const good = `"a","uint":1,"int":2,"time":"2026-01-02T03:04:05Z"}`
	_, ok := read([]byte(`{"text":` + good))
	require.True(t, ok)
	for _, s := range []string{
		"", "{", "null", " " + `{"text":` + good,
		`{"text":` + good + " ", `{"text":` + good[:len(good)-1], `{"text": ` + good,
		`{"text":"a","uint":01,"int":2,"time":"2026-01-02T03:04:05Z"}`,
		`{"text":"a","uint":-1,"int":2,"time":"2026-01-02T03:04:05Z"}`,
		`{"text":"a","uint":+1,"int":2,"time":"2026-01-02T03:04:05Z"}`,
		`{"text":"a","uint":18446744073709551616,"int":2,"time":"2026-01-02T03:04:05Z"}`,
		`{"text":"a","uint":1.0,"int":2,"time":"2026-01-02T03:04:05Z"}`,
		`{"text":"a","uint":1,"int":-,"time":"2026-01-02T03:04:05Z"}`,
		`{"text":"a","uint":1,"int":-02,"time":"2026-01-02T03:04:05Z"}`,
		`{"text":"a","uint":1,"int":--2,"time":"2026-01-02T03:04:05Z"}`,
		`{"text":"a","uint":,"int":2,"time":"2026-01-02T03:04:05Z"}`,
		`{"text":"a","uint":1,"int":2,"time":"2026-1-02T03:04:05Z"}`,
		`{"text":"a","uint":1,"int":2,"time":""}`,
		`{"text":"a","uint":1,"int":2,"time":null}`,
		`{"text":"\u0061","uint":1,"int":2,"time":"2026-01-02T03:04:05Z"}`,
		"{\"text\":\"\t\",\"uint\":1,\"int\":2,\"time\":\"2026-01-02T03:04:05Z\"}",
		`{"text":"a`, `{"text":a"`,
	} {
		_, ok := read([]byte(s))
		require.False(t, ok, "%s", s)
	}
}

// FuzzRead checks that what is read is what encoding/json reads.
func FuzzRead(f *testing.F) {
	for _, v := range values {
		f.Add(write(v).B)
	}
	f.Add([]byte(`{"text":"a","uint":1,"int":-0,"time":"2026-01-02T03:04:05+01:00"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, ok := read(b)
		if !ok {
			return
		}
		var want flat
		require.NoError(t, json.Unmarshal(b, &want), "%s", b)
		require.Equal(t, want, got)
	})
}
