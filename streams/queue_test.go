package streams_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// of returns the events as the app's.
func of(app string, events []domain.Event) []domain.Event {
	for i := range events {
		events[i].Data.App = app
	}
	return events
}

// held starts a publisher whose committer waits in its first round, which stores an event of page "0", until
// release is called.
func held(t *testing.T, s *streamstest.Server, o streams.PublisherOptions) (p *streams.Publisher, release func()) {
	t.Helper()
	block, called := make(chan struct{}), make(chan struct{}, 1000)
	o.Seen = blocking{called, block}
	p = publisher(t, s, o)
	go func() { _, _ = p.Publish(context.Background(), messages("0", 1)) }()
	<-called
	return p, sync.OnceFunc(func() { close(block) })
}

// queued waits until p has events of the page waiting.
func queued(t *testing.T, p *streams.Publisher, app string, page domain.PageID) {
	t.Helper()
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if streams.Waiting(p, app, page) == 0 {
			return fmt.Errorf("page %s has no events waiting", page)
		}
		return nil
	})
}

// TestAPageWithManyEventsDelaysNoOther checks the order in which pages and apps are stored whose events wait at
// the same time, and that the events of a page stay in order.
func TestAPageWithManyEventsDelaysNoOther(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	p, release := held(t, s, streams.PublisherOptions{})
	defer release()
	var wg sync.WaitGroup
	send := func(app string, events []domain.Event) {
		wg.Go(func() {
			_, err := p.Publish(t.Context(), of(app, events))
			assert.NoError(t, err)
		})
		queued(t, p, app, events[0].Page)
	}
	send("a", messages("1", 3000))
	for page := range 20 {
		send("a", messages(domain.PageID(fmt.Sprint(100+page)), 300))
	}
	send("a", messages("2", 1))
	send("b", messages("3", 1))
	release()
	wg.Wait()
	next := map[domain.PageID]int{}
	for i, e := range stored(t, s) {
		require.Equal(t, fmt.Sprintf("m_%s_%d", e.Page, next[e.Page]), e.Data.Message.MID)
		next[e.Page]++
		switch e.Page {
		case "3":
			require.Less(t, i, 200, "the only event of an app waits for one turn of the other app at most")
		case "2":
			require.Less(t, i, 4000, "the only event of a page waits for one turn of the others at most")
		}
	}
	require.Equal(t, 3000, next["1"])
	require.Len(t, next, 24)
}

func TestNoPageTakesTheWholeQueue(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	p, release := held(t, s, streams.PublisherOptions{QueueLimit: 100})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer release()
	send := func(app string, events []domain.Event) {
		wg.Go(func() {
			_, err := p.Publish(t.Context(), of(app, events))
			assert.NoError(t, err)
		})
		queued(t, p, app, events[0].Page)
	}
	send("a", messages("1", 40))
	_, err := p.Publish(t.Context(), of("a", messages("1", 20)))
	require.ErrorIs(t, err, streams.ErrOverloaded, "half of the queue for a page")
	send("a", messages("2", 20))
	_, err = p.Publish(t.Context(), of("a", messages("3", 20)))
	require.ErrorIs(t, err, streams.ErrOverloaded, "three quarters for an app")
	send("b", messages("4", 20))
	require.Positive(t, p.Delay("b", "4"))
	require.Greater(t, p.Delay("a", "1"), time.Duration(0))
}

func TestEventsOfACallerThatHasGoneAreNotStored(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	p, release := held(t, s, streams.PublisherOptions{QueueLimit: 100})
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { _, err := p.Publish(ctx, of("a", messages("1", 50))); gone <- err }()
	queued(t, p, "a", "1")
	cancel()
	require.ErrorIs(t, <-gone, context.Canceled)
	require.Zero(t, streams.Waiting(p, "a", "1"), "its room is free at once")
	release()
	_, err := p.Publish(t.Context(), of("a", messages("2", 50)))
	require.NoError(t, err)
	for _, e := range stored(t, s) {
		require.NotEqual(t, domain.PageID("1"), e.Page)
	}
}

// TestDelayFollowsTheQueue checks the estimate of the wait while the committer stands still and when it goes on.
func TestDelayFollowsTheQueue(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	p, release := held(t, s, streams.PublisherOptions{QueueLimit: 100, RetryFor: time.Hour})
	go func() { _, _ = p.Publish(t.Context(), of("a", messages("1", 50))) }()
	queued(t, p, "a", "1")
	time.Sleep(20 * time.Millisecond)
	require.GreaterOrEqual(t, p.Delay("a", ""), 20*time.Millisecond, "a round that takes long delays everybody")
	require.Equal(t, time.Hour, p.Delay("a", "1"), "the page's share is used up")
	release()
	streamstest.Eventually(t, streamstest.Limit, func() error {
		for _, page := range []domain.PageID{"", "1", "2"} {
			if d := p.Delay("a", page); d != 0 {
				return fmt.Errorf("page %q would wait %s", page, d)
			}
		}
		return nil
	})
}
