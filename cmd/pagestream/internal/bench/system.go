package bench

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
)

// system is a running program and what asks it.
type system struct {
	*System
	dir string
	api *client
}

// start starts a program in a directory below the scratch directory. One whose
// stream was filled has a window of its own.
func (r *run) start(ctx context.Context, dir string, window time.Duration) (*system, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	s, err := r.opts.Start(ctx, StartOptions{
		Dir: filepath.Join(r.opts.Dir, dir), Window: window,
		Queue: 2 * slices.Max(r.opts.Connections) * slices.Max(r.opts.Items), Timeout: storeTimeout,
	})
	if err != nil {
		return nil, fmt.Errorf("start program: %w", err)
	}
	return &system{System: s, dir: filepath.Join(r.opts.Dir, dir), api: newClient(4)}, nil
}

func (s *system) stop(ctx context.Context) error {
	s.api.close()
	if err := atLast(ctx, s.Close); err != nil {
		return fmt.Errorf("stop program: %w", err)
	}
	return nil
}

func (s *system) webhook() string { return "http://" + s.Public + "/webhooks" }

// ask asks the private API, by a client of choice, and reads the answer into buf if
// that is not nil.
func (s *system) ask(ctx context.Context, c *client, path string, buf *bytes.Buffer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Private+path, nil)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+s.Token)
	req.Header.Set("Accept", "application/json")
	return c.do(req, buf)
}

func (s *system) get(ctx context.Context, path string, out any) error {
	var buf bytes.Buffer
	if err := s.ask(ctx, s.api, path, &buf); err != nil {
		return err
	}
	if err := json.Unmarshal(buf.Bytes(), out); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}

// head is the stream's last event and bytes.
func (s *system) head(ctx context.Context) (last, size uint64, err error) {
	var out struct {
		Stream struct {
			LastSeq uint64 `json:"last_seq"`
			Bytes   uint64 `json:"bytes"`
		} `json:"stream"`
	}
	if err := s.get(ctx, "/api/v1/status", &out); err != nil {
		return 0, 0, fmt.Errorf("ask for the stream's end: %w", err)
	}
	return out.Stream.LastSeq, out.Stream.Bytes, nil
}

// slowest is the event that every read model has.
func (s *system) slowest(ctx context.Context) (uint64, error) {
	var out struct {
		Items []projections.Status `json:"items"`
	}
	if err := s.get(ctx, "/api/v1/projections", &out); err != nil {
		return 0, fmt.Errorf("ask the read models: %w", err)
	}
	if len(out.Items) == 0 {
		return 0, errors.New("ask the read models: there are none")
	}
	return slices.MinFunc(out.Items, func(a, b projections.Status) int { return cmp.Compare(a.Seq, b.Seq) }).Seq, nil
}

// mark is where the slowest read model was at a moment.
type mark struct {
	at  time.Time
	seq uint64
}

// catchUpRate is the slowest rate, in events a second, at which read models may
// catch up before the run is given up.
const catchUpRate = 500

// catchUp waits until every read model is at the stream's end, and returns how far
// behind they were at first and where they were meanwhile.
func (s *system) catchUp(ctx context.Context) (behind uint64, marks []mark, err error) {
	head, _, err := s.head(ctx)
	if err != nil {
		return 0, nil, err
	}
	var limit time.Duration
	for began := time.Now(); ; {
		seq, err := s.slowest(ctx)
		if err != nil {
			return 0, nil, err
		}
		marks = append(marks, mark{time.Now(), seq})
		if len(marks) == 1 {
			behind = head - min(head, seq)
			limit = time.Minute + time.Duration(behind)*time.Second/catchUpRate
		}
		if seq >= head {
			return behind, marks, nil
		}
		if time.Since(began) > limit {
			return behind, marks, fmt.Errorf("at event %d of %d after %s: read models did not catch up in time", seq, head, limit)
		}
		if err := backoff.Sleep(ctx, 10*time.Millisecond); err != nil {
			return behind, marks, err
		}
	}
}

// rateOf is the events a second over the last n events of the marks.
func rateOf(marks []mark, n uint64) float64 {
	if len(marks) < 2 {
		return 0
	}
	first, last := marks[0], marks[len(marks)-1]
	for _, m := range marks {
		if m.seq+n <= last.seq {
			first = m
		}
	}
	if took := last.at.Sub(first.at); took > 0 {
		return float64(last.seq-first.seq) / took.Seconds()
	}
	return 0
}

// ready waits until /readyz answers 200.
func (s *system) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := s.ask(ctx, s.api, "/readyz", nil)
		if !errors.Is(err, ErrAnswer) {
			return err
		}
		if waited := backoff.Sleep(ctx, 2*time.Millisecond); waited != nil {
			return fmt.Errorf("wait until it is ready: %w (%w)", waited, err)
		}
	}
}

// fire sends POSTs of a blend for a while, on connections that are open already,
// and waits for the read models; behind is how far behind they were at the end.
func (s *system) fire(ctx context.Context, connections int, d time.Duration, b *blend) (p pace, behind uint64, err error) {
	c := newClient(connections)
	defer c.close()
	if err := c.warm(ctx, "http://"+s.Public); err != nil {
		return p, 0, err
	}
	if p, err = c.fire(ctx, s.webhook(), d, b); err != nil {
		return p, 0, err
	}
	behind, _, err = s.catchUp(ctx)
	return p, behind, err
}

// server is an embedded server with the program's stream.
type server struct {
	*embedded.Server
	conn     *nats.Conn
	js       jetstream.JetStream
	identity streams.Identity
}

// open starts a server on a directory and makes sure of the stream.
func open(ctx context.Context, dir string, sync embedded.SyncMode, window time.Duration) (_ *server, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	s := &server{}
	if s.Server, err = embedded.Start(ctx, embedded.Options{Dir: dir, Sync: sync}); err != nil {
		return nil, fmt.Errorf("start server: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop(ctx))
		}
	}()
	if s.conn, err = s.Connect("bench"); err != nil {
		return nil, err
	}
	if s.js, err = jetstream.New(s.conn); err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	if s.identity, err = streams.Ensure(ctx, s.js, streams.Spec{Window: window}); err != nil {
		return nil, fmt.Errorf("make sure of the stream: %w", err)
	}
	return s, nil
}

// withServer runs f with a server on a directory.
func withServer(ctx context.Context, dir string, sync embedded.SyncMode, window time.Duration, f func(*server) error) error {
	s, err := open(ctx, dir, sync, window)
	if err != nil {
		return err
	}
	return errors.Join(f(s), s.stop(ctx))
}

func (s *server) stop(ctx context.Context) error {
	if s.conn != nil {
		s.conn.Close()
	}
	return atLast(ctx, s.Shutdown)
}
