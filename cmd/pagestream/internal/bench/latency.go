package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pagestream/pagestream/internal/backoff"
)

const (
	// goalReadable is the goal for the 99th percentile, in milliseconds.
	goalReadable = 250
	// loadShare is the load as a fraction of the rate that was measured before.
	loadShare       = 0.7
	loadConnections = 64
	// senders is the maximum number of concurrent POSTs of the load. It is higher than
	// that rate needs, so that a slow answer does not reduce the load.
	senders = 256
	probers = 4
	// latencyCells is how long the load lasts, in cells.
	latencyCells = 4
	pollEvery    = 5 * time.Millisecond
	readableIn   = 30 * time.Second
)

// latencySection measures how long it takes from sending a message until the API
// shows it, under a load that does not wait for answers.
func (r *run) latencySection(ctx context.Context) (err error) {
	base, err := r.answers(ctx, loadConnections, 1)
	if err != nil {
		return err
	}
	s, err := r.start(ctx, "latency", 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop(ctx), os.RemoveAll(s.dir)) }()
	// This rate is of clients that wait for each answer.
	r.step("rate at %d connections", loadConnections)
	closed, _, err := s.fire(ctx, loadConnections, r.opts.Cell,
		&blend{shots: r.ids.shots(s.Secret, r.fresh(1), 1)})
	if err != nil {
		return err
	}
	rate := loadShare * closed.rate
	r.step("%.0f POSTs/s and %d probers", rate, probers)
	p, err := r.probe(ctx, s, rate, time.Duration(latencyCells)*r.opts.Cell)
	if err != nil {
		return err
	}
	r.report.Load = rate
	// All three are relative to the baseline's median latency, which is stable.
	for _, q := range []struct {
		name string
		took time.Duration
	}{{"p50", p.p50}, {"p99", p.p99}, {"max", p.max}} {
		f := figure("latency/readable/"+q.name, "ms", ms(q.took), base.Name, base.P50, Lower)
		f.Ungated = q.name == "max"
		if q.name == "p99" {
			f = f.below(goalReadable)
		}
		r.add(f)
	}
	_, _, err = s.catchUp(ctx, catchUpStep)
	return err
}

// probe sends at a constant rate, no matter how long the answers take, and meanwhile
// measures for a few messages how long it takes until they can be read.
func (r *run) probe(ctx context.Context, s *system, rate float64, d time.Duration) (pace, error) {
	shots := r.ids.shots(s.Secret, max(1, int(rate*d.Seconds())), 1)
	load := newClient(senders)
	defer load.close()
	reads := newClient(probers)
	defer reads.close()
	if err := load.warm(ctx, "http://"+s.Public); err != nil {
		return pace{}, err
	}
	g, group := errgroup.WithContext(ctx)
	began := time.Now()
	g.Go(func() error {
		_, err := load.drive(group, 2*d, func(ctx context.Context, n int) (bool, error) {
			if n >= len(shots) {
				return false, nil
			}
			due := began.Add(time.Duration(float64(n) / rate * float64(time.Second)))
			if err := backoff.Sleep(ctx, time.Until(due)); err != nil {
				return false, err
			}
			return true, load.post(ctx, s.webhook(), shots[n])
		})
		if err != nil {
			return fmt.Errorf("send load: %w", err)
		}
		return nil
	})
	times := make([][]time.Duration, probers)
	for i := range probers {
		g.Go(func() error {
			for n := 0; time.Since(began) < d; n++ {
				took, err := r.follow(group, s, reads)
				if err != nil {
					return err
				}
				times[i] = append(times[i], took)
				// The pause varies, so that probes are not in step with periodic work.
				pause := time.Duration(mix(uint64(n*probers+i))%20) * time.Millisecond
				if err := backoff.Sleep(group, pause); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return pace{}, err
	}
	return paceOf(slices.Concat(times...), d), nil
}

// follow sends one message and reads its conversation until the message is in it.
func (r *run) follow(ctx context.Context, s *system, c *client) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, readableIn)
	defer cancel()
	n := r.ids.next.Add(1)
	pageN, contactN := r.ids.place(n)
	at := time.Now().UnixMilli()
	probe := sign(s.Secret, delivery(entry(pageN, at, item(pageN, contactN, n, at))))
	start := time.Now()
	if err := c.post(ctx, s.webhook(), probe); err != nil {
		return 0, err
	}
	var buf bytes.Buffer
	for {
		if err := s.request(ctx, c, messagesPath(page(pageN), contact(contactN))+"?order=newest&limit=5", &buf); err != nil {
			return 0, err
		}
		if bytes.Contains(buf.Bytes(), []byte(mid(n))) {
			return time.Since(start), nil
		}
		if err := backoff.Sleep(ctx, pollEvery); err != nil {
			return 0, fmt.Errorf("message not readable after %s: %w",
				time.Since(start).Round(time.Millisecond), err)
		}
	}
}

func messagesPath(page, contact string) string {
	return "/api/v1/conversations/" + page + "/" + contact + "/messages"
}
