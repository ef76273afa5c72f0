package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// client is the HTTP client of all measurements and baselines, so that its own cost is
// the same on both sides of a ratio. It shares the processors with what it measures, so it
// is small: a goroutine that sends a request reads the answer itself, and a POST is written,
// and its answer read, without the types of net/http, which cost as much as sending it does.
// [http.Transport] has two more goroutines for each connection.
type client struct {
	connections int

	mu   sync.Mutex
	idle map[string][]*link // by address
}

// link is a connection that is kept alive.
type link struct {
	net.Conn
	in   *bufio.Reader
	out  *bufio.Writer
	used time.Time
}

// idleTimeout is less than any server closes an unused connection after.
const idleTimeout = 20 * time.Second

func newClient(connections int) *client {
	return &client{connections: connections, idle: map[string][]*link{}}
}

// close closes all connections that are not in use.
func (c *client) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, list := range c.idle {
		for _, l := range list {
			_ = l.Close()
		}
	}
	clear(c.idle)
}

// link returns a connection to an address, one that was used before if there is any.
func (c *client) link(ctx context.Context, address string) (l *link, kept bool, err error) {
	c.mu.Lock()
	if list := c.idle[address]; len(list) > 0 {
		l, c.idle[address] = list[len(list)-1], list[:len(list)-1]
	}
	c.mu.Unlock()
	if l != nil {
		if time.Since(l.used) < idleTimeout {
			return l, true, nil
		}
		_ = l.Close()
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, false, fmt.Errorf("connect: %w", err)
	}
	return &link{Conn: conn, in: bufio.NewReader(conn), out: bufio.NewWriter(conn)}, false, nil
}

// keep keeps a connection for the next request.
func (c *client) keep(address string, l *link) {
	l.used = time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle[address] = append(c.idle[address], l)
}

// answer is what an answer says before its body. With last the server closes the connection after it.
type answer struct {
	code   int
	status string
	last   bool
}

// exchange sends what write writes, and reads the answer with read.
func (l *link) exchange(
	ctx context.Context, write func(*bufio.Writer) error, read func(*bufio.Reader) (answer, error),
) (a answer, err error) {
	if err := l.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return a, fmt.Errorf("set deadline: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = l.SetDeadline(time.Unix(1, 0)) })
	if err = write(l.out); err == nil {
		err = l.out.Flush()
	}
	if err != nil {
		err = fmt.Errorf("send: %w", err)
	} else if a, err = read(l.in); err != nil {
		err = fmt.Errorf("read answer: %w", err)
	}
	if !stop() {
		return a, ctx.Err()
	}
	return a, err
}

// errFraming is returned for an answer to a POST whose end skim does not know.
var errFraming = errors.New("the answer has no Content-Length")

// skim reads an answer that has a Content-Length, and drops its body.
func skim(in *bufio.Reader) (a answer, err error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return a, err
	}
	status := bytes.TrimSpace(line[min(len(line), len("HTTP/1.1 ")):])
	code, _, _ := bytes.Cut(status, []byte(" "))
	if a.code, err = strconv.Atoi(string(code)); err != nil {
		return a, fmt.Errorf("status: %w", err)
	}
	if a.code != http.StatusOK {
		a.status = string(status)
	}
	for length := -1; ; {
		if line, err = in.ReadSlice('\n'); err != nil {
			return a, err
		}
		line = bytes.TrimSpace(line)
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch value = bytes.TrimSpace(value); {
		case len(line) == 0 && length < 0:
			return a, errFraming
		case len(line) == 0:
			_, err = in.Discard(length)
			return a, err
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil || length < 0 {
				return a, errFraming
			}
		case bytes.EqualFold(name, []byte("Connection")):
			a.last = bytes.EqualFold(value, []byte("close"))
		}
	}
}

// closed reports whether an error is that the other side has closed the connection.
func closed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// errBusy is returned together with [ErrAnswer] when a request was answered 503: it may
// be sent again.
var errBusy = errors.New("503 Service Unavailable")

// do sends a request without a body and reads the whole answer, into buf if it is not nil.
// [ErrAnswer] is returned for another status than 200, and errBusy too if it is 503.
func (c *client) do(req *http.Request, buf *bytes.Buffer) error {
	write := func(out *bufio.Writer) error { return req.Write(out) }
	a, err := c.exchange(req.Context(), req.URL.Host, write, func(in *bufio.Reader) (a answer, err error) {
		resp, err := http.ReadResponse(in, req)
		if err != nil {
			return a, err
		}
		defer resp.Body.Close()
		to := io.Discard
		if buf != nil {
			buf.Reset()
			to = buf
		}
		_, err = io.Copy(to, resp.Body)
		return answer{resp.StatusCode, resp.Status, resp.Close}, err
	})
	return judge(a, err, req.Method, req.URL.Path)
}

