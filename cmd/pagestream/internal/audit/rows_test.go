package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// rowsFixture has a stream of five pages with 40 messages each, and a read model of conversations, in a file.
type rowsFixture struct {
	*projectionstest.Rig
	dir string
	run *projections.Runner
	end func()
}

func newRowsFixture(t *testing.T, more ...domain.Event) *rowsFixture {
	t.Helper()
	f := &rowsFixture{Rig: projectionstest.NewRig(t, deliveries.New()), dir: t.TempDir()}
	var list []domain.Event
	for i := range 200 {
		page := domain.PageID(fmt.Sprint(700 + i%5))
		mid := fmt.Sprint("m_", i)
		list = append(list, domain.Event{
			ID: domain.DedupID("page", page, "msg", mid), Type: domain.MessageReceived, Page: page,
			Contact: domain.ContactID(fmt.Sprint(30 + i%3)),
			Data:    domain.Data{Source: domain.SourceWebhook, Message: &domain.Message{MID: mid, Text: "x"}},
		})
	}
	f.Publish(t, append(list, more...)...)
	f.open(t)
	t.Cleanup(func() { f.end() })
	return f
}

// open opens the read model and waits until it is at the end of the stream.
func (f *rowsFixture) open(t *testing.T) {
	t.Helper()
	run, err := projections.NewRunner(conversations.New(), projections.RunnerOptions{
		Dir: f.dir, JS: f.JS, Identity: f.Identity, Pace: -1, Dedup: deliveries.Index{Runner: f.Models[0]},
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run.Run(ctx) }()
	f.run, f.end = run, func() {
		cancel()
		assert.NoError(t, errors.Join(<-done, run.Close()))
		f.end = func() {}
	}
	f.Settle(t, []*projections.Runner{run})
}

// tamper changes rows of the read model, with valid checksums.
func (f *rowsFixture) tamper(t *testing.T, change func(tx *store.Tx) error) {
	t.Helper()
	f.end()
	s, err := store.Open(filepath.Join(f.dir, conversations.Name+".db"), store.Options{})
	require.NoError(t, err)
	require.NoError(t, s.Update(change))
	require.NoError(t, s.Close())
	f.open(t)
}

func (f *rowsFixture) audit(t *testing.T, change func(*Options)) (Report, Rows) {
	t.Helper()
	o := options(f.Rig, deliveries.Counts{Items: 200, Stored: 200})
	o.Models = append(o.Models, f.run)
	change(&o)
	report, err := Run(t.Context(), o, nil)
	require.NoError(t, err)
	i := slices.IndexFunc(report.Models, func(m ModelCounts) bool { return m.Name == conversations.Name })
	return report, report.Models[i].Rows
}

// loseAndDouble removes two messages and doubles one, as no count of the read model shows.
func loseAndDouble(tx *store.Tx) error {
	b := tx.Bucket("messages")
	var keys [][]byte
	var value []byte
	err := b.ForEachPrefix(nil, func(k, v []byte) error {
		keys, value = append(keys, bytes.Clone(k)), bytes.Clone(v)
		return nil
	})
	return errors.Join(err, b.Delete(keys[10]), b.Delete(keys[20]), b.Put(store.Uint64(100_000), value))
}

// TestAuditComparesRowsWithAReplay checks that the audit finds messages that are missing and doubled, names the first
// row with the events that made it, and says what it compared.
func TestAuditComparesRowsWithAReplay(t *testing.T) {
	f := newRowsFixture(t)
	report, rows := f.audit(t, func(*Options) {})
	require.True(t, report.OK, "%+v", report.Problems)
	require.Equal(t, Rows{How: AllRows, Events: 200}, rows)
	f.tamper(t, loseAndDouble)
	for name, full := range map[string]bool{"short stream": false, "full": true} {
		t.Run(name, func(t *testing.T) {
			report, rows := f.audit(t, func(o *Options) {
				if o.Full = full; full {
					o.Sample = 10
				}
			})
			require.False(t, report.OK)
			require.Equal(t, AllRows, rows.How)
			require.NotNil(t, rows.Difference)
			require.Equal(t, "messages", rows.Difference.Bucket)
			require.Equal(t, "missing", rows.Difference.What)
			require.Equal(t, []uint64{11}, rows.Difference.Events.First)
			require.Len(t, report.Problems, 1)
			require.Equal(t, []uint64{11}, report.Problems[0].Examples)
			require.Contains(t, report.Problems[0].What, "is missing; type: pagestream projections rebuild conversations")
		})
	}
}

// TestAuditOfALongStreamComparesASample checks which rows are compared, and that a wrong one is found there.
func TestAuditOfALongStreamComparesASample(t *testing.T) {
	f := newRowsFixture(t)
	sample := func(o *Options) { o.Sample = 80 }
	report, rows := f.audit(t, sample)
	require.True(t, report.OK, "%+v", report.Problems)
	require.Equal(t, SomeRows, rows.How)
	require.Len(t, rows.Pages, 2, "pages of 40 events each")
	require.Equal(t, uint64(80), rows.Events)
	require.Contains(t, rows.Why, "--full")
	for _, m := range report.Models {
		require.Equal(t, SomeRows, m.Rows.How, m.Name)
	}
	all := func(o *Options) { o.Sample = 199 } // four of the five pages
	f.tamper(t, func(tx *store.Tx) error {
		b := tx.Bucket("counts")
		err := b.ForEachPrefix(nil, func(k, _ []byte) error { return b.Put(bytes.Clone(k), []byte("{}")) })
		return errors.Join(err, loseAndDouble(tx))
	})
	report, rows = f.audit(t, all)
	require.False(t, report.OK)
	require.Equal(t, SomeRows, rows.How)
	require.NotNil(t, rows.Difference)
	require.NotEmpty(t, rows.Difference.Events.First, "the events of the page made it")

	_, rows = f.audit(t, func(o *Options) { o.Sample = 39 })
	require.Equal(t, NoRows, rows.How)
	require.Contains(t, rows.Why, "--full")
}

// eraseFirst erases the events of the first contact of a page.
func eraseFirst(t *testing.T, r *projectionstest.Rig, page domain.PageID) {
	t.Helper()
	var contact domain.ContactID
	erasure := &domain.Erasure{Part: 1, Parts: 1}
	var seqs []uint64
	for _, e := range r.All(t) {
		if contact == "" && e.Page == page {
			contact = e.Contact
		}
		if contact != "" && e.Page == page && e.Contact == contact {
			erasure.Events = append(erasure.Events, domain.NewTombstone(e.Event, e.Seq, e.At))
			seqs = append(seqs, e.Seq)
		}
	}
	require.NotEmpty(t, seqs)
	erasure.Contact = domain.ContactHash(contact)
	r.Publish(t, domain.Event{
		ID: "gone-" + page.Token(), Type: domain.ContactErased, Page: page, Data: domain.Data{Erasure: erasure},
	})
	_, err := streams.Erase(t.Context(), r.JS, streams.Name, seqs, func(streams.Stored) bool { return true })
	require.NoError(t, err)
}

// TestSampleAgreesWithAReplayOfAll checks that each page's rows are the same in a replay of its events alone, for all
// read models and events of every kind.
func TestSampleAgreesWithAReplayOfAll(t *testing.T) {
	r := projectionstest.NewRig(t, deliveries.New())
	index := deliveries.Index{Runner: r.Models[0]}
	r.Models = append(r.Models, r.Build(t, func(*projections.Runner) projections.Index { return index },
		conversations.New(), pages.New())...)
	seen := map[domain.PageID]bool{}
	var list []domain.PageID
	for some := range slices.Chunk(projectionstest.Events(9, 3000), 100) {
		var events []domain.Event
		for _, e := range some {
			if e.Page != "" && e.Page != domain.NoPage && !seen[e.Page] && len(list) < 20 {
				seen[e.Page], list = true, append(list, e.Page)
			}
			events = append(events, e.Event)
		}
		r.Publish(t, events...)
	}
	for _, m := range r.Models {
		whole, err := m.Verify(t.Context(), nil)
		require.NoError(t, err)
		require.True(t, whole.Equal, "%s: %+v", m.Name(), whole.Difference)
		out, err := m.VerifyPages(t.Context(), list, nil)
		require.NoError(t, err)
		require.True(t, out.Equal, "%s: %+v", m.Name(), out.Difference)
		require.Positive(t, out.Events)
	}
}

// TestSampleIncludesErasures checks a sample of pages of which contacts were erased: the events are no longer in the
// stream, and their tombstones are those of one page.
func TestSampleIncludesErasures(t *testing.T) {
	f := newRowsFixture(t)
	for _, page := range []domain.PageID{"700", "701", "702"} {
		eraseFirst(t, f.Rig, page)
	}
	f.Settle(t, []*projections.Runner{f.run})
	for _, m := range []*projections.Runner{f.run, f.Models[0]} {
		for _, list := range [][]domain.PageID{{"700"}, {"701", "703"}, {"700", "701", "702", "703", "704"}} {
			out, err := m.VerifyPages(t.Context(), list, nil)
			require.NoError(t, err)
			require.True(t, out.Equal, "%s of %s: %+v", m.Name(), list, out.Difference)
		}
	}
}
