package ledgers_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/ledgers"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

func ledger(t *testing.T, path string) *deliveries.Ledger {
	t.Helper()
	l, err := deliveries.OpenLedger(path)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, l.Close()) })
	return l
}

func open(t *testing.T, s *streamstest.Server, l *deliveries.Ledger) *ledgers.Ledgers {
	t.Helper()
	out, err := ledgers.Open(t.Context(), ledgers.Options{JS: s.JS, Ledger: l})
	require.NoError(t, err)
	return out
}

// TestOnlyWhatIsInTheFileIsPublished checks that what a crash would take from a ledger is not published, and that
// another node sees what is, also after the first one has gone.
func TestOnlyWhatIsInTheFileIsPublished(t *testing.T) {
	s := streamstest.Run(t)
	s.Stream(t, streams.Spec{})
	dir := t.TempDir()
	a, b := ledger(t, filepath.Join(dir, "a.db")), ledger(t, filepath.Join(dir, "b.db"))
	require.NotEqual(t, a.ID(), b.ID())
	la, lb := open(t, s, a), open(t, s, b)
	require.NoError(t, a.Flush())
	a.Rejected("a")
	published := func() uint64 {
		t.Helper()
		list, err := lb.Others(t.Context())
		require.NoError(t, err)
		if len(list) == 0 {
			return 0
		}
		require.Len(t, list, 1)
		assert.Equal(t, a.ID(), list[0].Ledger)
		return list[0].Counts.Posts
	}
	before := a.Written().Posts
	require.NoError(t, la.Publish(t.Context()))
	require.LessOrEqual(t, published(), before+1)
	require.NoError(t, a.Flush())
	require.NoError(t, la.Publish(t.Context()))
	require.NoError(t, la.Publish(t.Context()), "nothing has changed")
	require.Equal(t, uint64(1), published())
	a.Rejected("a")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	la.Run(ended) // publishes the last ones
	require.NoError(t, a.Close())
	require.Equal(t, uint64(2), published())

	// The bucket is lost with the cluster: what a node has is published again.
	require.NoError(t, s.JS.DeleteKeyValue(t.Context(), "PAGESTREAM_LEDGERS"))
	again := ledger(t, filepath.Join(dir, "a.db"))
	require.Equal(t, a.ID(), again.ID())
	la, lb = open(t, s, again), open(t, s, b)
	require.NoError(t, la.Publish(t.Context()))
	require.Equal(t, uint64(2), published())
}

// TestOlderLedgerGoesOn checks that a ledger whose file was restored from an older copy goes on from what it has
// published, and that one that is lost has another id.
func TestOlderLedgerGoesOn(t *testing.T) {
	s := streamstest.Run(t)
	s.Stream(t, streams.Spec{})
	path := filepath.Join(t.TempDir(), "a.db")
	a := ledger(t, path)
	a.Rejected("a")
	require.NoError(t, a.Close())
	older, err := os.ReadFile(path)
	require.NoError(t, err)
	a = ledger(t, path)
	la := open(t, s, a)
	a.Rejected("a")
	require.NoError(t, a.Flush())
	require.NoError(t, la.Publish(t.Context()))
	require.NoError(t, a.Close())

	require.NoError(t, os.WriteFile(path, older, 0o600))
	a = ledger(t, path)
	require.Equal(t, uint64(1), a.Counts().Posts)
	open(t, s, a)
	require.Equal(t, uint64(2), a.Counts().Posts)
	a.Rejected("a")
	require.NoError(t, a.Close())
	id := a.ID()
	require.NoError(t, os.Remove(path))
	require.NotEqual(t, id, ledger(t, path).ID())
}

// TestSharedLedgerIsNoticed checks that of two processes with copies of one ledger, the second does not replace what the
// first publishes.
func TestSharedLedgerIsNoticed(t *testing.T) {
	s := streamstest.Run(t)
	s.Stream(t, streams.Spec{})
	path := filepath.Join(t.TempDir(), "a.db")
	a := ledger(t, path)
	require.NoError(t, a.Flush())
	file, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path+".copy", file, 0o600))
	b := ledger(t, path+".copy")
	require.Equal(t, a.ID(), b.ID())
	la, lb := open(t, s, a), open(t, s, b)
	for _, l := range []*deliveries.Ledger{a, b} {
		l.Rejected("a")
		require.NoError(t, l.Flush())
	}
	require.NoError(t, la.Publish(t.Context()))
	require.ErrorIs(t, lb.Publish(t.Context()), ledgers.ErrShared)
	require.ErrorIs(t, lb.Publish(t.Context()), ledgers.ErrShared)
}
