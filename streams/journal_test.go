package streams_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
	"github.com/pagestream/pagestream/internal/journal"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// journaled is a stream with a journal.
type journaled struct {
	*streamstest.Server

	dir         string // of the journal
	files       *journal.Journal
	checkpoints *embedded.Checkpoints
	journal     *streams.Journal
	tail        *streams.Tail
	logs        *streamstest.Logs
}

// openJournal opens the journal of a server.
func openJournal(
	t testing.TB, s *streamstest.Server, dir string, o streams.JournalOptions, change ...func(*journal.Options),
) (*journaled, error) {
	t.Helper()
	var err error
	j := &journaled{Server: s, dir: dir, logs: &streamstest.Logs{}}
	j.checkpoints, err = embedded.OpenCheckpoints(filepath.Join(dir, "checkpoint"), s.Dir, streams.Name)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, j.checkpoints.Close()) })
	files := journal.Options{Dir: dir, Segment: 64 << 10}
	for _, f := range change {
		f(&files)
	}
	j.files, err = journal.Open(files)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, j.files.Close()) })
	if j.tail = o.Tail; j.tail == nil {
		j.tail = streams.NewFedTail(streams.TailOptions{Events: 64})
	}
	t.Cleanup(func() { assert.NoError(t, j.tail.Close()) })
	s.Stream(t, streams.Spec{Journal: true})
	if o.Files, o.Tail = j.files, j.tail; o.Checkpoints == nil {
		o.Checkpoints = j.checkpoints
	}
	if j.journal, err = streams.OpenJournal(t.Context(), s.JS, o); err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = j.journal.Close(context.Background()) })
	return j, nil
}

func runJournaled(t testing.TB, o streams.JournalOptions, change ...func(*embedded.Options)) *journaled {
	t.Helper()
	j, err := openJournal(t, streamstest.Run(t, change...), t.TempDir(), o)
	require.NoError(t, err)
	return j
}

func (j *journaled) flush(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), streamstest.Limit)
	defer cancel()
	require.NoError(t, j.journal.Flush(ctx))
}

// requireStored asserts that the stream has the events with the receipts, each id once, at its sequence.
func requireStored(t testing.TB, s *streamstest.Server, want map[string]uint64) {
	t.Helper()
	list := stored(t, s)
	got := make(map[string]uint64, len(list))
	var at time.Time
	for i, e := range list {
		require.Equal(t, uint64(i+1), e.Seq)
		require.NotContains(t, got, e.ID, "twice")
		require.False(t, e.At.Before(at), "stored times go back")
		got[e.ID], at = e.Seq, e.At
	}
	require.Equal(t, want, got)
}

// TestJournaledEventsAreInTheStreamOnce publishes the same events from several callers.
func TestJournaledEventsAreInTheStreamOnce(t *testing.T) {
	t.Parallel()
	j := runJournaled(t, streams.JournalOptions{})
	p := publisher(t, j.Server, streams.PublisherOptions{Journal: j.journal})
	var mu sync.Mutex
	want := map[string]uint64{}
	var callers sync.WaitGroup
	for c := range 8 {
		callers.Go(func() {
			for i := range 50 {
				events := messages(domain.PageID(strconv.Itoa(c/2)), 3*i+3)[3*i:] // two callers have the same
				receipts, err := p.Publish(t.Context(), events)
				if !assert.NoError(t, err) {
					return
				}
				mu.Lock()
				for k, r := range receipts {
					if seq, known := want[events[k].ID]; known {
						assert.Equal(t, seq, r.Seq)
					}
					want[events[k].ID] = r.Seq
				}
				mu.Unlock()
			}
		})
	}
	callers.Wait()
	require.Len(t, want, 600)
	j.flush(t)
	requireStored(t, j.Server, want)
	require.Zero(t, j.journal.Status().Waiting)
	require.NoError(t, p.Close(t.Context()))
	require.NoError(t, j.journal.Close(t.Context()))

	// After a clean stop the journal is empty and nothing is cut.
	again, err := openJournal(t, j.Server, j.dir, streams.JournalOptions{})
	require.NoError(t, err)
	first, last := again.files.Range()
	require.Equal(t, uint64(601), first)
	require.Equal(t, uint64(600), last)
	p = publisher(t, j.Server, streams.PublisherOptions{Journal: again.journal})
	r, err := p.Publish(t.Context(), messages("x", 1))
	require.NoError(t, err)
	require.Equal(t, uint64(601), r[0].Seq)
}

// copyDir copies a directory that is being written, as it may be found after a crash.
func copyDir(t testing.TB, from, to string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		require.NoError(t, err)
		rel, err := filepath.Rel(from, path)
		require.NoError(t, err)
		if e.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		require.NoError(t, err)
		return os.WriteFile(filepath.Join(to, rel), b, 0o600)
	}))
}

