package streams_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// TestOutboxMessagesDecodeToTheEvent checks that an event in a consumer's own stream has the sequence and time of
// the stream of all events, and that these headers can't give an event of that stream another sequence.
func TestOutboxMessagesDecodeToTheEvent(t *testing.T) {
	t.Parallel()
	m, err := streams.Encode(domain.Event{ID: "1", Type: domain.MessageRead, Page: "100"})
	require.NoError(t, err)
	m.Header.Set(streams.HeaderSequence, "77")
	m.Header.Set(streams.HeaderStoredAt, "2026-01-02T03:04:05.000000006Z")
	subject := streams.OutboxSubject("crm", "100", domain.MessageRead)
	require.Equal(t, "out.crm.100.message.read", subject)
	s, err := streams.Decode(subject, m.Header, m.Data, 3, time.Now())
	require.NoError(t, err)
	require.EqualValues(t, 77, s.Seq)
	require.Equal(t, time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), s.At)
	require.Equal(t, domain.PageID("100"), s.Page)
	require.Equal(t, domain.MessageRead, s.Type)

	s, err = streams.Decode(m.Subject, m.Header, m.Data, 3, time.Now())
	require.NoError(t, err)
	require.EqualValues(t, 3, s.Seq)
	m.Header.Set(streams.HeaderSequence, "x")
	_, err = streams.Decode(subject, m.Header, m.Data, 3, time.Now())
	require.ErrorIs(t, err, streams.ErrMalformed)
	for _, subject := range []string{"out.100.message.read", "out.crm.101.message.read", "in.crm.100.message.read"} {
		_, err = streams.Decode(subject, m.Header, m.Data, 3, time.Now())
		require.ErrorIs(t, err, streams.ErrMalformed, subject)
	}
}

// TestFollowMessages checks that messages come in order and once, from the stream and then from the tail, as they
// are stored, and that a message that is no event is there as well.
func TestFollowMessages(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t)
	s.Stream(t, streams.Spec{})
	tail := streams.NewTail(s.JS, streams.TailOptions{})
	t.Cleanup(func() { require.NoError(t, tail.Close()) })
	const n = 2000
	store := func(from, to int) {
		for i := from; i <= to; i++ {
			m, err := streams.Encode(domain.Event{ID: fmt.Sprint("e", i), Type: domain.MessageRead, Page: "100"})
			require.NoError(t, err)
			if i == n/2 {
				m.Header.Del(streams.HeaderID)
			}
			_, err = s.JS.PublishMsgAsync(m, jetstream.WithStallWait(streamstest.Limit))
			require.NoError(t, err)
		}
		<-s.JS.PublishAsyncComplete()
	}
	store(1, n/2)
	done := errors.New("done")
	ctx, cancel := context.WithTimeout(t.Context(), streamstest.Limit)
	defer cancel()
	next, more := uint64(1), false
	err := streams.FollowMessages(ctx, s.JS, streams.Name, 0, tail, func(list []streams.Message) error {
		for _, m := range list {
			require.Equal(t, next, m.Seq)
			require.Equal(t, m.Seq == n/2, m.Malformed != nil, "%d", m.Seq)
			if m.Malformed == nil {
				require.Equal(t, fmt.Sprint("e", m.Seq), m.ID)
				require.Equal(t, m.ID, m.Header.Get(streams.HeaderID))
				require.NotEmpty(t, m.Body)
				require.Equal(t, domain.Data{}, m.Data)
			}
			next++
		}
		if next > n/2 && !more {
			more = true
			store(n/2+1, n)
		}
		if next > n {
			return done
		}
		return nil
	})
	require.ErrorIs(t, err, done)
}

func TestSeqAt(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t)
	s.Stream(t, streams.Spec{})
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(i int) time.Time { return start.Add(time.Duration(i) * time.Minute) }
	seqAt := func(when time.Time) uint64 {
		seq, err := streams.SeqAt(t.Context(), s.JS, streams.Name, when)
		require.NoError(t, err)
		return seq
	}
	require.EqualValues(t, 1, seqAt(start), "an empty stream")
	for i := 1; i <= 20; i++ {
		m, err := streams.Encode(domain.Event{ID: fmt.Sprint("e", i), Type: domain.MessageRead, Page: "100"})
		require.NoError(t, err)
		m.Header.Set(streams.HeaderStoredAt, at(i).Format(time.RFC3339Nano))
		_, err = s.JS.PublishMsg(t.Context(), m)
		require.NoError(t, err)
	}
	st, err := s.JS.Stream(t.Context(), streams.Name)
	require.NoError(t, err)
	for _, seq := range []uint64{1, 9, 10, 11} {
		require.NoError(t, st.DeleteMsg(t.Context(), seq))
	}
	// next is the first event from a sequence on.
	next := func(seq uint64) uint64 {
		m, err := st.GetMsg(t.Context(), seq, jetstream.WithGetMsgSubject(streams.All))
		require.NoError(t, err)
		return m.Sequence
	}
	for i := 1; i < 20; i++ {
		require.Equal(t, next(uint64(i)), next(seqAt(at(i))), "%d", i)
		require.Equal(t, next(uint64(i+1)), next(seqAt(at(i).Add(time.Second))), "after %d", i)
	}
	require.EqualValues(t, 21, seqAt(time.Now()))

	// The clock was set forward and back: 21 is of an hour later than 22 to 40.
	for i := 21; i <= 40; i++ {
		m, err := streams.Encode(domain.Event{ID: fmt.Sprint("e", i), Type: domain.MessageRead, Page: "100"})
		require.NoError(t, err)
		when := at(i)
		if i == 21 {
			when = at(81)
		}
		m.Header.Set(streams.HeaderStoredAt, when.Format(time.RFC3339Nano))
		_, err = s.JS.PublishMsg(t.Context(), m)
		require.NoError(t, err)
	}
	// The search by halves has all events of a time, whatever was deleted, and the clock set back by an hour.
	none := time.Time{}
	for i := range 100 {
		since, until := at(i), at(i+5)
		first, last, err := streams.Between(t.Context(), s.JS, streams.Name, since, until)
		require.NoError(t, err)
		_, err = streams.Read(t.Context(), s.JS, streams.ReadOptions{}, func(e streams.Stored) error {
			if !e.At.Before(since) && e.At.Before(until) {
				assert.LessOrEqual(t, first, e.Seq, "%d", i)
				assert.GreaterOrEqual(t, last, e.Seq, "%d", i)
			}
			return nil
		})
		require.NoError(t, err)
	}
	for _, c := range []struct {
		since, until time.Time
		first, last  uint64
	}{
		{none, none, 1, 0},
		{at(75), none, 15, 0},
		{time.Now(), none, 41, 0},
		{none, at(-65), 1, 1},
		{none, at(-45), 1, 14},
		{at(75), at(-45), 15, 14},
	} {
		first, last, err := streams.Between(t.Context(), s.JS, streams.Name, c.since, c.until)
		require.NoError(t, err)
		assert.Equal(t, []uint64{c.first, c.last}, []uint64{first, last}, "%s to %s", c.since, c.until)
	}

	require.EqualValues(t, 20, seqAt(at(20)))
	require.EqualValues(t, 21, seqAt(at(22)))
	require.EqualValues(t, 21, seqAt(at(40)))
	require.EqualValues(t, 21, seqAt(at(81)))
	require.EqualValues(t, 41, seqAt(at(82)))
}
