package deliveries_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/streams"
)

func openLedger(t *testing.T, path string) *deliveries.Ledger {
	t.Helper()
	l, err := deliveries.OpenLedger(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
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
	if before.Posts != 1701 || before.Accepted != 800 || before.Items != 4000 ||
		before.Stored+before.Duplicates() != before.Items || before.Unreadable != 800 ||
		before.ByIndex[domain.MessageRead] != 800 || before.ByWindow[domain.MessageReceived] != 800 {
		t.Errorf("counts %+v", before)
	}
	var rejected uint64
	for _, n := range before.Rejected {
		rejected += n
	}
	if rejected != 901 || len(before.Rejected) > 33 || before.Rejected["signature"] != 800 {
		t.Errorf("rejected %v", before.Rejected)
	}
	before.Rejected["mine"] = 1 // changes only the copy
	delete(before.Rejected, "mine")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if again := openLedger(t, path); fmt.Sprint(again.Counts()) != fmt.Sprint(before) {
		t.Errorf("after reopening %+v, want %+v", again.Counts(), before)
	}
}

func TestLedgerReplacesACorruptFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	if err := os.WriteFile(path, []byte("no ledger"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := openLedger(t, path)
	l.Rejected("signature")
	if err := l.Flush(); err != nil || l.Err() != nil {
		t.Errorf("flush: %v", err)
	}
	if c := l.Counts(); c.Posts != 1 || c.Since.IsZero() {
		t.Errorf("counts %+v", c)
	}
}