// TestAPowerCutLosesNothing copies the files while events are stored, removes parts of what the stream's files have
// after the checkpoint, in any order, and starts on the copy: each acknowledged event is there, once, with its
// sequence.
func TestAPowerCutLosesNothing(t *testing.T) {
	t.Parallel()
	rounds := streamstest.Volume(12, 6)
	if testing.Short() {
		rounds = 3
	}
	j := runJournaled(t, streams.JournalOptions{})
	p := publisher(t, j.Server, streams.PublisherOptions{Journal: j.journal})
	want, n := map[string]uint64{}, 0
	store := func(count int) {
		for range count {
			events := messages(domain.PageID(strconv.Itoa(n)), 1+n%40)
			n++
			receipts, err := p.Publish(t.Context(), events)
			require.NoError(t, err)
			for k, r := range receipts {
				want[events[k].ID] = r.Seq
			}
		}
	}
	for round := range rounds {
		store(30)
		dir := t.TempDir()
		// The journal is synced at each answer; of the stream's files only what the checkpoint has is.
		copyDir(t, j.dir, filepath.Join(dir, "journal"))
		copyDir(t, j.Dir, filepath.Join(dir, "nats"))
		tear(t, filepath.Join(dir, "nats"), filepath.Join(dir, "journal"), round)

		c, err := embedded.OpenCheckpoints(filepath.Join(dir, "journal", "checkpoint"), filepath.Join(dir, "nats"), streams.Name)
		require.NoError(t, err)
		_, err = c.Cut(0, math.MaxUint64)
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.NoError(t, os.Remove(filepath.Join(dir, "nats", "lock")))
		other := streamstest.Run(t, func(o *embedded.Options) { o.Dir = filepath.Join(dir, "nats") })
		again, err := openJournal(t, other, filepath.Join(dir, "journal"), streams.JournalOptions{})
		require.NoError(t, err, "round %d", round)
		requireStored(t, other, want)
		require.NoError(t, again.journal.Close(t.Context()))
		other.Stop(t)
		if round%4 == 3 {
			require.NoError(t, j.journal.Settle(t.Context()))
		}
	}
}

// gate lets checkpoints fail.
type gate struct {
	streams.Checkpoints
	shut atomic.Bool
}

func (g *gate) Take() (uint64, error) {
	if g.shut.Load() {
		return 0, errors.New("the gate is shut")
	}
	return g.Checkpoints.Take()
}

// gated opens a journal whose checkpoints can fail.
func gated(t testing.TB, s *streamstest.Server) (*journaled, *gate) {
	t.Helper()
	dir, g := t.TempDir(), &gate{}
	c, err := embedded.OpenCheckpoints(filepath.Join(dir, "checkpoint"), s.Dir, streams.Name)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Close()) })
	g.Checkpoints = c
	j, err := openJournal(t, s, dir, streams.JournalOptions{Checkpoints: g})
	require.NoError(t, err)
	return j, g
}

// slow lets checkpoints be slow, or have a part only of what there is.
type slow struct {
	streams.Checkpoints
	on   atomic.Bool
	part bool
	free chan struct{}
}

func (s *slow) Take() (uint64, error) {
	switch {
	case !s.on.Load():
	case s.part:
		return 1, nil
	default:
		<-s.free
	}
	return s.Checkpoints.Take()
}

// TestASlowCheckpointBoundsTheJournal stores events while checkpoints make nothing durable, without an error. Then the
// journal has many times its limit, so that a slow disk does not close the door, but not more.
func TestASlowCheckpointBoundsTheJournal(t *testing.T) {
	t.Parallel()
	for name, part := range map[string]bool{"none ends": false, "they have a part": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := streamstest.Run(t, unsynced)
			dir, c := t.TempDir(), &slow{part: part, free: make(chan struct{})}
			checkpoints, err := embedded.OpenCheckpoints(filepath.Join(dir, "checkpoint"), s.Dir, streams.Name)
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, checkpoints.Close()) })
			c.Checkpoints = checkpoints
			const limit = 1 << 20
			j, err := openJournal(t, s, dir, streams.JournalOptions{Checkpoints: c, Limit: limit})
			require.NoError(t, err)
			c.on.Store(true)
			end := sync.OnceFunc(func() { c.on.Store(false); close(c.free) })
			t.Cleanup(end)
			p := publisher(t, s, streams.PublisherOptions{Journal: j.journal})
			n := 0
			store := func() error {
				n++
				events := messages(domain.PageID(strconv.Itoa(n)), 100)
				for i := range events {
					events[i].Data.Message.Text = strings.Repeat("x", 1000)
				}
				_, err := p.Publish(t.Context(), events)
				return err
			}
			for err == nil && n < 200 {
				err = store()
			}
			require.ErrorIs(t, err, streams.ErrOverloaded)
			require.Greater(t, j.journal.Status().Bytes, int64(7*limit))
			require.Less(t, j.journal.Status().Bytes, int64(9*limit))
			end()
			streamstest.Eventually(t, streamstest.Limit, store)
		})
	}
}

// TestStoredTimesDoNotGoBackWithAStart sets the clock back an hour between two starts.
func TestStoredTimesDoNotGoBackWithAStart(t *testing.T) {
	t.Parallel()
	j := runJournaled(t, streams.JournalOptions{})
	want := map[string]uint64{}
	store := func(page domain.PageID) {
		t.Helper()
		p := publisher(t, j.Server, streams.PublisherOptions{Journal: j.journal})
		events := messages(page, 3)
		receipts, err := p.Publish(t.Context(), events)
		require.NoError(t, err)
		for i, r := range receipts {
			want[events[i].ID] = r.Seq
		}
		require.NoError(t, p.Close(t.Context()))
	}
	open := func(dir string) {
		t.Helper()
		var err error
		j, err = openJournal(t, j.Server, dir, streams.JournalOptions{})
		require.NoError(t, err)
	}
	j.journal.StoreAt(time.Now().UTC().Add(time.Hour))
	store("1")
	require.NoError(t, j.journal.Close(t.Context()))
	open(j.dir) // the stream has the last event
	store("2")
	killed := t.TempDir()
	copyDir(t, j.dir, killed)
	require.NoError(t, j.journal.Close(t.Context()))
	open(killed) // the files have it
	store("3")
	j.flush(t)
	requireStored(t, j.Server, want)

	list := stored(t, j.Server)
	last := list[len(list)-1]
	n, err := j.journal.Erase(t.Context(), []uint64{last.Seq}, func(streams.Stored) bool { return true })
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.NoError(t, j.journal.Close(t.Context()))
	open(killed) // no one has the last event
	store("4")
	j.flush(t)
	list = stored(t, j.Server)
	require.False(t, list[len(list)-1].At.Before(last.At), "it goes back")
}

