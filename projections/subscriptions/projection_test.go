package subscriptions_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
)

const page = domain.PageID("104")

// world is a store and the stream position of what is applied to it.
type world struct {
	t   testing.TB
	st  *store.Store
	seq uint64
}

func newWorld(t testing.TB) *world {
	t.Helper()
	st, err := store.Open(filepath.Join(t.TempDir(), "subscriptions.db"), store.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	return &world{t: t, st: st}
}

func (w *world) apply(events ...domain.Event) {
	w.t.Helper()
	require.NoError(w.t, w.st.Update(func(tx *store.Tx) error {
		for _, e := range events {
			w.seq++
			if err := subscriptions.New().Apply(tx, streams.Stored{Event: e, Seq: w.seq, At: ms(9_000_000 + int64(w.seq))}); err != nil {
				return err
			}
		}
		return nil
	}))
}

func (w *world) get() subscriptions.Subscription {
	w.t.Helper()
	s, err := subscriptions.Get(w.st, page, "main")
	require.NoError(w.t, err)
	return s
}

func ms(n int64) time.Time { return time.UnixMilli(n).UTC() }

func event(t domain.Type, at int64, s domain.Subscription) domain.Event {
	if s.App == "" {
		s.App = "main"
	}
	return domain.Event{ID: fmt.Sprint(t, at), Type: t, Page: page, Time: ms(at), Data: domain.Data{Subscription: &s}}
}

func TestLife(t *testing.T) {
	wanted := []string{"messages", "message_reads"}
	w := newWorld(t)
	w.apply(event(domain.SubscriptionRequested, 1000, domain.Subscription{Wanted: wanted}))
	s := w.get()
	assert.Equal(t, subscriptions.Requested, s.State)
	assert.Equal(t, []string{"message_reads", "messages"}, s.Wanted)
	assert.Equal(t, []string{"message_reads", "messages"}, s.Missing())

	w.apply(event(domain.SubscriptionFailed, 2000, domain.Subscription{Reason: "needs pages_manage_metadata", Code: 200, Subcode: 33}))
	s = w.get()
	assert.Equal(t, subscriptions.Failed, s.State)
	assert.Equal(t, &subscriptions.Failure{Code: 200, Subcode: 33, Reason: "needs pages_manage_metadata", Time: ms(2000)}, s.Failure)
	assert.Equal(t, []string{"message_reads", "messages"}, s.Wanted, "kept")

	w.apply(event(domain.SubscriptionRequested, 2500, domain.Subscription{Wanted: wanted}),
		event(domain.SubscriptionConfirmed, 3000, domain.Subscription{Wanted: wanted, Actual: []string{"message_reads", "messages"}}),
		event(domain.SubscriptionConfirmed, 4000, domain.Subscription{Wanted: wanted, Actual: wanted}))
	s = w.get()
	assert.Equal(t, subscriptions.Confirmed, s.State)
	assert.Equal(t, ms(3000), s.Since)
	assert.Equal(t, ms(4000), s.CheckedAt)
	assert.Empty(t, s.Missing())
	assert.Empty(t, s.Reason)
	assert.NotNil(t, s.Failure, "the last refusal stays known")
	assert.Equal(t, uint64(4), s.Transitions, "seen again is no transition")
	assert.Equal(t, uint64(5), s.LastSeq)

	w.apply(event(domain.SubscriptionDrifted, 5000, domain.Subscription{Actual: []string{"messages", "feed"}, Reason: "fields differ"}))
	s = w.get()
	assert.Equal(t, subscriptions.Drifted, s.State)
	assert.Equal(t, []string{"message_reads"}, s.Missing())
	assert.Equal(t, []string{"feed"}, s.Extra())

	w.apply(event(domain.SubscriptionDrifted, 6000, domain.Subscription{Reason: "gone"}))
	assert.Empty(t, w.get().Actual)
	assert.Equal(t, ms(5000), w.get().Since)
	w.apply(event(domain.SubscriptionRemoved, 7000, domain.Subscription{Reason: "page disconnected"}))
	s = w.get()
	assert.Equal(t, subscriptions.Removed, s.State)
	last := s.History[len(s.History)-1]
	assert.Equal(t, subscriptions.Transition{
		Seq: 8, At: ms(9_000_008), Time: ms(7000), From: subscriptions.Drifted, To: subscriptions.Removed,
		Wanted: []string{"message_reads", "messages"}, Reason: "page disconnected",
	}, last)
}

func TestHistoryIsBounded(t *testing.T) {
	w := newWorld(t)
	for i := range int64(130) {
		w.apply(event(domain.SubscriptionFailed, i+1, domain.Subscription{Code: int(i)}))
	}
	s := w.get()
	require.Len(t, s.History, 50)
	assert.Equal(t, uint64(81), s.History[0].Seq)
	assert.Equal(t, uint64(130), s.Transitions)
	assert.Equal(t, 129, s.Failure.Code)
	assert.Equal(t, ms(1), s.Since)
}

func TestEachAppHasItsOwn(t *testing.T) {
	w := newWorld(t)
	longer := event(domain.SubscriptionRequested, 1000, domain.Subscription{})
	longer.Page = "1042"
	w.apply(event(domain.SubscriptionConfirmed, 1000, domain.Subscription{}), event(domain.SubscriptionFailed, 1000, domain.Subscription{App: "other"}), longer)
	list, err := subscriptions.OfPage(w.st, page)
	require.NoError(t, err)
	require.Len(t, list, 2)
	assert.Equal(t, subscriptions.Confirmed, list[0].State)
	assert.Equal(t, subscriptions.Failed, list[1].State)
}

func TestOddContent(t *testing.T) {
	w := newWorld(t)
	for _, k := range domain.Types() {
		w.apply(domain.Event{ID: string(k), Type: k, Page: page, Data: domain.Data{App: "main"}})
	}
	assert.Equal(t, subscriptions.None, w.get().State)
	assert.Equal(t, uint64(5), w.get().Incomplete)

	test := event(domain.SubscriptionRemoved, 1, domain.Subscription{})
	test.Data.Test = true
	none := event(domain.SubscriptionRemoved, 1, domain.Subscription{})
	none.Page = domain.NoPage
	w.apply(test, none)
	assert.Equal(t, subscriptions.None, w.get().State)
	list, _, err := subscriptions.List(w.st, "", 0)
	require.NoError(t, err)
	assert.Len(t, list, 1)
}

func TestListPaging(t *testing.T) {
	w := newWorld(t)
	empty, err := subscriptions.OfPage(w.st, page)
	require.NoError(t, err)
	assert.NotNil(t, empty)
	var want []domain.PageID
	for i := range 23 {
		e := event(domain.SubscriptionRequested, 1000, domain.Subscription{})
		e.Page = domain.PageID(fmt.Sprint(100 + i))
		want = append(want, e.Page)
		w.apply(e)
	}
	var got []domain.PageID
	for cursor := ""; ; {
		list, next, err := subscriptions.List(w.st, cursor, 5)
		require.NoError(t, err)
		require.LessOrEqual(t, len(list), 5)
		for _, s := range list {
			got = append(got, s.Page)
		}
		if cursor = next; next == "" {
			break
		}
	}
	assert.Equal(t, want, got)
	_, _, err = subscriptions.List(w.st, "!!", 5)
	require.ErrorIs(t, err, subscriptions.ErrCursor)
	_, err = subscriptions.Get(w.st, "nobody", "main")
	require.ErrorIs(t, err, subscriptions.ErrNotFound)
}
