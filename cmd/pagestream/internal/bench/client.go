package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// client is the one harness for all that is measured over HTTP, so that what it
// costs is the same on both sides of a ratio.
type client struct {
	http        *http.Client
	connections int
}

func newClient(connections int) *client {
	return &client{connections: connections, http: &http.Client{
		Timeout: requestTimeout,
		Transport: &http.Transport{
			MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections, IdleConnTimeout: time.Minute, DisableCompression: true,
		},
	}}
}

func (c *client) close() { c.http.CloseIdleConnections() }

// do sends a request and reads all of the answer, into buf if that is not nil.
func (c *client) do(req *http.Request, buf *bytes.Buffer) error {
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	defer resp.Body.Close()
	to := io.Discard
	if buf != nil {
		buf.Reset()
		to = buf
	}
	if _, err := io.Copy(to, resp.Body); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %w: %s", req.Method, req.URL.Path, ErrAnswer, resp.Status)
	}
	return nil
}

func (c *client) post(ctx context.Context, url string, s shot) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(s.body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	req.Header.Set(signatureHeader, s.signature)
	return c.do(req, nil)
}

// warm opens all connections, before the clock starts.
func (c *client) warm(ctx context.Context, base string) error {
	_, err := c.drive(ctx, time.Minute, func(ctx context.Context, n int) (bool, error) {
		if n >= 2*c.connections {
			return false, nil
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/healthz", nil)
		if err != nil {
			return false, fmt.Errorf("make request: %w", err)
		}
		return true, c.do(req, nil)
	})
	return err
}

// pace is what one measurement over HTTP came to.
type pace struct {
	n int
	// rate is a second; the times are of the answers.
	rate          float64
	p50, p99, max time.Duration
}

// drive calls do from as many goroutines as there are connections, with the
// numbers from 0 on, until the time is over, do says that there is no more, or
// anything fails. Each call is one answer, the last of them end the clock.
func (c *client) drive(ctx context.Context, d time.Duration, do func(ctx context.Context, n int) (bool, error)) (pace, error) {
	var next atomic.Int64
	times := make([][]time.Duration, c.connections)
	began := time.Now()
	g, group := errgroup.WithContext(ctx)
	for w := range c.connections {
		g.Go(func() error {
			for group.Err() == nil {
				start := time.Now()
				if start.Sub(began) >= d {
					return nil
				}
				more, err := do(group, int(next.Add(1)-1))
				if err != nil || !more {
					return err
				}
				times[w] = append(times[w], time.Since(start))
			}
			return ctx.Err() // where the run was interrupted; what failed else is known
		})
	}
	err := g.Wait()
	took := time.Since(began)
	if err != nil {
		return pace{}, err
	}
	return paceOf(slices.Concat(times...), took), nil
}

func paceOf(times []time.Duration, took time.Duration) pace {
	slices.Sort(times)
	return pace{
		n: len(times), rate: float64(len(times)) / max(took.Seconds(), 1e-9),
		p50: quantile(times, 0.50), p99: quantile(times, 0.99), max: quantile(times, 1),
	}
}

// quantile is of a sorted list, 0 of an empty one.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func ms(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

func us(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// blend chooses the POSTs of a cell: new ones, and a share that was acknowledged
// earlier in the same cell.
type blend struct {
	shots []shot
	// percent is the share of POSTs that come again. With cycle, and no percent, each
	// is taken in turn, again and again.
	percent int
	cycle   bool

	mu    sync.Mutex
	fresh int   // the next new one
	again int   // how many came again
	acked []int // of the new ones
}

// take returns the number of the next POST, and false when there is no new one
// left.
func (b *blend) take() (int, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	// What is due and not acknowledged yet is made up for later.
	n := b.fresh + b.again
	if len(b.acked) > 0 && (n+1)*b.percent/100 > b.again {
		b.again++
		return b.acked[mix(uint64(n))%uint64(len(b.acked))], true
	}
	if b.fresh >= len(b.shots) && !b.cycle {
		return 0, false
	}
	b.fresh++
	return (b.fresh - 1) % len(b.shots), true
}

// answered takes note of a POST that was answered 200.
func (b *blend) answered(i int) {
	if b.percent == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.acked = append(b.acked, i)
}

// fire sends POSTs of a blend for a while.
func (c *client) fire(ctx context.Context, url string, d time.Duration, b *blend) (pace, error) {
	return c.drive(ctx, d, func(ctx context.Context, _ int) (bool, error) {
		i, more := b.take()
		if !more {
			return false, nil
		}
		if err := c.post(ctx, url, b.shots[i]); err != nil {
			return false, err
		}
		b.answered(i)
		return true, nil
	})
}
