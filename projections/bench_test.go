package projections_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wmnats "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/comments"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// benchEvents returns n events of messages, of about 600 bytes each.
func benchEvents(n int) []domain.Event {
	out := make([]domain.Event, n)
	for i := range out {
		out[i] = domain.Event{
			ID: fmt.Sprintf("page:104:msg|m_%d", i), Type: domain.MessageReceived, Page: "104000000000001",
			Contact: domain.ContactID(fmt.Sprintf("77000000%08d", i%5000)), Time: time.Unix(1_700_000_000, 0).UTC(),
			Data: domain.Data{
				App: "main", Object: "page", Channel: "messaging", Kind: "message", Source: "webhook",
				Message: &domain.Message{MID: fmt.Sprintf("m_%d", i), Text: "a text of a usual length, give or take"},
				Raw: fmt.Appendf(nil, `{"sender":{"id":"77000000%08d"},"recipient":{"id":"104000000000001"},`+
					`"timestamp":1700000000000,`+
					`"message":{"mid":"m_%d","text":"a text of a usual length, give or take"}}`, i%5000, i),
			},
		}
	}
	return out
}

// withSync makes a runner sync its commits to disk.
func withSync(o *projections.RunnerOptions) { o.Store = store.Options{} }

// BenchmarkLive follows a stream with commits to disk: with the runner, and with the
// subscriber of watermill-nats, which has one message in flight and needs a
// transaction for each. Both use a watermill router, decode the event and apply the
// same projection with fsync. "x-stock" is the runner's rate divided by that of the
// other subscriber.
func BenchmarkLive(b *testing.B) {
	const runnerEvents, stockEvents = 30_000, 2_000
	for b.Loop() {
		srv := newTestServer(b)
		srv.store(b, benchEvents(runnerEvents)...)
		run := srv.runner(b, &chain{name: "chain", version: 1}, withSync)
		began := time.Now()
		start(b, run)
		wait(b, run, runnerEvents)
		live := runnerEvents / time.Since(began).Seconds()
		commits := run.Status().Commits
		if err := run.Close(); err != nil {
			b.Fatal(err)
		}
		stock := stockEvents / srv.stock(b, stockEvents).Seconds()
		b.ReportMetric(live, "events/s")
		b.ReportMetric(stock, "stock-events/s")
		b.ReportMetric(live/stock, "x-stock")
		b.ReportMetric(float64(runnerEvents)/float64(commits), "events/commit")
		b.ReportMetric(0, "ns/op")
	}
}

// stock applies n events with the subscriber of watermill-nats, one per commit, and
// returns how long that takes.
func (srv *testServer) stock(b *testing.B, n uint64) time.Duration {
	b.Helper()
	s, err := store.Open(filepath.Join(b.TempDir(), "stock.db"), store.Options{})
	require.NoError(b, err)
	defer func() { assert.NoError(b, s.Close()) }()
	conn := srv.Connection(b)
	sub, err := wmnats.NewSubscriberWithNatsConn(conn, wmnats.SubscriberSubscriptionConfig{
		SubscribersCount: 1,
		Unmarshaler:      &wmnats.NATSMarshaler{},
		SubscribeTimeout: limit, CloseTimeout: limit, AckWaitTimeout: limit,
		JetStream: wmnats.JetStreamConfig{
			SubscribeOptions: []nats.SubOpt{nats.DeliverAll(), nats.AckExplicit()},
			AckAsync:         true,
		},
	}, watermill.NopLogger{})
	require.NoError(b, err)
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: limit}, watermill.NopLogger{})
	require.NoError(b, err)
	p := &chain{name: "chain", version: 1}
	done := make(chan struct{})
	var once sync.Once
	var seq uint64
	router.AddConsumerHandler("stock", streams.All, sub, func(m *message.Message) error {
		seq++ // one message is in flight, so this is not concurrent
		data, err := domain.DecodeData(m.Payload)
		if err != nil {
			return err
		}
		e := streams.Stored{Seq: seq, Event: domain.Event{ID: m.Metadata.Get(streams.HeaderID), Data: data}}
		err = s.Update(func(tx *store.Tx) error {
			if err := p.Apply(tx, e); err != nil {
				return err
			}
			return store.WriteMeta(tx, store.Meta{Seq: seq})
		})
		if seq == n {
			once.Do(func() { close(done) })
		}
		return err
	})
	began := time.Now()
	var running sync.WaitGroup
	running.Go(func() { assert.NoError(b, router.Run(b.Context())) })
	select {
	case <-done:
	case <-time.After(2 * time.Minute):
		require.Fail(b, "the stock subscriber is too slow")
	}
	took := time.Since(began)
	require.NoError(b, router.Close())
	running.Wait()
	return took
}

