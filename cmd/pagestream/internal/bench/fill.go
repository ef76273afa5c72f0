package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
)

// fillers is how many calls of a thousand events are made at once: while one is
// stored the next is made.
const fillers = 3

// pastWindow is a dedup window so short that what was filled in is history a
// moment later, and not what JetStream keeps in memory.
func (r *run) pastWindow() time.Duration {
	return min(max(3*r.opts.Cell, 200*time.Millisecond), 5*time.Second)
}

// fill stores events in the stream of a program that does not run, until it has
// upto. It returns how many it stored.
func (r *run) fill(ctx context.Context, dir string, ids *traffic, upto uint64) (n int, err error) {
	s, err := open(ctx, filepath.Join(r.opts.Dir, dir, r.opts.Streams), embedded.SyncInterval, r.pastWindow())
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.stop(ctx)) }()
	last, err := streams.Last(ctx, s.js, streams.Name)
	if err != nil || last >= upto {
		return 0, err
	}
	return int(upto - last), fillStream(ctx, s, ids, int(upto-last))
}

// fillStream stores n new events by the program's own publisher.
func fillStream(ctx context.Context, s *server, ids *traffic, n int) (err error) {
	p, err := streams.NewPublisher(s.js, streams.PublisherOptions{QueueLimit: 2 * fillers * batch})
	if err != nil {
		return fmt.Errorf("fill stream: %w", err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		err = errors.Join(err, p.Close(closing))
	}()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan []domain.Event)
	var running sync.WaitGroup
	for range fillers {
		running.Go(func() {
			for events := range work {
				if err := publish(ctx, p, events); err != nil {
					cancel(fmt.Errorf("fill stream: %w", err))
				}
			}
		})
	}
	for left := n; left > 0 && ctx.Err() == nil; left -= batch {
		select {
		case work <- ids.events(min(left, batch)):
		case <-ctx.Done():
		}
	}
	close(work)
	running.Wait()
	return context.Cause(ctx)
}

func publish(ctx context.Context, p *streams.Publisher, events []domain.Event) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := p.Publish(ctx, events)
	return err
}
