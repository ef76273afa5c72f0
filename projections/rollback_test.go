package projections_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// copyOf stops the server and copies its files to a new directory.
func (srv *testServer) copyOf(t testing.TB) (dir string) {
	t.Helper()
	srv.Halt(t)
	dir = t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(srv.Dir)))
	return dir
}

// restore replaces the files of the stopped server by a copy, and starts it.
func (srv *testServer) restore(t testing.TB, dir string) {
	t.Helper()
	require.NoError(t, os.RemoveAll(srv.Dir))
	require.NoError(t, os.CopyFS(srv.Dir, os.DirFS(dir)))
	srv.Start(t)
}

// awaitDigest waits until the read model is live at a sequence, and returns its digest.
func awaitDigest(t testing.TB, r *projections.Runner, seq uint64) string {
	t.Helper()
	streamstest.Eventually(t, limit, func() error {
		if s := r.Status(); s.Seq != seq || s.State != projections.StateLive || s.Stale != 0 || !r.Verified() {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
	return digest(t, r)
}

// TestRolledBackStreamIsNoticedAtStart goes on with an older copy of the stream, which has
// 300 events less and then 300 others: the read models have the events of the new stream
// and no others, and the old ones are served until then.
func TestRolledBackStreamIsNoticedAtStart(t *testing.T) {
	for _, others := range []int{0, 300, 400} {
		t.Run(fmt.Sprint(others), func(t *testing.T) {
			srv := newTestServer(t)
			all := events(1200)
			first, lost, other := all[:500], all[500:800], all[800:800+others]
			open := func(change ...func(*projections.RunnerOptions)) (index, run *projections.Runner) {
				change = append(change, func(o *projections.RunnerOptions) { o.Turns = make(chan struct{}, 1) })
				index = srv.runner(t, deliveries.New(), change...)
				run = srv.runner(t, &chain{name: "chain", version: 1}, append(change, func(o *projections.RunnerOptions) {
					o.Dedup = deliveries.Index{Runner: index}
				})...)
				return index, run
			}
			index, run := open()
			start(t, index)
			start(t, run)
			wait(t, run, srv.store(t, first...))
			copied := srv.copyOf(t)
			srv.Start(t)
			wait(t, run, srv.store(t, lost...))
			before := digest(t, run)
			require.NoError(t, run.Close())
			require.NoError(t, index.Close())
			srv.Halt(t)
			srv.restore(t, copied)
			last := uint64(500)
			if others > 0 {
				last = srv.store(t, other...)
			}

			var common atomic.Uint64
			var renewed sync.Map // the reason and the position by name
			index, run = open(func(o *projections.RunnerOptions) {
				if o.Dedup == nil {
					o.RolledBack = func(seq uint64) { common.Store(seq) }
				}
				o.Renewed = func(why string, out *projections.Rebuilt) { renewed.Store(out.Name, fmt.Sprint(why, " ", out.Seq)) }
			})
			s := run.Status()
			require.Equal(t, uint64(800), s.Stale, "it is served, and marked")
			require.Zero(t, s.Seq)
			require.Equal(t, before, digest(t, run))
			start(t, run)
			start(t, index)
			fresh := slices.Concat(first, other)
			require.Equal(t, want(t, &chain{name: "chain"}, fresh), awaitDigest(t, run, last),
				"the read model is not the fold of the stream")
			require.NotEmpty(t, run.Status().Rebuilt)
			streamstest.Eventually(t, streamstest.Limit, func() error {
				want := fmt.Sprint(run.Status().Rebuilt, " ", last)
				if got, _ := renewed.Load("chain"); got != want {
					return fmt.Errorf("reported %v, want %s", got, want)
				}
				return nil
			})
			awaitDigest(t, index, last)
			summary, err := deliveries.Read(index)
			require.NoError(t, err)
			require.Equal(t, last, summary.Events)
			require.Contains(t, index.Status().Rebuilt, "event 500 (", "the last common event is named")
			seqs, _, err := deliveries.Index{Runner: index}.Seen([]string{lost[0].ID, first[499].ID})
			require.NoError(t, err)
			require.Equal(t, []uint64{0, 500}, seqs, "the index remembers what the stream lacks")
			require.FileExists(t, filepath.Join(srv.dir, "chain.db.previous"))

			// From now on it fits.
			require.NoError(t, run.Close())
			require.NoError(t, index.Close())
			_, run = open()
			require.Equal(t, last, run.Status().Seq)
			require.Empty(t, run.Status().Rebuilt)
		})
	}
}

// TestRolledBackStreamIsNoticedAtReconnect replaces the stream by an older copy while the
// read models run, and stores other events at once, so that it is never shorter.
func TestRolledBackStreamIsNoticedAtReconnect(t *testing.T) {
	srv := newTestServer(t)
	all := events(1300)
	first, lost, other := all[:500], all[500:800], all[800:1300]
	tail := streams.NewTail(srv.JS, streams.TailOptions{})
	t.Cleanup(func() { require.NoError(t, tail.Close()) })
	var common atomic.Uint64
	shared := func(o *projections.RunnerOptions) {
		o.Tail = tail
		o.Turns = make(chan struct{}, 1)
	}
	index := start(t, srv.runner(t, deliveries.New(), shared, func(o *projections.RunnerOptions) {
		o.RolledBack = func(seq uint64) { common.Store(seq); tail.Forget() }
	}))
	run := start(t, srv.runner(t, &chain{name: "chain", version: 1}, shared, func(o *projections.RunnerOptions) {
		o.Dedup = deliveries.Index{Runner: index}
	}))
	wait(t, run, srv.store(t, first...))
	copied := srv.copyOf(t)
	srv.Start(t)
	wait(t, run, srv.store(t, lost...))
	srv.Halt(t)
	srv.restore(t, copied)
	require.False(t, index.Verified() && index.Status().Stale == 0 && common.Load() == 0,
		"it may be used before it was compared")
	last := srv.store(t, other...)
	fresh := slices.Concat(first, other)
	require.Equal(t, want(t, &chain{name: "chain"}, fresh), awaitDigest(t, run, last),
		"the read model is not the fold of the stream")
	require.Equal(t, uint64(500), common.Load())
	more := events(1400)[1300:]
	wait(t, run, srv.store(t, more...))
	require.Equal(t, want(t, &chain{name: "chain"}, append(fresh, more...)), digest(t, run))
	streamstest.Eventually(t, limit, func() error {
		if !index.Verified() || !run.Verified() {
			return errors.New("not verified")
		}
		return nil
	})
}

// liar is a JetStream that gives wrong answers about the stream.
type liar struct {
	jetstream.JetStream
	lies atomic.Int32 // how many answers are wrong
	lie  func(*jetstream.StreamInfo)
}

type liedStream struct {
	jetstream.Stream
	info jetstream.StreamInfo
}

func (s liedStream) CachedInfo() *jetstream.StreamInfo { return &s.info }

func (l *liar) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	st, err := l.JetStream.Stream(ctx, name)
	if err != nil || l.lies.Load() <= 0 {
		return st, err
	}
	l.lies.Add(-1)
	info := *st.CachedInfo()
	l.lie(&info)
	return liedStream{st, info}, nil
}

// TestOneAnswerThrowsNothingAway checks that a read model is neither built again nor
// emptied because the server says once that the stream is shorter, or for some time that
// it was made again, while its events are the same.
func TestOneAnswerThrowsNothingAway(t *testing.T) {
	for name, c := range map[string]struct {
		lies int32
		lie  func(*jetstream.StreamInfo)
	}{
		"shorter": {2, func(i *jetstream.StreamInfo) { i.State.LastSeq = 100 }},
		"other":   {20, func(i *jetstream.StreamInfo) { i.Created = i.Created.Add(time.Hour) }},
		"empty":   {2, func(i *jetstream.StreamInfo) { i.State.LastSeq, i.Created = 0, time.Now() }},
	} {
		t.Run(name, func(t *testing.T) {
			srv := newTestServer(t)
			all := events(400)
			js := &liar{JetStream: srv.JS, lie: c.lie}
			p := &chain{name: "chain", version: 1}
			run := start(t, srv.runner(t, p, func(o *projections.RunnerOptions) { o.JS = js }))
			wait(t, run, srv.store(t, all[:300]...))
			rebuilt := run.Status().Rebuilt
			js.lies.Store(c.lies)
			streamstest.Eventually(t, limit, func() error {
				require.Equal(t, uint64(300), count(t, run), "it is served")
				if n := js.lies.Load(); n > 0 {
					return fmt.Errorf("%d lies left", n)
				}
				return nil
			})
			last := srv.store(t, all[300:]...)
			require.Equal(t, want(t, &chain{name: "chain"}, all), awaitDigest(t, run, last))
			require.Equal(t, int64(400), p.applied.Load(), "events were applied again")
			require.Equal(t, rebuilt, run.Status().Rebuilt)
			require.Equal(t, []string{"chain.db"}, files(t, srv.dir))
		})
	}
}

// TestFileWithoutFingerprintsIsAcceptedOnce opens a file of before there were fingerprints.
func TestFileWithoutFingerprintsIsAcceptedOnce(t *testing.T) {
	srv := newTestServer(t)
	all := events(400)
	run := start(t, srv.runner(t, &chain{name: "chain", version: 1}))
	wait(t, run, srv.store(t, all[:200]...))
	copied := srv.copyOf(t)
	srv.Start(t)
	wait(t, run, srv.store(t, all[200:300]...))
	require.NoError(t, run.Close())
	s, err := store.Open(filepath.Join(srv.dir, "chain.db"), store.Options{})
	require.NoError(t, err)
	require.NoError(t, s.Update(func(tx *store.Tx) error {
		return tx.Bucket(store.MetaBucket).Delete([]byte("trail"))
	}))
	require.NoError(t, s.Close())

	run = start(t, srv.runner(t, &chain{name: "chain", version: 1}))
	wait(t, run, 300)
	require.Empty(t, run.Status().Rebuilt, "there was no reason to build it again")
	require.NoError(t, run.Close())

	srv.Halt(t)
	srv.restore(t, copied)
	srv.store(t, all[300:]...)
	run = start(t, srv.runner(t, &chain{name: "chain", version: 1}))
	fresh := slices.Concat(all[:200], all[300:])
	require.Equal(t, want(t, &chain{name: "chain"}, fresh), awaitDigest(t, run, 300))
}

// TestErasedEventMatchesItsFingerprint erases every event that the read model has a
// fingerprint of: the tombstones are the same events.
func TestErasedEventMatchesItsFingerprint(t *testing.T) {
	srv := newTestServer(t)
	run := start(t, srv.runner(t, &chain{name: "chain", version: 1}))
	all := conversationEvents(60, 1, 1)
	wait(t, run, srv.store(t, all...))
	erasure := &domain.Erasure{Contact: domain.ContactHash("30"), Part: 1, Parts: 1}
	var seqs []uint64
	for seq := uint64(1); seq <= 60; seq++ {
		e, err := streams.Get(t.Context(), srv.JS, streams.Name, seq)
		require.NoError(t, err)
		erasure.Events = append(erasure.Events, domain.NewTombstone(e.Event, seq, e.At))
		seqs = append(seqs, seq)
	}
	last := srv.store(t, domain.Event{
		ID: "gone", Type: domain.ContactErased, Page: "100", Data: domain.Data{Erasure: erasure},
	})
	wait(t, run, last)
	every := func(streams.Stored) bool { return true }
	n, err := streams.Erase(t.Context(), srv.JS, streams.Name, seqs, every)
	require.NoError(t, err)
	require.Equal(t, 60, n)
	require.NoError(t, run.Current(t.Context()))
	before := digest(t, run)
	require.NoError(t, run.Close())
	p := &chain{name: "chain", version: 1}
	run = start(t, srv.runner(t, p))
	wait(t, run, last)
	require.Empty(t, run.Status().Rebuilt)
	require.Zero(t, p.applied.Load())
	require.Equal(t, before, digest(t, run))
}

// TestRefusedRebuildKeepsTheReadModel checks that nothing is replaced while that is
// refused, whatever the reason.
func TestRefusedRebuildKeepsTheReadModel(t *testing.T) {
	srv := newTestServer(t)
	reason := errors.New("2 events were lost")
	var refuse atomic.Bool
	refuse.Store(true)
	guarded := func(o *projections.RunnerOptions) {
		o.Refuse = func(bool) error {
			if refuse.Load() {
				return reason
			}
			return nil
		}
	}
	run := start(t, srv.runner(t, &chain{name: "chain", version: 1}, guarded)) // there is nothing to keep
	wait(t, run, srv.store(t, events(100)...))
	_, err := run.Rebuild(t.Context(), nil)
	require.ErrorIs(t, err, reason)
	require.NoError(t, run.Close())
	run = start(t, srv.runner(t, &chain{name: "chain", version: 2}, guarded))
	streamstest.Eventually(t, limit, func() error {
		if err := run.Healthy(time.Hour); !errors.Is(err, projections.ErrFailing) {
			return fmt.Errorf("healthy: %w", err)
		}
		return nil
	})
	require.Contains(t, run.Status().LastError, reason.Error())
	require.Equal(t, uint64(100), count(t, run), "it is served")
	refuse.Store(false)
	wait(t, run, 100)
	streamstest.Eventually(t, limit, func() error { _, err := run.Rebuild(t.Context(), nil); return err })
}
