package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
)

const (
	// goalReadable is the goal for the slowest of a hundred, in milliseconds.
	goalReadable = 250
	// loadShare is how much of the rate that was measured is sent meanwhile.
	loadShare       = 0.7
	loadConnections = 64
	// senders is how many POSTs of the load may be under way: more than there are
	// at that rate, so that a slow answer does not slow the load down.
	senders = 256
	probers = 4
	// latencyCells is how many cells the load lasts.
	latencyCells = 4
	pollEvery    = 5 * time.Millisecond
	readableIn   = 30 * time.Second
)

// latencySection measures how long it takes from sending a message until the API
// shows it, under a load that does not wait for answers.
func (r *run) latencySection(ctx context.Context) (err error) {
	base, err := r.base.answers(ctx, loadConnections, 1)
	if err != nil {
		return err
	}
	s, err := r.start(ctx, "latency", 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop(ctx), os.RemoveAll(s.dir)) }()
	rate, err := r.closedRate(ctx, s)
	if err != nil {
		return err
	}
	rate *= loadShare
	r.step("%.0f POSTs/s and %d probers", rate, probers)
	p, err := r.probe(ctx, s, rate, time.Duration(latencyCells)*r.opts.Cell)
	if err != nil {
		return err
	}
	r.report.Load = rate
	// All three by the median answer of the baseline, which hardly moves.
	for _, q := range []struct {
		name string
		took time.Duration
	}{{"p50", p.p50}, {"p99", p.p99}, {"max", p.max}} {
		f := figure("latency/readable/"+q.name, "ms", ms(q.took), base.Name, base.P50, Lower)
		f.Ungated = q.name == "max"
		if q.name == "p99" {
			f.below(goalReadable)
		}
		r.add(f)
	}
	if _, _, err = s.catchUp(ctx); err != nil {
		return err
	}
	return nil
}

// closedRate is the rate of single items that the connections of the load get by
// waiting for each answer.
func (r *run) closedRate(ctx context.Context, s *system) (float64, error) {
	r.step("rate at %d connections", loadConnections)
	c := r.base.client(loadConnections)
	defer c.close()
	if err := c.warm(ctx, "http://"+s.Public); err != nil {
		return 0, err
	}
	p, err := c.fire(ctx, s.webhook(), r.opts.Cell, &blend{shots: r.ids.shots(s.Secret, r.fresh(1), 1)})
	if err != nil {
		return 0, err
	}
	_, _, err = s.catchUp(ctx)
	return p.rate, err
}

// probe sends at a rate, whatever the answers take, and meanwhile follows a few
// messages until they can be read.
func (r *run) probe(ctx context.Context, s *system, rate float64, d time.Duration) (pace, error) {
	shots := r.ids.shots(s.Secret, max(1, int(rate*d.Seconds())), 1)
	load := newClient(senders)
	defer load.close()
	reads := newClient(probers)
	defer reads.close()
	if err := load.warm(ctx, "http://"+s.Public); err != nil {
		return pace{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	began := time.Now()
	running.Go(func() {
		_, err := load.drive(ctx, 2*d, func(ctx context.Context, n int) (bool, error) {
			if n >= len(shots) {
				return false, nil
			}
			due := began.Add(time.Duration(float64(n) / rate * float64(time.Second)))
			if err := pause(ctx, time.Until(due)); err != nil {
				return false, err
			}
			return true, load.post(ctx, s.webhook(), shots[n])
		})
		if err != nil {
			cancel(fmt.Errorf("send load: %w", err))
		}
	})
	times := make([][]time.Duration, probers)
	for i := range probers {
		running.Go(func() {
			for n := 0; time.Since(began) < d && ctx.Err() == nil; n++ {
				took, err := r.follow(ctx, s, reads)
				if err == nil {
					times[i] = append(times[i], took)
					// Out of step with what is done at intervals.
					err = pause(ctx, time.Duration(mix(uint64(n*probers+i))%20)*time.Millisecond)
				}
				if err != nil {
					cancel(err)
				}
			}
		})
	}
	running.Wait()
	if err := context.Cause(ctx); err != nil {
		return pace{}, err
	}
	return paceOf(slices.Concat(times...), d), nil
}

// follow sends one message and asks for its conversation until it is there.
func (r *run) follow(ctx context.Context, s *system, c *client) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, readableIn)
	defer cancel()
	n := r.ids.next.Add(1)
	pageN, contactN := r.ids.place(n)
	body := append([]byte(`{"object":"page","entry":[{"id":"`+page(pageN)+`","time":1,"messaging":[`),
		appendMessage(nil, page(pageN), contact(contactN), mid(n), time.Now().UnixMilli())...)
	probe := sign(s.Secret, append(body, `]}]}`...))
	start := time.Now()
	if err := c.post(ctx, s.webhook(), probe); err != nil {
		return 0, err
	}
	var buf bytes.Buffer
	for {
		req, err := s.request(ctx, messagesPath(page(pageN), contact(contactN))+"?order=newest&limit=5")
		if err != nil {
			return 0, err
		}
		if err := c.do(req, &buf); err != nil {
			return 0, err
		}
		if bytes.Contains(buf.Bytes(), []byte(mid(n))) {
			return time.Since(start), nil
		}
		if err := pause(ctx, pollEvery); err != nil {
			return 0, fmt.Errorf("message not readable after %s: %w", time.Since(start).Round(time.Millisecond), err)
		}
	}
}

func messagesPath(page, contact string) string {
	return "/api/v1/conversations/" + page + "/" + contact + "/messages"
}
