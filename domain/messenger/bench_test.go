package messenger_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pagestream/pagestream/domain/messenger"
)

func BenchmarkSplit(b *testing.B) {
	for _, n := range []int{1, 100} {
		var items []string
		for i := range n {
			items = append(items, fmt.Sprintf(`{"sender":{"id":"9876543210"},"recipient":{"id":"7000000001"},`+
				`"timestamp":%d,"message":{"mid":"m_%d","text":"a message of an ordinary length, as people write them"}}`,
				1790000000000+i, i))
		}
		body := []byte(`{"object":"page","entry":[{"id":"7000000001","time":1790000000000,"messaging":[` +
			strings.Join(items, ",") + `]}]}`)
		b.Run(fmt.Sprintf("items=%d", n), func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if r := messenger.Split(body, messenger.Options{}); r.Items != n {
					b.Fatal(r.Items)
				}
			}
		})
	}
}
