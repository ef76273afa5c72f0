package conversations_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// BenchmarkApply applies batches of 1000 events, each in one synced transaction, as
// the runner does. One operation is one event.
func BenchmarkApply(b *testing.B) {
	received := make([]domain.Event, 100_000)
	for i := range received {
		e := in(fmt.Sprintf("m_%08d", i), "what does it cost to ship this to the islands?", int64(1_000_000+i))
		received[i] = withContact(e, page, domain.ContactID(fmt.Sprint("contact-", i%5000)))
	}
	for name, events := range map[string][]domain.Event{"received": received, "mixed": traffic(100_000, 500)} {
		b.Run(name, func(b *testing.B) {
			st, err := store.Open(filepath.Join(b.TempDir(), "c.db"), store.Options{})
			require.NoError(b, err)
			defer st.Close()
			p, seq := conversations.New(), uint64(0)
			for b.Loop() {
				if seq%1000 != 0 {
					seq++
					continue
				}
				require.NoError(b, st.Update(func(tx *store.Tx) error {
					for i := range uint64(1000) {
						e := events[(seq+i)%uint64(len(events))]
						stored := streams.Stored{Event: e, Seq: seq + i + 1, At: time.UnixMilli(int64(seq + i))}
						if err := p.Apply(tx, stored); err != nil {
							return err
						}
					}
					return nil
				}))
				seq++
			}
		})
	}
}

// BenchmarkBatch applies batches as a server under load does. One operation is one batch.
func BenchmarkBatch(b *testing.B) { projectionstest.Bench(b, conversations.New()) }
