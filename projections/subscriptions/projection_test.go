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

// fixture is a store and the sequence of the last event applied to it.
type fixture struct {
	t   testing.TB
	st  *store.Store
	seq uint64
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	st, err := store.Open(filepath.Join(t.TempDir(), "subscriptions.db"), store.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	return &fixture{t: t, st: st}
}

func (f *fixture) apply(events ...domain.Event) {
	f.t.Helper()
	require.NoError(f.t, f.st.Update(func(tx *store.Tx) error {
		for _, e := range events {
			f.seq++
			stored := streams.Stored{Event: e, Seq: f.seq, At: ms(9_000_000 + int64(f.seq))}
			if err := subscriptions.New().Apply(tx, stored); err != nil {
				return err
			}
		}
		return nil
	}))
}

func (f *fixture) get() subscriptions.Subscription {
	f.t.Helper()
	s, err := subscriptions.Get(f.st, page, "main")
	require.NoError(f.t, err)
	return s
}

func ms(n int64) time.Time { return time.UnixMilli(n).UTC() }

func event(t domain.Type, at int64, s domain.Subscription) domain.Event {
	if s.App == "" {
		s.App = "main"
	}
	return domain.Event{ID: fmt.Sprint(t, at), Type: t, Page: page, Time: ms(at), Data: domain.Data{Subscription: &s}}
}

func TestLifecycle(t *testing.T) {
	wanted := []string{"messages", "message_reads"}
	f := newFixture(t)
	f.apply(event(domain.SubscriptionRequested, 1000, domain.Subscription{Wanted: wanted}))
	s := f.get()
	assert.Equal(t, subscriptions.Requested, s.State)
	assert.Equal(t, []string{"message_reads", "messages"}, s.Wanted)
	assert.Equal(t, []string{"message_reads", "messages"}, s.Missing())

	const reason = "needs pages_manage_metadata"
	f.apply(event(domain.SubscriptionFailed, 2000, domain.Subscription{Reason: reason, Code: 200, Subcode: 33}))
	s = f.get()
	assert.Equal(t, subscriptions.Failed, s.State)
	assert.Equal(t, &subscriptions.Failure{Code: 200, Subcode: 33, Reason: reason, Time: ms(2000)}, s.Failure)
	assert.Equal(t, []string{"message_reads", "messages"}, s.Wanted, "kept")

	f.apply(event(domain.SubscriptionRequested, 2500, domain.Subscription{Wanted: wanted}),
		event(domain.SubscriptionConfirmed, 3000,
			domain.Subscription{Wanted: wanted, Actual: []string{"message_reads", "messages"}}),
		event(domain.SubscriptionConfirmed, 4000, domain.Subscription{Wanted: wanted, Actual: wanted}))
	s = f.get()
	assert.Equal(t, subscriptions.Confirmed, s.State)
	assert.Equal(t, ms(3000), s.Since)
	assert.Equal(t, ms(4000), s.CheckedAt)
	assert.Empty(t, s.Missing())
	assert.Empty(t, s.Reason)
	assert.NotNil(t, s.Failure, "the last refusal is kept")
	assert.Equal(t, uint64(4), s.Transitions, "a confirmation without changes is not a transition")
	assert.Equal(t, uint64(5), s.LastSeq)

	f.apply(event(domain.SubscriptionDrifted, 5000,
		domain.Subscription{Actual: []string{"messages", "feed"}, Reason: "fields differ"}))
	s = f.get()
	assert.Equal(t, subscriptions.Drifted, s.State)
	assert.Equal(t, []string{"message_reads"}, s.Missing())
	assert.Equal(t, []string{"feed"}, s.Extra())

	f.apply(event(domain.SubscriptionDrifted, 6000, domain.Subscription{Reason: "gone"}))
	assert.Empty(t, f.get().Actual)
	assert.Equal(t, ms(5000), f.get().Since)
	f.apply(event(domain.SubscriptionRemoved, 7000, domain.Subscription{Reason: "page disconnected"}))
	s = f.get()
	assert.Equal(t, subscriptions.Removed, s.State)
	last := s.History[len(s.History)-1]
	assert.Equal(t, subscriptions.Transition{
		Seq: 8, At: ms(9_000_008), Time: ms(7000), From: subscriptions.Drifted, To: subscriptions.Removed,
		Wanted: []string{"message_reads", "messages"}, Reason: "page disconnected",
	}, last)
}

func TestHistoryIsBounded(t *testing.T) {
	f := newFixture(t)
	for i := range int64(130) {
		f.apply(event(domain.SubscriptionFailed, i+1, domain.Subscription{Code: int(i)}))
	}
	s := f.get()
	require.Len(t, s.History, 50)
	assert.Equal(t, uint64(81), s.History[0].Seq)
	assert.Equal(t, uint64(130), s.Transitions)
	assert.Equal(t, 129, s.Failure.Code)
	assert.Equal(t, ms(1), s.Since)
}

func TestEachAppHasItsOwnSubscription(t *testing.T) {
	f := newFixture(t)
	longer := event(domain.SubscriptionRequested, 1000, domain.Subscription{})
	longer.Page = "1042"
	f.apply(event(domain.SubscriptionConfirmed, 1000, domain.Subscription{}),
		event(domain.SubscriptionFailed, 1000, domain.Subscription{App: "other"}), longer)
	list, err := subscriptions.OfPage(f.st, page)
	require.NoError(t, err)
	require.Len(t, list, 2)
	assert.Equal(t, subscriptions.Confirmed, list[0].State)
	assert.Equal(t, subscriptions.Failed, list[1].State)
}

func TestIncompleteAndIgnoredEvents(t *testing.T) {
	f := newFixture(t)
	for _, k := range domain.Types() {
		f.apply(domain.Event{ID: string(k), Type: k, Page: page, Data: domain.Data{App: "main"}})
	}
	assert.Equal(t, subscriptions.None, f.get().State)
	assert.Equal(t, uint64(5), f.get().Incomplete)

	test := event(domain.SubscriptionRemoved, 1, domain.Subscription{})
	test.Data.Test = true
	none := event(domain.SubscriptionRemoved, 1, domain.Subscription{})
	none.Page = domain.NoPage
	f.apply(test, none)
	assert.Equal(t, subscriptions.None, f.get().State)
	list, _, err := subscriptions.List(f.st, "", 0)
	require.NoError(t, err)
	assert.Len(t, list, 1)
}

func TestListPaging(t *testing.T) {
	f := newFixture(t)
	empty, err := subscriptions.OfPage(f.st, page)
	require.NoError(t, err)
	assert.NotNil(t, empty)
	var want []domain.PageID
	for i := range 23 {
		e := event(domain.SubscriptionRequested, 1000, domain.Subscription{})
		e.Page = domain.PageID(fmt.Sprint(100 + i))
		want = append(want, e.Page)
		f.apply(e)
	}
	var got []domain.PageID
	for cursor := ""; ; {
		list, next, err := subscriptions.List(f.st, cursor, 5)
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
	_, _, err = subscriptions.List(f.st, "!!", 5)
	require.ErrorIs(t, err, subscriptions.ErrCursor)
	_, err = subscriptions.Get(f.st, "nobody", "main")
	require.ErrorIs(t, err, subscriptions.ErrNotFound)
}
