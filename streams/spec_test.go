package streams_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

func TestEnsureCreatesAndUpdatesTheStream(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	config := func() jetstream.StreamConfig {
		t.Helper()
		st, err := s.JS.Stream(t.Context(), streams.Name)
		require.NoError(t, err)
		return st.CachedInfo().Config
	}
	first := s.Stream(t, streams.Spec{})
	c := config()
	require.Equal(t, jetstream.DiscardNew, c.Discard)
	require.Equal(t, jetstream.FileStorage, c.Storage)
	require.Equal(t, jetstream.LimitsPolicy, c.Retention)
	require.True(t, c.AllowAtomicPublish)
	require.True(t, c.AllowDirect)
	require.False(t, c.DenyDelete)
	require.Equal(t, streams.DefaultWindow, c.Duplicates)
	require.Zero(t, c.MaxAge)
	publish(t, s, messages("100", 5))

	// Settings of the operator are kept, and those that pagestream requires are set again.
	c.Metadata["team"] = "messaging"
	c.MaxAge, c.Discard, c.AllowAtomicPublish = time.Hour, jetstream.DiscardOld, false
	_, err := s.JS.UpdateStream(t.Context(), c)
	require.NoError(t, err)
	require.Equal(t, first, s.Stream(t, streams.Spec{Window: time.Minute, MaxBytes: 1 << 20}),
		"an update changed the identity")
	c = config()
	require.Equal(t, "messaging", c.Metadata["team"])
	require.Zero(t, c.MaxAge)
	require.Equal(t, jetstream.DiscardNew, c.Discard)
	require.True(t, c.AllowAtomicPublish)
	require.Equal(t, time.Minute, c.Duplicates)
	require.Equal(t, int64(1<<20), c.MaxBytes)
	require.Len(t, stored(t, s), 5)

	// A restart does not change the identity, a new stream has a new one.
	s.Halt(t)
	s.Start(t)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		id, err := streams.Ensure(t.Context(), s.JS, streams.Spec{})
		if err == nil {
			assert.Equal(t, first, id, "a restart changed the identity")
		}
		return err
	})
	s.DeleteStream(t, streams.Name)
	require.NotEqual(t, first, s.Stream(t, streams.Spec{}), "a new stream has the identity of the old one")
}

// TestEnsureReturnsErrMismatch checks that a stream that pagestream did not make, or that would lose events, is not
// changed.
func TestEnsureReturnsErrMismatch(t *testing.T) {
	t.Parallel()
	valid := func() jetstream.StreamConfig {
		return jetstream.StreamConfig{Name: streams.Name, Subjects: []string{streams.All}}
	}
	for name, change := range map[string]func(*jetstream.StreamConfig){
		"memory":         func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage },
		"work queue":     func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy },
		"other subjects": func(c *jetstream.StreamConfig) { c.Subjects = []string{"orders.>"} },
		"more subjects":  func(c *jetstream.StreamConfig) { c.Subjects = []string{streams.All, "orders.>"} },
		"mirror": func(c *jetstream.StreamConfig) {
			c.Subjects, c.Mirror = nil, &jetstream.StreamSource{Name: "ELSEWHERE"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := streamstest.Run(t, unsynced)
			c := valid()
			change(&c)
			_, err := s.JS.CreateStream(t.Context(), c)
			require.NoError(t, err)
			_, err = streams.Ensure(t.Context(), s.JS, streams.Spec{})
			require.ErrorIs(t, err, streams.ErrMismatch)
		})
	}
	t.Run("limit below its size", func(t *testing.T) {
		s := streamstest.Run(t, unsynced)
		s.Stream(t, streams.Spec{})
		publish(t, s, messages("100", 100))
		_, err := streams.Ensure(t.Context(), s.JS, streams.Spec{MaxBytes: 1000})
		require.ErrorIs(t, err, streams.ErrMismatch)
		require.Len(t, stored(t, s), 100)
	})
}

func TestHasAndLast(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	has := func(want bool, types ...domain.Type) {
		t.Helper()
		got, err := streams.Has(t.Context(), s.JS, streams.Name, types...)
		if assert.NoError(t, err, "Has(%v)", types) {
			assert.Equal(t, want, got, "Has(%v)", types)
		}
	}
	has(false, domain.MessageReceived) // there is no stream yet
	_, err := streams.Last(t.Context(), s.JS, streams.Name)
	require.Error(t, err, "Last succeeds for a stream that does not exist")
	s.Stream(t, streams.Spec{})
	has(false, domain.MessageReceived)
	publish(t, s, messages("100", 3))
	has(false, domain.PageConnected)
	has(true, domain.PageConnected, domain.MessageReceived)
	last, err := streams.Last(t.Context(), s.JS, streams.Name)
	require.NoError(t, err)
	require.Equal(t, uint64(3), last)
}
