package server_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// postAll sends one message each, from the numbers a to b, and waits while deliveries can't be stored.
func (r *running) postAll(t *testing.T, a, b int) {
	t.Helper()
	for i := a; i <= b; i++ {
		body := message("700", fmt.Sprint(30+i%5), fmt.Sprintf("m_%d", i), fmt.Sprint("text ", i), 1790000000000+int64(i))
		streamstest.Eventually(t, streamstest.Limit, func() error {
			status, err := tryPost(r.PublicAddr(), body)
			if err == nil && status != http.StatusOK {
				err = fmt.Errorf("POST %d: %d", i, status)
			}
			return err
		})
	}
}

// TestOlderStreamAfterARestart replaces the files of the stream by an older copy while the program is stopped,
// keeps the read models, and goes on: what the stream lacks is in no read model, what it has is in each, a
// message that got lost is stored when Meta sends it again, and one that was not is a duplicate. So is an event of a
// reactor: it is not taken for stored because the read models of the newer stream have it.
func TestOlderStreamAfterARestart(t *testing.T) {
	const first, lost, other = 60, 40, 30
	cfg := testConfig(t.TempDir())
	dir := filepath.Join(cfg.Data.Dir, "nats", "jetstream", "$G", "streams", streams.Name)
	older := t.TempDir()
	r := start(t, cfg)
	r.postAll(t, 1, first)
	code, _, stderr := r.command(t, "consumers", "add", "crm", "--all")
	require.Equal(t, cli.ExitOK, code, stderr)
	r.stop(t)
	require.NoError(t, os.CopyFS(older, os.DirFS(dir)))

	r = start(t, cfg)
	r.postAll(t, first+1, first+lost-1)
	reacted := []domain.Event{{
		ID: domain.DedupID("pagestream", "700", string(domain.LeadRetrieved), "5"), Type: domain.LeadRetrieved, Page: "700",
		Time: time.UnixMilli(1790000000000), Data: domain.Data{Object: "page", Lead: &domain.Lead{ID: "5"}},
	}}
	_, err := r.Publisher().Publish(t.Context(), reacted)
	require.NoError(t, err)
	get[any](t, r, "/api/v1/pages/700/conversations")
	r.stop(t)
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, os.CopyFS(dir, os.DirFS(older)))

	r = start(t, cfg)
	for _, m := range r.Models() {
		s := m.Status()
		require.Equal(t, uint64(first+lost), s.Stale, "%s is served meanwhile", s.Name)
	}
	require.Equal(t, http.StatusServiceUnavailable, post(t, r.PublicAddr(), message("700", "31", "m_1", "", 1)),
		"the index is not that of the stream")
	_, err = r.Publisher().Publish(t.Context(), reacted)
	require.ErrorIs(t, err, streams.ErrUnavailable, "the index is not that of the stream")
	r.postAll(t, 1000, 999+other)
	receipts, err := r.Publisher().Publish(t.Context(), reacted)
	require.NoError(t, err)
	require.Equal(t, streams.NotDuplicate, receipts[0].Duplicate, "the stream does not have it")
	r.postAll(t, first+1, first+3) // Meta sends some again: the stream does not have them
	r.postAll(t, first-2, first)   // and some that it has
	r.awaitReady(t, http.StatusOK, "")
	require.Equal(t, uint64(first+other+4), lastSeq(t, r))
	code, stdout, stderr := r.command(t, "audit")
	require.Equal(t, cli.ExitFailed, code, "the ledger counted what got lost: %s%s", stdout, stderr)
	require.Contains(t, stdout, "an older stream was restored")
	require.NotContains(t, stdout, "skipped")
	for _, m := range r.Models() {
		v, err := m.Verify(t.Context(), nil)
		require.NoError(t, err)
		require.True(t, v.Equal, "%s is not the fold of the stream: %+v", m.Name(), v)
		require.NotEmpty(t, m.Status().Rebuilt, m.Name())
	}
	require.Contains(t, r.log.String(), fmt.Sprintf("event %d (", first), "the last common event is named")
	summary, err := deliveries.Read(r.Models().Deliveries())
	require.NoError(t, err)
	require.Equal(t, uint64(first+other+4), summary.Events)
	require.Zero(t, summary.Duplicates)

	// The consumer gets what was stored instead of what it got.
	streamstest.Eventually(t, streamstest.Limit, func() error {
		got := map[string]bool{}
		for _, e := range outboxOf(t, r, "crm", lastSeq(t, r)) {
			got[e.ID] = true
		}
		for i := 1000; i < 1000+other; i++ {
			if id := domain.DedupID("page", "700", "msg", fmt.Sprintf("m_%d", i)); !got[id] {
				return errors.New("the consumer does not have " + id)
			}
		}
		return nil
	})
	r.stop(t)

	// The next start has no reason to build anything again.
	r = start(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), streamstest.Limit)
	defer cancel()
	for _, m := range r.Models() {
		require.NoError(t, m.WaitFor(ctx, first+other+4))
		require.Empty(t, m.Status().Rebuilt, m.Name())
		require.NoError(t, m.Healthy(time.Minute))
		require.Equal(t, projections.StateLive, m.Status().State)
	}
}
