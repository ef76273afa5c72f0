package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/projections/store"
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
// upto.
func (r *run) fill(ctx context.Context, dir string, ids *traffic, upto uint64) error {
	return r.offline(ctx, dir, func(s *server) error { return r.fillTo(ctx, s, ids, upto) })
}

// offline runs f with the stream of a program that does not run.
func (r *run) offline(ctx context.Context, dir string, f func(*server) error) (err error) {
	s, err := open(ctx, filepath.Join(r.opts.Dir, dir, r.opts.Streams), embedded.SyncInterval, r.pastWindow())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop(ctx)) }()
	return f(s)
}

func (r *run) fillTo(ctx context.Context, s *server, ids *traffic, upto uint64) error {
	last, err := streams.Last(ctx, s.js, streams.Name)
	if err != nil || last >= upto {
		return err
	}
	return fillStream(ctx, s, ids, int(upto-last))
}

// prepare folds the stream into the read models of a program that does not run, by
// the program's own runners but without fsync, which would take most of the time
// of a bench.
func (r *run) prepare(ctx context.Context, dir string, s *server) (err error) {
	head, err := streams.Last(ctx, s.js, streams.Name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute+time.Duration(head)*time.Second/catchUpRate)
	var running sync.WaitGroup
	var runners []*projections.Runner
	defer func() {
		cancel()
		running.Wait()
		for _, runner := range runners {
			err = errors.Join(err, runner.Close())
		}
	}()
	var index projections.Index
	for _, p := range models() {
		runner, err := projections.NewRunner(p, projections.RunnerOptions{
			Dir: filepath.Join(r.opts.Dir, dir, r.opts.Models), JS: s.js, Identity: s.identity, Dedup: index,
			Pace: -1, Store: store.Options{NoSync: true},
		})
		if err != nil {
			return fmt.Errorf("open projection: %w", err)
		}
		runners = append(runners, runner)
		if index == nil {
			index = deliveries.Index{Runner: runner}
		}
		running.Go(func() { _ = runner.Run(ctx) }) // those who wait for it see that it stopped
	}
	for _, runner := range runners {
		if err := runner.WaitFor(ctx, head); err != nil {
			return fmt.Errorf("prepare read models: %w", err)
		}
	}
	return nil
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
