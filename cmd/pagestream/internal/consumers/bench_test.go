package consumers

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// BenchmarkIngest stores 500 events a second, each synced. For 4 of 8 s the outboxes of the consumers of a
// company are filled. p99 is the time until an event is stored, without and with that. With a backlog the fillers are
// behind all the time.
func BenchmarkIngest(b *testing.B) {
	for _, n := range []int{1, 20} {
		for _, backlog := range []int{0, 100_000} {
			b.Run(fmt.Sprintf("consumers=%d/backlog=%d", n, backlog), func(b *testing.B) {
				for b.Loop() {
					benchIngest(b, n, backlog)
				}
			})
		}
	}
}

func benchIngest(b *testing.B, consumers, backlog int) {
	s := streamstest.Run(b)
	identity := s.Stream(b, streams.Spec{})
	tail := streams.NewTail(s.JS, streams.TailOptions{})
	model, err := projections.NewRunner(pages.New(), projections.RunnerOptions{
		Dir: b.TempDir(), JS: s.JS, Stream: streams.Name, Identity: identity, Tail: tail,
	})
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer func() {
		cancel()
		running.Wait()
		require.NoError(b, model.Close())
		require.NoError(b, tail.Close())
	}()
	running.Go(func() { _ = model.Run(ctx) })
	publisher, err := streams.NewPublisher(s.JS, streams.PublisherOptions{})
	require.NoError(b, err)
	defer func() { require.NoError(b, publisher.Close(context.Background())) }()
	event := func(i int) domain.Event {
		return domain.Event{
			ID: fmt.Sprint("e", i), Type: domain.MessageReceived, Page: domain.PageID(fmt.Sprint(i % 100)),
			Data: domain.Data{Message: &domain.Message{MID: fmt.Sprint("m", i), Text: "hello, is this still available?"}},
		}
	}
	var events []domain.Event
	for i := range 100 {
		events = append(events, domain.Event{
			ID: fmt.Sprint("c", i), Type: domain.PageConnected, Page: domain.PageID(fmt.Sprint(i)),
			Data: domain.Data{Connection: &domain.Connection{ConnectionID: "c", Company: "acme", App: "main"}},
		})
	}
	for i := range backlog {
		events = append(events, event(-1-i))
	}
	for list := range slices.Chunk(events, 1000) {
		_, err = publisher.Publish(ctx, list)
		require.NoError(b, err)
	}
	head, err := streams.Last(ctx, s.JS, streams.Name)
	require.NoError(b, err)
	require.NoError(b, model.WaitFor(ctx, head))
	js, err := jetstream.New(s.Connection(b))
	require.NoError(b, err)
	c := New(Options{JS: js, Stream: streams.Name, Tail: tail, Pages: model})
	for i := range consumers {
		_, err := c.Add(ctx, Spec{Name: fmt.Sprint("c", i), Company: "acme"})
		require.NoError(b, err)
	}
	var mu sync.Mutex
	var took [2][]time.Duration // while outboxes are not filled, and while they are
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for turn := range 10 {
		fill, stop := context.WithCancel(ctx)
		var filling, sending sync.WaitGroup
		if turn%2 == 1 {
			filling.Go(func() { _ = c.Run(fill) })
			time.Sleep(time.Second)
		}
		for i := range 2000 {
			<-tick.C
			sending.Go(func() {
				began := time.Now()
				_, err := publisher.Publish(ctx, []domain.Event{event(2000*turn + i)})
				if err != nil {
					b.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				took[turn%2] = append(took[turn%2], time.Since(began))
			})
		}
		sending.Wait()
		stop()
		filling.Wait()
	}
	for i, name := range []string{"without", "with"} {
		slices.Sort(took[i])
		b.ReportMetric(float64(took[i][len(took[i])/2].Microseconds()), "p50-us-"+name)
		b.ReportMetric(float64(took[i][len(took[i])*99/100].Microseconds()), "p99-us-"+name)
	}
}
