package pages_test

import (
	"fmt"
	"testing"

	"github.com/pagestream/pagestream/domain"
)

// BenchmarkApply applies batches of 1000 events of 200 pages, each in one synced
// transaction, as the runner does. One operation is one batch.
func BenchmarkApply(b *testing.B) {
	f := newFixture(b)
	events := make([]domain.Event, 1000)
	for i := range events {
		events[i] = message(domain.PageID(fmt.Sprint(1000+i%200)), int64(i+1))
	}
	for b.Loop() {
		f.apply(events...)
	}
}
