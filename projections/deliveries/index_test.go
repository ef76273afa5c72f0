package deliveries_test

import (
	"context"
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

// model is a store with a WaitFor that returns at once or when the context ends.
type model struct{ *store.Store }

func (m model) WaitFor(ctx context.Context, seq uint64) error {
	_, at, err := projectionstest.Digest(m.Store)
	if err != nil || at >= seq {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// build returns the read model of these events.
func build(t *testing.T, events []streams.Stored) model {
	t.Helper()
	s := projectionstest.Open(t, filepath.Join(t.TempDir(), "a.db"))
	require.NoError(t, projectionstest.Fold(s, deliveries.New(), events))
	return model{s}
}

func TestIndexFindsTheFirstEvent(t *testing.T) {
	events := projectionstest.Events(9, 3000)
	x := deliveries.Index{Runner: build(t, events)}
	first := make(map[string]uint64)
	var ids []string
	for _, e := range events {
		if first[e.ID] == 0 {
			first[e.ID] = e.Seq
		}
		ids = append(ids, e.ID, e.ID+"?")
	}
	seqs, upto, err := x.Seen(ids)
	require.NoError(t, err)
	require.Equal(t, uint64(3000), upto)
	for i, id := range ids {
		require.Equal(t, first[id], seqs[i], id)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = x.First(ctx, ids, 3000)
	require.NoError(t, err)
	_, err = x.First(ctx, ids, 3001)
	require.ErrorIs(t, err, context.DeadlineExceeded, "first beyond the read model")
}

func TestSummaryCountsEveryEventOnce(t *testing.T) {
	events := projectionstest.Events(10, 2000)
	v := build(t, events)
	seen := make(map[string]bool)
	want := make(map[domain.PageID]uint64)
	types := make(map[domain.Type]uint64)
	var n, dups, tests uint64
	for _, e := range events {
		if seen[e.ID] {
			dups++
			continue
		}
		seen[e.ID] = true
		n++
		want[e.Page]++
		types[e.Type]++
		if e.Data.Test {
			tests++
		}
	}
	s, err := deliveries.Read(v)
	require.NoError(t, err)
	require.Equal(t, uint64(2000), s.Seq)
	require.Equal(t, n, s.Events)
	require.Equal(t, dups, s.Duplicates)
	require.Equal(t, tests, s.Test)
	require.Equal(t, uint64(len(want)), s.Pages)
	require.NotZero(t, dups)
	require.NotZero(t, tests)
	require.Equal(t, fmt.Sprint(types), fmt.Sprint(s.ByType))
	require.Equal(t, types[domain.DeliveryUnreadable], s.Unreadable)
	require.True(t, s.First.Equal(events[0].At))
	require.False(t, s.Last.Before(events[1900].At))
	var after domain.PageID
	pages := 0
	for {
		list, err := deliveries.PerPage(v, after, 2)
		require.NoError(t, err)
		if len(list) == 0 {
			break
		}
		for _, p := range list {
			pages++
			require.Equal(t, want[p.Page], p.Events)
			require.Greater(t, p.Page, after)
			one, found, err := deliveries.ReadPage(v, p.Page)
			require.NoError(t, err, "page %s", p.Page)
			require.True(t, found, "page %s", p.Page)
			require.Equal(t, p.Events, one.Events, "page %s", p.Page)
			days, err := deliveries.Days(v, p.Page, 1000)
			require.NoError(t, err)
			var sum uint64
			for _, d := range days {
				sum += d.Events
			}
			require.Equal(t, p.Events, sum, "page %s: its days add up", p.Page)
			after = p.Page
		}
	}
	require.Equal(t, len(want), pages)
	_, found, err := deliveries.ReadPage(v, "404")
	require.False(t, found, "a page without events")
	require.NoError(t, err)
}
