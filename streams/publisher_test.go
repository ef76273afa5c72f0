package streams_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// TestMain checks that no goroutines are leaked. A nats-server that is shut down while a batch starts may leak the
// goroutines of that batch's store, which these tests can't stop.
func TestMain(m *testing.M) {
	const store = "github.com/nats-io/nats-server/v2/server."
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction(store+"(*msgBlock).flushLoop"),
		goleak.IgnoreTopFunction(store+"(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreTopFunction(store+"(*fileStore).syncBlocks"),
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"),
	)
}

// unsynced turns off disk syncs, for tests that are not about durability.
func unsynced(o *embedded.Options) { o.Sync = embedded.SyncInterval }

// messages returns n different messages of one page.
func messages(page domain.PageID, n int) []domain.Event {
	events := make([]domain.Event, n)
	for i := range events {
		mid := fmt.Sprintf("m_%s_%d", page, i)
		events[i] = domain.Event{
			ID: domain.DedupID("page", page, "msg", mid), Type: domain.MessageReceived, Page: page, Contact: "9",
			Time: time.UnixMilli(1790000000000 + int64(i)).UTC(),
			Data: domain.Data{
				Object: "page", Message: &domain.Message{MID: mid, Text: "hello"},
				Raw: []byte(`{"message":{"mid":"` + mid + `","text":"hello"}}`),
			},
		}
	}
	return events
}

func publish(t testing.TB, s *streamstest.Server, events []domain.Event) []streams.Receipt {
	t.Helper()
	p := publisher(t, s, streams.PublisherOptions{})
	ctx, cancel := context.WithTimeout(context.Background(), streamstest.Limit)
	defer cancel()
	receipts, err := p.Publish(ctx, events)
	require.NoError(t, err)
	return receipts
}

func publisher(t testing.TB, s *streamstest.Server, o streams.PublisherOptions) *streams.Publisher {
	t.Helper()
	p, err := streams.NewPublisher(s.JS, o)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), streamstest.Limit)
		defer cancel()
		assert.NoError(t, p.Close(ctx))
	})
	return p
}

// stored returns all events of the stream.
func stored(t testing.TB, s *streamstest.Server) []streams.Stored {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), streamstest.Limit)
	defer cancel()
	var out []streams.Stored
	_, err := streams.Read(ctx, s.JS, streams.ReadOptions{}, func(e streams.Stored) error {
		out = append(out, e)
		return nil
	})
	require.NoError(t, err)
	return out
}

// seen is a SeenIndex with fixed content.
type seen map[string]uint64

func (s seen) Seen(ids []string) ([]uint64, uint64, error) {
	out := make([]uint64, len(ids))
	for i, id := range ids {
		out[i] = s[id]
	}
	return out, 0, nil
}

func TestPublishKeepsOrderAndReceipts(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 5, 15, 16, 999, 1000, 1001, 2500} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			s := streamstest.Run(t)
			s.Stream(t, streams.Spec{})
			var batches atomic.Int64
			p := publisher(t, s, streams.PublisherOptions{Observe: func(o streams.BatchObservation) {
				if o.Atomic {
					batches.Add(1)
				}
			}})
			events := messages("100", n)
			receipts, err := p.Publish(t.Context(), events)
			require.NoError(t, err)
			require.Equal(t, n >= streams.DefaultBatchThreshold, batches.Load() > 0,
				"atomic batches for %d events", n)
			got := stored(t, s)
			require.Len(t, got, n)
			for i := range got {
				require.Equal(t, events[i].ID, got[i].ID, "event %d", i)
				require.Equal(t, streams.Receipt{Seq: uint64(i + 1)}, receipts[i], "event %d", i)
			}
		})
	}
}

