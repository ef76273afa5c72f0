package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pagestream/pagestream/domain/messenger"
	"github.com/pagestream/pagestream/projections"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func noProgram(context.Context, StartOptions) (*System, error) {
	return nil, errors.New("the test must not start a program")
}

func TestOptions(t *testing.T) {
	good := Options{Dir: "d", Start: noProgram, Streams: "s", Models: "m"}
	require.NoError(t, good.complete())
	require.Equal(t, 1500*time.Millisecond, good.Cell)
	require.Equal(t, []int{10_000, 100_000, 1_000_000}, good.Growth)
	require.Equal(t, 50_000, good.Sample)
	for name, change := range map[string]func(*Options){
		"no directory":    func(o *Options) { o.Dir = "" },
		"no program":      func(o *Options) { o.Start = nil },
		"short cell":      func(o *Options) { o.Cell = time.Millisecond },
		"no connections":  func(o *Options) { o.Connections = []int{0} },
		"many items":      func(o *Options) { o.Items = []int{1001} },
		"percent":         func(o *Options) { o.Duplicates = []int{0, 101} },
		"no 0 percent":    func(o *Options) { o.Duplicates = []int{20} },
		"shrinking":       func(o *Options) { o.Growth = []int{2000, 1000} },
		"repeated size":   func(o *Options) { o.Growth = []int{1000, 1000} },
		"few events":      func(o *Options) { o.Growth = []int{5} },
		"negative sample": func(o *Options) { o.Sample = -1 },
	} {
		o := Options{Dir: "d", Start: noProgram, Streams: "s", Models: "m"}
		change(&o)
		_, err := Run(t.Context(), o)
		require.ErrorIs(t, err, ErrOptions, name)
	}
}

// TestBlend checks that one in five POSTs is a duplicate of an acknowledged one, and
// that duplicates which were not possible at first are sent later.
func TestBlend(t *testing.T) {
	const posts = 1000
	b := &blend{shots: make([]shot, posts), percent: 20}
	sent := map[int]int{}
	var held []int
	for n := range posts {
		i, more := b.take()
		require.True(t, more, "there is no POST %d", n)
		if sent[i] > 0 {
			require.NotContains(t, held, i, "POST %d is repeated before it was acknowledged", i)
		}
		sent[i]++
		if n < 50 {
			held = append(held, i) // nothing is acknowledged yet
			continue
		}
		for _, h := range append(held, i) {
			b.answered(h)
		}
		held = nil
	}
	n := posts - len(sent)
	require.Equal(t, posts/5, n)
	require.Equal(t, n, b.duplicates)

	b = &blend{shots: make([]shot, 3)}
	for range 3 {
		_, more := b.take()
		require.True(t, more, "there are too few POSTs")
	}
	_, more := b.take()
	require.False(t, more, "a POST is repeated without percent and cycle")

	b = &blend{shots: make([]shot, 3), cycle: true}
	for n := range 7 {
		i, more := b.take()
		require.True(t, more)
		require.Equal(t, n%3, i)
	}
}

// TestTraffic checks that there is one event per item, that all ids are different, and
// that a contact writes to one page only.
func TestTraffic(t *testing.T) {
	ids := newTraffic(7, 100)
	seen := map[string]bool{}
	pageOf := map[string]string{}
	for _, items := range []int{1, 3, 10, 100} {
		body := ids.body(items)
		require.True(t, json.Valid(body), "not JSON: %s", body)
		events := messenger.Split(body, messenger.Options{App: "bench"}).Events
		require.Len(t, events, items)
		for _, e := range events {
			require.False(t, seen[e.ID], "two events have id %s", e.ID)
			seen[e.ID] = true
			if other, known := pageOf[string(e.Contact)]; known {
				require.Equal(t, string(e.Page), other, "contact %s writes to two pages", e.Contact)
			}
			pageOf[string(e.Contact)] = string(e.Page)
		}
	}
	require.Len(t, ids.events(250), 250)
}

// TestClient checks that the client counts answers, ends when there are no more POSTs,
// and fails on any answer but 200.
func TestClient(t *testing.T) {
	h := newHTTPBaseline()
	defer h.Close()
	c := newClient(4)
	defer c.close()
	base := h.URL
	require.NoError(t, c.warm(t.Context(), base))
	ids := newTraffic(2, 4)
	p, err := c.fire(t.Context(), base+"/webhooks", time.Minute, &blend{shots: ids.shots(secret, 40, 3)})
	require.NoError(t, err)
	require.Equal(t, 40, p.n)
	require.Positive(t, p.p50)
	require.GreaterOrEqual(t, p.p99, p.p50)
	require.GreaterOrEqual(t, p.max, p.p99)
	require.Positive(t, p.rate)
	_, err = c.fire(t.Context(), base+"/webhooks", time.Minute, &blend{shots: ids.shots("another", 1, 1)})
	require.ErrorIs(t, err, ErrAnswer, "wrong signature")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.fire(ctx, base+"/webhooks", time.Minute, &blend{shots: ids.shots(secret, 1, 1), cycle: true})
	require.ErrorIs(t, err, context.Canceled)
}

