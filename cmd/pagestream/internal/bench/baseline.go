package bench

import (
	"bytes"
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
)

// Names of the baselines.
const (
	byHTTP    = "http"          // an HTTP server that reads the body, checks the signature and answers
	bySingle  = "single"        // one synced publish per event, 64 at a time
	byBatches = "batches"       // atomic batches of 1000, one after the other
	byRaw     = "raw-read"      // reading the stream in order without decoding it
	byBolt    = "bolt"          // writing the same bytes to bbolt, 1000 per transaction
	byStock   = "stock"         // watermill-nats, one commit per event
	byNone    = "no-duplicates" // the same cell without duplicates
)

const (
	// singles is the number of concurrent publishes.
	singles = 64
	// batch is the maximum size of JetStream's atomic batches, and the number of
	// events per transaction of the bolt baseline.
	batch = 1000
	// secret signs the POSTs to the HTTP baseline.
	secret = "bench-secret"
	// appended is the number of bytes that are written before each fsync.
	appended = 4 << 10
)

// machine measures the duration of an fsync in the scratch directory and the size of
// an event.
func (r *run) machine(ctx context.Context) error {
	r.section = "machine"
	r.step("fsync")
	f, err := os.Create(filepath.Join(r.opts.Dir, "fsync"))
	if err != nil {
		return fmt.Errorf("measure fsync: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	block := bytes.Repeat([]byte{0xa5}, appended)
	c := &client{connections: 1} // for its one goroutine
	p, err := c.drive(ctx, r.opts.Cell, func(context.Context, int) (bool, error) {
		if _, err := f.Write(block); err != nil {
			return false, err
		}
		return true, f.Sync()
	})
	if err != nil {
		return fmt.Errorf("measure fsync: %w", err)
	}
	r.report.Machine.FsyncP50, r.report.Machine.FsyncP99 = us(p.p50), us(p.p99)
	m, err := r.ids.messages(1)
	if err != nil {
		return err
	}
	r.report.Machine.EventBytes = len(stored(m[0]))
	return nil
}

// baseline returns the baseline with that name. It calls measure when a baseline is
// needed for the first time in a run.
func (r *run) baseline(name, unit string, measure func() (Baseline, error)) (Baseline, error) {
	for _, v := range r.report.Baselines {
		if v.Name == name {
			return v, nil
		}
	}
	r.step("baseline %s", name)
	v, err := measure()
	if err != nil {
		return v, fmt.Errorf("measure baseline %s: %w", name, err)
	}
	v.Name, v.Unit = name, unit
	r.report.Baselines = append(r.report.Baselines, v)
	return v, nil
}

// bareHandler returns a handler that only reads the body, checks the signature and
// answers.
func bareHandler(secret string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /webhooks", func(w http.ResponseWriter, req *http.Request) {
		buf := bytes.NewBuffer(make([]byte, 0, max(0, req.ContentLength)+bytes.MinRead))
		if _, err := buf.ReadFrom(http.MaxBytesReader(w, req.Body, 8<<20)); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if !hmac.Equal([]byte(signature(secret, buf.Bytes())), []byte(req.Header.Get(signatureHeader))) {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	return mux
}

// bareServer returns a server for a handler, with timeouts.
func bareServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: requestTimeout, WriteTimeout: requestTimeout,
	}
}

// newHTTPBaseline starts a server with the bare handler in this process.
func newHTTPBaseline() *httptest.Server {
	s := httptest.NewUnstartedServer(nil)
	s.Config = bareServer(bareHandler(secret))
	s.Start()
	return s
}

// ServeBare serves the bare handler on an address until the context ends: it reads the
// body, checks the signature of the bench's own traffic, answers and keeps nothing.
func ServeBare(ctx context.Context, addr string) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	s := bareServer(bareHandler(againstSecret))
	defer context.AfterFunc(ctx, func() { _ = s.Close() })()
	if err := s.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// answers returns the HTTP baseline in POSTs per second.
func (r *run) answers(ctx context.Context, connections, items int) (Baseline, error) {
	return r.baseline(fmt.Sprintf("%s/%dc/%di", byHTTP, connections, items), "POSTs/s", func() (Baseline, error) {
		c := newClient(connections)
		defer c.close() // idle connections would slow down the next measurement
		if err := c.warm(ctx, r.http.URL); err != nil {
			return Baseline{}, err
		}
		shots := r.ids.shots(secret, max(1, 2000/items), items)
		p, err := c.fire(ctx, r.http.URL+"/webhooks", r.opts.Cell, &blend{shots: shots, cycle: true})
		return Baseline{Value: p.rate, P50: ms(p.p50), P99: ms(p.p99)}, err
	})
}

// enough returns how many events are needed for a measurement, by the highest rate
// that is expected.
func (r *run) enough(perSecond float64) int {
	return max(1, int(perSecond*r.opts.Cell.Seconds()))
}

// stores measures a baseline that stores messages in a new, empty stream. measure
// gets as many messages as are enough at a rate.
func (r *run) stores(
	ctx context.Context, name string, perSecond float64, measure func(*server, []*nats.Msg) (Baseline, error),
) (Baseline, error) {
	return r.baseline(name, "events/s", func() (out Baseline, err error) {
		list, err := r.ids.messages(r.enough(perSecond))
		if err != nil {
			return out, err
		}
		dir := filepath.Join(r.opts.Dir, "scratch")
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		err = withServer(ctx, dir, embedded.SyncAlways, 0, func(s *server) (err error) {
			out, err = measure(s, list)
			return err
		})
		return out, err
	})
}

// single measures the baseline with one synced publish per event.
func (r *run) single(ctx context.Context) (Baseline, error) {
	return r.stores(ctx, bySingle, 20_000, func(s *server, list []*nats.Msg) (Baseline, error) {
		c := &client{connections: singles} // for its goroutines
		p, err := c.drive(ctx, r.opts.Cell, func(ctx context.Context, n int) (bool, error) {
			if n >= len(list) {
				return false, nil
			}
			ctx, cancel := context.WithTimeout(ctx, requestTimeout)
			defer cancel()
			_, err := s.js.PublishMsg(ctx, list[n], jetstream.WithExpectStream(streams.Name))
			return true, err
		})
		return Baseline{Value: p.rate, P50: ms(p.p50), P99: ms(p.p99)}, err
	})
}

// batches measures the baseline with atomic batches.
func (r *run) batches(ctx context.Context) (Baseline, error) {
	return r.stores(ctx, byBatches, 100_000, func(s *server, list []*nats.Msg) (Baseline, error) {
		began, stored := time.Now(), 0
		for time.Since(began) < r.opts.Cell && stored < len(list) {
			next := list[stored:min(stored+batch, len(list))]
			if err := publishBatch(ctx, s.conn, next); err != nil {
				return Baseline{}, err
			}
			stored += len(next)
		}
		return Baseline{Value: float64(stored) / time.Since(began).Seconds()}, nil
	})
}

// publishBatch stores the messages as one atomic batch (ADR-50).
func publishBatch(ctx context.Context, conn *nats.Conn, list []*nats.Msg) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	id := nuid.Next()
	for i, m := range list {
		m.Header.Set("Nats-Batch-Id", id)
		m.Header.Set("Nats-Batch-Sequence", strconv.Itoa(i+1))
		if i < len(list)-1 {
			if err := conn.PublishMsg(m); err != nil {
				return fmt.Errorf("publish batch: %w", err)
			}
			continue
		}
		m.Header.Set("Nats-Batch-Commit", "1")
		answer, err := conn.RequestMsgWithContext(ctx, m)
		if err != nil {
			return fmt.Errorf("publish batch: %w", err)
		}
		if !bytes.Contains(answer.Data, []byte(`"batch"`)) {
			return fmt.Errorf("publish batch: %s", answer.Data)
		}
	}
	return nil
}

