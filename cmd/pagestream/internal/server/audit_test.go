package server_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// TestAuditFindsLostAndDuplicatedEvents checks that the audit of a live server with duplicates and an
// erased contact passes, and that it reports a message that was deleted without a record and one
// that is stored twice.
func TestAuditFindsLostAndDuplicatedEvents(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t.TempDir()))
	for i := range 6 {
		body := message("700", fmt.Sprint("3", i%2), fmt.Sprint("m_", i), "x", 1790000000000+int64(i))
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
	}
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), []byte(`{"object":`)))
	code, out, stderr := r.command(t, "erase", "700", "30", "--yes")
	require.Equal(t, cli.ExitOK, code, out+stderr)
	code, out, stderr = r.command(t, "audit")
	require.Equal(t, cli.ExitOK, code, out+stderr)
	assert.Contains(t, out, "13 items = 7 stored + 6 known already; 1 unreadable")
	assert.Contains(t, out, "5 events, 3 erased, 0 malformed, 0 missing, 0 duplicated")
	assert.Contains(t, out, "No problems found")

	ctx := context.Background()
	e, err := streams.Get(ctx, r.JS(), streams.Name, 4)
	require.NoError(t, err)
	m, err := streams.Encode(e.Event)
	require.NoError(t, err)
	m.Header.Set(nats.MsgIdHdr, "another") // so that the deduplication window does not find it
	r = r.inject(t, m)
	st, err := r.JS().Stream(ctx, streams.Name)
	require.NoError(t, err)
	require.NoError(t, st.DeleteMsg(ctx, 2))
	code, out, stderr = r.command(t, "audit")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, out,
		"1 sequences are missing from the stream and not recorded as erased; first sequences: [2]")
	assert.Contains(t, out, "1 events have the id of an earlier one; first sequences: [9]")
	assert.Contains(t, stderr, "the audit found problems")
}

// TestAuditProvesRows checks that the audit of a live server finds a row that was changed in a read model's file,
// though its checksum is right and all counts agree.
func TestAuditProvesRows(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	r := start(t, cfg)
	for i := range 5 {
		body := message("700", "31", fmt.Sprint("m_", i), "x", 1790000000000+int64(i))
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), body))
	}
	code, out, stderr := r.command(t, "audit")
	require.Equal(t, cli.ExitOK, code, out+stderr)
	assert.Regexp(t, `conversations +5 +0 +0 +0 +all, 5 events`, out)
	r.stop(t)
	s, err := store.Open(filepath.Join(cfg.ProjectionsDir(), "conversations.db"), store.Options{})
	require.NoError(t, err)
	require.NoError(t, s.Update(func(tx *store.Tx) error { return tx.Bucket("messages").Delete(store.Uint64(3)) }))
	require.NoError(t, s.Close())
	r = start(t, cfg)
	for _, args := range [][]string{{"audit"}, {"audit", "--full"}} {
		code, out, _ = r.command(t, args...)
		require.Equal(t, cli.ExitFailed, code)
		assert.Contains(t, out, "PROBLEM: conversations is not what a replay gives: "+
			"the row 0000000000000003 of messages is missing; type: pagestream projections rebuild conversations; first sequences: [3]")
	}
	code, _, stderr = r.command(t, "projections", "rebuild", "conversations")
	require.Equal(t, cli.ExitOK, code, stderr)
	code, out, stderr = r.command(t, "audit")
	require.Equal(t, cli.ExitOK, code, out+stderr)
	var p api.Problem
	err = r.do(t.Context(), http.MethodPost, "/api/v1/audit", url.Values{"full": {"maybe"}}, nil, nil)
	require.ErrorAs(t, err, &p)
	require.Equal(t, http.StatusBadRequest, p.Status)
}