func TestPublishRecognisesDuplicates(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	events := messages("100", 40)
	first := publish(t, s, events)

	t.Run("by window", func(t *testing.T) {
		// A new publisher remembers no ids, but JetStream's window does. The 40 old events make JetStream
		// reject the batch, so all events are published one by one.
		mixed := append(messages("200", 40), events...)
		receipts := publish(t, s, mixed)
		for i, r := range receipts {
			if i < 40 {
				require.Equal(t, streams.NotDuplicate, r.Duplicate, "new event %d", i)
				continue
			}
			require.Equal(t, streams.ByWindow, r.Duplicate, "old event %d", i)
			require.Equal(t, first[i-40].Seq, r.Seq, "old event %d", i)
		}
	})
	t.Run("by index", func(t *testing.T) {
		p := publisher(t, s, streams.PublisherOptions{Seen: seen{events[3].ID: 4}})
		receipts, err := p.Publish(t.Context(), events[3:4])
		require.NoError(t, err)
		require.Equal(t, streams.Receipt{Seq: 4, Duplicate: streams.ByIndex}, receipts[0])
	})
	t.Run("twice in one call", func(t *testing.T) {
		e := messages("300", 1)[0]
		receipts := publish(t, s, []domain.Event{e, e, e})
		require.Equal(t, streams.NotDuplicate, receipts[0].Duplicate)
		require.Equal(t, streams.ByWindow, receipts[1].Duplicate)
		require.Equal(t, receipts[1], receipts[2])
		require.Equal(t, receipts[0].Seq, receipts[1].Seq)
	})
	require.Len(t, stored(t, s), 81)
}

// TestIndexRecognisesDuplicatesAfterTheWindow checks that the index recognises a duplicate that is older than
// JetStream's window.
func TestIndexRecognisesDuplicatesAfterTheWindow(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{Window: 100 * time.Millisecond})
	e := messages("100", 1)
	publish(t, s, e)
	// Without the index it is stored again after the window, which shows that the test can fail.
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if r := publish(t, s, e)[0]; r.Duplicate != streams.NotDuplicate {
			return fmt.Errorf("still a duplicate by %s", r.Duplicate)
		}
		return nil
	})
	require.Len(t, stored(t, s), 2, "the event is stored twice")
	p := publisher(t, s, streams.PublisherOptions{Seen: seen{e[0].ID: 1}})
	r, err := p.Publish(t.Context(), e)
	require.NoError(t, err)
	require.Equal(t, streams.ByIndex, r[0].Duplicate)
}

// TestConcurrentPublishStoresOnceAndInOrder checks that concurrent callers' events are stored exactly once, and those
// of each caller in its order.
func TestConcurrentPublishStoresOnceAndInOrder(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	p := publisher(t, s, streams.PublisherOptions{})
	const callers, calls = 64, 20
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			page := domain.PageID(fmt.Sprint(1000 + c))
			events := messages(page, calls)
			for i := range events {
				_, err := p.Publish(t.Context(), events[i:i+1])
				if !assert.NoError(t, err) {
					return
				}
				if i%4 == 0 { // publish it again at once
					r, err := p.Publish(t.Context(), events[i:i+1])
					if assert.NoError(t, err, "published again") {
						assert.NotEqual(t, streams.NotDuplicate, r[0].Duplicate, "published again")
					}
				}
			}
		})
	}
	wg.Wait()
	next := map[domain.PageID]int{}
	for _, e := range stored(t, s) {
		want := fmt.Sprintf("m_%s_%d", e.Page, next[e.Page])
		require.Equal(t, want, e.Data.Message.MID)
		next[e.Page]++
	}
	for page, n := range next {
		require.Equal(t, calls, n, "page %s", page)
	}
	require.Len(t, next, callers)
}

func TestPublishRefusesTooLargeEvents(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced, func(o *embedded.Options) { o.MaxPayload = 64 << 10 })
	s.Stream(t, streams.Spec{})
	p := publisher(t, s, streams.PublisherOptions{})
	big := messages("100", 1)
	big[0].Data.Raw = []byte(`"` + strings.Repeat("x", 70<<10) + `"`)
	_, err := p.Publish(t.Context(), big)
	require.ErrorIs(t, err, streams.ErrTooLarge)
	_, err = p.Publish(t.Context(), messages("200", 1))
	require.NoError(t, err, "the next event")
}