// TestCheckpointsEndWithTheJournal ends their context when the next one is due.
func TestCheckpointsEndWithTheJournal(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		streams.TakeCheckpoints(ctx, streams.CheckpointBytes)
	}()
	select {
	case <-ended:
	case <-time.After(streamstest.Limit):
		require.Fail(t, "they go on, and Close waits for them")
	}
}

// TestALostTailOfAMiddleBlock removes the end of a block after the checkpoint, and keeps the blocks after it. A server
// that starts on that has a hole which can't be filled.
func TestALostTailOfAMiddleBlock(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t)
	j, g := gated(t, s)
	p := publisher(t, s, streams.PublisherOptions{Journal: j.journal})
	want := map[string]uint64{}
	store := func(page domain.PageID, n, size int) {
		for _, e := range messages(page, n) {
			e.Data.Message.Text = strings.Repeat("x", size)
			receipts, err := p.Publish(t.Context(), []domain.Event{e})
			require.NoError(t, err)
			want[e.ID] = receipts[0].Seq
		}
	}
	store("1", 10, 100)
	require.NoError(t, j.journal.Settle(t.Context()))
	g.shut.Store(true)
	store("2", 60, 400<<10)
	j.flush(t)
	require.NoError(t, p.Close(t.Context()))
	s.Halt(t)
	limited, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.Error(t, j.journal.Close(limited), "there is no checkpoint")
	msgs := filepath.Join(s.Dir, "jetstream", "$G", "streams", streams.Name, "msgs")
	blocks, err := filepath.Glob(filepath.Join(msgs, "*.blk"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(blocks), 3)
	info, err := os.Stat(filepath.Join(msgs, "2.blk"))
	require.NoError(t, err)
	require.NoError(t, os.Truncate(filepath.Join(msgs, "2.blk"), info.Size()/2))
	require.NoError(t, os.Remove(filepath.Join(msgs, "index.db")))
	other := t.TempDir()
	copyDir(t, j.dir, other)
	after, err := embedded.OpenCheckpoints(filepath.Join(other, "checkpoint"), s.Dir, streams.Name)
	require.NoError(t, err)
	cut, err := after.Cut(0, math.MaxUint64)
	require.NoError(t, err)
	require.True(t, cut)
	require.NoError(t, after.Close())
	s.Start(t)
	_, err = openJournal(t, s, other, streams.JournalOptions{})
	require.NoError(t, err)
	requireStored(t, s, want)
}

// tear damages what a server has written after the checkpoint: blocks end early, or have zeros in them.
func tear(t testing.TB, nats, journalDir string, seed int) {
	t.Helper()
	random := rand.New(rand.NewPCG(uint64(seed), 1))
	c, err := os.ReadFile(filepath.Join(journalDir, "checkpoint"))
	require.NoError(t, err)
	var checkpoint struct{ Block, Offset int64 }
	require.NoError(t, json.Unmarshal(c, &checkpoint))
	names, err := filepath.Glob(filepath.Join(nats, "jetstream", "$G", "streams", streams.Name, "msgs", "*.blk"))
	require.NoError(t, err)
	for _, name := range names {
		n, err := strconv.ParseInt(strings.TrimSuffix(filepath.Base(name), ".blk"), 10, 64)
		require.NoError(t, err)
		from := int64(0)
		switch {
		case n < checkpoint.Block:
			continue
		case n == checkpoint.Block:
			from = checkpoint.Offset
		}
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		size := int64(len(b))
		if size <= from {
			continue
		}
		at := from + random.Int64N(size-from)
		if random.IntN(2) == 0 {
			b = b[:at]
		} else {
			clear(b[at:min(size, at+4096)])
		}
		require.NoError(t, os.WriteFile(name, b, 0o600))
	}
}

// TestTheJournalWaitsForTheServer stops the server while events are stored: those that are answered are in the
// stream when it is back, and the door is closed meanwhile.
func TestTheJournalWaitsForTheServer(t *testing.T) {
	t.Parallel()
	j := runJournaled(t, streams.JournalOptions{AckTimeout: 200 * time.Millisecond})
	p := publisher(t, j.Server, streams.PublisherOptions{Journal: j.journal})
	want := map[string]uint64{}
	for n := 0; n < 300; n++ {
		switch n {
		case 100:
			j.Halt(t)
		case 200:
			streamstest.Eventually(t, streamstest.Limit, func() error {
				if j.journal.Refuses() == nil {
					return errors.New("the door is open")
				}
				return nil
			})
			_, err := p.Publish(t.Context(), messages("refused", 1))
			require.ErrorIs(t, err, streams.ErrUnavailable)
			require.NotEmpty(t, j.journal.Status().Error)
			j.Start(t)
			streamstest.Eventually(t, streamstest.Limit, j.journal.Refuses)
		}
		events := messages(domain.PageID(strconv.Itoa(n)), 2)
		receipts, err := p.Publish(t.Context(), events)
		if n >= 100 && n < 200 && err != nil {
			require.ErrorIs(t, err, streams.ErrUnavailable)
			continue
		}
		require.NoError(t, err)
		for k, r := range receipts {
			want[events[k].ID] = r.Seq
		}
	}
	j.flush(t)
	requireStored(t, j.Server, want)
}