// BenchmarkRebuild rebuilds each read model, with the replay, the verification and the
// switch, and reads the same stream in order without decoding the messages. "x-raw" is
// the first rate divided by the second.
func BenchmarkRebuild(b *testing.B) {
	const n = 100_000
	for _, p := range []projections.Projection{
		&chain{name: "chain", version: 1}, deliveries.New(), pages.New(), subscriptions.New(), conversations.New(),
		comments.New(),
	} {
		b.Run(p.Name(), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				srv := newTestServer(b)
				srv.store(b, benchEvents(n)...)
				run := start(b, srv.runner(b, p, withSync))
				streamstest.Eventually(b, 5*time.Minute, func() error {
					if s := run.Status(); s.Seq < n {
						return fmt.Errorf("at %d", s.Seq)
					}
					return nil
				})
				b.StartTimer()
				began, read := time.Now(), 0
				_, err := streams.ReadRaw(b.Context(), srv.JS, streams.ReadOptions{}, func(streams.Raw) error {
					read++
					return nil
				})
				if err != nil || read != n {
					b.Fatal(read, err)
				}
				raw := n / time.Since(began).Seconds()
				began = time.Now()
				out, err := run.Rebuild(b.Context(), nil)
				if err != nil || !out.Equal {
					b.Fatal(out, err)
				}
				whole := n / time.Since(began).Seconds()
				b.ReportMetric(out.Rate, "replayed/s")
				b.ReportMetric(whole, "rebuilt/s")
				b.ReportMetric(raw, "raw/s")
				b.ReportMetric(out.Rate/raw, "x-raw")
				b.ReportMetric(0, "ns/op")
			}
		})
	}
}

// BenchmarkCatchUp starts all read models of a server on a stream that they don't have, and then rebuilds all of them at
// the same time. The processor time has that of the server of the stream, which is in the same process.
func BenchmarkCatchUp(b *testing.B) {
	const n = 100_000
	for b.Loop() {
		b.StopTimer()
		srv := newTestServer(b)
		srv.store(b, benchEvents(n)...)
		tail := streams.NewTail(srv.JS, streams.TailOptions{})
		b.Cleanup(func() { assert.NoError(b, tail.Close()) })
		var models []*projections.Runner
		var index projections.Index
		for _, p := range []projections.Projection{
			deliveries.New(), pages.New(), subscriptions.New(), conversations.New(), comments.New(),
		} {
			r := srv.runner(b, p, withSync, func(o *projections.RunnerOptions) { o.Tail, o.Dedup = tail, index })
			if models = append(models, r); index == nil {
				index = deliveries.Index{Runner: r}
			}
		}
		b.StartTimer()
		began, used := time.Now(), processorTime(b)
		for _, r := range models {
			start(b, r)
		}
		for _, r := range models {
			streamstest.Eventually(b, 5*time.Minute, func() error {
				if s := r.Status(); s.Seq < n {
					return fmt.Errorf("at %d", s.Seq)
				}
				return nil
			})
		}
		b.ReportMetric(n/time.Since(began).Seconds(), "events/s")
		b.ReportMetric(float64((processorTime(b)-used).Microseconds())/n, "cpu-us/event")
		began, used = time.Now(), processorTime(b)
		var running sync.WaitGroup
		for _, r := range models {
			running.Go(func() {
				out, err := r.Rebuild(b.Context(), nil)
				assert.True(b, err == nil && out.Equal, "%+v: %v", out, err)
			})
		}
		running.Wait()
		b.ReportMetric(n/time.Since(began).Seconds(), "rebuilt/s")
		b.ReportMetric(float64((processorTime(b)-used).Microseconds())/n, "rebuild-cpu-us/event")
		b.ReportMetric(0, "ns/op")
	}
}

// BenchmarkPosition applies batches of 150 events to a read model that stores nothing, so what is left is the position
// of each batch: the trail and the meta row. One operation is one batch.
func BenchmarkPosition(b *testing.B) {
	s, err := store.Open(filepath.Join(b.TempDir(), "p.db"), store.Options{NoSync: true, Memory: 8 << 20})
	require.NoError(b, err)
	defer s.Close()
	apply, seq := projections.Applying(nothing{}, s), uint64(10_000_000)
	batch := make([]*streams.Replayed, 150)
	for i := range batch {
		batch[i] = &streams.Replayed{Stored: streams.Stored{At: time.UnixMilli(1_790_000_000_000).UTC()}}
		batch[i].ID = fmt.Sprintf("page:104000000000001:msg|m_Xq7bTg2vKp0sLw9dNc4fRy8hJz1aMe5uQi3oPk6xSv-%d", i)
	}
	grow := func() {
		for _, e := range batch {
			seq++
			e.Seq = seq
		}
		if err := apply(batch...); err != nil {
			b.Fatal(err)
		}
	}
	for range 20_000 {
		grow()
	}
	b.ReportAllocs()
	for b.Loop() {
		grow()
	}
}

// nothing is a projection without a state.
type nothing struct{}

func (nothing) Name() string                          { return "nothing" }
func (nothing) Version() int                          { return 1 }
func (nothing) Apply(*store.Tx, streams.Stored) error { return nil }