// TestClientConnectsAgain checks that a request succeeds after the server has closed the connection, and that one
// that waits ends with its context.
func TestClientConnectsAgain(t *testing.T) {
	var requests atomic.Int64
	waits := make(chan struct{})
	h := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		_, _ = io.Copy(io.Discard, r.Body) // only then does the server see that the client has gone
		if r.URL.Path == "/wait" {
			close(waits)
			<-r.Context().Done()
		}
	}))
	defer h.Close()
	c := newClient(1)
	defer c.close()
	for range 2 {
		require.NoError(t, c.post(t.Context(), h.URL, sign(secret, []byte("{}"))))
		h.CloseClientConnections()
	}
	require.Equal(t, int64(2), requests.Load())
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-waits; cancel() }()
	require.ErrorIs(t, c.post(ctx, h.URL+"/wait", sign(secret, []byte("{}"))), context.Canceled)
	h.Close()
	require.Error(t, c.post(t.Context(), h.URL, sign(secret, []byte("{}"))))
}

// TestSkim checks where an answer to a POST ends, so that the next one on the connection is read from its beginning.
func TestSkim(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want answer
		err  error
	}{
		"ok":       {"HTTP/1.1 200 OK\r\nDate: x\r\ncontent-length: 3\r\n\r\nabc", answer{code: 200}, nil},
		"no body":  {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", answer{code: 200}, nil},
		"busy":     {"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 1\r\n\r\n1", answer{code: 503, status: "503 Service Unavailable"}, nil},
		"last":     {"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", answer{code: 200, last: true}, nil},
		"chunked":  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", answer{code: 200}, errFraming},
		"negative": {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", answer{code: 200}, errFraming},
		"no HTTP":  {"nonsense\r\n\r\n", answer{}, strconv.ErrSyntax},
		"cut off":  {"HTTP/1.1 200 OK\r\nContent-Le", answer{code: 200}, io.EOF},
		"cut body": {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na", answer{code: 200}, io.EOF},
	} {
		in := bufio.NewReader(strings.NewReader(c.in + "next"))
		if c.err != nil {
			in.Reset(strings.NewReader(c.in))
		}
		got, err := skim(in)
		require.ErrorIs(t, err, c.err, name)
		require.Equal(t, c.want, got, name)
		if c.err == nil {
			rest, _ := io.ReadAll(in)
			require.Equal(t, "next", string(rest), name)
		}
	}
}

func TestQuantile(t *testing.T) {
	list := make([]time.Duration, 100)
	for i := range list {
		list[i] = time.Duration(i + 1)
	}
	require.Equal(t, time.Duration(51), quantile(list, 0.5))
	require.Equal(t, time.Duration(100), quantile(list, 0.99))
	require.Zero(t, quantile(nil, 0.99), "empty list")
}

func TestRateOf(t *testing.T) {
	at := time.Now()
	marks := []mark{{at, 0}, {at.Add(time.Second), 100}, {at.Add(3 * time.Second), 150}, {at.Add(4 * time.Second), 250}}
	require.InDelta(t, 62.5, rateOf(marks, 250), 0, "all events")
	require.InDelta(t, 100, rateOf(marks, 100), 0, "last 100 events")
	require.Zero(t, rateOf(marks[:1], 100), "one mark")
}

// TestCatchUp checks that catchUp waits for the slowest read model, and fails if the
// API does not return its position.
func TestCatchUp(t *testing.T) {
	var mu sync.Mutex
	seq := 40
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.URL.Path == "/api/v1/status" {
			_, _ = w.Write([]byte(`{"stream":{"last_seq":100,"bytes":7}}`))
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"items": []map[string]any{{"seq": 100}, {"seq": seq}}})
		seq += 20
	}))
	defer api.Close()
	s := &system{System: &System{Private: strings.TrimPrefix(api.URL, "http://")}, api: newClient(1)}
	defer s.api.close()
	behind, marks, err := s.catchUp(t.Context(), catchUpStep)
	require.NoError(t, err)
	require.Equal(t, uint64(60), behind)
	require.Len(t, marks, 4)
	mu.Lock()
	seq = -1 << 20 // not a valid position
	mu.Unlock()
	_, _, err = s.catchUp(t.Context(), catchUpStep)
	require.Error(t, err)
}

// TestPrepare checks that read models that are prepared in two steps are equal to those
// of a rebuild.
func TestPrepare(t *testing.T) {
	r := &run{opts: Options{Dir: t.TempDir(), Start: noProgram, Streams: "streams", Models: "models"}}
	require.NoError(t, r.opts.complete())
	r.opts.Cell = 50 * time.Millisecond
	ids := newTraffic(5, 20)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := r.offline(ctx, "p", func(s *server) error {
		for _, n := range []uint64{300, 700} {
			if err := s.fillTo(ctx, ids, n); err != nil {
				return err
			}
			if err := r.prepare(ctx, "p", s); err != nil {
				return err
			}
		}
		for _, p := range models() {
			runner, err := projections.NewRunner(p, projections.RunnerOptions{
				Dir: filepath.Join(r.opts.Dir, "p", "models"), JS: s.js, Identity: s.identity,
			})
			if err != nil {
				return err
			}
			running, stop := context.WithCancel(ctx)
			var wg sync.WaitGroup
			wg.Go(func() { _ = runner.Run(running) })
			out, err := runner.Rebuild(ctx, nil)
			if assert.NoError(t, err, p.Name()) {
				assert.True(t, out.Equal, p.Name())
				assert.Equal(t, uint64(700), out.VerifiedSeq, p.Name())
				assert.Empty(t, runner.Status().Rebuilt, p.Name())
			}
			stop()
			wg.Wait()
			if err := runner.Close(); err != nil {
				return err
			}
		}
		return nil
	})
	require.NoError(t, err)
}