// TestAFrameThatIsRefusedIsNotSkipped fills the stream to its limit.
func TestAFrameThatIsRefusedIsNotSkipped(t *testing.T) {
	t.Parallel()
	j := runJournaled(t, streams.JournalOptions{})
	j.Stream(t, streams.Spec{Journal: true, MaxBytes: 64 << 10})
	p := publisher(t, j.Server, streams.PublisherOptions{Journal: j.journal})
	want := map[string]uint64{}
	for n := 0; ; n++ {
		events := messages(domain.PageID(strconv.Itoa(n)), 1+n%7)
		events[0].Data.Message.Text = strings.Repeat("x", n%5*500) // a smaller one would still fit
		receipts, err := p.Publish(t.Context(), events)
		if err != nil {
			require.ErrorIs(t, err, streams.ErrUnavailable)
			break
		}
		for k, r := range receipts {
			want[events[k].ID] = r.Seq
		}
	}
	require.Positive(t, j.journal.Status().Waiting)
	streamstest.Eventually(t, streamstest.Limit, func() error { // the first answer is about the last event of many
		if s := j.journal.Status().Error; !strings.Contains(s, "maximum bytes exceeded") {
			return errors.New(s)
		}
		return nil
	})
	j.Stream(t, streams.Spec{Journal: true})
	streamstest.Eventually(t, streamstest.Limit, j.journal.Refuses)
	j.flush(t)
	requireStored(t, j.Server, want)
}

// TestEventsWithoutRoomAreRefused checks that the room that was told is not exceeded.
func TestEventsWithoutRoomAreRefused(t *testing.T) {
	t.Parallel()
	j := runJournaled(t, streams.JournalOptions{})
	p := publisher(t, j.Server, streams.PublisherOptions{Journal: j.journal})
	const room = 100 << 10
	stored := 0
	fill := func() (n int) {
		for {
			stored++
			_, err := p.Publish(t.Context(), messages(domain.PageID(strconv.Itoa(stored)), 1))
			if err == nil {
				n++
				continue
			}
			require.ErrorIs(t, err, streams.ErrNoRoom)
			require.ErrorIs(t, err, streams.ErrUnavailable)
			j.flush(t)
			return n
		}
	}
	j.journal.Measure()(room)
	all := fill()
	require.InDelta(t, 100, all, 80)
	j.journal.Measure()(room)
	require.InDelta(t, all, fill(), 5)
	// What is stored while the room is measured may have been counted or not.
	tell := j.journal.Measure()
	j.journal.Measure()(room / 2)
	half := fill()
	tell(room)
	require.InDelta(t, all, half+fill(), 5)
}

// TestTheRoomOfForeignEvents fills the room with events of another app, which have two ids.
func TestTheRoomOfForeignEvents(t *testing.T) {
	t.Parallel()
	j := runJournaled(t, streams.JournalOptions{})
	p := publisher(t, j.Server, streams.PublisherOptions{
		Journal: j.journal, Judge: &judge{standings: map[string]streams.Standing{"2": streams.Foreign}},
	})
	const room = 100 << 10
	j.journal.Measure()(room)
	var err error
	for n := 0; err == nil; n++ {
		events := messages(domain.PageID(strings.Repeat("7", 60)+strconv.Itoa(n)), 1)
		events[0].Data.AppID, events[0].Data.Source = "2", domain.SourceWebhook
		_, err = p.Publish(t.Context(), events)
	}
	require.ErrorIs(t, err, streams.ErrNoRoom)
	j.flush(t)
	info, err := streams.Info(t.Context(), j.JS, streams.Name)
	require.NoError(t, err)
	require.LessOrEqual(t, info.State.Bytes, uint64(room))
}

// TestDecisionsInTheJournalAreConditional checks Append and LastOf against events that JetStream does not have yet.
func TestDecisionsInTheJournalAreConditional(t *testing.T) {
	t.Parallel()
	j := runJournaled(t, streams.JournalOptions{AckTimeout: 500 * time.Millisecond})
	p := publisher(t, j.Server, streams.PublisherOptions{Journal: j.journal})
	decide := func(id string, after uint64) (streams.Receipt, error) {
		return p.Append(t.Context(), domain.Event{ID: id, Type: domain.PageConnected, Page: "7", Time: time.Now()}, after)
	}
	first, err := decide("a", 0)
	require.NoError(t, err)
	_, err = decide("b", 0)
	require.ErrorIs(t, err, streams.ErrConflict)
	again, err := decide("a", 0)
	require.NoError(t, err)
	require.Equal(t, streams.Receipt{Seq: first.Seq, Duplicate: streams.ByWindow}, again)
	last, err := p.LastOf(t.Context(), "7", domain.PageDisconnected)
	require.NoError(t, err)
	require.Equal(t, first.Seq, last)
	_, err = p.Publish(t.Context(), messages("7", 5))
	require.NoError(t, err)
	require.NoError(t, j.journal.Settle(t.Context()))
	last, err = p.LastOf(t.Context(), "7", domain.PageDisconnected)
	require.NoError(t, err)
	require.Equal(t, first.Seq, last, "from the stream")
	second, err := decide("c", last)
	require.NoError(t, err)

	// Of many at once, one wins.
	var won sync.Map
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			if _, err := decide(fmt.Sprint("d", i), second.Seq); err == nil {
				won.Store(i, true)
			} else {
				assert.ErrorIs(t, err, streams.ErrConflict)
			}
		})
	}
	callers.Wait()
	n := 0
	won.Range(func(any, any) bool { n++; return true })
	require.Equal(t, 1, n)
}

// TestAJournalOfAnotherStreamIsNotSent replaces the stream.
func TestAJournalOfAnotherStreamIsNotSent(t *testing.T) {
	t.Parallel()
	j := runJournaled(t, streams.JournalOptions{})
	p := publisher(t, j.Server, streams.PublisherOptions{Journal: j.journal})
	_, err := p.Publish(t.Context(), messages("1", 20))
	require.NoError(t, err)
	require.NoError(t, p.Close(t.Context()))
	j.flush(t)
	other := t.TempDir()
	copyDir(t, j.dir, other)

	j.DeleteStream(t, streams.Name)
	j.Stream(t, streams.Spec{Journal: true})
	c, err := embedded.OpenCheckpoints(filepath.Join(other, "checkpoint"), j.Dir, streams.Name)
	require.NoError(t, err)
	_, err = c.Cut(0, math.MaxUint64)
	require.ErrorIs(t, err, embedded.ErrOther)
	require.NoError(t, c.Close())
	put(t, j.Server, messages("2", 1))
	_, err = openJournal(t, j.Server, other, streams.JournalOptions{})
	require.ErrorIs(t, err, streams.ErrJournal)
}

