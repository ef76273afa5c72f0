package conversations_test

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/store"
)

// TestFilterChangesNothing applies the events of long conversations, many of them twice, with erasures in between and
// after them: in a store as the runner opens it, which is flushed and opened again meanwhile, and in one without filter.
func TestFilterChangesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "filtered.db")
	plain, filtered := newFixture(t), &fixture{t: t}
	reopen := func() {
		t.Helper()
		var err error
		if filtered.st != nil {
			require.NoError(t, filtered.st.Close())
		}
		filtered.st, err = store.Open(path, store.Options{
			NoSync: true, Memory: 1 << 20, FlushEvery: time.Hour, Filter: conversations.New().FilteredBucket(),
		})
		require.NoError(t, err)
	}
	reopen()
	digest := func(s *store.Store) (sum string) {
		require.NoError(t, s.View(func(tx *store.Tx) (err error) { sum, err = store.Digest(tx); return err }))
		return sum
	}
	const contacts, portion = 6, 600
	events := traffic(12*portion, contacts)
	for i, batch := range slices.Collect(slices.Chunk(events, portion)) {
		again := events[max(0, i-2)*portion : i*portion] // delivered again: most of them are in the index of mids
		batch = slices.Concat(batch, again)
		if i%4 == 3 {
			erased := event(domain.ContactErased, 1_000_000+int64(i)*portion*10, domain.Data{})
			batch = append(batch, withContact(erased, page, "contact-1"))
			batch = append(batch, again...)
		}
		plain.apply(batch...)
		filtered.apply(batch...)
		if i%3 == 0 {
			require.NoError(t, filtered.st.Flush())
		}
		if i%5 == 4 {
			reopen()
		}
		require.Equal(t, digest(plain.st), digest(filtered.st), "portion %d", i)
	}
	require.NoError(t, filtered.st.View(func(tx *store.Tx) error {
		require.Greater(t, tx.Bucket(conversations.New().FilteredBucket()).Len(), 1000)
		return nil
	}))
	require.NoError(t, filtered.st.Close())
}
