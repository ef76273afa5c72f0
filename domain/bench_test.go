package domain_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/pagestream/pagestream/domain"
)

// storedItem is an event's data as the stream has it: typed fields, and the item
// as it came.
type storedItem struct{ name, data string }

// storedItems are the kinds of item that a page gets most, and texts with what
// JSON escapes.
func storedItems() []storedItem {
	const (
		ends  = `"sender":{"id":"30000000000000001"},"recipient":{"id":"700000000000017"},"timestamp":1790000000000`
		mid   = "m_aGVsbG8gdG8gdGhlIGlzbGFuZHMsIHdoZW4gZG9lcyB0aGUgZmVycnkgbGVhdmU_"
		typed = `{"app":"main","object":"page","channel":"messaging","kind":%q,"source":"webhook",` +
			`"sender":"30000000000000001","recipient":"700000000000017","entry_time":1790000000123,%s"raw":{` + ends + `,%s}}`
	)
	item := func(name, kind, fields, raw string) storedItem {
		return storedItem{name, fmt.Sprintf(typed, kind, fields, raw)}
	}
	text := func(name, text string) storedItem {
		m := `"message":{"mid":"` + mid + `","text":"` + text + `"}`
		return item(name, "message", m+",", m)
	}
	const words = "Hello! When does the ferry to the islands leave on Sunday, and is there a later one?"
	return []storedItem{
		text("text", words),
		text("line break", words+`\n`+words),
		text("quotes", `They said \"no later than 8\", `+words),
		text("emoji", words+` \ud83d\ude00 \u00e4`),
		item("attachment", "message",
			`"message":{"mid":"`+mid+`","attachments":[{"type":"image","url":"https://cdn.example.com/v/t1/1_n.jpg?a=1&b=2"}]},`,
			`"message":{"mid":"`+mid+`","attachments":[{"type":"image",`+
				`"payload":{"url":"https:\/\/cdn.example.com\/v\/t1\/1_n.jpg?a=1&b=2"}}]}`),
		item("read", "read", `"read":{"watermark":1790000000000},`, `"read":{"watermark":1790000000000}`),
		item("delivery", "delivery", `"delivery":{"mids":["`+mid+`"],"watermark":1790000000000},`,
			`"delivery":{"mids":["`+mid+`"],"watermark":1790000000000}`),
		item("unknown", "pigeon", "", `"pigeon":{"id":"17","carries":["a","b"],"by":{"air":true}}`),
	}
}

// BenchmarkDecodeData is what each read model and each rebuild pays for an event,
// beside what encoding/json alone would take.
func BenchmarkDecodeData(b *testing.B) {
	for _, it := range storedItems() {
		in := []byte(it.data)
		b.Run(it.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := domain.DecodeData(in); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(it.name+"/library", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var d domain.Data
				if err := json.Unmarshal(in, &d); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