// TestFullStreamRefusesEvents checks that a full stream refuses events and keeps those that it acknowledged.
func TestFullStreamRefusesEvents(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{MaxBytes: 64 << 10})
	p := publisher(t, s, streams.PublisherOptions{})
	acked := 0
	for i := range 1000 {
		_, err := p.Publish(t.Context(), messages(domain.PageID(fmt.Sprint(i+1)), 1+i%40))
		if errors.Is(err, streams.ErrUnavailable) {
			break
		}
		require.NoError(t, err)
		acked += 1 + i%40
	}
	got := len(stored(t, s))
	require.GreaterOrEqual(t, got, acked)
	require.NotZero(t, acked)
	require.LessOrEqual(t, acked, 10_000)
}

// TestAcknowledgedEventsSurviveAStopUnderLoad checks that every acknowledged event is there after a restart on the
// same directory.
func TestAcknowledgedEventsSurviveAStopUnderLoad(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t)
	s.Stream(t, streams.Spec{})
	p := publisher(t, s, streams.PublisherOptions{AckTimeout: 500 * time.Millisecond})
	var mu sync.Mutex
	acked := map[string]bool{}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for c := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				events := messages(domain.PageID(fmt.Sprintf("%d-%d", c, i)), 1+i%30)
				if _, err := p.Publish(t.Context(), events); err != nil {
					return
				}
				mu.Lock()
				for _, e := range events {
					acked[e.ID] = true
				}
				mu.Unlock()
			}
		})
	}
	streamstest.Eventually(t, streamstest.Limit, func() error {
		mu.Lock()
		defer mu.Unlock()
		if len(acked) < 500 {
			return fmt.Errorf("%d acknowledged", len(acked))
		}
		return nil
	})
	s.Stop(t)
	close(stop)
	wg.Wait()

	restarted := streamstest.Run(t, func(o *embedded.Options) { o.Dir = s.Dir })
	found := map[string]int{}
	for _, e := range stored(t, restarted) {
		found[e.ID]++
	}
	for id := range acked {
		require.Equal(t, 1, found[id], "acknowledged event %s", id)
	}
}

// TestPublishWaitsForARestart checks that callers wait while the server restarts, that no event is refused or stored
// twice, and that each caller's events keep their order.
func TestPublishWaitsForARestart(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t)
	s.Stream(t, streams.Spec{})
	p := publisher(t, s, streams.PublisherOptions{AckTimeout: time.Second, RetryFor: streamstest.Limit})
	const callers = 24
	var wg sync.WaitGroup
	var acked atomic.Int64
	stop := make(chan struct{})
	for c := range callers {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				e := messages(domain.PageID(fmt.Sprintf("%d-%d", c, i)), 1)
				e[0].Contact = domain.ContactID(fmt.Sprint(c))
				e[0].Data.EntryTime = int64(i)
				r, err := p.Publish(bounded(t), e)
				if !assert.NoError(t, err, "caller %d, event %d", c, i) ||
					!assert.Equal(t, streams.NotDuplicate, r[0].Duplicate, "caller %d, event %d", c, i) {
					return
				}
				acked.Add(1)
			}
		})
	}
	waitForMore := func() {
		before := acked.Load()
		streamstest.Eventually(t, streamstest.Limit, func() error {
			if n := acked.Load() - before; n < 500 {
				return fmt.Errorf("%d acknowledged", n)
			}
			return nil
		})
	}
	waitForMore()
	for range 2 {
		s.Halt(t)
		s.Start(t)
		waitForMore()
	}
	close(stop)
	wg.Wait()

	next := map[domain.ContactID]int64{}
	for _, e := range stored(t, s) {
		require.Equal(t, next[e.Contact], e.Data.EntryTime, "caller %s", e.Contact)
		next[e.Contact]++
	}
	var total int64
	for _, n := range next {
		total += n
	}
	require.Equal(t, acked.Load(), total)
}

