package projections_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// readRight reads the whole read model, which must be right or refused. It reports whether it was read.
func readRight(t testing.TB, r *projections.Runner, last uint64, right string) bool {
	t.Helper()
	got, meta, err := r.Digest()
	if err != nil {
		var d *projections.DamagedError
		require.ErrorAs(t, err, &d)
		require.ErrorIs(t, err, projections.ErrDamaged)
		require.ErrorIs(t, err, store.ErrCorrupt)
		return false
	}
	if meta.Seq == last { // else it is the state before the last commit: one header of the file was damaged
		require.Equal(t, right, got, "a wrong row was read")
	}
	return meta.Seq == last
}

// wantOf returns the digest of the fold of the stream.
func wantOf(t testing.TB, srv *testServer, p projections.Projection) string {
	t.Helper()
	var list []streams.Stored
	_, err := streams.Read(t.Context(), srv.JS, streams.ReadOptions{}, func(e streams.Stored) error {
		list = append(list, e)
		return nil
	})
	require.NoError(t, err)
	s := projectionstest.Open(t, filepath.Join(t.TempDir(), "want.db"))
	require.NoError(t, projectionstest.Fold(s, p, list))
	d, _, err := projectionstest.Digest(s)
	require.NoError(t, err)
	return d
}

// healed waits until the read model can be read again, and reads it all the time.
func healed(t testing.TB, r *projections.Runner, last uint64, right string) {
	t.Helper()
	streamstest.Eventually(t, limit, func() error {
		if !readRight(t, r, last, right) {
			return fmt.Errorf("status %+v", r.Status())
		}
		return nil
	})
	require.Empty(t, r.Status().Damaged)
}

// overwrite changes bytes at a random place of a file, most often a few of them.
func overwrite(t testing.TB, r *rand.Rand, path string) string {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	size := int64(len(bytes.TrimRight(content, "\x00"))) // the file grows in large steps
	b := make([]byte, []int{1, 1, 3, 64, 5000}[r.IntN(5)])
	for i := range b {
		b[i] = byte(r.IntN(256))
	}
	at := r.Int64N(size)
	if r.IntN(3) == 0 { // the head of a page
		at = at/4096*4096 + r.Int64N(48)
	}
	b = b[:min(int64(len(b)), size-at)]
	_, err = f.WriteAt(b, at)
	require.NoError(t, errors.Join(err, f.Close()))
	return fmt.Sprintf("%d bytes at %d", len(b), at)
}

// TestDamagedReadModelAtRestIsFoundAtTheStart damages a file at 220 random places, and starts each time.
func TestDamagedReadModelAtRestIsFoundAtTheStart(t *testing.T) {
	srv := newTestServer(t)
	last := srv.store(t, events(300)...)
	path := filepath.Join(srv.dir, conversations.Name+".db")
	run := start(t, srv.runner(t, conversations.New()))
	wait(t, run, last)
	right := digest(t, run)
	require.NoError(t, run.Close())
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(1, 2))
	rebuilt := 0
	rounds := streamstest.Volume(220, 40)
	for range rounds {
		require.NoError(t, os.WriteFile(path, content, 0o600))
		what := overwrite(t, r, path)
		o := projections.RunnerOptions{
			Dir: srv.dir, JS: srv.JS, Identity: srv.identity, Pace: -1, Store: store.Options{NoSync: true, MapSize: 256 << 20},
		}
		run, err := projections.NewRunner(conversations.New(), o)
		require.NoError(t, err, what)
		readRight(t, run, last, right)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- run.Run(ctx) }()
		healed(t, run, last, right)
		if run.Status().Rebuilt != "" {
			rebuilt++
		}
		stop()
		require.NoError(t, <-done)
		require.NoError(t, run.Close())
	}
	t.Logf("%d of %d were rebuilt; in the others no row was changed", rebuilt, rounds)
	require.Positive(t, rebuilt)
}

// TestDamagedReadModelInUseIsBuiltAgain damages a file at random places while it is read and written.
func TestDamagedReadModelInUseIsBuiltAgain(t *testing.T) {
	srv := newTestServer(t)
	all := events(600)
	run := start(t, srv.runner(t, conversations.New(), func(o *projections.RunnerOptions) { o.Pace = -1 }))
	path := filepath.Join(srv.dir, conversations.Name+".db")
	r := rand.New(rand.NewPCG(3, 4))
	var last uint64
	for round := range streamstest.Volume(20, 8) {
		last = srv.store(t, all[round*20:round*20+20]...)
		wait(t, run, last)
		right := wantOf(t, srv, conversations.New())
		healed(t, run, last, right)
		streamstest.Tick(t, path)
		what := overwrite(t, r, path)
		readRight(t, run, last, right)
		healed(t, run, last, right)
		t.Log(what, run.Status().Rebuilt)
	}
}

