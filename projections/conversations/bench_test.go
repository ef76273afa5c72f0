package conversations_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
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

// BenchmarkLive applies new messages of 1,000 contacts that have 300 each, with the filter of mids and without: 100
// messages in a transaction, with the table in memory that a server has. One operation is one message.
func BenchmarkLive(b *testing.B) {
	dir, p, seq := b.TempDir(), conversations.New(), uint64(0)
	random := rand.New(rand.NewPCG(1, 2))
	apply := func(s *store.Store, events int) {
		require.NoError(b, s.Update(func(tx *store.Tx) error {
			for range events {
				seq++
				e := in(fmt.Sprintf("m_%08d", seq), "what does it cost to ship this to the islands?", int64(1_000_000+seq))
				e = withContact(e, page, domain.ContactID(fmt.Sprint("contact-", random.IntN(1000))))
				if err := p.Apply(tx, streams.Stored{Event: e, Seq: seq, At: time.UnixMilli(int64(seq))}); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	path := filepath.Join(dir, "c.db")
	s, err := store.Open(path, store.Options{NoSync: true})
	require.NoError(b, err)
	for range 30 {
		apply(s, 10_000)
	}
	require.NoError(b, s.Close())
	for _, filter := range []string{"", p.FilteredBucket()} {
		b.Run(fmt.Sprintf("filter=%t", filter != ""), func(b *testing.B) {
			file, err := os.ReadFile(path)
			require.NoError(b, err)
			at := filepath.Join(b.TempDir(), "c.db")
			require.NoError(b, os.WriteFile(at, file, 0o600))
			s, err := store.Open(at, store.Options{NoSync: true, Memory: projections.DefaultMemory, Filter: filter})
			require.NoError(b, err)
			defer s.Close()
			n := 0
			b.ReportAllocs()
			for b.Loop() {
				if n++; n%100 == 0 {
					apply(s, 100)
				}
			}
		})
	}
}
