package comments_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/comments"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// BenchmarkApply applies batches of 1000 events, each in one synced transaction, as the
// runner does. One operation is one event.
func BenchmarkApply(b *testing.B) {
	const n = 100_000
	received, mixed := make([]streams.Stored, n), changes(7, n/10)
	reactions, messages := make([]streams.Stored, n), make([]streams.Stored, n)
	for i := range received {
		contact, at := domain.ContactID(fmt.Sprint("contact-", i%5000)), int64(1_000_000+i)
		e := on(domain.CommentReceived, fmt.Sprint("9_", i), contact, "what does it cost to ship this?", at)
		e.Data.Comment.Post = fmt.Sprint("104_", i/200)
		received[i].Event = e
		reactions[i].Event = reacted(domain.ReactionAdded, "", domain.ContactID(fmt.Sprint("contact-", i)), "like", at)
		messages[i].Event = by(domain.MessageReceived, contact, at)
	}
	for name, events := range map[string][]streams.Stored{
		"received": received, "reactions": reactions, "mixed": mixed, "messages": messages,
	} {
		b.Run(name, func(b *testing.B) {
			st, err := store.Open(filepath.Join(b.TempDir(), "c.db"), store.Options{})
			require.NoError(b, err)
			defer st.Close()
			p, seq := comments.New(), uint64(0)
			for b.Loop() {
				if seq%1000 != 0 {
					seq++
					continue
				}
				require.NoError(b, st.Update(func(tx *store.Tx) error {
					for i := range uint64(1000) {
						e := events[(seq+i)%uint64(len(events))]
						e.Seq, e.At = seq+i+1, time.UnixMilli(int64(seq+i))
						if err := p.Apply(tx, e); err != nil {
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
func BenchmarkBatch(b *testing.B) { projectionstest.Bench(b, comments.New()) }
