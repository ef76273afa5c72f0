package deliveries_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

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
	if err := projectionstest.Fold(s, deliveries.New(), events); err != nil {
		t.Fatal(err)
	}
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
	seqs, err := x.Seen(ids)
	if err != nil {
		t.Fatal(err)
	}
	for i, id := range ids {
		if seqs[i] != first[id] {
			t.Fatalf("id %s: first %d, want %d", id, seqs[i], first[id])
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := x.First(ctx, ids, 3000); err != nil {
		t.Error(err)
	}
	if _, err := x.First(ctx, ids, 3001); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("first beyond the read model: %v", err)
	}
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
	if err != nil {
		t.Fatal(err)
	}
	if s.Seq != 2000 || s.Events != n || s.Duplicates != dups || s.Test != tests ||
		s.Pages != uint64(len(want)) || dups == 0 || tests == 0 {
		t.Errorf("summary %+v; %d events, %d duplicates, %d tests, %d pages", s, n, dups, tests, len(want))
	}
	if fmt.Sprint(s.ByType) != fmt.Sprint(types) || s.Unreadable != types[domain.DeliveryUnreadable] {
		t.Errorf("by type %v, want %v", s.ByType, types)
	}
	if !s.First.Equal(events[0].At) || s.Last.Before(events[1900].At) {
		t.Errorf("from %s to %s", s.First, s.Last)
	}
	var after domain.PageID
	pages := 0
	for {
		list, err := deliveries.PerPage(v, after, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			break
		}
		for _, p := range list {
			pages++
			if p.Events != want[p.Page] || p.Page <= after {
				t.Errorf("page %s after %s: %d events, want %d", p.Page, after, p.Events, want[p.Page])
			}
			one, found, err := deliveries.ReadPage(v, p.Page)
			if err != nil || !found || one.Events != p.Events {
				t.Errorf("page %s: %+v %v", p.Page, one, err)
			}
			days, err := deliveries.Days(v, p.Page, 1000)
			if err != nil {
				t.Fatal(err)
			}
			var sum uint64
			for _, d := range days {
				sum += d.Events
			}
			if sum != p.Events {
				t.Errorf("page %s: its days add up to %d of %d", p.Page, sum, p.Events)
			}
			after = p.Page
		}
	}
	if pages != len(want) {
		t.Errorf("%d pages, want %d", pages, len(want))
	}
	if _, found, err := deliveries.ReadPage(v, "404"); found || err != nil {
		t.Errorf("a page without events: %v %v", found, err)
	}
}
