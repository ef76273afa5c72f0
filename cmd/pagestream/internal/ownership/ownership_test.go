package ownership_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/ownership"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// model is a read model of pages to which the test applies events.
type model struct {
	*store.Store
	t   *testing.T
	seq uint64
}

func (m *model) Status() projections.Status { return projections.Status{} }

func (m *model) WaitFor(ctx context.Context, seq uint64) error {
	if seq <= m.seq {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func newModel(t *testing.T) *model {
	t.Helper()
	st, err := store.Open(filepath.Join(t.TempDir(), "pages.db"), store.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	return &model{Store: st, t: t}
}

var epoch = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func (m *model) apply(typ domain.Type, page domain.PageID, at time.Time, c domain.Connection) {
	m.t.Helper()
	m.seq++
	e := domain.Event{ID: "e", Type: typ, Page: page, Time: at, Data: domain.Data{Connection: &c}}
	require.NoError(m.t, m.Update(func(tx *store.Tx) error {
		return pages.New().Apply(tx, streams.Stored{Event: e, Seq: m.seq, At: at})
	}))
}

func TestStandings(t *testing.T) {
	m := newModel(t)
	connect := func(page domain.PageID, at time.Time, c domain.Connection) {
		c.ConnectionID = string(page) + at.String()
		m.apply(domain.PageConnected, page, at, c)
	}
	moved := epoch.Add(100 * time.Hour)
	connect("1", epoch, domain.Connection{App: "a", AppID: "10"})
	connect("2", epoch, domain.Connection{App: "old-a"}) // recorded without an id, by a name that is not configured
	connect("3", epoch, domain.Connection{App: "a"})
	connect("4", epoch, domain.Connection{App: "gone", AppID: "30"})
	connect("5", epoch, domain.Connection{App: "a", AppID: "10", Instagram: "500"})
	connect("6", epoch, domain.Connection{App: "a", AppID: "10"})
	connect("6", moved, domain.Connection{App: "b", AppID: "20"})
	connect("7", epoch, domain.Connection{App: "renamed", AppID: "10"})
	connect("8", epoch, domain.Connection{App: "a", AppID: "10"})
	m.apply(domain.PageDisconnected, "8", moved, domain.Connection{})

	now := moved.Add(36 * time.Hour)
	j := ownership.New(ownership.Options{
		Apps: map[string]string{"a": "10", "b": "20"}, Pages: m, Now: func() time.Time { return now },
	})
	judge := func(page domain.PageID, app string, at time.Time) streams.Standing {
		t.Helper()
		out, err := j.Judge(t.Context(), []streams.Claim{{Page: page, App: app, Time: at}}, m.seq)
		require.NoError(t, err)
		return out[0]
	}
	for _, c := range []struct {
		why  string
		page domain.PageID
		app  string
		at   time.Time
		want streams.Standing
	}{
		{"the page's app", "1", "10", now, streams.Own},
		{"another app", "1", "20", now, streams.Foreign},
		{"no page of that id", "99", "20", now, streams.Unowned},
		{"connected by a name that is not configured", "2", "10", now, streams.Unowned},
		{"connected by a name", "3", "10", now, streams.Own},
		{"connected by a name, another app", "3", "20", now, streams.Foreign},
		{"connected through an app that is not configured", "4", "10", now, streams.Unowned},
		{"the linked account", "500", "10", now, streams.Own},
		{"the linked account, another app", "500", "20", now, streams.Foreign},
		{"moved, the new app", "6", "20", now, streams.Own},
		{"moved, the old app, from before", "6", "10", moved.Add(-time.Second), streams.Own},
		{"moved, the old app, from after", "6", "10", moved, streams.Foreign},
		{"moved, a third app", "6", "40", moved.Add(-time.Second), streams.Foreign},
		{"the app has another name now", "7", "10", now, streams.Own},
		{"disconnected", "8", "20", now, streams.Unowned},
		{"disconnected, the app of before", "8", "10", now, streams.Released},
	} {
		require.Equal(t, c.want, judge(c.page, c.app, c.at), c.why)
	}
	now = now.Add(time.Second)
	require.Equal(t, streams.Foreign, judge("6", "10", moved.Add(-time.Second)), "after the window of redelivery")
}

func TestJudgeFailsIfTheModelIsBehind(t *testing.T) {
	m := newModel(t)
	j := ownership.New(ownership.Options{Apps: map[string]string{"a": "10", "b": "20"}, Pages: m})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := j.Judge(ctx, []streams.Claim{{Page: "1", App: "10"}}, 1)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}