// TestDamageCostsOnlyTheReadModelThatHasIt damages one of two read models in ways that end a process, hang it or
// are not noticed otherwise. The other one goes on, and the runner can be closed.
func TestDamageCostsOnlyTheReadModelThatHasIt(t *testing.T) {
	for name, harm := range map[string]func(path string) error{
		"truncated to 0":   func(path string) error { return os.Truncate(path, 0) },
		"truncated":        func(path string) error { return os.Truncate(path, 3*4096) },
		"deleted":          os.Remove,
		"random bytes":     scramble,
		"page in a circle": streamstest.Circle,
	} {
		for _, at := range []string{"in use", "at rest"} {
			t.Run(name+" "+at, func(t *testing.T) {
				srv := newTestServer(t)
				// Without erasures, which write later: what happens during a write is found by checksums.
				all := slices.DeleteFunc(events(400), func(e domain.Event) bool { return e.Type == domain.ContactErased })
				half := len(all) / 2
				other := start(t, srv.runner(t, &chain{name: "chain", version: 1}))
				run := start(t, srv.runner(t, conversations.New()))
				last := srv.store(t, all[:half]...)
				wait(t, run, last)
				path := filepath.Join(srv.dir, conversations.Name+".db")
				if at == "in use" {
					streamstest.Tick(t, path)
					require.NoError(t, harm(path))
				} else {
					require.NoError(t, run.Close())
					require.NoError(t, harm(path))
					run = start(t, srv.runner(t, conversations.New()))
				}
				last = srv.store(t, all[half:]...)
				wait(t, other, last)
				require.NoError(t, other.View(func(*store.Tx) error { return nil }))
				healed(t, run, last, wantOf(t, srv, conversations.New()))
				require.NotEmpty(t, run.Status().Rebuilt)
				streamstest.Eventually(t, limit, func() error { return run.Healthy(time.Minute) })
				require.NoError(t, run.Close())
			})
		}
	}
}

func scramble(path string) error {
	b, err := os.ReadFile(path)
	r := rand.New(rand.NewPCG(5, 6))
	for i := range b {
		if i/4096%2 == 1 {
			b[i] = byte(r.IntN(256))
		}
	}
	return errors.Join(err, streamstest.WriteAt(path, 0, b))
}

// TestReadModelIsRefusedUntilItIsBuiltAgain checks reads, status and waiting readers during a rebuild of a damaged
// file, also one that a restart interrupts.
func TestReadModelIsRefusedUntilItIsBuiltAgain(t *testing.T) {
	srv := newTestServer(t)
	all := events(300)
	last := srv.store(t, all...)
	run := start(t, srv.runner(t, &chain{name: "chain", version: 1}))
	wait(t, run, last)
	require.NoError(t, run.Close())
	require.NoError(t, scramble(filepath.Join(srv.dir, "chain.db")))
	release := make(chan struct{})
	slow := func() *projections.Runner {
		p := &chain{name: "chain", version: 1, hook: func(e streams.Stored) error {
			if e.Seq == 200 {
				<-release
			}
			return nil
		}}
		return srv.runner(t, p, func(o *projections.RunnerOptions) { o.MaxBatch, o.Pace = 10, -1 })
	}
	refused := func(run *projections.Runner) {
		t.Helper()
		s := run.Status()
		require.NotEmpty(t, s.Damaged)
		require.NotNil(t, s.Rebuild)
		require.GreaterOrEqual(t, s.Rebuild.Target, last)
		require.False(t, readRight(t, run, last, ""))
		require.Error(t, run.Healthy(time.Hour))
		_, err := run.Verify(t.Context(), nil)
		require.ErrorIs(t, err, projections.ErrDamaged)
		require.NoError(t, run.Partial().View(func(tx *store.Tx) error {
			meta, _, err := store.ReadMeta(tx)
			require.GreaterOrEqual(t, meta.Seq, s.Seq)
			return err
		}))
	}
	run = slow()
	refused(run)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- run.Run(ctx) }()
	wait(t, run, 190)
	refused(run)
	require.Positive(t, run.Status().Rebuild.ETA)
	stop()
	close(release)
	require.NoError(t, <-done)
	require.NoError(t, run.Close())

	release = make(chan struct{}) // it is still refused after a restart, but the file is kept
	run = slow()
	require.GreaterOrEqual(t, run.Status().Seq, uint64(190))
	if run.Status().Seq < last {
		refused(run)
	}
	close(release)
	start(t, run)
	healed(t, run, last, want(t, &chain{name: "chain"}, all))
}

