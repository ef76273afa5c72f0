package projections_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// withFlushEvery makes a runner write its file that often.
func withFlushEvery(d time.Duration) func(*projections.RunnerOptions) {
	return func(o *projections.RunnerOptions) { o.Store.FlushEvery = d }
}

// TestEventIsReadableBeforeItIsInTheFile waits for events whose model writes its file much later, and starts with what a
// killed process leaves: the model is at an earlier event and reads the rest again.
func TestEventIsReadableBeforeItIsInTheFile(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	erasure := func(e domain.Event) bool { return e.Type == domain.ContactErased } // which writes the file
	all := slices.DeleteFunc(events(400), erasure)
	run := start(t, srv.runner(t, conversations.New(), withFlushEvery(time.Hour)))
	at := srv.store(t, all[:100]...)
	wait(t, run, at)
	require.NoError(t, run.Scrub(t.Context()))
	wait(t, run, srv.store(t, all[100:200]...))
	require.Equal(t, wantOf(t, srv, conversations.New()), digest(t, run))
	killed := t.TempDir()
	content, err := os.ReadFile(filepath.Join(srv.dir, "conversations.db"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(killed, "conversations.db"), content, 0o600))
	again := srv.runner(t, conversations.New(), func(o *projections.RunnerOptions) { o.Dir = killed })
	require.Equal(t, at, again.Status().Seq)
	require.Empty(t, again.Status().Rebuilt)
	start(t, again)
	last := srv.store(t, all[200:]...)
	for _, r := range []*projections.Runner{run, again} {
		wait(t, r, last)
		require.Equal(t, wantOf(t, srv, conversations.New()), digest(t, r))
		require.True(t, rebuilt(t, r))
	}
}

// TestReadModelWhoseFileCantBeWritten checks that the status says so, that what was applied can be read, and that the
// model goes on when the disk does.
func TestReadModelWhoseFileCantBeWritten(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	all := eventsOf(strings.Split(strings.Repeat("abc", 100), "")...)
	run := start(t, srv.runner(t, &chain{name: "chain", version: 1}, withFlushEvery(20*time.Millisecond)))
	wait(t, run, srv.store(t, all[:100]...))
	mend := projectionstest.BreakDisk(t, filepath.Join(srv.dir, "chain.db"))
	last := srv.store(t, all[100:200]...)
	streamstest.Eventually(t, limit, func() error {
		if s := run.Status(); s.State != projections.StateFailing || !strings.Contains(s.LastError, "write") {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
	at := run.Status().Seq
	require.Equal(t, at, count(t, run))
	mend()
	wait(t, run, last)
	streamstest.Eventually(t, limit, func() error {
		if s := run.Status(); s.State != projections.StateLive || s.LastError != "" {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
	wait(t, run, srv.store(t, all[200:]...))
	require.Equal(t, want(t, &chain{name: "chain"}, all), digest(t, run))
}

// TestIdleReadModelWhoseFileCantBeWritten checks the same when no further event arrives.
func TestIdleReadModelWhoseFileCantBeWritten(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	all := eventsOf(strings.Split("abc", "")...)
	run := start(t, srv.runner(t, &chain{name: "chain", version: 1}, withFlushEvery(300*time.Millisecond)))
	last := srv.store(t, all...)
	wait(t, run, last)
	mend := projectionstest.BreakDisk(t, filepath.Join(srv.dir, "chain.db"))
	if run.Status().Commits > 0 && inFile(t, run, srv) == last {
		t.Skip("the machine was so slow that the file had all before the disk broke")
	}
	streamstest.Eventually(t, limit, func() error {
		if s := run.Status(); s.State != projections.StateFailing {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
	require.Equal(t, last, count(t, run))
	mend()
	streamstest.Eventually(t, limit, func() error { return run.Healthy(time.Minute) })
	streamstest.Eventually(t, limit, func() error {
		if seq := inFile(t, run, srv); seq != last {
			return fmt.Errorf("the file is at %d", seq)
		}
		return nil
	})
}

// inFile returns the position that the file of a model has by itself.
func inFile(t testing.TB, run *projections.Runner, srv *testServer) (seq uint64) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(srv.dir, run.Name()+".db"))
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "copy.db")
	require.NoError(t, os.WriteFile(path, content, 0o600))
	s, err := store.Open(path, store.Options{})
	require.NoError(t, err)
	defer s.Close()
	require.NoError(t, s.View(func(tx *store.Tx) error {
		meta, _, err := store.ReadMeta(tx)
		seq = meta.Seq
		return err
	}))
	return seq
}

// TestReplacedFileIsInMemoryToo checks that a model keeps its changes in memory after a rebuild, and that all of them
// are in its file when it is closed.
func TestReplacedFileIsInMemoryToo(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	all := eventsOf(strings.Split(strings.Repeat("abc", 20), "")...)
	run := start(t, srv.runner(t, &chain{name: "chain", version: 1}, withFlushEvery(time.Hour)))
	wait(t, run, srv.store(t, all[:30]...))
	require.True(t, rebuilt(t, run))
	require.Equal(t, uint64(30), inFile(t, run, srv))
	last := srv.store(t, all[30:]...)
	wait(t, run, last)
	require.Equal(t, uint64(30), inFile(t, run, srv))
	require.Equal(t, last, count(t, run))
	require.NoError(t, run.Close())
	require.Equal(t, last, inFile(t, run, srv))
}
