package conversations_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/projections/store"
)

// TestCountsAgreeWithRows compares the stored counts with those computed from the rows.
func TestCountsAgreeWithRows(t *testing.T) {
	for seed := range uint64(5) {
		events := projectionstest.Events(seed, 3000)
		st := projectionstest.Open(t, filepath.Join(t.TempDir(), "c.db"))
		require.NoError(t, projectionstest.Fold(st, conversations.New(), events))
		pages := map[domain.PageID]bool{}
		for _, e := range events {
			pages[e.Page] = true
		}
		var sum conversations.Counts
		for page := range pages {
			list, next, err := conversations.List(st, page, "", projections.MaxLimit)
			require.NoError(t, err)
			require.Empty(t, next)
			var want conversations.Counts
			for i, c := range list {
				want.Conversations++
				if i > 0 {
					assert.False(t, list[i-1].LastActivity.Before(c.LastActivity), "newest activity first")
				}
				in, out := recount(t, st, c)
				want.In += in
				want.Out += out
				want.Late += c.Late
				want.Pending += c.Pending
			}
			got, err := conversations.Count(st, page)
			require.NoError(t, err)
			assert.Equal(t, want.Conversations, got.Conversations)
			assert.Equal(t, want.In, got.In)
			assert.Equal(t, want.Out, got.Out)
			assert.Equal(t, want.Pending, got.Pending)
			sum.Conversations += got.Conversations
			sum.In += got.In
			sum.Pending += got.Pending
		}
		all, err := conversations.Count(st, "")
		require.NoError(t, err)
		assert.Equal(t, sum.Conversations, all.Conversations)
		assert.Equal(t, sum.In, all.In)
		assert.NotZero(t, all.In)
		assert.NotZero(t, all.Out)
		require.NoError(t, st.View(func(tx *store.Tx) error {
			assert.Equal(t, all.Pending, uint64(tx.Bucket("pending").Len()))
			assert.Equal(t, all.In+all.Out, uint64(tx.Bucket("messages").Len()), "every message belongs to a conversation")
			recent, err := conversations.RecentMessages(tx)
			require.NoError(t, err)
			assert.Equal(t, all.In+all.Out, recent+uint64(tx.Bucket("mids").Len()))
			assert.Equal(t, all.In+all.Out, recent+uint64(tx.Bucket("order").Len()))
			assert.Equal(t, all.Conversations, uint64(tx.Bucket("activity").Len()))
			return nil
		}))
	}
}

// recount checks one conversation against its rows.
func recount(t *testing.T, st *store.Store, c conversations.Conversation) (in, out uint64) {
	t.Helper()
	var unanswered, late uint64
	var last *conversations.Message
	for cursor := ""; ; {
		list, next, err := conversations.Messages(st, c.Page, c.Contact, cursor, 100, false)
		require.NoError(t, err)
		for _, m := range list {
			if last != nil {
				assert.False(t, m.Time.Before(last.Time), "in order of time")
			}
			last = &m
			if m.LateMillis > 0 {
				late++
			}
			if m.Direction == conversations.Out {
				out++
			} else {
				in++
				if m.Time.After(c.LastOut) {
					unanswered++
				}
				assert.True(t, m.DeliveredAt.IsZero() && m.ReadAt.IsZero())
			}
			if m.MID != "" {
				found, err := conversations.FindByMID(st, c.Page, c.Contact, m.MID)
				require.NoError(t, err)
				assert.Equal(t, m, found)
			}
		}
		if cursor = next; next == "" {
			break
		}
	}
	assert.Equal(t, in, c.In)
	assert.Equal(t, out, c.Out)
	assert.Equal(t, unanswered, c.Unanswered)
	assert.Equal(t, late, c.Late)
	if last != nil {
		require.NotNil(t, c.Last)
		assert.Equal(t, last.MID, c.Last.MID)
		assert.Equal(t, last.Deleted, c.Last.Deleted)
		assert.Equal(t, last.Standby, c.Standby)
	}
	return in, out
}
