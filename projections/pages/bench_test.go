package pages_test

import (
	"fmt"
	"testing"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/projectionstest"
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

// BenchmarkOwner asks for the owner of one event of a page with many owners: in one
// transaction each, and in one for all.
func BenchmarkOwner(b *testing.B) {
	f := newFixture(b)
	for range 500 {
		events := []domain.Event{connection(domain.PageConnected, 1, full), connection(domain.PageDisconnected, 2, full)}
		for p := range 20 {
			events[0].Page, events[1].Page = domain.PageID(fmt.Sprint(1000+p)), domain.PageID(fmt.Sprint(1000+p))
			f.apply(events...)
		}
	}
	b.Run("each", func(b *testing.B) {
		for b.Loop() {
			if o, err := pages.Owner(f.st, "1007", f.seq/2); err != nil || o.Company != "acme" && o.Company != "" {
				b.Fatal(o, err)
			}
		}
	})
	b.Run("together", func(b *testing.B) {
		_ = pages.Owners(f.st, func(owner pages.OwnerFunc) error {
			for b.Loop() {
				if o, err := owner("1007", f.seq/2); err != nil || o.Company != "acme" && o.Company != "" {
					b.Fatal(o, err)
				}
			}
			return nil
		})
	})
}

// BenchmarkBatch applies batches as a server under load does. One operation is one batch.
func BenchmarkBatch(b *testing.B) { projectionstest.Bench(b, pages.New()) }
