package streams_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// bounded returns a context that ends after streamstest.Limit.
func bounded(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), streamstest.Limit)
	t.Cleanup(cancel)
	return ctx
}

func TestReadReturnsTheSelectedEvents(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	read := func(o streams.ReadOptions) (seqs []uint64, last uint64) {
		t.Helper()
		last, err := streams.Read(bounded(t), s.JS, o, func(e streams.Stored) error {
			seqs = append(seqs, e.Seq)
			return nil
		})
		require.NoError(t, err, "%+v", o)
		return seqs, last
	}
	seqs, last := read(streams.ReadOptions{})
	require.Empty(t, seqs)
	require.Zero(t, last)
	publish(t, s, messages("100", 10)) // 1 to 10
	publish(t, s, messages("200", 10)) // 11 to 20
	st, err := s.JS.Stream(bounded(t), streams.Name)
	require.NoError(t, err)
	for _, seq := range []uint64{5, 20} { // erased events leave gaps, also at the end
		require.NoError(t, st.SecureDeleteMsg(bounded(t), seq))
	}
	all := []uint64{1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19}
	for _, c := range []struct {
		o    streams.ReadOptions
		want []uint64
		last uint64
	}{
		{streams.ReadOptions{}, all, 20},
		{streams.ReadOptions{From: 10}, all[8:], 20},
		{streams.ReadOptions{From: 20}, nil, 20},
		{streams.ReadOptions{From: 21}, nil, 20},
		{streams.ReadOptions{From: 1000}, nil, 20},
		{streams.ReadOptions{To: 7}, all[:6], 7},
		{streams.ReadOptions{To: 5}, all[:4], 5},
		{streams.ReadOptions{From: 5, To: 5}, nil, 5},
		{streams.ReadOptions{To: 1000}, all, 20},
		{streams.ReadOptions{Filters: streams.Filter("200")}, all[9:], 20},
		{streams.ReadOptions{Filters: streams.Filter("100")}, all[:9], 20},
		{streams.ReadOptions{To: 12, Filters: streams.Filter("200")}, all[9:11], 12},
		{streams.ReadOptions{To: 9, Filters: streams.Filter("200")}, nil, 9},
		{streams.ReadOptions{Filters: streams.Filter("300")}, nil, 20},
		{streams.ReadOptions{Filters: streams.Filter("", domain.PostbackReceived, domain.MessageReceived)}, all, 20},
	} {
		seqs, last := read(c.o)
		require.Equal(t, c.want, seqs, "%+v", c.o)
		require.Equal(t, c.last, last, "%+v", c.o)
	}

	enough := errors.New("enough")
	last, err = streams.Read(bounded(t), s.JS, streams.ReadOptions{}, func(e streams.Stored) error {
		if e.Seq == 3 {
			return enough
		}
		return nil
	})
	require.Equal(t, uint64(3), last)
	require.Same(t, enough, err, "it must be returned unchanged")
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	ignore := func(streams.Stored) error { return nil }
	_, err = streams.Read(ended, s.JS, streams.ReadOptions{}, ignore)
	require.ErrorIs(t, err, context.Canceled, "with an ended context")
	// The consumers must be deleted on the server.
	streamstest.Eventually(t, streamstest.Limit, func() error {
		info, err := st.Info(bounded(t))
		if err == nil && info.State.Consumers > 0 {
			err = fmt.Errorf("%d consumers are left", info.State.Consumers)
		}
		return err
	})
}

func TestGetReturnsOneEvent(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	want := messages("100", 1)
	publish(t, s, want)
	got, err := streams.Get(bounded(t), s.JS, streams.Name, 1)
	require.NoError(t, err)
	require.Equal(t, want[0].ID, got.ID)
	require.Equal(t, uint64(1), got.Seq)
	require.False(t, got.At.IsZero())
	for _, seq := range []uint64{0, 2, 1 << 60} {
		_, err := streams.Get(bounded(t), s.JS, streams.Name, seq)
		require.ErrorIs(t, err, streams.ErrNotFound, "sequence %d", seq)
	}
}

// TestReadCallsMalformed checks that a message that is not an event ends a read, or is passed to Malformed.
func TestReadCallsMalformed(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	publish(t, s, messages("100", 1))
	malformed := nats.NewMsg("pagestream.what.ever")
	malformed.Header["X"] = []string{"1", "2"}
	_, err := s.JS.PublishMsg(bounded(t), malformed)
	require.NoError(t, err)
	publish(t, s, messages("200", 1))
	ignore := func(streams.Stored) error { return nil }
	last, err := streams.Read(bounded(t), s.JS, streams.ReadOptions{}, ignore)
	require.Equal(t, uint64(2), last)
	require.ErrorIs(t, err, streams.ErrMalformed)
	var passed []uint64
	last, err = streams.Read(bounded(t), s.JS, streams.ReadOptions{Malformed: func(seq uint64, err error) error {
		passed = append(passed, seq)
		return nil
	}}, ignore)
	require.Equal(t, uint64(3), last)
	require.NoError(t, err)
	require.Equal(t, []uint64{2}, passed)
}