// TestWholeFileIsNotRebuilt checks that a file is only checked when somebody has changed its time.
func TestWholeFileIsNotRebuilt(t *testing.T) {
	srv := newTestServer(t)
	all := eventsOf(strings.Split(strings.Repeat("abc", 100), "")...) // no erasure, which writes later
	var checks atomic.Int64
	check := func(ctx context.Context, path string) error { checks.Add(1); return store.CheckFile(ctx, path) }
	withCheck := func(o *projections.RunnerOptions) { o.Check = check }
	run := start(t, srv.runner(t, &chain{name: "chain", version: 1}, withCheck))
	wait(t, run, srv.store(t, all[:200]...))
	path := filepath.Join(srv.dir, "chain.db")
	right := digest(t, run)
	for n := range int64(11) {
		streamstest.Tick(t, path)
		require.NoError(t, os.Chtimes(path, time.Now(), time.Now()))
		require.False(t, readRight(t, run, 200, right), "round %d", n)
		healed(t, run, 200, right)
		require.Equal(t, n+1, checks.Load())
	}
	streamstest.Tick(t, path) // the time is no longer looked at
	require.NoError(t, os.Chtimes(path, time.Now(), time.Now()))
	require.True(t, readRight(t, run, 200, right))
	wait(t, run, srv.store(t, all[200:]...))
	require.Equal(t, want(t, &chain{name: "chain"}, all), digest(t, run))
	kept, err := filepath.Glob(path + ".corrupt-*")
	require.NoError(t, err)
	require.Empty(t, kept)
}

// TestCheckAnswersAreHeeded checks the answers of a check.
func TestCheckAnswersAreHeeded(t *testing.T) {
	for name, c := range map[string]struct {
		answer error
		kept   bool
		fails  bool
	}{
		"whole":   {nil, true, false},
		"damaged": {fmt.Errorf("check: %w", store.ErrCorrupt), false, false},
		"unknown": {errors.New("no permission"), true, true},
	} {
		t.Run(name, func(t *testing.T) {
			srv := newTestServer(t)
			last := srv.store(t, events(50)...)
			run := start(t, srv.runner(t, &chain{name: "chain", version: 1}))
			wait(t, run, last)
			require.NoError(t, run.Close())
			o := projections.RunnerOptions{
				Dir: srv.dir, JS: srv.JS, Identity: srv.identity, Store: store.Options{NoSync: true},
				Check: func(context.Context, string) error { return c.answer },
			}
			run, err := projections.NewRunner(&chain{name: "chain", version: 1}, o)
			if c.fails {
				require.ErrorIs(t, err, c.answer)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, c.kept, run.Status().Seq == last)
			assert.Equal(t, c.kept, run.Status().Damaged == "")
			require.NoError(t, run.Close())
		})
	}
}

// TestReadModelWithoutChecksumsIsBuiltAgain checks a file of an earlier version.
func TestReadModelWithoutChecksumsIsBuiltAgain(t *testing.T) {
	srv := newTestServer(t)
	all := events(50)
	last := srv.store(t, all...)
	old, err := os.ReadFile(filepath.Join("testdata", "unsummed.db"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(srv.dir, "chain.db"), old, 0o600))
	run := srv.runner(t, &chain{name: "chain", version: 1}, func(o *projections.RunnerOptions) { o.Identity = "old" })
	require.Equal(t, uint64(50), run.Status().Stale, "it is served until there is a new one")
	start(t, run)
	streamstest.Eventually(t, limit, func() error { return run.Healthy(time.Minute) })
	wait(t, run, last)
	require.Equal(t, want(t, &chain{name: "chain"}, all), digest(t, run))
	require.Contains(t, run.Status().Rebuilt, "no checksums")
}