// stored returns a message's headers and data as the bolt baseline stores them.
func stored(m *nats.Msg) []byte {
	var b bytes.Buffer
	_ = http.Header(m.Header).Write(&b) // writing to a buffer does not fail
	b.Write(m.Data)
	return b.Bytes()
}

// bolt measures the baseline that writes the same bytes to bbolt, with fsync.
func (r *run) bolt(ctx context.Context) (Baseline, error) {
	return r.baseline(byBolt, "events/s", func() (out Baseline, err error) {
		list, err := r.ids.messages(r.opts.Sample)
		if err != nil {
			return out, err
		}
		values := make([][]byte, len(list))
		for i, m := range list {
			values[i] = stored(m)
		}
		dir := filepath.Join(r.opts.Dir, "bolt")
		s, err := store.Open(filepath.Join(dir, "raw.db"), store.Options{})
		if err != nil {
			return out, err
		}
		defer func() { err = errors.Join(err, s.Close(), os.RemoveAll(dir)) }()
		began := time.Now()
		for from := 0; from < len(values); from += batch {
			if err := ctx.Err(); err != nil {
				return out, err
			}
			err := s.Update(func(tx *store.Tx) error {
				bucket := tx.Bucket("raw")
				for i, v := range values[from:min(from+batch, len(values))] {
					if err := bucket.Put(store.Key(uint64(from+i+1)), v); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return out, err
			}
		}
		out.Value = float64(len(values)) / time.Since(began).Seconds()
		return out, nil
	})
}

// baselineSection measures the baselines that do not need the program.
func (r *run) baselineSection(ctx context.Context) error {
	for _, measure := range []func(context.Context) (Baseline, error){r.single, r.batches, r.bolt} {
		if _, err := measure(ctx); err != nil {
			return err
		}
	}
	_, err := r.answers(ctx, r.opts.Connections[len(r.opts.Connections)-1], 1)
	return err
}
