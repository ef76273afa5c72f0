package export

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/streams"
)

// nested returns arrays that are nested n levels deep.
func nested(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }

// textItem returns a delivery with one message, with JSON between its members.
func textItem(mid, between, text string) []byte {
	return fmt.Appendf(nil, `{"object":"page","entry":[{"id":"7005","time":1790000000050,"messaging":[{"sender":%s`+
		`{"id":"8106"},"recipient":{"id":"7005"},"timestamp":1790000000000,"message":{"mid":%q,"text":"%s"}}]}]}`,
		between, mid, text)
}

// posts are bodies of a webhook, with the members of the data that have their item.
var posts = []struct{ name, body, members string }{
	{"compact", string(textItem("m_0", "", "hello")), "raw"},
	{"a space after a colon", string(textItem("m_1", " ", "hello")), "raw"},
	{"line breaks", string(textItem("m_2", "\r\n\t", "hello")), "raw raw_text"},
	{"not UTF-8", string(textItem("m_3", "", "caf\xe9")), "raw_base64"},
	{"not UTF-8, with line breaks", string(textItem("m_4", "\n", "caf\xe9")), "raw_base64"},
	{"9,996 levels", `{"object":"page","entry":[{"id":"7006","zz":` + nested(9_996) + `}]}`, "raw_text"},
	{"the most levels", `{"entry":[{"id":"7006","zz":` + nested(9_997) + `}]}`, "raw_text"},
	{"the most levels, no entries", `{"entry":[],"zz":` + nested(9_998) + `}`, "raw_text"},
	{"too many levels", `{"entry":[{"id":"7006","zz":` + nested(9_998) + `}]}`, ""},
	{"a deep ad", `{"object":"page","entry":[{"id":"7005","messaging":[{"sender":{"id":"8106"},"recipient":{"id":"7005"},` +
		`"referral":{"ref":"r","ads_context_data":` + nested(200) + `}}]}]}`, "raw_text"},
	{"an ad that is not UTF-8", `{"object":"page","entry":[{"id":"7005","messaging":[{"sender":{"id":"8106"},` +
		`"recipient":{"id":"7005"},"referral":{"ref":"r","ads_context_data":{"a":"` + "\xff" + `"}}}]}]}`, "raw_base64"},
}

// messages are stream messages that other programs wrote.
var messages = []struct {
	name string
	m    *nats.Msg
	typ  string
}{
	{"no event", &nats.Msg{Subject: "pagestream.odd", Data: []byte("no event <at all>\xff\n")}, rawType},
	{"no headers", &nats.Msg{Subject: "pagestream.7005.message.received", Data: []byte("{}")}, rawType},
	{"a year that JSON does not have", foreign("f2", `{}`, streams.HeaderTime, "0000-01-01T00:00:00+23:00"), rawType},
	{"another attribute", foreign("f3", `{"object":"page","raw":{}}`, "ce-other", "x"), rawType},
	{"data that can't be read", foreign("f4", `{"object":`), rawType},
	{"imported before", foreign("f5", `{}`, streams.HeaderStoredAt, "2026-01-02T03:04:05.6Z"), "pagestream.message.received.v1"},
	{"no event, imported before", &nats.Msg{
		Subject: "pagestream.odd", Header: nats.Header{streams.HeaderStoredAt: {"2026-01-02T03:04:05.7Z"}},
	}, rawType},
	{"indented", foreign("f6", "{\n \"object\": \"page\"\n}"), "pagestream.message.received.v1"},
	{"of a newer version", foreign("f7", `{"new":{"a":1},"raw":{"b": 1}}`), "pagestream.message.received.v1"},
	{"with our members", foreign("f8", `{"raw_text":"{}","raw_base64":"AA=="}`), "pagestream.message.received.v1"},
}

// foreign returns an event with these data and additional headers.
func foreign(id, data string, headers ...string) *nats.Msg {
	m, err := streams.Encode(domain.Event{ID: id, Type: domain.MessageReceived, Page: "7005", Contact: "8106"})
	if err != nil {
		panic(err)
	}
	m.Data = []byte(data)
	for i := 0; i < len(headers); i += 2 {
		m.Header.Set(headers[i], headers[i+1])
	}
	return m
}

