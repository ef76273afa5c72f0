package streams_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// TestReplicasStay checks that a specification that does not name the replicas of a cluster's stream does not change
// them, and that streams beside it have as many.
func TestReplicasStay(t *testing.T) {
	t.Parallel()
	c := streamstest.RunCluster(t, 3)
	first, err := streams.Ensure(t.Context(), c.JS, streams.Spec{Replicas: 3})
	require.NoError(t, err)
	require.Equal(t, 3, c.Replicas(t, streams.Name))
	for _, s := range []streams.Spec{{}, {Window: time.Minute}, {Replicas: 1}} {
		again, err := streams.Ensure(t.Context(), c.JS, s)
		require.NoError(t, err)
		require.Equal(t, first, again)
		require.Equal(t, 3, c.Replicas(t, streams.Name), "%+v changed the replicas", s)
	}

	beside := jetstream.StreamConfig{Name: streams.Name + "_X", Subjects: []string{"x.>"}, Replicas: 1}
	_, err = streams.EnsureBeside(t.Context(), c.JS, streams.Name, beside)
	require.NoError(t, err)
	require.Equal(t, 3, c.Replicas(t, beside.Name), "a new stream has fewer replicas than the stream of events")
	bucket := jetstream.KeyValueConfig{Bucket: streams.Name + "_Y", Replicas: 1}
	_, err = streams.EnsureBucket(t.Context(), c.JS, streams.Name, bucket)
	require.NoError(t, err)
	require.Equal(t, 3, c.Replicas(t, "KV_"+bucket.Bucket))

	st, err := c.JS.Stream(t.Context(), streams.Name)
	require.NoError(t, err)
	config := st.CachedInfo().Config
	config.Replicas = 1
	_, err = c.JS.UpdateStream(t.Context(), config)
	require.NoError(t, err)
	for range 2 { // what exists keeps its own
		_, err = streams.EnsureBeside(t.Context(), c.JS, streams.Name, beside)
		require.NoError(t, err)
		require.Equal(t, 3, c.Replicas(t, beside.Name))
		_, err = streams.EnsureBucket(t.Context(), c.JS, streams.Name, bucket)
		require.NoError(t, err)
		require.Equal(t, 3, c.Replicas(t, "KV_"+bucket.Bucket))
	}
}

// TestReadsMissNothing checks that reads are complete while a server of the cluster is behind, as after a restart.
func TestReadsMissNothing(t *testing.T) {
	t.Parallel()
	c := streamstest.RunCluster(t, 3)
	_, err := streams.Ensure(t.Context(), c.JS, streams.Spec{Replicas: 3})
	require.NoError(t, err)
	p, err := streams.NewPublisher(c.JS, streams.PublisherOptions{Shared: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close(bounded(t))) })
	events := messages("1", 4000)
	behind := c.Follower(t, streams.Name)
	c.Halt(behind)
	_, err = p.Publish(bounded(t), events)
	require.NoError(t, err)
	c.Restart(t, behind)
	last, filters := uint64(len(events)), streams.Filter("1", domain.MessageReceived)
	for range 40 {
		for _, o := range []streams.ReadOptions{{}, {Filters: filters}} {
			n := uint64(0)
			at, err := streams.Read(bounded(t), c.JS, o, func(streams.Stored) error { n++; return nil })
			require.NoError(t, err)
			require.Equal(t, last, at)
			require.Equal(t, last, n, "events that were read")
		}
		_, err := streams.Get(bounded(t), c.JS, streams.Name, last)
		require.NoError(t, err)
	}
}