// TestPublishWithoutStreamFails checks that Publish and Append fail soon if there is no stream.
func TestPublishWithoutStreamFails(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	p := publisher(t, s, streams.PublisherOptions{})
	for _, n := range []int{1, 40} {
		_, err := p.Publish(bounded(t), messages("1", n))
		require.ErrorIs(t, err, streams.ErrUnavailable, "%d events", n)
	}
	_, err := p.Append(bounded(t), messages("1", 1)[0], 0)
	require.ErrorIs(t, err, streams.ErrUnavailable)
}

// TestPublishAndCloseEndWithTheirContext checks that, while the server is down, Publish and Close wait no longer than
// their contexts allow.
func TestPublishAndCloseEndWithTheirContext(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t)
	s.Stream(t, streams.Spec{})
	o := streams.PublisherOptions{AckTimeout: 100 * time.Millisecond, RetryFor: time.Hour}
	p, err := streams.NewPublisher(s.JS, o)
	require.NoError(t, err)
	s.Halt(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = p.Publish(ctx, messages("1", 20))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	waiting := make(chan error, 1)
	go func() { _, err := p.Publish(bounded(t), messages("2", 20)); waiting <- err }()
	streamstest.Eventually(t, streamstest.Limit, func() error { // Close may be called before Publish
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_ = p.Close(ctx)
		select {
		case err := <-waiting:
			if !errors.Is(err, streams.ErrUnavailable) {
				require.ErrorIs(t, err, streams.ErrClosed, "the waiting caller")
			}
			return nil
		default:
			return errors.New("the caller still waits")
		}
	})
	require.NoError(t, p.Close(bounded(t)))
}

