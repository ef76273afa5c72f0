package projectionstest

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// Sizes of Bench.
const (
	benchBatch    = 150
	benchPages    = 50
	benchContacts = 5_000
	benchGrown    = 600 // batches
	benchFlush    = 64  // batches
)

// Bench measures what a read model does in a server under load: it applies batches of 150 events of 50 pages and
// 5,000 contacts, each in one transaction, to a store that keeps its changes in memory and has 90,000 events. One
// operation is one batch. Of eight events six are messages, one is an echo and one a delivery receipt.
func Bench(b *testing.B, p projections.Projection) {
	b.Helper()
	o := store.Options{NoSync: true, Memory: 8 * projections.DefaultMemory, FlushEvery: time.Hour}
	if f, ok := p.(projections.Filtered); ok {
		o.Filter = f.FilteredBucket()
	}
	st, err := store.Open(b.TempDir()+"/bench.db", o)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, st.Close()) })
	events, seq := make([]streams.Stored, benchBatch), uint64(0)
	next := func() {
		if seq/benchBatch%benchFlush == 0 {
			require.NoError(b, st.Flush())
		}
		for i := range events {
			seq++
			events[i] = benchEvent(seq)
		}
	}
	apply := func() error {
		return st.Update(func(tx *store.Tx) error {
			for _, e := range events {
				if err := p.Apply(tx, e); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for range benchGrown {
		next()
		require.NoError(b, apply())
	}
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		next()
		b.StartTimer()
		if err := apply(); err != nil {
			b.Fatal(err)
		}
	}
}

// benchEvent returns the event at a sequence.
func benchEvent(seq uint64) streams.Stored {
	contact := seq * 2_654_435_761 % benchContacts
	page := domain.PageID(fmt.Sprint(104_000_000_000_000 + contact%benchPages))
	at := time.UnixMilli(1_790_000_000_000 + int64(seq)).UTC()
	mid := fmt.Sprintf("m_Xq7bTg2vKp0sLw9dNc4fRy8hJz1aMe5uQi3oPk6xSv-%d", seq)
	e := domain.Event{
		ID: domain.DedupID("page", page, "msg", mid), Type: domain.MessageReceived, Page: page,
		Contact: domain.ContactID(fmt.Sprint(77_000_000_000_000 + contact)), Time: at,
		Data: domain.Data{App: "main", Object: "page", Channel: "messaging", Kind: "message", Source: domain.SourceWebhook},
	}
	switch m := (domain.Message{MID: mid, Text: "what does it cost to ship this to the islands?"}); seq % 8 {
	case 6:
		m.Echo, m.AppID = true, "55"
		e.Type, e.Data.Message = domain.MessageEchoed, &m
	case 7:
		e.Type, e.Data.Delivery = domain.MessageDelivered, &domain.Delivery{Watermark: at.UnixMilli()}
	default:
		e.Data.Message = &m
	}
	return streams.Stored{Event: e, Seq: seq, At: at.Add(time.Millisecond), Unique: true}
}
