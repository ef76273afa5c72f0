package streams_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// readShared replays events 1 to n with others, each of which must come once and in order.
func readShared(ctx context.Context, s *streamstest.Server, t *streams.Tail, n uint64, each func(*streams.Replayed)) error {
	want := uint64(1)
	last, err := streams.ReplayShared(ctx, s.JS, t, streams.ReadOptions{To: n}, func(list []*streams.Replayed) error {
		for _, e := range list {
			if e.Malformed != nil || e.Seq != want {
				return fmt.Errorf("got %d, want %d: %w", e.Seq, want, e.Malformed)
			}
			want++
			each(e)
		}
		return nil
	})
	if err == nil && (last != n || want != n+1) {
		err = fmt.Errorf("read up to %d and %d, want %d", last, want-1, n)
	}
	return err
}

// TestReadersShareOnePass checks that readers of a whole stream, calls and subscribers, get each event once and in order,
// and that all get the same decoded event.
func TestReadersShareOnePass(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	const n = 12_000 // fewer than a pass keeps
	publish(t, s, messages("100", n))
	tail := newTail(t, s, streams.TailOptions{Events: 10})
	streamstest.Eventually(t, streamstest.Limit, func() error { // a pass ends early when the machine is so busy that messages stay out
		if shared := sharedBy(t, s, tail, n); shared != n {
			return fmt.Errorf("%d of %d events were decoded once for all", shared, n)
		}
		return nil
	})
}

// sharedBy returns how many of n events four readers of a stream got that were decoded once for all of them, while a
// fifth one reads as well.
func sharedBy(t *testing.T, s *streamstest.Server, tail *streams.Tail, n int) (shared int) {
	t.Helper()
	const readers = 4
	var seen [readers][]*streams.Replayed
	var running errgroup.Group
	var begun sync.WaitGroup
	begun.Add(readers)
	for i := range readers {
		running.Go(func() error {
			return readShared(t.Context(), s, tail, uint64(n), func(e *streams.Replayed) {
				if seen[i] = append(seen[i], e); e.Seq == 1 { // all must have joined before one ends
					begun.Done()
					begun.Wait()
				}
			})
		})
	}
	r := newTailReader(t, s, tail, 0)
	running.Go(func() error {
		for range n {
			if _, err := r.next(); err != nil {
				return err
			}
		}
		return nil
	})
	require.NoError(t, running.Wait())
	for i := range seen[0] {
		same := true
		for _, other := range seen[1:] {
			same = same && other[i] == seen[0][i]
		}
		if same {
			shared++
		}
	}
	return shared
}

// TestSlowReaderOfAPassHoldsItUpOrIsLeftBehind checks that a reader which stops altogether does not stop the others for
// long, and still gets every event later.
func TestSlowReaderOfAPassHoldsItUpOrIsLeftBehind(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	const n = 40_000 // more than a pass keeps
	publish(t, s, messages("100", n))
	tail := newTail(t, s, streams.TailOptions{Events: 10})
	tail.PassStall(200 * time.Millisecond)
	begun, release := make(chan struct{}), make(chan struct{})
	var slow, fast errgroup.Group
	slow.Go(func() error {
		return readShared(t.Context(), s, tail, n, func(e *streams.Replayed) {
			if e.Seq == 1 {
				close(begun)
				<-release
			}
		})
	})
	<-begun
	fast.Go(func() error { return readShared(t.Context(), s, tail, n, func(*streams.Replayed) {}) })
	require.NoError(t, fast.Wait())
	close(release)
	require.NoError(t, slow.Wait())
}

// TestPassEndsWithTheTailAndTheStream checks a stream that is deleted and made again, a tail that forgets, and one that
// is closed, while a pass is going on.
func TestPassEndsWithTheTailAndTheStream(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	const n = 3000
	publish(t, s, messages("100", n))
	tail := newTail(t, s, streams.TailOptions{Events: 10})
	for name, during := range map[string]func() error{
		"forget": func() error { tail.Forget(); return nil },
		"close":  tail.Close,
	} {
		done := false
		require.NoError(t, readShared(t.Context(), s, tail, n, func(e *streams.Replayed) {
			if e.Seq > n/2 && !done {
				done = true
				assert.NoError(t, during(), name)
			}
		}), name)
	}

	tail = newTail(t, s, streams.TailOptions{Events: 10})
	r := newTailReader(t, s, tail, 0)
	for range n {
		_, err := r.next()
		require.NoError(t, err)
	}
	s.DeleteStream(t, streams.Name)
	s.Stream(t, streams.Spec{})
	other := messages("200", 100)
	publish(t, s, other)
	require.NoError(t, readShared(t.Context(), s, tail, 100, func(e *streams.Replayed) {
		assert.Equal(t, other[e.Seq-1].ID, e.ID)
	}))
}

// TestSharedReplayOfErasedEvents checks a replay whose last events were erased, and one of an empty stream.
func TestSharedReplayOfErasedEvents(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	tail := newTail(t, s, streams.TailOptions{})
	read := func(o streams.ReadOptions) (seqs []uint64, last uint64) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), streamstest.Limit)
		defer cancel()
		last, err := streams.ReplayShared(ctx, s.JS, tail, o, func(list []*streams.Replayed) error {
			for _, e := range list {
				seqs = append(seqs, e.Seq)
			}
			return nil
		})
		require.NoError(t, err)
		return seqs, last
	}
	seqs, last := read(streams.ReadOptions{})
	require.Empty(t, seqs)
	require.Zero(t, last)
	publish(t, s, messages("100", 10))
	st, err := s.JS.Stream(t.Context(), streams.Name)
	require.NoError(t, err)
	for _, seq := range []uint64{4, 9, 10} {
		require.NoError(t, st.DeleteMsg(t.Context(), seq))
	}
	began := time.Now()
	seqs, last = read(streams.ReadOptions{From: 2})
	require.Equal(t, []uint64{2, 3, 5, 6, 7, 8}, seqs)
	require.Equal(t, uint64(10), last)
	require.Less(t, time.Since(began), streamstest.Limit/2)
	stop := errors.New("stop")
	_, err = streams.ReplayShared(t.Context(), s.JS, tail, streams.ReadOptions{}, func([]*streams.Replayed) error { return stop })
	require.ErrorIs(t, err, stop)
}