// put adds events to the stream of a server as another program does.
func put(t testing.TB, s *streamstest.Server, events []domain.Event) {
	t.Helper()
	for _, e := range events {
		m, err := streams.Encode(e)
		require.NoError(t, err)
		_, err = s.JS.PublishMsg(t.Context(), m)
		require.NoError(t, err)
	}
}

// requireRefused waits until a journal accepts no events because they do not follow those of the stream.
func requireRefused(t testing.TB, j *journaled) {
	t.Helper()
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if err := j.journal.Refuses(); !errors.Is(err, streams.ErrJournal) {
			return fmt.Errorf("it is refused for another reason, or not: %w", err)
		}
		return nil
	})
}

// TestTheStreamOfAnOpenJournalIsReplaced replaces the stream by one with fewer and with more events. The journal goes on with
// it if the stream before had all that it has acknowledged. Otherwise it accepts no more, and keeps them. It never adds
// them to the other stream.
func TestTheStreamOfAnOpenJournalIsReplaced(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		others  int
		durable bool
	}{
		"shorter": {5, true}, "longer": {25, true}, "as long": {20, true}, "empty": {0, true},
		"shorter, not durable": {5, false}, "longer, not durable": {25, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j, g := gated(t, streamstest.Run(t, unsynced))
			p := publisher(t, j.Server, streams.PublisherOptions{Journal: j.journal})
			g.shut.Store(!c.durable)
			_, err := p.Publish(t.Context(), messages("1", 20))
			require.NoError(t, err)
			j.flush(t)
			if c.durable {
				require.NoError(t, j.journal.Settle(t.Context()))
			}
			j.DeleteStream(t, streams.Name)
			j.Stream(t, streams.Spec{Journal: true})
			put(t, j.Server, messages("2", c.others))
			want := c.others
			if c.durable {
				ctx, cancel := context.WithTimeout(t.Context(), streamstest.Limit)
				defer cancel()
				require.NoError(t, j.journal.Complete(ctx))
				want++
				receipts, err := p.Publish(t.Context(), messages("3", 1))
				require.NoError(t, err)
				require.Equal(t, uint64(want), receipts[0].Seq)
				j.flush(t)
			} else {
				j.journal.Suspect()
				requireRefused(t, j)
				_, last := j.files.Range()
				require.Equal(t, uint64(20), last)
			}
			list := stored(t, j.Server)
			require.Len(t, list, want)
			for _, e := range list[:c.others] {
				require.Equal(t, domain.PageID("2"), e.Page)
			}
		})
	}
}

// TestTheStreamIsReplacedDuringAnAppend lets the journal notice that the stream was replaced while it writes a large event
// to its files. If it is answered for, it is there.
func TestTheStreamIsReplacedDuringAnAppend(t *testing.T) {
	t.Parallel()
	j := runJournaled(t, streams.JournalOptions{}, unsynced)
	p := publisher(t, j.Server, streams.PublisherOptions{Journal: j.journal})
	_, err := p.Publish(t.Context(), messages("1", 20))
	require.NoError(t, err)
	require.NoError(t, j.journal.Settle(t.Context()))
	j.DeleteStream(t, streams.Name)
	j.Stream(t, streams.Spec{Journal: true})
	put(t, j.Server, messages("2", 5))
	events := messages("3", 1)
	events[0].Data.Message.Text = strings.Repeat("x", 12<<20)
	var receipts []streams.Receipt
	storing := make(chan error, 1)
	go func() {
		var err error
		receipts, err = p.Publish(t.Context(), events)
		storing <- err
	}()
	for began := false; !began && len(storing) == 0; { // until there is a segment for it
		entries, err := os.ReadDir(j.dir)
		require.NoError(t, err)
		for _, e := range entries {
			info, err := e.Info()
			began = began || err == nil && info.Size() > 1<<20
		}
	}
	j.journal.Suspect()
	if err := <-storing; err != nil {
		require.ErrorIs(t, err, streams.ErrUnavailable)
		return
	}
	_, last := j.files.Range()
	require.Equal(t, receipts[0].Seq, last)
}

// TestAnOlderStreamThatWentOn puts back an older copy of the stream, to which other events were added, while the journal
// is open and has some that were not durable.
func TestAnOlderStreamThatWentOn(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	j, g := gated(t, s)
	p := publisher(t, s, streams.PublisherOptions{Journal: j.journal})
	_, err := p.Publish(t.Context(), messages("1", 10))
	require.NoError(t, err)
	require.NoError(t, j.journal.Settle(t.Context()))
	s.Halt(t)
	older := t.TempDir()
	copyDir(t, s.Dir, older)
	s.Start(t)
	streamstest.Eventually(t, streamstest.Limit, j.journal.Refuses)
	g.shut.Store(true)
	_, err = p.Publish(t.Context(), messages("2", 10))
	require.NoError(t, err)
	j.flush(t)
	s.Halt(t)
	require.NoError(t, os.RemoveAll(filepath.Join(older, "lock")))
	other := streamstest.Run(t, func(o *embedded.Options) { o.Dir = older })
	put(t, other, messages("3", 2))
	other.Stop(t)
	require.NoError(t, os.RemoveAll(filepath.Join(s.Dir, "jetstream")))
	copyDir(t, filepath.Join(older, "jetstream"), filepath.Join(s.Dir, "jetstream"))
	s.Start(t)
	requireRefused(t, j)
	list := stored(t, s)
	require.Len(t, list, 12)
	require.Equal(t, domain.PageID("3"), list[11].Page)
}

