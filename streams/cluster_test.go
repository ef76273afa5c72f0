package streams_test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
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
	for range streamstest.Volume(40, 10) {
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

// lossyStream stores what is published in memory, in the place of a stream, and loses some of it without an answer, as a
// leader does that is about to be replaced.
type lossyStream struct {
	nc *nats.Conn

	mu     sync.Mutex
	ids    []string // of what is stored
	staged []string
	// lose decides what is lost: a whole batch, with its first id, or one message.
	lose func(batch bool, id string) bool
}

func (l *lossyStream) receive(m *nats.Msg) {
	l.mu.Lock()
	defer l.mu.Unlock()
	id, batch := m.Header.Get(nats.MsgIdHdr), m.Header.Get(streams.BatchIDHeader)
	if batch != "" {
		l.staged = append(l.staged, id)
		if m.Header.Get(streams.BatchCommitHeader) == "" {
			return
		}
		ids := l.staged
		l.staged = nil
		if l.lose(true, ids[0]) {
			return
		}
		l.ids = append(l.ids, ids...)
		l.answer(m, `{"stream":"PAGESTREAM","seq":%d,"batch":%q,"count":%d}`, len(l.ids), batch, len(ids))
		return
	}
	if l.lose(false, id) {
		return
	}
	seq := 1 + slices.Index(l.ids, id)
	if seq == 0 {
		l.ids = append(l.ids, id)
		seq = len(l.ids)
	}
	l.answer(m, `{"stream":"PAGESTREAM","seq":%d}`, seq)
}

func (l *lossyStream) answer(m *nats.Msg, format string, args ...any) {
	_ = l.nc.Publish(m.Reply, fmt.Appendf(nil, format, args...)) // one that is lost is lost
}

// TestOrderSurvivesLostAnswers checks that the events of a call for one page are stored in their order when some of
// them are lost on the way and sent again.
func TestOrderSurvivesLostAnswers(t *testing.T) {
	t.Parallel()
	for name, events := range map[string]int{"few": 10, "many": 200, "two pages": 40} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := streamstest.Run(t, unsynced)
			list := messages("1", events)
			if name == "two pages" {
				list = append(list, messages("2", events)...)
			}
			var batches, singles atomic.Int64
			l := &lossyStream{nc: s.Connection(t), lose: func(batch bool, id string) bool {
				if batch {
					return batches.Add(1) == 1
				}
				return (id == list[2].ID || id == list[5].ID) && singles.Add(1) <= 2
			}}
			_, err := l.nc.Subscribe(streams.All, l.receive)
			require.NoError(t, err)
			require.NoError(t, l.nc.Flush())
			p := publisher(t, s, streams.PublisherOptions{Shared: true, AckTimeout: 300 * time.Millisecond})
			_, err = p.Publish(bounded(t), list)
			require.NoError(t, err)
			l.mu.Lock()
			defer l.mu.Unlock()
			require.Len(t, l.ids, len(list))
			for _, page := range []domain.PageID{"1", "2"} {
				var want, got []string
				of := map[string]bool{}
				for _, e := range list {
					if e.Page == page {
						want, of[e.ID] = append(want, e.ID), true
					}
				}
				for _, id := range l.ids {
					if of[id] {
						got = append(got, id)
					}
				}
				require.Equal(t, want, got, "page %s", page)
			}
		})
	}
}

// TestOrderSurvivesLeaders checks that the events of a call for one page are stored in their order, each once, also
// when the stream's leader hands over again and again and answers are lost.
func TestOrderSurvivesLeaders(t *testing.T) {
	t.Parallel()
	c := streamstest.RunCluster(t, 3)
	_, err := streams.Ensure(t.Context(), c.JS, streams.Spec{Replicas: 3})
	require.NoError(t, err)
	p, err := streams.NewPublisher(c.JS, streams.PublisherOptions{Shared: true, AckTimeout: 200 * time.Millisecond})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close(bounded(t))) })
	const pages = 6
	calls := streamstest.Volume(300, 100)
	want := 0
	for call := range calls {
		want += 2 + call%18
	}
	var publishing sync.WaitGroup
	for page := range pages {
		publishing.Go(func() {
			events := messages(domain.PageID(fmt.Sprint(page+1)), calls*20)
			for call := range calls {
				call := events[call*20:][:2+call%18]
				for {
					_, err := p.Publish(bounded(t), call)
					if err == nil {
						break
					}
					if !assert.ErrorIs(t, err, streams.ErrUnavailable) {
						return
					}
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { publishing.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-time.After(40 * time.Millisecond):
			_, _ = c.JS.Conn().Request("$JS.API.STREAM.LEADER.STEPDOWN."+streams.Name, nil, time.Second)
		}
	}
	last := map[domain.PageID]time.Time{} // the times of a page's events are in the order of its calls
	seen := 0
	_, err = streams.Read(bounded(t), c.JS, streams.ReadOptions{}, func(e streams.Stored) error {
		seen++
		if !e.Time.After(last[e.Page]) {
			return fmt.Errorf("event %d of page %s, of %s, is after one of %s", e.Seq, e.Page, e.Time, last[e.Page])
		}
		last[e.Page] = e.Time
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, pages*want, seen)
}
