package domain_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pagestream/pagestream/domain"
)

// usualData is what nearly all events have.
func usualData() []domain.Data {
	base := domain.Data{
		App: "main", Object: "page", Channel: "messaging", Kind: "message", Source: "webhook", Sender: "30000000000000001",
		Recipient: "700", EntryTime: 1_790_000_000_123, Raw: json.RawMessage(`{"message":{"mid":"m_1","text":"\u00e4"}}`),
	}
	out := []domain.Data{{}, base}
	for _, d := range []domain.Data{
		{Message: &domain.Message{}},
		{Message: &domain.Message{MID: "m_1", Text: "to the islands, 北京 <b>&"}},
		{Message: &domain.Message{MID: "m_1", Text: "out", Echo: true, AppID: "900"}},
		{Delivery: &domain.Delivery{MIDs: []string{"m_1", "m_2"}, Watermark: 17}},
		{Delivery: &domain.Delivery{Watermark: -1}},
		{Read: &domain.Read{MID: "m_1"}},
		{Read: &domain.Read{Watermark: 1_790_000_000_123}},
	} {
		out = append(out, d)
		full := base
		full.Message, full.Delivery, full.Read = d.Message, d.Delivery, d.Read
		out = append(out, full)
	}
	return out
}

// byTheLibrary is what encoding/json makes of the typed fields. For bytes that
// are not UTF-8 it writes U+FFFD as an escape, and we the character: what it
// would write of the text that it reads there.
func byTheLibrary(t rapid.TB, d domain.Data) []byte {
	b := encoded(t, d)
	if !bytes.Contains(b, []byte(`\ufffd`)) {
		return b
	}
	var text domain.Data
	require.NoError(t, json.Unmarshal(b, &text))
	return encoded(t, text)
}

func encoded(t rapid.TB, d domain.Data) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	require.NoError(t, enc.Encode(d))
	return bytes.TrimRight(buf.Bytes(), "\n")
}

// TestDataAsTheLibrary: what is written and read is what encoding/json would have
// written and read.
func TestDataAsTheLibrary(t *testing.T) {
	text := rapid.OneOf(rapid.StringMatching(`[a-zA-Z0-9_ <>&]{0,12}`), rapid.String(), rapid.SampledFrom([]string{
		"", "page", "m_1", "\"", "\\", "\n", "\x00", "\x7f", "\xff", "a\xe2\x80", "\u2028", "x\u2029", "ä\u2030", "\ufffd", "</script>",
	}))
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) string { return text.Draw(t, name) }
		d := domain.Data{
			App: draw("app"), Object: draw("object"), Channel: draw("channel"), Kind: draw("kind"), Source: draw("source"),
			Sender: draw("sender"), Recipient: draw("recipient"), EntryTime: rapid.Int64().Draw(t, "time"), Test: rapid.Bool().Draw(t, "test"),
		}
		if rapid.Bool().Draw(t, "message") {
			d.Message = &domain.Message{MID: draw("mid"), Text: draw("text"), Echo: rapid.Bool().Draw(t, "echo"), AppID: draw("app id"), Metadata: draw("metadata")}
		}
		if rapid.Bool().Draw(t, "delivery") {
			d.Delivery = &domain.Delivery{MIDs: rapid.SliceOfN(text, 0, 3).Draw(t, "mids"), Watermark: rapid.Int64().Draw(t, "watermark")}
		}
		if rapid.Bool().Draw(t, "read") {
			d.Read = &domain.Read{MID: draw("mid"), Watermark: rapid.Int64().Draw(t, "watermark")}
		}
		if rapid.Bool().Draw(t, "edit") {
			d.Edit = &domain.Edit{Text: new(draw("edit"))}
		}
		if rapid.Bool().Draw(t, "referral") {
			d.Referral = &domain.Referral{Ref: draw("ref"), Ads: &domain.AdsContext{Title: draw("ad")}}
		}
		if rapid.Bool().Draw(t, "thread") {
			d.Thread = &domain.Thread{Roles: rapid.MapOfN(rapid.String(), rapid.SliceOfN(text, 0, 2), 0, 3).Draw(t, "roles")}
		}
		if rapid.Bool().Draw(t, "unreadable") {
			d.Unreadable = &domain.Unreadable{Body: rapid.SliceOf(rapid.Byte()).Draw(t, "body")}
		}
		if rapid.Bool().Draw(t, "location") {
			lat := rapid.Float64().Draw(t, "lat")
			d.Message = &domain.Message{Attachments: []domain.Attachment{{Type: draw("type"), Lat: &lat, Long: new(float64)}}}
		}
		if rapid.Bool().Draw(t, "erasure") {
			husk := domain.Tombstone{Seq: rapid.Uint64().Draw(t, "seq"), Type: domain.MessageRead}
			d.Erasure = &domain.Erasure{Part: 1, Events: []domain.Tombstone{husk}}
		}
		b, err := d.Encode()
		want := byTheLibrary(t, d)
		require.NoError(t, err)
		require.Equal(t, string(want), string(b))
		decodesAsTheLibrary(t, b)
		d.Raw = json.RawMessage(rapid.SampledFrom([]string{`{}`, ` {}`, "{}\n", `null`, `"x"`, `[1,{"raw":2}]`}).Draw(t, "raw"))
		b, err = d.Encode()
		require.NoError(t, err)
		decodesAsTheLibrary(t, b)
	})
	for _, d := range usualData() {
		b, err := d.Encode()
		require.NoError(t, err)
		decodesAsTheLibrary(t, b)
	}
}