// TestReceiptsAreRightWithSeveralPublishers checks that the events of a batch have the sequences of their receipts
// while other publishers store events too.
func TestReceiptsAreRightWithSeveralPublishers(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	at := map[uint64]string{}
	for c := range 3 {
		p := publisher(t, s, streams.PublisherOptions{})
		wg.Go(func() {
			for i := range 10 {
				events := messages(domain.PageID(fmt.Sprintf("%d-%d", c, i)), 30*c*i%100+1)
				receipts, err := p.Publish(bounded(t), events)
				if !assert.NoError(t, err) {
					return
				}
				mu.Lock()
				for j, r := range receipts {
					at[r.Seq] = events[j].ID
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	all := stored(t, s)
	for _, e := range all {
		require.Equal(t, e.ID, at[e.Seq], "the receipt for sequence %d", e.Seq)
	}
	require.Len(t, all, len(at))
}

// TestFullServerRefusesEvents checks that, when the server's store is full, no event is acknowledged that is not
// stored, and JetStream stays on.
func TestFullServerRefusesEvents(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, func(o *embedded.Options) { o.MaxStore = 256 << 10 })
	s.Stream(t, streams.Spec{})
	p := publisher(t, s, streams.PublisherOptions{})
	acked, refused := 0, 0
	for i := 0; refused < 3 && i < 1000; i++ {
		n := 1 + i%40
		_, err := p.Publish(bounded(t), messages(domain.PageID(fmt.Sprint(i+1)), n))
		switch {
		case err == nil:
			acked += n
		case errors.Is(err, streams.ErrUnavailable):
			refused++
		default:
			require.NoError(t, err)
		}
	}
	require.NotZero(t, refused, "the store did not fill")
	require.NoError(t, s.Embedded().Healthy())
	got := len(stored(t, s))
	require.GreaterOrEqual(t, got, acked)
	require.NotZero(t, acked)
}

func TestAppendReturnsErrConflictForAnOldDecision(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	p := publisher(t, s, streams.PublisherOptions{})
	event := func(n int) domain.Event {
		return domain.Event{ID: fmt.Sprintf("pagestream:100:page:%d", n), Type: domain.PageConnected, Page: "100"}
	}
	last, err := p.LastOf(t.Context(), "100", domain.PageConnected)
	require.NoError(t, err)
	require.Zero(t, last)
	r, err := p.Append(t.Context(), event(1), 0)
	require.NoError(t, err)
	_, err = p.Append(t.Context(), event(2), 0)
	require.ErrorIs(t, err, streams.ErrConflict, "a decision based on an old state")
	// Events of another noun are no conflict.
	publish(t, s, messages("100", 3))
	last, err = p.LastOf(t.Context(), "100", domain.PageRenamed)
	require.NoError(t, err)
	require.Equal(t, r.Seq, last)
	_, err = p.Append(t.Context(), event(3), last)
	require.NoError(t, err)
}

func TestClosedPublisherRefusesEvents(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	p, err := streams.NewPublisher(s.JS, streams.PublisherOptions{})
	require.NoError(t, err)
	for range 2 {
		require.NoError(t, p.Close(t.Context()))
	}
	_, err = p.Publish(t.Context(), messages("1", 1))
	require.ErrorIs(t, err, streams.ErrClosed)
}

func TestPublishReturnsErrOverloaded(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t)
	s.Stream(t, streams.Spec{})
	block := make(chan struct{})
	called := make(chan struct{}, 10)
	p := publisher(t, s, streams.PublisherOptions{QueueLimit: 10, Seen: blocking{called, block}})
	first := make(chan error, 1)
	// A call over the limit is accepted when nothing else waits, since otherwise it would be refused each time.
	go func() { _, err := p.Publish(t.Context(), messages("1", 12)); first <- err }()
	<-called
	_, err := p.Publish(t.Context(), messages("2", 1))
	require.ErrorIs(t, err, streams.ErrOverloaded)
	close(block)
	require.NoError(t, <-first)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		_, err := p.Publish(t.Context(), messages("2", 10))
		return err
	})
}

// blocking is a SeenIndex that blocks until a channel is closed.
type blocking struct{ called, until chan struct{} }

func (b blocking) Seen(ids []string) ([]uint64, uint64, error) {
	b.called <- struct{}{}
	<-b.until
	return make([]uint64, len(ids)), 0, nil
}

// TestPublishFailsWithoutTheIndex checks that nothing is stored if the index fails, since an old duplicate might be
// stored again.
func TestPublishFailsWithoutTheIndex(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	p := publisher(t, s, streams.PublisherOptions{Seen: broken{}})
	_, err := p.Publish(t.Context(), messages("1", 3))
	require.ErrorIs(t, err, streams.ErrUnavailable)
	require.Empty(t, stored(t, s))
}

// TestPublishBelievesTheIndexOfItsStreamOnly checks that no event is taken for stored, neither by the index nor by what
// the publisher has stored itself, while these may be of another stream. New events are stored meanwhile.
func TestPublishBelievesTheIndexOfItsStreamOnly(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{Window: 100 * time.Millisecond})
	events := messages("1", 3)
	errOther := errors.New("the stream may be another one")
	var other atomic.Bool
	p := publisher(t, s, streams.PublisherOptions{Seen: seen{events[0].ID: 7}, Current: func() error {
		if other.Load() {
			return errOther
		}
		return nil
	}})
	first, err := p.Publish(t.Context(), events[1:2])
	require.NoError(t, err)
	other.Store(true)
	for _, e := range events[:2] {
		_, err := p.Publish(t.Context(), []domain.Event{e})
		require.ErrorIs(t, err, streams.ErrUnavailable)
		require.ErrorIs(t, err, errOther)
	}
	fresh, err := p.Publish(t.Context(), events[2:])
	require.NoError(t, err)
	require.Equal(t, streams.NotDuplicate, fresh[0].Duplicate)
	other.Store(false)
	receipts, err := p.Publish(t.Context(), events[:2])
	require.NoError(t, err)
	require.Equal(t, []streams.Receipt{
		{Seq: 7, Duplicate: streams.ByIndex}, {Seq: first[0].Seq, Duplicate: streams.ByWindow},
	}, receipts)
}

type broken struct{}

func (broken) Seen([]string) ([]uint64, uint64, error) {
	return nil, 0, errors.New("the index is closed")
}
