package server_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/projections/store"
)

// TestVerifyReportsTheChangedRow checks that verify reports a row that was changed in a read model's
// file, and that a rebuild repairs it.
func TestVerifyReportsTheChangedRow(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	r := start(t, cfg)
	for i := range 5 {
		body := message("700", "31", fmt.Sprint("m_", i), "x", 1790000000000+int64(i))
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
	}
	r.digests(t)
	code, out, stderr := r.command(t, "projections", "verify")
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, out, "conversations: equal at event 5")
	r.stop(t)
	s, err := store.Open(filepath.Join(cfg.ProjectionsDir(), "pages.db"), store.Options{})
	require.NoError(t, err)
	require.NoError(t, s.Update(func(tx *store.Tx) error {
		return tx.Bucket("traffic").Put(store.Key("700"), []byte(`{}`))
	}))
	require.NoError(t, s.Close())
	r = start(t, cfg)
	code, out, stderr = r.command(t, "projections", "verify", "pages")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, out, "pages: DIFFERENT at event 5")
	assert.Contains(t, out, "the first row is traffic 3730300001, which in the live read model differs")
	assert.Contains(t, out, "5 events make it: [1 2 3 4 5]")
	assert.Contains(t, stderr, "pagestream projections rebuild")
	_, out, _ = r.command(t, "projections", "explain", "pages", "traffic", "3730300001")
	assert.Contains(t, out, "5 events changed the row: [1 2 3 4 5]")
	code, out, _ = r.command(t, "projections", "rebuild", "pages")
	assert.Equal(t, cli.ExitOK, code)
	assert.Contains(t, out, "DIFFERENT from before")
	code, _, _ = r.command(t, "projections", "verify", "pages")
	assert.Equal(t, cli.ExitOK, code)
}

// TestTimeTravel checks a conversation in the past, by sequence and by time, and the events that made
// it.
func TestTimeTravel(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	send := func(contact, mid, text string, at int64) {
		t.Helper()
		body := message("700", contact, mid, text, 1790000000000+at)
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
	}
	send("31", "m_1", "first", 1)
	send("32", "m_2", "somebody else", 2)
	send("31", "m_3", "second", 3)
	between := time.Now()
	send("31", "m_4", "third", 4)
	body := `{"object":"page","entry":[{"id":"700","time":1790000000000,"messaging":[` +
		`{"sender":{"id":"31"},"recipient":{"id":"700"},"timestamp":1790000000009,` +
		`"message_edit":{"mid":"m_1","text":"changed","num_edit":1}}]}]}`
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), []byte(body)))
	r.digests(t)
	show := func(args ...string) string {
		t.Helper()
		code, out, stderr := r.command(t, append([]string{"conversations", "show", "700", "31"}, args...)...)
		require.Equal(t, cli.ExitOK, code, stderr)
		return out
	}
	now := show()
	assert.Contains(t, now, "changed")
	assert.Contains(t, now, "third")
	first := show("--at-seq", "2")
	assert.Contains(t, first, "first")
	assert.NotContains(t, first, "second")
	second := show("--at-time", between.UTC().Format(time.RFC3339Nano))
	assert.Contains(t, second, "first")
	assert.Contains(t, second, "second")
	assert.NotContains(t, second, "third")
	assert.NotContains(t, second, "changed")
	assert.Contains(t, show("--at-seq", "0", "--at-time", "24h"), "no messages")

	code, out, stderr := r.command(t, "events", "explain", "700", "31")
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Regexp(t, `(?s)^\s+1 .*\n\s+3 .*\n\s+4 .*\n\s+5 .*message.edited`, out)
	_, out, _ = r.command(t, "events", "explain", "700", "31", "--mid", "m_1")
	assert.Regexp(t, `(?s)^\s+1 .*\n\s+5 [^\n]*\n$`, out)
	code, _, stderr = r.command(t, "events", "explain", "700", "32", "--mid", "m_1")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "no such message")

	left, err := filepath.Glob(filepath.Join(r.cfg.ProjectionsDir(), "past-*"))
	require.NoError(t, err)
	assert.Empty(t, left)
}
