package deliveries_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/projections/projectionstest"
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

// BenchmarkSeen looks up ids that an index of 500,000 does not have, 64 at once, with the filter and without. One
// operation is one id.
func BenchmarkSeen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "d.db")
	s, err := store.Open(path, store.Options{NoSync: true})
	require.NoError(b, err)
	p := deliveries.New()
	require.NoError(b, s.Update(func(tx *store.Tx) error {
		for i := range uint64(500_000) {
			e := streams.Stored{Seq: i + 1, At: time.UnixMilli(1_700_000_000_000).UTC(), Event: domain.Event{
				ID: fmt.Sprintf("page:104:msg|m_%d", i), Type: domain.MessageReceived, Page: "104",
			}}
			if err := p.Apply(tx, e); err != nil {
				return err
			}
		}
		return nil
	}))
	require.NoError(b, s.Close())
	for _, filter := range []string{"", p.FilteredBucket()} {
		b.Run(fmt.Sprintf("filter=%t", filter != ""), func(b *testing.B) {
			s, err := store.Open(path, store.Options{NoSync: true, Filter: filter})
			require.NoError(b, err)
			defer s.Close()
			index, n := deliveries.Index{Runner: model{s}}, 0
			ids := make([]string, 64)
			for b.Loop() {
				for i := range ids {
					n++
					ids[i] = fmt.Sprintf("page:104:new|m_%d", n)
				}
				_, _, err := index.Seen(ids)
				require.NoError(b, err)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/id")
		})
	}
}

// BenchmarkBatch applies batches as a server under load does. One operation is one batch.
func BenchmarkBatch(b *testing.B) { projectionstest.Bench(b, deliveries.New()) }