// TestSettleRemovesFromTheJournal looks for the bytes of an erased event in all files.
func TestSettleRemovesFromTheJournal(t *testing.T) {
	t.Parallel()
	j := runJournaled(t, streams.JournalOptions{})
	p := publisher(t, j.Server, streams.PublisherOptions{Journal: j.journal})
	events := messages("1", 3)
	events[1].Data.Message.Text = "a secret of a person"
	events[1].Data.Raw = nil
	receipts, err := p.Publish(t.Context(), events)
	require.NoError(t, err)
	j.flush(t)
	found := func() []string { return streamstest.FilesWith(t, streamstest.Has("a secret of"), j.dir, j.Dir) }
	require.NotEmpty(t, found())
	seqs := []uint64{receipts[1].Seq}
	n, err := j.journal.Erase(t.Context(), seqs, func(streams.Stored) bool { return false })
	require.NoError(t, err)
	require.Zero(t, n)
	require.NotEmpty(t, found(), "it is another event than expected")
	// An earlier try has deleted the event, and was interrupted before it overwrote the bytes.
	st, err := j.JS.Stream(t.Context(), streams.Name)
	require.NoError(t, err)
	require.NoError(t, st.DeleteMsg(t.Context(), seqs[0]))
	require.NoError(t, j.journal.Settle(t.Context()))
	require.NotEmpty(t, found())
	n, err = j.journal.Erase(t.Context(), seqs, func(streams.Stored) bool { return true })
	require.NoError(t, err)
	require.Zero(t, n)
	require.Empty(t, found())
	receipts, err = p.Publish(t.Context(), messages("2", 1))
	require.NoError(t, err)
	require.Equal(t, uint64(4), receipts[0].Seq)
	n, err = j.journal.Erase(t.Context(), []uint64{4}, func(streams.Stored) bool { return true })
	require.NoError(t, err)
	require.Equal(t, 1, n)
}

// TestEraseInCompressedBlocks looks for the bytes of erased events in all blocks of a stream, while the server fills more
// of them.
func TestEraseInCompressedBlocks(t *testing.T) {
	t.Parallel()
	j := runJournaled(t, streams.JournalOptions{})
	p := publisher(t, j.Server, streams.PublisherOptions{Journal: j.journal})
	secret := func(i int) string { return fmt.Sprintf("secret-%03d-of-a-person", i) }
	var stored []uint64
	store := func(n int) {
		for range n {
			e := messages("1", 1)[0]
			e.ID, e.Data.Raw = fmt.Sprint("id_", len(stored)), nil
			e.Data.Message.Text = secret(len(stored)) + strings.Repeat(" and more", 30_000)
			receipts, err := p.Publish(t.Context(), []domain.Event{e})
			require.NoError(t, err)
			stored = append(stored, receipts[0].Seq)
		}
	}
	store(140) // a block has some 31
	j.flush(t)
	msgs := filepath.Join(j.Dir, "jetstream", "$G", "streams", streams.Name, "msgs")
	blocks := func() (names []string, compressed int, all []byte) {
		names, err := filepath.Glob(filepath.Join(msgs, "*.blk"))
		require.NoError(t, err)
		for _, name := range names {
			b, err := os.ReadFile(name)
			require.NoError(t, err)
			if bytes.HasPrefix(b, []byte("cmp")) {
				compressed++
			}
			b, err = streamstest.ReadBlock(name)
			require.NoError(t, err)
			all = append(all, b...)
		}
		return names, compressed, all
	}
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if names, compressed, _ := blocks(); compressed < len(names)-1 {
			return fmt.Errorf("%d of %d blocks are compressed", compressed, len(names))
		}
		return nil
	})
	var erased []int
	var seqs []uint64
	for i := 0; i < len(stored); i += 7 {
		erased, seqs = append(erased, i), append(seqs, stored[i])
	}
	var storing sync.WaitGroup
	storing.Go(func() { store(40) })
	n, err := j.journal.Erase(t.Context(), seqs, func(streams.Stored) bool { return true })
	storing.Wait()
	require.NoError(t, err)
	require.Equal(t, len(seqs), n)
	_, _, all := blocks()
	for i := range 140 {
		require.Equal(t, !slices.Contains(erased, i), bytes.Contains(all, []byte(secret(i))), "event %d", i)
	}
	for i, seq := range stored {
		_, err := streams.Get(t.Context(), j.JS, streams.Name, seq)
		if slices.Contains(erased, i) {
			require.ErrorIs(t, err, streams.ErrNotFound)
		} else {
			require.NoError(t, err)
		}
	}
}

// seenUpto is an index of ids that is behind.
type seenUpto struct{ at uint64 }

func (x seenUpto) Seen(ids []string) ([]uint64, uint64, error) {
	return make([]uint64, len(ids)), x.at, nil
}

// TestIdsThatTheIndexLacksAreKnown starts with an index that is behind, and lets it stay behind.
func TestIdsThatTheIndexLacksAreKnown(t *testing.T) {
	t.Parallel()
	j := runJournaled(t, streams.JournalOptions{})
	p := publisher(t, j.Server, streams.PublisherOptions{Journal: j.journal})
	events := messages("1", 100)
	_, err := p.Publish(t.Context(), events)
	require.NoError(t, err)
	require.NoError(t, p.Close(t.Context()))
	j.flush(t)
	p = publisher(t, j.Server, streams.PublisherOptions{Journal: j.journal, Seen: seenUpto{40}})
	receipts, err := p.Publish(t.Context(), events[40:])
	require.NoError(t, err)
	for i, r := range receipts {
		require.Equal(t, streams.Receipt{Seq: uint64(41 + i), Duplicate: streams.ByWindow}, r)
	}
	require.Equal(t, uint64(41), p.Remembered())
}