// post sends a POST, as do does.
func (c *client) post(ctx context.Context, url string, s shot) error {
	host, path, _ := strings.Cut(strings.TrimPrefix(url, "http://"), "/")
	a, err := c.exchange(ctx, host, func(out *bufio.Writer) error {
		head := append(out.AvailableBuffer(), "POST /"...)
		head = append(append(head, path...), " HTTP/1.1\r\nHost: "...)
		head = append(append(head, host...), "\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: "...)
		head = append(strconv.AppendInt(head, int64(len(s.body)), 10), "\r\n"+signatureHeader+": "...)
		head = append(append(head, s.signature...), "\r\n\r\n"...)
		_, err := out.Write(head)
		if err == nil {
			_, err = out.Write(s.body)
		}
		return err
	}, skim)
	return judge(a, err, http.MethodPost, "/"+path)
}

// exchange sends a request on a connection that was used before, or on a new one.
func (c *client) exchange(
	ctx context.Context, address string, write func(*bufio.Writer) error, read func(*bufio.Reader) (answer, error),
) (answer, error) {
	for {
		l, kept, err := c.link(ctx, address)
		if err != nil {
			return answer{}, err
		}
		a, err := l.exchange(ctx, write, read)
		switch {
		case err != nil && kept && closed(err): // the server has closed it before it saw this request
			_ = l.Close()
			continue
		case err != nil || a.last:
			_ = l.Close()
		default:
			c.keep(address, l)
		}
		return a, err
	}
}

// judge returns the error of an answer.
func judge(a answer, err error, method, path string) error {
	switch {
	case err != nil:
		return err
	case a.code == http.StatusOK:
		return nil
	case a.code == http.StatusServiceUnavailable:
		return fmt.Errorf("%s %s: %w: %w", method, path, ErrAnswer, errBusy)
	default:
		return fmt.Errorf("%s %s: %w: %s", method, path, ErrAnswer, a.status)
	}
}

// warm opens all connections before a measurement.
func (c *client) warm(ctx context.Context, base string) error {
	_, err := c.drive(ctx, time.Minute, func(ctx context.Context, n int) (bool, error) {
		if n >= 2*c.connections {
			return false, nil
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/healthz", nil)
		if err != nil {
			return false, fmt.Errorf("create request: %w", err)
		}
		return true, c.do(req, nil)
	})
	return err
}

// pace is the result of a measurement over HTTP.
type pace struct {
	n             int           // answers
	rate          float64       // answers per second
	p50, p99, max time.Duration // latencies
}

// drive calls do from one goroutine per connection, with consecutive numbers from 0,
// until the time d is over, do returns false, or an error occurs. Each call counts as
// one answer. The measured time ends with the last answer.
func (c *client) drive(
	ctx context.Context, d time.Duration, do func(ctx context.Context, n int) (bool, error),
) (pace, error) {
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
			return ctx.Err() // not nil if the run was interrupted
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

// quantile returns a quantile of a sorted list, 0 of an empty one.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func ms(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

func us(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// blend chooses the POSTs of a cell: new ones and a percentage of duplicates, which
// were acknowledged earlier in the same cell.
type blend struct {
	shots []shot
	// percent is the percentage of duplicates. With cycle, and percent 0, the POSTs
	// are repeated in order.
	percent int
	cycle   bool
	// tolerant blends count POSTs that are answered 503, and go on. Others fail then.
	tolerant bool

	mu         sync.Mutex
	fresh      int   // how many new ones were taken
	duplicates int   // how many duplicates were taken
	acked      []int // the new ones that were acknowledged
	refused    int   // how many were answered 503
	unstored   int   // how many of these were new ones
}

// take returns the index of the next POST, and false if there is no new one left.
func (b *blend) take() (int, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	// Duplicates that are due before any POST is acknowledged are sent later.
	n := b.fresh + b.duplicates
	if len(b.acked) > 0 && (n+1)*b.percent/100 > b.duplicates {
		b.duplicates++
		return b.acked[mix(uint64(n))%uint64(len(b.acked))], true
	}
	if b.fresh >= len(b.shots) && !b.cycle {
		return 0, false
	}
	b.fresh++
	return (b.fresh - 1) % len(b.shots), true
}

// answered records that a POST was answered 200.
func (b *blend) answered(i int) {
	if b.percent == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.acked = append(b.acked, i)
}

// refuse records that a POST was answered 503. It reports whether the client goes on.
func (b *blend) refuse(i int) bool {
	if !b.tolerant {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refused++
	if !slices.Contains(b.acked, i) {
		b.unstored++
	}
	return true
}

// stored returns how many new POSTs were answered 200, after all were answered.
func (b *blend) stored() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.fresh - b.unstored
}

// fire sends POSTs of a blend for the time d. A refused POST of a tolerant blend is an
// answer too.
func (c *client) fire(ctx context.Context, url string, d time.Duration, b *blend) (pace, error) {
	return c.drive(ctx, d, func(ctx context.Context, _ int) (bool, error) {
		i, more := b.take()
		if !more {
			return false, nil
		}
		if err := c.post(ctx, url, b.shots[i]); err != nil {
			if errors.Is(err, errBusy) && b.refuse(i) {
				return true, nil
			}
			return false, err
		}
		b.answered(i)
		return true, nil
	})
}
