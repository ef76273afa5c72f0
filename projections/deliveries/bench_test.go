package deliveries_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// BenchmarkApply applies batches of 10,000 events of 200 pages, each in one transaction
// that is not synced, as a rebuild does. One operation is one batch.
func BenchmarkApply(b *testing.B) {
	s, err := store.Open(filepath.Join(b.TempDir(), "d.db"), store.Options{NoSync: true})
	require.NoError(b, err)
	defer s.Close()
	p, seq := deliveries.New(), uint64(0)
	for b.Loop() {
		err := s.Update(func(tx *store.Tx) error {
			for range 10_000 {
				seq++
				e := streams.Stored{Seq: seq, At: time.UnixMilli(1_700_000_000_000 + int64(seq)).UTC(), Event: domain.Event{
					ID: fmt.Sprintf("page:104:msg|m_%d", seq), Type: domain.MessageReceived,
					Page: domain.PageID(fmt.Sprint(104_000 + seq%200)),
				}}
				if err := p.Apply(tx, e); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}
