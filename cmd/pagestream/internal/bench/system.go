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
	"github.com/pagestream/pagestream/internal/journal"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
)

// system is a running program with a client for its API.
type system struct {
	*System
	dir string
	api *client
}

// start starts a program in a directory below the scratch directory. window is
// [StartOptions].Window.
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
	if err := cleanUp(ctx, s.Close); err != nil {
		return fmt.Errorf("stop program: %w", err)
	}
	return nil
}

func (s *system) webhook() string { return "http://" + s.Public + "/webhooks" }

// request makes a GET request to the private API with client c, and reads the answer
// into buf if it is not nil.
func (s *system) request(ctx context.Context, c *client, path string, buf *bytes.Buffer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Private+path, nil)
	if err != nil {
		return fmt.Errorf("create request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+s.Token)
	req.Header.Set("Accept", "application/json")
	return c.do(req, buf)
}

// get reads a resource of the private API into out.
func (s *system) get(ctx context.Context, path string, out any) error {
	var buf bytes.Buffer
	if err := s.request(ctx, s.api, path, &buf); err != nil {
		return err
	}
	if err := json.Unmarshal(buf.Bytes(), out); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	return nil
}

// head returns the sequence of the stream's last event, and the stream's size in
// bytes.
func (s *system) head(ctx context.Context) (last, size uint64, err error) {
	var out struct {
		Stream struct {
			LastSeq uint64 `json:"last_seq"`
			Bytes   uint64 `json:"bytes"`
		} `json:"stream"`
	}
	if err := s.get(ctx, "/api/v1/status", &out); err != nil {
		return 0, 0, fmt.Errorf("read status: %w", err)
	}
	return out.Stream.LastSeq, out.Stream.Bytes, nil
}

// slowest returns the position of the read model that is farthest behind.
func (s *system) slowest(ctx context.Context) (uint64, error) {
	var out struct {
		Items []projections.Status `json:"items"`
	}
	if err := s.get(ctx, "/api/v1/projections", &out); err != nil {
		return 0, fmt.Errorf("read status of read models: %w", err)
	}
	if len(out.Items) == 0 {
		return 0, errors.New("read status of read models: there are none")
	}
	return slices.MinFunc(out.Items, func(a, b projections.Status) int { return cmp.Compare(a.Seq, b.Seq) }).Seq, nil
}

// mark is the position of the slowest read model at a time.
type mark struct {
	at  time.Time
	seq uint64
}

// catchUpRate is the minimum rate of catching up in events per second. If read models
// are slower, the run fails.
const catchUpRate = 500

// catchUpStep is how often the positions of the read models are read.
const catchUpStep = 10 * time.Millisecond

// catchUp waits until every read model has the stream's last event, and reads their
// positions at that interval. It returns how many events the slowest one was behind at
// first, and its positions meanwhile.
func (s *system) catchUp(ctx context.Context, every time.Duration) (behind uint64, marks []mark, err error) {
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
			return behind, marks, fmt.Errorf("at event %d of %d after %s: read models did not catch up in time",
				seq, head, limit)
		}
		if err := backoff.Sleep(ctx, every); err != nil {
			return behind, marks, err
		}
	}
}

// rateOf returns the rate over the last n events of the marks, in events per second.
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
		err := s.request(ctx, s.api, "/readyz", nil)
		if !errors.Is(err, ErrAnswer) {
			return err
		}
		if ctxErr := backoff.Sleep(ctx, 2*time.Millisecond); ctxErr != nil {
			return fmt.Errorf("wait until the program is ready: %w (%w)", ctxErr, err)
		}
	}
}

// fire sends POSTs of a blend for the time d on open connections, and then waits for
// the read models. behind is how many events they were behind when the POSTs ended.
func (s *system) fire(
	ctx context.Context, connections int, d time.Duration, b *blend,
) (p pace, behind uint64, err error) {
	c := newClient(connections)
	defer c.close()
	if err := c.warm(ctx, "http://"+s.Public); err != nil {
		return p, 0, err
	}
	if p, err = c.fire(ctx, s.webhook(), d, b); err != nil {
		return p, 0, err
	}
	behind, _, err = s.catchUp(ctx, catchUpStep)
	return p, behind, err
}

// server is an embedded server with the program's stream.
type server struct {
	*embedded.Server
	// The journal of the stream, which the measured baselines do without.
	checkpoints *embedded.Checkpoints
	files       *journal.Journal
	journal     *streams.Journal

	conn     *nats.Conn
	js       jetstream.JetStream
	identity streams.Identity
}

// open starts a server with the files of a directory and creates the stream if
// needed. With SyncInterval the stream has a journal beside the directory, as that of the program has.
func open(ctx context.Context, dir string, sync embedded.SyncMode, window time.Duration) (_ *server, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	s := &server{}
	journaled := sync == embedded.SyncInterval
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
	if s.identity, err = streams.Ensure(ctx, s.js, streams.Spec{Window: window, Journal: journaled}); err != nil {
		return nil, fmt.Errorf("create stream: %w", err)
	}
	if journaled {
		err = s.openJournal(ctx, dir)
	}
	return s, err
}

// openJournal opens the journal beside the directory of the server.
func (s *server) openJournal(ctx context.Context, dir string) (err error) {
	beside := filepath.Join(filepath.Dir(dir), "journal")
	s.checkpoints, err = embedded.OpenCheckpoints(filepath.Join(beside, "checkpoint"), dir, streams.Name)
	if err == nil {
		s.files, err = journal.Open(journal.Options{Dir: beside})
	}
	if err == nil {
		s.journal, err = streams.OpenJournal(ctx, s.js, streams.JournalOptions{Files: s.files, Checkpoints: s.checkpoints})
	}
	return err
}

// withServer calls f with a server that it opens and stops.
func withServer(
	ctx context.Context, dir string, sync embedded.SyncMode, window time.Duration, f func(*server) error,
) error {
	s, err := open(ctx, dir, sync, window)
	if err != nil {
		return err
	}
	return errors.Join(f(s), s.stop(ctx))
}

func (s *server) stop(ctx context.Context) (err error) {
	if s.journal != nil {
		err = cleanUp(ctx, s.journal.Close)
	}
	if s.files != nil {
		err = errors.Join(err, s.files.Close())
	}
	if s.checkpoints != nil {
		err = errors.Join(err, s.checkpoints.Close())
	}
	if s.conn != nil {
		s.conn.Close()
	}
	return errors.Join(err, cleanUp(ctx, s.Shutdown))
}
