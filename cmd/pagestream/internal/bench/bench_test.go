package bench

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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
	if err := good.complete(); err != nil {
		t.Fatal(err)
	}
	if good.Cell != 1500*time.Millisecond || !slices.Equal(good.Growth, []int{10_000, 100_000, 1_000_000}) ||
		good.Sample != 50_000 {
		t.Errorf("defaults: %+v", good)
	}
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
		if _, err := Run(t.Context(), o); !errors.Is(err, ErrOptions) {
			t.Errorf("%s: %v", name, err)
		}
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
		if !more {
			t.Fatalf("there is no POST %d", n)
		}
		if sent[i] > 0 && slices.Contains(held, i) {
			t.Fatalf("POST %d is repeated before it was acknowledged", i)
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
	if n := posts - len(sent); n != posts/5 || b.duplicates != n {
		t.Errorf("%d of %d are duplicates, %d were counted", n, posts, b.duplicates)
	}

	b = &blend{shots: make([]shot, 3)}
	for range 3 {
		if _, more := b.take(); !more {
			t.Fatal("there are too few POSTs")
		}
	}
	if _, more := b.take(); more {
		t.Error("a POST is repeated without percent and cycle")
	}

	b = &blend{shots: make([]shot, 3), cycle: true}
	for n := range 7 {
		if i, more := b.take(); !more || i != n%3 {
			t.Errorf("take %d: %d %v", n, i, more)
		}
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
		if !json.Valid(body) {
			t.Fatalf("not JSON: %s", body)
		}
		events := messenger.Split(body, messenger.Options{App: "bench"}).Events
		if len(events) != items {
			t.Errorf("%d events of %d items", len(events), items)
		}
		for _, e := range events {
			if seen[e.ID] {
				t.Errorf("two events have id %s", e.ID)
			}
			seen[e.ID] = true
			if other, known := pageOf[string(e.Contact)]; known && other != string(e.Page) {
				t.Errorf("contact %s writes to %s and %s", e.Contact, other, e.Page)
			}
			pageOf[string(e.Contact)] = string(e.Page)
		}
	}
	if got := len(ids.events(250)); got != 250 {
		t.Errorf("%d events, want 250", got)
	}
}

// TestClient checks that the client counts answers, ends when there are no more POSTs,
// and fails on any answer but 200.
func TestClient(t *testing.T) {
	h := newHTTPBaseline()
	defer h.Close()
	c := newClient(4)
	defer c.close()
	base := h.URL
	if err := c.warm(t.Context(), base); err != nil {
		t.Fatal(err)
	}
	ids := newTraffic(2, 4)
	p, err := c.fire(t.Context(), base+"/webhooks", time.Minute, &blend{shots: ids.shots(secret, 40, 3)})
	if err != nil || p.n != 40 || p.p50 <= 0 || p.p99 < p.p50 || p.max < p.p99 || p.rate <= 0 {
		t.Errorf("%+v %v", p, err)
	}
	_, err = c.fire(t.Context(), base+"/webhooks", time.Minute, &blend{shots: ids.shots("another", 1, 1)})
	if !errors.Is(err, ErrAnswer) {
		t.Errorf("wrong signature: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.fire(ctx, base+"/webhooks", time.Minute, &blend{shots: ids.shots(secret, 1, 1), cycle: true})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func TestQuantile(t *testing.T) {
	list := make([]time.Duration, 100)
	for i := range list {
		list[i] = time.Duration(i + 1)
	}
	if got := quantile(list, 0.5); got != 51 {
		t.Errorf("p50 %d", got)
	}
	if got := quantile(list, 0.99); got != 100 {
		t.Errorf("p99 %d", got)
	}
	if got := quantile(nil, 0.99); got != 0 {
		t.Errorf("empty list: %d", got)
	}
}

func TestRateOf(t *testing.T) {
	at := time.Now()
	marks := []mark{{at, 0}, {at.Add(time.Second), 100}, {at.Add(3 * time.Second), 150}, {at.Add(4 * time.Second), 250}}
	if got := rateOf(marks, 250); got != 62.5 {
		t.Errorf("all events: %g", got)
	}
	if got := rateOf(marks, 100); got != 100 {
		t.Errorf("last 100 events: %g", got)
	}
	if got := rateOf(marks[:1], 100); got != 0 {
		t.Errorf("one mark: %g", got)
	}
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
	behind, marks, err := s.catchUp(t.Context())
	if err != nil || behind != 60 || len(marks) != 4 {
		t.Errorf("behind %d, %d marks, %v", behind, len(marks), err)
	}
	mu.Lock()
	seq = -1 << 20 // not a valid position
	mu.Unlock()
	if _, _, err := s.catchUp(t.Context()); err == nil {
		t.Error("no error")
	}
}

// TestPrepare checks that read models that are prepared in two steps are equal to those
// of a rebuild.
func TestPrepare(t *testing.T) {
	r := &run{opts: Options{Dir: t.TempDir(), Start: noProgram, Streams: "streams", Models: "models"}}
	if err := r.opts.complete(); err != nil {
		t.Fatal(err)
	}
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
			if err != nil || !out.Equal || out.VerifiedSeq != 700 || runner.Status().Rebuilt != "" {
				t.Errorf("%s: %+v %v", p.Name(), out, err)
			}
			stop()
			wg.Wait()
			if err := runner.Close(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
