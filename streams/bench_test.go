package streams_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wmjetstream "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/jetstream"
	wmnats "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// benchEvents returns n events with different ids, of about 600 bytes as stored.
func benchEvents(page string, n int) []domain.Event {
	events := messages(domain.PageID(page), n)
	for i := range events {
		events[i].Data.Message.Text = strings.Repeat("x", 150)
	}
	return events
}

// BenchmarkEncode measures what each event of a delivery costs before it is published.
func BenchmarkEncode(b *testing.B) {
	for _, c := range []struct{ name, item string }{
		{"text", `"message":{"mid":"m_1","text":"` + strings.Repeat("x", 150) + `"}`},
		{"line break", `"message":{"mid":"m_1","text":"` + strings.Repeat("x", 75) + `\n` + strings.Repeat("x", 75) + `"}`},
		{"read", `"read":{"watermark":1790000000000}`},
	} {
		body := `{"object":"page","entry":[{"id":"7","time":1790000000123,"messaging":[{` +
			`"sender":{"id":"30000000000000001"},"recipient":{"id":"7"},"timestamp":1790000000000,` + c.item + `}]}]}`
		e := messenger.Split([]byte(body), messenger.Options{App: "main"}).Events[0]
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := streams.Encode(e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkPublish measures what webhooks cost: one event per call, 64 concurrent callers, and each call returns
// after a disk sync.
func BenchmarkPublish(b *testing.B) {
	const callers = 64
	run := func(b *testing.B, s *streamstest.Server, publish func(context.Context, domain.Event) error) {
		b.Helper()
		events := make([][]domain.Event, callers)
		for c := range events {
			events[c] = benchEvents(fmt.Sprint(c), b.N/callers+1)
		}
		var wg sync.WaitGroup
		b.ResetTimer()
		for c := range callers {
			wg.Go(func() {
				for _, e := range events[c] {
					if err := publish(context.Background(), e); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	}
	b.Run("single publishes", func(b *testing.B) {
		s := streamstest.Run(b)
		s.Stream(b, streams.Spec{})
		run(b, s, func(ctx context.Context, e domain.Event) error {
			m, err := streams.Encode(e)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, streamstest.Limit)
			defer cancel()
			_, err = s.JS.PublishMsg(ctx, m)
			return err
		})
	})
	b.Run("committer", func(b *testing.B) {
		s := streamstest.Run(b)
		s.Stream(b, streams.Spec{})
		var batches, batched atomic.Int64
		p := publisher(b, s, streams.PublisherOptions{Observe: func(o streams.BatchObservation) {
			if o.Atomic {
				batches.Add(1)
				batched.Add(int64(o.Size))
			}
		}})
		run(b, s, func(ctx context.Context, e domain.Event) error {
			_, err := p.Publish(ctx, []domain.Event{e})
			return err
		})
		if n := batches.Load(); n > 0 {
			b.ReportMetric(float64(batched.Load())/float64(n), "events/batch")
		}
	})
}

// BenchmarkSubscribe measures what reading costs without a projection: it reads an existing stream and
// acknowledges each message at once.
func BenchmarkSubscribe(b *testing.B) {
	run := func(b *testing.B, open func(*streamstest.Server) message.Subscriber) {
		b.Helper()
		s := streamstest.Run(b, unsynced)
		s.Stream(b, streams.Spec{})
		p := publisher(b, s, streams.PublisherOptions{})
		for left, page := b.N, 0; left > 0; page++ {
			n := min(left, 1000)
			_, err := p.Publish(context.Background(), benchEvents(fmt.Sprint(page), n))
			require.NoError(b, err)
			left -= n
		}
		sub := open(s)
		defer sub.Close()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		b.ResetTimer()
		in, err := sub.Subscribe(ctx, streams.All)
		require.NoError(b, err)
		for range b.N {
			(<-in).Ack()
		}
		b.StopTimer()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	}
	b.Run("pagestream", func(b *testing.B) {
		run(b, func(s *streamstest.Server) message.Subscriber {
			return streams.NewSubscriber(s.JS, streams.SubscriberOptions{})
		})
	})
	b.Run("watermill-nats pkg nats", func(b *testing.B) {
		run(b, func(s *streamstest.Server) message.Subscriber {
			sub, err := wmnats.NewSubscriberWithNatsConn(s.Connection(b), wmnats.SubscriberSubscriptionConfig{
				SubscribersCount: 1, AckWaitTimeout: 5 * time.Second, Unmarshaler: &wmnats.NATSMarshaler{},
				SubjectCalculator: wmnats.DefaultSubjectCalculator,
				JetStream: wmnats.JetStreamConfig{
					SubscribeOptions: []nats.SubOpt{nats.DeliverAll(), nats.AckExplicit()},
				},
			}, watermill.NopLogger{})
			require.NoError(b, err)
			return sub
		})
	})
	b.Run("watermill-nats pkg jetstream", func(b *testing.B) {
		run(b, func(s *streamstest.Server) message.Subscriber {
			sub, err := wmjetstream.NewSubscriber(wmjetstream.SubscriberConfig{
				Conn: s.Connection(b), Logger: watermill.NopLogger{}, AckWaitTimeout: 5 * time.Second,
				ResourceInitializer: func(
					ctx context.Context, js jetstream.JetStream, _ string,
				) (jetstream.Consumer, func(context.Context, watermill.LoggerAdapter), error) {
					c, err := js.CreateConsumer(ctx, streams.Name, jetstream.ConsumerConfig{
						AckPolicy: jetstream.AckExplicitPolicy,
					})
					return c, nil, err
				},
			})
			require.NoError(b, err)
			return sub
		})
	})
}

// BenchmarkReplay reads a stream from its start, first the raw messages with nats.go's ordered consumer, then
// decoded events with Replay. "x-raw" is the rate of events divided by the rate of raw messages.
func BenchmarkReplay(b *testing.B) {
	const events = 100_000
	s := streamstest.Run(b, unsynced)
	s.Stream(b, streams.Spec{})
	publish(b, s, benchEvents("7", events))
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for b.Loop() {
		began := time.Now()
		c, err := s.JS.OrderedConsumer(ctx, streams.Name, jetstream.OrderedConsumerConfig{})
		if err != nil {
			b.Fatal(err)
		}
		it, err := c.Messages()
		if err != nil {
			b.Fatal(err)
		}
		for range events {
			if _, err := it.Next(); err != nil {
				b.Fatal(err)
			}
		}
		it.Stop()
		raw := time.Since(began)
		began = time.Now()
		n := 0
		if _, err := streams.Replay(ctx, s.JS, streams.ReadOptions{}, func(list []streams.Replayed) error {
			n += len(list)
			return nil
		}); err != nil || n != events {
			b.Fatal(n, err)
		}
		decoded := time.Since(began)
		b.ReportMetric(events/raw.Seconds(), "raw/s")
		b.ReportMetric(events/decoded.Seconds(), "events/s")
		b.ReportMetric(raw.Seconds()/decoded.Seconds(), "x-raw")
		b.ReportMetric(0, "ns/op")
	}
}