func decodesAsTheLibrary(t rapid.TB, b []byte) {
	var want domain.Data
	failed := json.Unmarshal(b, &want)
	got, err := domain.DecodeData(b)
	require.Equal(t, failed != nil, err != nil, "%s: read with %v, by the library with %v", b, err, failed)
	if err == nil {
		require.Equal(t, want, got, "%s", b)
	}
}

func FuzzDecodeData(f *testing.F) {
	for _, d := range usualData() {
		b, err := d.Encode()
		require.NoError(f, err)
		f.Add(b)
	}
	for _, s := range []string{
		`{"app":"a","app":"b"}`, `{"object":"page","app":"a"}`, `{"App":"a"}`, `{"entry_time":01}`, `{"entry_time":-0}`, `{"entry_time":1e3}`,
		`{"entry_time":99999999999999999999}`, `{"entry_time":}`, `{"entry_time":-}`, `{"raw":}`, `{"raw":null}`, `{"raw":1 }`, `{"raw":1}}`, `{"raw":1},{}`,
		`{"message":null}`, `{"message":{"mid":"m"`, `{"delivery":{"mids":[]}}`, `{"delivery":{"mids":["a",]}}`, `{,"app":"a"}`, `{"app":"a",}`,
		`{"message":{"text":"\n\r\t\b\f\/\\\"\u0000\u2028"}}`,
		`{"message":{"text":"\ud83d\ude00 \ud83d \ude00 \uD83Dx\ud83d\n"}}`,
		`{"message":{"text":"\u12"}}`, `{"message":{"text":"\x"}}`, `{"message":{"text":"\`, `{"m\u0065ssage":{"m\u0069d":"m"}}`,
		`{"ENTRY_TIME":1,"entrytime":2}`,
		`{"message":{"mid":7},"app":"a"}`, `{"message":{"mid":"m"},"message":{"text":"t"}}`,
		`{"entry_time":"1"}`, `{"entry_time":1.0}`, `{"app":null}`,
		`{"unreadable":{"reason":"r","body":"AA=\n="}}`, `{"unreadable":{"body":"AA"}}`, `{"unreadable":{"body":[1]}}`,
		`{"thread":{"roles":{"a":null,"a":["b"]}}}`,
		`{"delivery":{"mids":["a","b"]},"delivery":{"mids":["c"]}}`,
		`{"erasure":{"part":1e2,"events":[{"seq":-1}]}}`, `{"referral":{"ads":null}}`,
		`{"referral":{"ads": {"a" : "\ud800"} }}`, `{"message":{"attachments":[{"lat":1e999}]}}`,
		`{"message":{"attachments":[{"lat":-0.0}],"unknown":{}}}`, `null`, `[]`, ` {} `, `{} {}`,
		`{"app":"a" ,"object":"page"}`, "{\"app\":\"\xff\"}", "{\"app\":\"\t\"}", `{"message":{"echo":tru}}`, `{"message":{"echo":false}}`, `{}`, `{`, ``,
	} {
		f.Add([]byte(s))
	}
	for _, depth := range []int{9_999, 10_000, 10_001} { // which is where encoding/json gives up
		f.Add([]byte(`{"raw":` + strings.Repeat("[", depth-1) + strings.Repeat("]", depth-1) + `}`))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		decodesAsTheLibrary(t, b)
		require.Equal(t, json.Valid(b), domain.ValidJSON(b), "%s", b)
	})
}

// TestEveryFieldIsEncoded: no field of those that most events have is left out or
// named otherwise.
func TestEveryFieldIsEncoded(t *testing.T) {
	for _, within := range []domain.Data{{}, {Message: &domain.Message{}}, {Delivery: &domain.Delivery{}}, {Read: &domain.Read{}}} {
		v := reflect.ValueOf(&within).Elem()
		for _, p := range []string{"Message", "Delivery", "Read"} {
			if inner := v.FieldByName(p); !inner.IsNil() {
				v = inner.Elem()
				break
			}
		}
		for i := range v.NumField() {
			f := v.Field(i)
			if f.Type() == reflect.TypeFor[json.RawMessage]() {
				continue // Encode puts it last
			}
			was := reflect.New(f.Type()).Elem()
			was.Set(f)
			f.Set(sample(t, f.Type()))
			b, err := within.Encode()
			want := byTheLibrary(t, within)
			require.NoError(t, err, "%s of %s", v.Type().Field(i).Name, v.Type())
			require.Equal(t, string(want), string(b), "%s of %s", v.Type().Field(i).Name, v.Type())
			decodesAsTheLibrary(t, b)
			f.Set(was)
		}
	}
}

// sample is a value that is not empty.
func sample(t *testing.T, of reflect.Type) reflect.Value {
	t.Helper()
	v := reflect.New(of).Elem()
	switch of.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int64:
		v.SetInt(7)
	case reflect.Uint64:
		v.SetUint(7)
	case reflect.Pointer:
		v.Set(reflect.New(of.Elem()))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(of, 1, 1))
	default:
		require.Fail(t, "no sample of the type", of.String())
	}
	return v
}