// losing is an index that has every id up to a sequence, and can lose ground.
type losing struct {
	upto       atomic.Uint64
	incomplete atomic.Bool
}

func (x *losing) Seen(ids []string) ([]uint64, uint64, error) {
	if x.incomplete.Load() {
		return make([]uint64, len(ids)), 0, streams.ErrIncomplete
	}
	return make([]uint64, len(ids)), x.upto.Load(), nil
}

// TestAnIndexThatLosesGround stores so many events that the publisher forgets the first one, which the index has. Then the
// index does not have it any more: it was opened again as of an earlier event, or is built again. The event is refused when
// it comes again, although it is young enough for the window, until the index has it.
func TestAnIndexThatLosesGround(t *testing.T) {
	t.Parallel()
	j := runJournaled(t, streams.JournalOptions{}, unsynced)
	x := &losing{}
	x.upto.Store(1 << 40)
	const window, retry = 10 * time.Minute, time.Second
	p := publisher(t, j.Server, streams.PublisherOptions{Journal: j.journal, Seen: x, Window: window, RetryFor: retry})
	event := messages("first", 1)
	event[0].Time = time.Now().Add(window/10 + retry)
	_, err := p.Publish(t.Context(), event)
	require.NoError(t, err)
	for n := 0; p.Remembered() == 1; n++ {
		_, err := p.Publish(t.Context(), messages(domain.PageID(strconv.Itoa(n)), 1000))
		require.NoError(t, err)
	}
	refused := func() {
		t.Helper()
		_, err := p.Publish(t.Context(), event)
		require.ErrorIs(t, err, streams.ErrUnavailable)
		require.ErrorIs(t, err, streams.ErrIncomplete)
	}
	x.upto.Store(p.Remembered() - 2)
	refused()
	x.incomplete.Store(true)
	refused()
	x.incomplete.Store(false)
	x.upto.Store(p.Remembered() - 1)
	receipts, err := p.Publish(t.Context(), messages("other", 1))
	require.NoError(t, err)
	j.flush(t)
	e, err := streams.Get(t.Context(), j.JS, streams.Name, receipts[0].Seq)
	require.NoError(t, err)
	require.True(t, e.Unique)
}

// TestForgetKnowsWhatWaitsForJetStream publishes events again as soon as they were answered for and forgotten.
func TestForgetKnowsWhatWaitsForJetStream(t *testing.T) {
	t.Parallel()
	j := runJournaled(t, streams.JournalOptions{}, unsynced)
	p := publisher(t, j.Server, streams.PublisherOptions{Journal: j.journal, Seen: seenUpto{0}})
	for n := range 20 {
		events := messages(domain.PageID(strconv.Itoa(n)), 100)
		first, err := p.Publish(t.Context(), events)
		require.NoError(t, err)
		p.Forget(0)
		again, err := p.Publish(t.Context(), events)
		require.NoError(t, err)
		for i, r := range first {
			require.Equal(t, streams.Receipt{Seq: r.Seq, Duplicate: streams.ByWindow}, again[i])
		}
	}
}

// TestASlowReaderComesBack lets a subscriber fall out of the tail and read the stream, while others are at its end.
func TestASlowReaderComesBack(t *testing.T) {
	t.Parallel()
	j := runJournaled(t, streams.JournalOptions{}, unsynced)
	p := publisher(t, j.Server, streams.PublisherOptions{Journal: j.journal})
	const pages, each = 40, 250
	ctx, cancel := context.WithTimeout(t.Context(), 2*streamstest.Limit)
	defer cancel()
	var readers sync.WaitGroup
	for _, every := range []int{0, 500, 3000} { // a reader stops for a while at each so many events
		readers.Go(func() {
			next, done := uint64(1), errors.New("done")
			err := streams.FollowMessages(ctx, j.JS, streams.Name, 1, j.tail, func(list []streams.Message) error {
				for _, m := range list {
					if m.Seq != next {
						return fmt.Errorf("event %d after %d", m.Seq, next-1)
					}
					if next++; every > 0 && int(m.Seq)%every == 0 {
						timer := time.NewTimer(100 * time.Millisecond)
						<-timer.C
					}
				}
				if next > pages*each {
					return done
				}
				return nil
			})
			assert.ErrorIs(t, err, done, "reader %d is at %d", every, next)
		})
	}
	for n := range pages {
		_, err := p.Publish(t.Context(), messages(domain.PageID(strconv.Itoa(n)), each))
		require.NoError(t, err)
	}
	readers.Wait()
}

