package messenger_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/pagestream/pagestream/domain/messenger"
)

// benchBodies are deliveries as Meta sends them: most have one item.
func benchBodies() []struct{ name, body string } {
	const (
		ends = `"sender":{"id":"30000000000000001"},"recipient":{"id":"700000000000017"},"timestamp":1790000000000,`
		mid  = "m_aGVsbG8gdG8gdGhlIGlzbGFuZHMsIHdoZW4gZG9lcyB0aGUgZmVycnkgbGVhdmU_"
	)
	entry := func(channel string, items ...string) string {
		return `{"object":"page","entry":[{"id":"700000000000017","time":1790000000123,"` + channel + `":[` +
			strings.Join(items, ",") + `]}]}`
	}
	text := func(n int, text string) string {
		return `{` + ends + `"message":{"mid":"` + mid + strconv.Itoa(n) + `","text":"` + text + `"}}`
	}
	texts := func(n int) (out []string) {
		for i := range n {
			out = append(out, text(i, "a message of an ordinary length, as people write them"))
		}
		return out
	}
	return []struct{ name, body string }{
		{"text", entry("messaging", texts(1)...)},
		{"escapes", entry("messaging", text(1, strings.Repeat(`\u4f60\u597d `, 10)))}, // Meta escapes what is not ASCII
		{"items=10", entry("messaging", texts(10)...)},
		{"items=100", entry("messaging", texts(100)...)},
		{"delivery", entry("messaging", `{`+ends+`"delivery":{"mids":["`+mid+`"],"watermark":1790000000000}}`)},
		{"read", entry("messaging", `{`+ends+`"read":{"watermark":1790000000000}}`)},
		{"image", entry("messaging", `{`+ends+`"message":{"mid":"`+mid+`","attachments":[{"type":"image","payload":`+
			`{"url":"https:\/\/cdn.example.com\/v\/t1\/1_n.jpg?a=1&b=2&oe=6F5A0000"}}]}}`)},
		{"comment", entry("changes", `{"field":"feed","value":{"from":{"id":"30000000000000001","name":"A Person"},`+
			`"post":{"status_type":"added_photos","is_published":true,"updated_time":"2026-09-21T13:33:20+0000",`+
			`"permalink_url":"https:\/\/www.facebook.com\/7\/posts\/9","promotion_status":"inactive","id":"7_9"},`+
			`"message":"when does the ferry leave?","post_id":"7_9","comment_id":"9_1","created_time":1790000000,`+
			`"item":"comment","parent_id":"7_9","verb":"add"}}`)},
		{"unknown", entry("messaging", `{`+ends+`"pigeon":{"id":"17","carries":["a","b"],"by":{"air":true}}}`)},
	}
}

// BenchmarkSplit measures what a delivery costs between its signature and the encoding of its events.
func BenchmarkSplit(b *testing.B) {
	for _, d := range benchBodies() {
		body := []byte(d.body)
		b.Run(d.name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if r := messenger.Split(body, messenger.Options{App: "main"}); r.Items == 0 {
					b.Fatal(r.Items)
				}
			}
		})
	}
}
