package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wmnats "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"

	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/comments"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
)

// Goals of the read models, as ratios.
const (
	goalLive    = 0.6
	goalRebuild = 0.5
)

// stockShare is the divisor of the number of events for the stock subscriber, which is
// slower by about that factor.
const stockShare = 25

// models returns the read models of the program.
func models() []projections.Projection {
	return []projections.Projection{
		deliveries.New(), pages.New(), subscriptions.New(), conversations.New(), comments.New(),
	}
}

// projectionsSection measures each read model alone, with fsync, on a stream that is
// complete: catching up with it, and rebuilding from it.
func (r *run) projectionsSection(ctx context.Context) (err error) {
	bolt, err := r.bolt(ctx)
	if err != nil {
		return err
	}
	dir := filepath.Join(r.opts.Dir, "projections")
	s, err := open(ctx, filepath.Join(dir, "nats"), embedded.SyncInterval, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop(ctx), os.RemoveAll(dir)) }()
	r.step("fill")
	if err := s.fillTo(ctx, r.ids, uint64(r.opts.Sample)); err != nil {
		return err
	}
	raw, err := r.raw(ctx, s)
	if err != nil {
		return err
	}
	for _, p := range models() {
		stock, err := r.baseline(byStock+"/"+p.Name(), "events/s", func() (Baseline, error) {
			n := max(1, r.opts.Sample/stockShare)
			took, err := stockRun(ctx, s, p, filepath.Join(dir, "stock-"+p.Name()+".db"), n)
			return Baseline{Value: float64(n) / max(took.Seconds(), 1e-9)}, err
		})
		if err != nil {
			return err
		}
		r.step("%s", p.Name())
		live, rebuilt, err := r.liveAndRebuild(ctx, s, p, filepath.Join(dir, "models"))
		if err != nil {
			return fmt.Errorf("%s: %w", p.Name(), err)
		}
		r.add(figure("live/"+p.Name(), "events/s", live, bolt.Name, bolt.Value, Higher).atLeast(goalLive))
		r.add(figure("live/"+p.Name()+"/by-"+byStock, "events/s", live, stock.Name, stock.Value, Higher))
		r.add(figure("rebuild/"+p.Name(), "events/s", rebuilt, raw.Name, raw.Value, Higher).atLeast(goalRebuild))
	}
	return nil
}

// raw reads the stream in order without decoding it, three times, and returns the
// median rate.
func (r *run) raw(ctx context.Context, s *server) (Baseline, error) {
	return r.baseline(byRaw, "events/s", func() (Baseline, error) {
		var rates []float64
		for range 3 {
			n, began := 0, time.Now()
			reading, cancel := context.WithTimeout(ctx, startTimeout)
			count := func(streams.Raw) error { n++; return nil }
			_, err := streams.ReadRaw(reading, s.js, streams.ReadOptions{}, count)
			cancel()
			if err != nil {
				return Baseline{}, err
			}
			rates = append(rates, float64(n)/max(time.Since(began).Seconds(), 1e-9))
		}
		slices.Sort(rates)
		return Baseline{Value: rates[1]}, nil
	})
}

// liveAndRebuild applies the whole stream to a read model and then rebuilds it. Both
// results are in events per second.
func (r *run) liveAndRebuild(
	ctx context.Context, s *server, p projections.Projection, dir string,
) (live, rebuilt float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	n := float64(r.opts.Sample)
	runner, err := projections.NewRunner(p, projections.RunnerOptions{
		Dir: dir, JS: s.js, Identity: s.identity, Attempts: projections.DefaultAttempts,
	})
	if err != nil {
		return 0, 0, fmt.Errorf("open projection: %w", err)
	}
	var running sync.WaitGroup
	defer func() {
		cancel()
		running.Wait()
		err = errors.Join(err, runner.Close())
	}()
	failed := make(chan error, 1)
	began := time.Now()
	running.Go(func() { failed <- runner.Run(ctx) })
	if err := runner.WaitFor(ctx, uint64(r.opts.Sample)); err != nil {
		cancel()
		return 0, 0, errors.Join(err, <-failed)
	}
	live = n / time.Since(began).Seconds()

	out, err := runner.Rebuild(ctx, nil)
	if err != nil {
		return 0, 0, err
	}
	return live, out.Rate, nil
}

// stockRun applies n events with watermill-nats' own subscriber, which has one event
// in flight, with one commit per event.
func stockRun(
	ctx context.Context, srv *server, p projections.Projection, file string, n int,
) (_ time.Duration, err error) {
	s, err := store.Open(file, store.Options{})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	conn, err := srv.Connect("stock")
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	sub, err := wmnats.NewSubscriberWithNatsConn(conn, wmnats.SubscriberSubscriptionConfig{
		SubscribersCount: 1, Unmarshaler: &wmnats.NATSMarshaler{},
		SubscribeTimeout: requestTimeout, CloseTimeout: requestTimeout, AckWaitTimeout: requestTimeout,
		JetStream: wmnats.JetStreamConfig{
			SubscribeOptions: []nats.SubOpt{nats.DeliverAll(), nats.AckExplicit()}, AckAsync: true,
		},
	}, watermill.NopLogger{})
	if err != nil {
		return 0, fmt.Errorf("create stock subscriber: %w", err)
	}
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: requestTimeout}, watermill.NopLogger{})
	if err != nil {
		return 0, fmt.Errorf("create router: %w", err)
	}
	done := make(chan error, 1)
	seq, finished := 0, false
	router.AddConsumerHandler("stock", streams.All, sub, func(m *message.Message) error {
		if finished {
			return nil // the router is being closed
		}
		seq++ // not concurrent: one event is in flight
		err := stockApply(s, p, m, uint64(seq))
		if finished = err != nil || seq == n; finished {
			done <- err
		}
		return err
	})
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	began := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- router.Run(ctx) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	took := time.Since(began)
	return took, errors.Join(err, router.Close(), <-ended)
}

// stockApply applies one event in its own transaction.
func stockApply(s *store.Store, p projections.Projection, m *message.Message, seq uint64) error {
	h := make(nats.Header, len(m.Metadata))
	for k, v := range m.Metadata {
		h[k] = []string{v}
	}
	subject, err := streams.SubjectOf(h)
	if err != nil {
		return err
	}
	e, err := streams.Decode(subject, h, m.Payload, seq, time.Now())
	if err != nil {
		return err
	}
	return s.Update(func(tx *store.Tx) error {
		if err := p.Apply(tx, e); err != nil {
			return err
		}
		return store.WriteMeta(tx, store.Meta{Seq: seq})
	})
}