// TestASlowModelBesideAFastStream stores events as fast as it can while one of three subscribers sleeps again and again,
// so long that it falls out of what is handed over in the process. It reads the stream then, and comes back. Each of them
// gets each event once and in order, and the others are not kept waiting. It logs how fast that was.
func TestASlowModelBesideAFastStream(t *testing.T) {
	t.Parallel()
	const pages, each = 16, 250
	requests := streamstest.Volume(20, 4)
	events := uint64(pages * requests * each)
	s := streamstest.Run(t, unsynced)
	tail := streams.NewFedTail(streams.TailOptions{Events: streamstest.Volume(streams.DefaultTailEvents, 1000)})
	j, err := openJournal(t, s, t.TempDir(), streams.JournalOptions{Tail: tail}, func(o *journal.Options) { o.Segment = 0 })
	require.NoError(t, err)
	p := publisher(t, s, streams.PublisherOptions{Journal: j.journal})
	prepared := make([][]domain.Event, pages)
	for n := range prepared {
		prepared[n] = messages(domain.PageID(strconv.Itoa(n)), requests*each)
	}
	began := time.Now()
	var running errgroup.Group
	var took [3]time.Duration
	for n := range took {
		sub := streams.NewSubscriber(s.JS, streams.SubscriberOptions{Tail: tail, Batch: 1000})
		t.Cleanup(func() { assert.NoError(t, sub.Close()) })
		in, err := sub.Subscribe(t.Context(), streams.All)
		require.NoError(t, err)
		running.Go(func() error {
			for next := uint64(1); next <= events; {
				m, ok := <-in
				if !ok {
					return fmt.Errorf("the subscription of %d ended before event %d", n, next)
				}
				list, err := streams.EventsOf(m)
				if err != nil {
					return err
				}
				for _, e := range list {
					if e.Seq != next {
						return fmt.Errorf("event %d after %d", e.Seq, next-1)
					}
					next++
				}
				if n == 0 && list[len(list)-1].Seq%(events/4) < uint64(len(list)) {
					<-time.After(400 * time.Millisecond)
				}
				m.Ack()
			}
			took[n] = time.Since(began)
			return nil
		})
	}
	var stored time.Duration
	var storing errgroup.Group
	for _, list := range prepared {
		storing.Go(func() error {
			for part := range slices.Chunk(list, each) {
				if _, err := p.Publish(t.Context(), part); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, storing.Wait())
	stored = time.Since(began)
	require.NoError(t, running.Wait())
	t.Logf("%.0f events/s; the subscribers had all after %v, %v and %v", float64(events)/stored.Seconds(), took[0], took[1], took[2])
}

// TestHandedOverEventsAreThoseOfTheStream compares what readers get that were handed an event, most of which are not
// decoded, with the stream: for each kind of item, an event of another app, text that is not UTF-8, and an event of ours.
func TestHandedOverEventsAreThoseOfTheStream(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	tail := streams.NewFedTail(streams.TailOptions{})
	j, err := openJournal(t, s, t.TempDir(), streams.JournalOptions{Tail: tail})
	require.NoError(t, err)
	p := publisher(t, s, streams.PublisherOptions{Journal: j.journal})
	in, err := streams.NewSubscriber(s.JS, streams.SubscriberOptions{Tail: tail, Batch: 1000}).Subscribe(t.Context(), streams.All)
	require.NoError(t, err)
	_, err = p.Publish(t.Context(), messages("1", 1)) // those after it come from the tail
	require.NoError(t, err)
	first := <-in
	first.Ack()

	files, err := filepath.Glob("../domain/messenger/testdata/*.json")
	require.NoError(t, err)
	bodies := [][]byte{[]byte("{\"entry\":[{\"id\":\"9\",\"messaging\":[{\"\xff\":1},{\"message\":{\"mid\":\"m\",\"text\":\"\xff\ufffd\"}}]}]}")}
	for _, file := range files {
		if !strings.HasSuffix(file, ".golden.json") {
			b, err := os.ReadFile(file)
			require.NoError(t, err)
			bodies = append(bodies, b)
		}
	}
	var last uint64
	for _, body := range append(bodies, []byte("not JSON")) {
		receipts, err := p.Publish(t.Context(), messenger.Split(bytes.Clone(body), messenger.Options{App: "main"}).Events)
		require.NoError(t, err)
		for _, r := range receipts {
			last = max(last, r.Seq)
		}
	}
	r, err := p.Append(t.Context(), domain.Event{
		ID: "c", Type: domain.PageConnected, Page: "5", Data: domain.Data{Connection: &domain.Connection{Fields: []string{}}},
	}, 0)
	require.NoError(t, err)
	last = max(last, r.Seq)
	require.Greater(t, last, uint64(50), "there are kinds of items")
	for next := uint64(2); next <= last; {
		m := <-in
		list, err := streams.EventsOf(m)
		require.NoError(t, err)
		for _, e := range list {
			want, err := streams.Get(t.Context(), s.JS, streams.Name, e.Seq)
			require.NoError(t, err)
			require.Equal(t, next, e.Seq)
			require.Equal(t, want, e.Stored)
			next++
		}
		m.Ack()
	}
}

// TestAFloodIsStoredAsFastAsJetStream stores many more bytes than may wait for JetStream. All are stored: the committer
// keeps pace, instead of going ahead until everything is refused.
func TestAFloodIsStoredAsFastAsJetStream(t *testing.T) {
	t.Parallel()
	j := runJournaled(t, streams.JournalOptions{Limit: 4 << 20}, unsynced)
	p := publisher(t, j.Server, streams.PublisherOptions{Journal: j.journal})
	var storing errgroup.Group
	for n := range 16 {
		storing.Go(func() error {
			for part := range slices.Chunk(messages(domain.PageID(strconv.Itoa(n)), 1000), 100) {
				if _, err := p.Publish(t.Context(), part); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, storing.Wait())
}

// TestTheStreamOfAJournal checks that the mode of a stream can't be changed.
func TestTheStreamOfAJournal(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t)
	s.Stream(t, streams.Spec{})
	_, err := streams.Ensure(t.Context(), s.JS, streams.Spec{Journal: true})
	require.ErrorIs(t, err, streams.ErrMismatch)
	s.DeleteStream(t, streams.Name)
	s.Stream(t, streams.Spec{Journal: true})
	st, err := s.JS.Stream(t.Context(), streams.Name)
	require.NoError(t, err)
	require.Equal(t, jetstream.AsyncPersistMode, st.CachedInfo().Config.PersistMode)
	_, err = streams.Ensure(t.Context(), s.JS, streams.Spec{})
	require.ErrorIs(t, err, streams.ErrMismatch)
}