// TestReadLargeEventsKeepsTheConnection checks that events near the size limit can be read, more of them than one
// request may return, and that the server does not close the connection as too slow.
func TestReadLargeEventsKeepsTheConnection(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("writes 160 MiB")
	}
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	const n = 10
	p := publisher(t, s, streams.PublisherOptions{})
	for i := range n {
		e := messages(domain.PageID(fmt.Sprint(i)), 1)
		e[0].Data.Raw = []byte(`"` + strings.Repeat("x", 16<<20) + `"`)
		_, err := p.Publish(bounded(t), e)
		require.NoError(t, err)
	}
	require.Len(t, stored(t, s), n)
	r := s.Conn.Stats().Reconnects
	require.Zero(t, r, "the connection was lost")
}

// TestFollowGoesOnAfterARestart checks that each event is read once and in order, although a restart of the server
// deletes the consumer.
func TestFollowGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t)
	s.Stream(t, streams.Spec{})
	publish(t, s, messages("1", 30))
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	got := make(chan uint64, 1000)
	followed := make(chan error, 1)
	go func() {
		followed <- streams.Follow(ctx, s.JS, streams.ReadOptions{From: 11}, func(e streams.Stored) error {
			got <- e.Seq
			return nil
		})
	}()
	next := uint64(11)
	take := func(to uint64) {
		t.Helper()
		for ; next <= to; next++ {
			select {
			case seq := <-got:
				require.Equal(t, next, seq)
			case <-ctx.Done():
				require.Fail(t, "an event was not read", "%d", next)
			}
		}
	}
	take(30)
	for round := range 2 {
		s.Halt(t)
		s.Start(t)
		p := publisher(t, s, streams.PublisherOptions{})
		_, err := p.Publish(bounded(t), messages(domain.PageID(fmt.Sprint(2+round)), 20))
		require.NoError(t, err)
		take(uint64(50 + 20*round))
	}
	cancel()
	require.ErrorIs(t, <-followed, context.Canceled)
}

// TestFollowEndsWithTheConnection checks that Follow returns ErrClosed when the connection is closed.
func TestFollowEndsWithTheConnection(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced, func(*embedded.Options) {})
	s.Stream(t, streams.Spec{})
	publish(t, s, messages("1", 1))
	started := make(chan struct{})
	followed := make(chan error, 1)
	go func() {
		followed <- streams.Follow(bounded(t), s.JS, streams.ReadOptions{}, func(streams.Stored) error {
			close(started)
			return nil
		})
	}()
	<-started
	s.Conn.Close()
	require.ErrorIs(t, <-followed, streams.ErrClosed)
}

// TestSlowReaderLosesNothing checks that a reader that is slower than the server loses no events or connection while
// more events wait than one request returns.
func TestSlowReaderLosesNothing(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	slow := make(chan error, 100)
	s.Conn.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		select {
		case slow <- err:
		default:
		}
	})
	const n = 3000
	publish(t, s, messages("1", n))
	next := uint64(1)
	_, err := streams.Read(bounded(t), s.JS, streams.ReadOptions{}, func(e streams.Stored) error {
		assert.Equal(t, next, e.Seq)
		next = e.Seq + 1
		if e.Seq%200 == 0 { // let the server send as much as it may
			if err := s.Conn.Flush(); err != nil {
				return fmt.Errorf("flush: %w", err)
			}
		}
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, uint64(n+1), next)
	select {
	case err := <-slow:
		require.NoError(t, err, "the connection reports an error")
	default:
	}
}

// TestFollowBeyondTheEndWaits checks that nothing before From is passed, also if the stream does not
// have that sequence yet, and that each event after it arrives at once.
func TestFollowBeyondTheEndWaits(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	publish(t, s, messages("100", 3))
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	seqs, never := make(chan uint64, 100), make(chan uint64, 100)
	follow := func(from uint64, to chan uint64) {
		_ = streams.Follow(ctx, s.JS, streams.ReadOptions{From: from}, func(e streams.Stored) error {
			to <- e.Seq
			return nil
		})
	}
	go follow(streams.Following(40), seqs)
	go follow(streams.Following(math.MaxUint64), never)
	require.Equal(t, uint64(1), streams.Following(0))
	created, err := s.Conn.SubscribeSync("$JS.API.CONSUMER.CREATE.>")
	require.NoError(t, err)
	publish(t, s, messages("200", 40))
	for want := uint64(41); want <= 43; want++ {
		select {
		case seq := <-seqs:
			require.Equal(t, want, seq)
		case <-ctx.Done():
			require.Fail(t, "no event")
		}
	}
	n, _, err := created.Pending()
	require.NoError(t, err)
	require.Less(t, n, 20, "it opens a consumer for each event before")
	require.Empty(t, never)
}
