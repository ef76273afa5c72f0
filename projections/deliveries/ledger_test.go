package deliveries_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/streams"
)

func openLedger(t *testing.T, path string) *deliveries.Ledger {
	t.Helper()
	l, err := deliveries.OpenLedger(path)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, l.Close()) })
	return l
}

func TestLedgerCounts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	l := openLedger(t, path)
	events := []domain.Event{
		{Type: domain.MessageReceived},
		{Type: domain.MessageRead},
		{Type: domain.MessageReceived},
		{Type: domain.DeliveryUnreadable},
		{Type: "unknown.kind"},
	}
	receipts := []streams.Receipt{
		{Seq: 1},
		{Seq: 1, Duplicate: streams.ByIndex},
		{Seq: 1, Duplicate: streams.ByWindow},
		{Seq: 2},
		{Duplicate: streams.ByIndex},
	}
	var writers sync.WaitGroup
	for range 8 {
		writers.Go(func() {
			for range 100 {
				l.Received(events, receipts)
				l.Rejected("signature")
			}
		})
	}
	writers.Wait()
	for i := range 100 {
		l.Rejected(fmt.Sprintf("reason %d", i))
	}
	l.Rejected("")
	before := l.Counts()
	require.Equal(t, uint64(1701), before.Posts)
	require.Equal(t, uint64(800), before.Accepted)
	require.Equal(t, uint64(4000), before.Items)
	require.Equal(t, before.Items, before.Stored+before.Duplicates())
	require.Equal(t, uint64(800), before.Unreadable)
	require.Equal(t, uint64(800), before.ByIndex[domain.MessageRead])
	require.Equal(t, uint64(800), before.ByWindow[domain.MessageReceived])
	var rejected uint64
	for _, n := range before.Rejected {
		rejected += n
	}
	require.Equal(t, uint64(901), rejected)
	require.LessOrEqual(t, len(before.Rejected), 33)
	require.Equal(t, uint64(800), before.Rejected["signature"])
	before.Rejected["mine"] = 1 // changes only the copy
	delete(before.Rejected, "mine")
	require.NoError(t, l.Close())
	again := openLedger(t, path)
	require.Equal(t, fmt.Sprint(before), fmt.Sprint(again.Counts()), "after reopening")
}

func TestLedgerReplacesACorruptFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	require.NoError(t, os.WriteFile(path, []byte("no ledger"), 0o600))
	l := openLedger(t, path)
	l.Rejected("signature")
	err := l.Flush()
	require.NoError(t, err)
	require.NoError(t, l.Err())
	c := l.Counts()
	require.Equal(t, uint64(1), c.Posts)
	require.False(t, c.Since.IsZero())
}