// stored returns all messages of a stream, with the time when each was first stored as
// the header, and without the other headers that are about the storing.
func stored(t *testing.T, js jetstream.JetStream) (out []streams.Raw) {
	t.Helper()
	_, err := streams.ReadRaw(t.Context(), js, streams.ReadOptions{}, func(m streams.Raw) error {
		h := nats.Header{}
		for k, v := range m.Header {
			if !strings.HasPrefix(k, "Nats-") {
				h[k] = v
			}
		}
		if h.Get(streams.HeaderStoredAt) == "" {
			h.Set(streams.HeaderStoredAt, m.At.Format(time.RFC3339Nano))
		}
		m.Header, m.At = h, time.Time{}
		out = append(out, m)
		return nil
	})
	require.NoError(t, err)
	return out
}

// TestEveryMessageIsRestored checks the line of each message: that it is readable by other
// programs, and that an import restores the message's bytes, headers and time.
func TestEveryMessageIsRestored(t *testing.T) {
	a := projectionstest.NewRig(t)
	var types []string
	for _, d := range posts {
		events := messenger.Split([]byte(d.body), messenger.Options{App: "main"}).Events
		require.Len(t, events, 1)
		a.Publish(t, events...)
		types = append(types, "pagestream."+string(events[0].Type)+".v1")
	}
	for _, m := range messages {
		_, err := a.JS.PublishMsg(t.Context(), m.m)
		require.NoError(t, err)
		types = append(types, m.typ)
	}
	var first bytes.Buffer
	_, err := Write(t.Context(), Options{JS: a.JS, Stream: streams.Name}, &first)
	require.NoError(t, err)
	require.True(t, utf8.Valid(first.Bytes()))
	written := strings.Split(strings.TrimSuffix(first.String(), "\n"), "\n")
	require.Len(t, written, len(types), "one line each")
	for i, text := range written {
		var l struct {
			Type string
			Data map[string]json.RawMessage
		}
		require.NoError(t, json.Unmarshal([]byte(text), &l))
		assert.Equal(t, types[i], l.Type, i)
		if i < len(posts) {
			var members []string
			for _, name := range []string{"raw", "raw_text", "raw_base64"} {
				if l.Data[name] != nil {
					members = append(members, name)
				}
			}
			assert.Equal(t, posts[i].members, strings.Join(members, " "), posts[i].name)
			assert.JSONEq(t, `"main"`, string(l.Data["app"]), posts[i].name)
		}
	}

	b := projectionstest.NewRig(t)
	_, err = Read(t.Context(), ImportOptions{JS: b.JS, Stream: streams.Name}, bytes.NewReader(first.Bytes()))
	require.NoError(t, err)
	want, got := stored(t, a.JS), stored(t, b.JS)
	require.Len(t, got, len(want))
	for i := range want {
		assert.Equal(t, want[i], got[i], i)
	}
	var second bytes.Buffer
	_, err = Write(t.Context(), Options{JS: b.JS, Stream: streams.Name}, &second)
	require.NoError(t, err)
	assert.Equal(t, first.String(), second.String())
}

// TestBadStoredTimeIsKept checks that an import does not make an event of a message whose
// stored time can't be read.
func TestBadStoredTimeIsKept(t *testing.T) {
	a, b := projectionstest.NewRig(t), projectionstest.NewRig(t)
	_, err := a.JS.PublishMsg(t.Context(), foreign("f1", `{}`, streams.HeaderStoredAt, "yesterday"))
	require.NoError(t, err)
	var out bytes.Buffer
	_, err = Write(t.Context(), Options{JS: a.JS, Stream: streams.Name}, &out)
	require.NoError(t, err)
	_, err = Read(t.Context(), ImportOptions{JS: b.JS, Stream: streams.Name}, bytes.NewReader(out.Bytes()))
	require.NoError(t, err)
	assert.Equal(t, stored(t, a.JS), stored(t, b.JS))
}

// TestEventIsReadable checks the body of a webhook: the typed data are always there.
func TestEventIsReadable(t *testing.T) {
	for _, d := range posts {
		t.Run(d.name, func(t *testing.T) {
			e := messenger.Split([]byte(d.body), messenger.Options{App: "main"}).Events[0]
			body, err := Event(streams.Stored{Event: e, Seq: 7, At: time.Unix(1, 0)})
			require.NoError(t, err)
			assert.True(t, utf8.Valid(body))
			assert.NotContains(t, string(body), "\n")
			assert.NotContains(t, string(body), "\r")
			var l struct {
				Type string
				Data json.RawMessage
			}
			require.NoError(t, json.Unmarshal(body, &l))
			assert.Equal(t, "pagestream."+string(e.Type)+".v1", l.Type)
			data, err := domain.DecodeLine(l.Data)
			require.NoError(t, err)
			assert.Equal(t, string(e.Data.Raw), string(data.Raw))
			assert.Equal(t, e.Data.Message != nil, data.Message != nil)
		})
	}
}
