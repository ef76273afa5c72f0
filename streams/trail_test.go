package streams_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// TestTrailIsShortAndReachesBack checks that a trail has few fingerprints, the last event
// among them, and for each event before one that is at most three times as far back,
// however the events were split into transactions.
func TestTrailIsShortAndReachesBack(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for _, most := range []int{1, 7, 4000} {
		var trail streams.Trail
		seq := uint64(0)
		for seq < 20_000 {
			var batch []*streams.Stored
			for range 1 + random.IntN(most) {
				seq++
				batch = append(batch, &streams.Stored{Seq: seq, At: time.UnixMilli(int64(seq)), Event: domain.Event{
					ID: fmt.Sprint("e", seq),
				}})
			}
			trail = trail.With(batch...)
			require.Equal(t, streams.FingerprintOf(*batch[len(batch)-1]), trail[len(trail)-1])
			require.LessOrEqual(t, len(trail), 17)
			for i, f := range trail[1:] {
				require.Greater(t, f.Seq, trail[i].Seq)
			}
		}
		for back := uint64(1); back < seq; back++ {
			before := trail.Upto(seq - back)
			if most > 1 && back < uint64(2*most) && len(before) == 0 {
				continue
			}
			require.NotEmpty(t, before, "%d back", back)
			distance := seq - before[len(before)-1].Seq
			require.LessOrEqual(t, distance, 4*back+2*uint64(most), "%d back", back)
		}
		require.Equal(t, uint64(1), trail[0].Seq, "the first event is kept")
		require.Equal(t, trail, trail.With(), "nothing was read")
		old := streams.Stored{Seq: 1, Event: domain.Event{ID: "again"}}
		require.Equal(t, trail, trail.With(&old), "what was read before is ignored")
	}
}

// filled returns a server with a stream of n events of some size in bytes.
func filled(t *testing.T, n, size int) (*streamstest.Server, []streams.Stored) {
	t.Helper()
	s := streamstest.Run(t, func(o *embedded.Options) { o.Sync = embedded.SyncInterval })
	s.Stream(t, streams.Spec{})
	var list []streams.Stored
	for i := range n {
		add(t, s, fmt.Sprint("e", i), size)
	}
	_, err := streams.Read(t.Context(), s.JS, streams.ReadOptions{}, func(e streams.Stored) error {
		list = append(list, e)
		return nil
	})
	require.NoError(t, err)
	return s, list
}

func add(t *testing.T, s *streamstest.Server, id string, size int) {
	t.Helper()
	m, err := streams.Encode(domain.Event{
		ID: id, Type: domain.MessageReceived, Page: "1", Contact: "30", Data: domain.Data{App: string(make([]byte, size))},
	})
	require.NoError(t, err)
	_, err = s.JS.PublishMsg(t.Context(), m)
	require.NoError(t, err)
}

// erase erases events, whose tombstones are those of the events that are given.
func erase(t *testing.T, s *streamstest.Server, record bool, list ...streams.Stored) {
	t.Helper()
	e := &domain.Erasure{Contact: domain.ContactHash("30"), Part: 1, Parts: 1}
	var seqs []uint64
	for _, x := range list {
		e.Events = append(e.Events, domain.NewTombstone(x.Event, x.Seq, x.At))
		seqs = append(seqs, x.Seq)
	}
	if record {
		m, err := streams.Encode(domain.Event{
			ID: fmt.Sprint("erasure-", seqs[0]), Type: domain.ContactErased, Page: "1", Data: domain.Data{Erasure: e},
		})
		require.NoError(t, err)
		_, err = s.JS.PublishMsg(t.Context(), m)
		require.NoError(t, err)
	}
	_, err := streams.Erase(t.Context(), s.JS, streams.Name, seqs, func(streams.Stored) bool { return true })
	require.NoError(t, err)
}

// TestTrailIsComparedWithTheStream checks what counts as the same event.
func TestTrailIsComparedWithTheStream(t *testing.T) {
	s, list := filled(t, 20, 1)
	var whole streams.Trail
	for _, e := range list {
		whole = append(whole, streams.FingerprintOf(e))
	}
	compare := func(trail streams.Trail) streams.Compared {
		c, err := trail.Compare(t.Context(), s.JS, streams.Name)
		require.NoError(t, err)
		return c
	}
	changed := func(i int, change func(*streams.Fingerprint)) streams.Trail {
		out := append(streams.Trail{}, whole...)
		change(&out[i])
		return out
	}
	require.Equal(t, streams.Compared{Common: whole[19], Last: 20}, compare(whole))
	require.Equal(t, streams.Compared{Last: 20}, compare(nil))
	for name, change := range map[string]func(*streams.Fingerprint){
		"id":   func(f *streams.Fingerprint) { f.ID = whole[0].ID },
		"time": func(f *streams.Fingerprint) { f.At++ },
	} {
		c := compare(changed(7, change))
		require.Equal(t, whole[6], c.Common, name)
		require.Equal(t, uint64(8), c.Differs.Seq, name)
	}
	beyond := append(append(streams.Trail{}, whole...), streams.Fingerprint{Seq: 21})
	require.Equal(t, streams.Compared{Common: whole[19], Differs: beyond[20], Last: 20}, compare(beyond))

	erase(t, s, true, list[7], list[19])
	require.Equal(t, streams.Compared{Common: whole[19], Last: 21}, compare(whole), "a tombstone is the event")
	c := compare(changed(7, func(f *streams.Fingerprint) { f.ID = whole[0].ID }))
	require.Equal(t, whole[6], c.Common, "it is the tombstone of another event")
	erase(t, s, false, list[9])
	require.Equal(t, streams.Compared{Common: whole[19], Last: 21}, compare(whole), "a lost event tells nothing")
}
