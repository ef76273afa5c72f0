package streams_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// TestSameComparesTwoStreams checks that each difference between two streams is found, and that what becomes too old
// meanwhile is none.
func TestSameComparesTwoStreams(t *testing.T) {
	a, b := streamstest.Run(t), streamstest.Run(t)
	config := jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, Storage: jetstream.FileStorage}
	fill := func(s *streamstest.Server, c jetstream.StreamConfig, change func(i int, m *nats.Msg)) {
		_, err := s.JS.CreateStream(t.Context(), c)
		require.NoError(t, err)
		for i := range 3 {
			m := &nats.Msg{Subject: "s.1", Data: []byte("x"), Header: nats.Header{"b": {"1"}, "a": {"2", "3"}}}
			change(i, m)
			_, err := s.JS.PublishMsg(t.Context(), m)
			require.NoError(t, err)
		}
	}
	none := func(int, *nats.Msg) {}
	fill(a, config, none)
	extent, err := streams.Same(t.Context(), a.JS, a.JS, "S", nil)
	require.NoError(t, err)
	assert.Equal(t, uint64(3), extent.Messages)
	assert.NotEmpty(t, extent.Digest)
	fill(b, config, none) // at other times
	_, err = streams.Same(t.Context(), a.JS, b.JS, "S", nil)
	require.ErrorIs(t, err, streams.ErrNotSame)
	require.ErrorContains(t, err, "message: 1 and 1")
	b.DeleteStream(t, "S")
	fill(b, config, func(i int, _ *nats.Msg) {
		if i == 0 {
			st, err := b.JS.Stream(t.Context(), "S")
			require.NoError(t, err)
			require.NoError(t, st.Purge(t.Context(), jetstream.WithPurgeSequence(2)))
		}
	})
	_, err = streams.Same(t.Context(), a.JS, b.JS, "S", nil)
	require.ErrorIs(t, err, streams.ErrNotSame)
	b.DeleteStream(t, "S")
	_, err = streams.Same(t.Context(), a.JS, b.JS, "S", nil)
	require.ErrorIs(t, err, jetstream.ErrStreamNotFound)

	// All of it is too old to be compared within a minute.
	a.DeleteStream(t, "S")
	config.MaxAge = time.Minute
	fill(a, config, none)
	fill(b, config, none)
	extent, err = streams.Same(t.Context(), a.JS, b.JS, "S", nil)
	require.NoError(t, err)
	assert.Zero(t, extent.Messages)
	assert.Equal(t, uint64(3), extent.Last)

	_, err = a.JS.CreateConsumer(t.Context(), "S", jetstream.ConsumerConfig{Durable: "d"})
	require.NoError(t, err)
	extent, err = streams.Same(t.Context(), a.JS, a.JS, "S", nil)
	require.NoError(t, err)
	assert.Equal(t, 1, extent.Consumers)
}
