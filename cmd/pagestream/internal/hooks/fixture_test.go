package hooks

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// private is a secret text: it must appear in request bodies only.
const private = "private-words"

// delivery is one try as the receiver recorded it.
type delivery struct {
	ID   string        `json:"id"`
	Seq  uint64        `json:"seq"`
	Page domain.PageID `json:"page"`
	Text string        `json:"text"`

	at     time.Time
	status int
	try    int // number of the try with this id, from 1
}

func encode(e streams.Stored) ([]byte, error) {
	return json.Marshal(delivery{ID: e.ID, Seq: e.Seq, Page: e.Page, Text: private})
}

// receiver is an endpoint that checks signatures and records all deliveries.
type receiver struct {
	*httptest.Server
	secret string

	mu     sync.Mutex
	answer func(d delivery, h http.Header) int
	all    []delivery
	tries  map[string]int
	active map[domain.PageID]int
	// hangs is set if tries may time out while the receiver is still processing them.
	hangs bool
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{secret: NewSecret(), tries: map[string]int{}, active: map[domain.PageID]int{}}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		assert.NoError(t, err)
		assert.Equal(t, http.MethodPost, req.Method)
		assert.Equal(t, contentType, req.Header.Get("Content-Type"))
		assert.NoError(t, Verify([]string{r.secret}, req.Header, body, time.Now(), 0))
		var d delivery
		assert.NoError(t, json.Unmarshal(body, &d))
		assert.Equal(t, d.ID, req.Header.Get(HeaderID))

		r.mu.Lock()
		r.tries[d.ID]++
		d.at, d.try, d.status = time.Now(), r.tries[d.ID], http.StatusNoContent
		if r.active[d.Page]++; r.active[d.Page] > 1 {
			assert.True(t, r.hangs, "page %s is sent two events at a time", d.Page)
		}
		answer := r.answer
		r.mu.Unlock()
		if answer != nil {
			d.status = answer(d, w.Header())
		}
		r.mu.Lock()
		r.all = append(r.all, d)
		r.active[d.Page]--
		r.mu.Unlock()
		w.WriteHeader(d.status)
		if d.status != http.StatusNoContent && d.status != http.StatusNotModified {
			fmt.Fprint(w, private)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// answering sets the function that returns the status of each answer; nil means 204.
func (r *receiver) answering(f func(d delivery, h http.Header) int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = f
}

func (r *receiver) deliveries() []delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

// accepted returns the sequences that were answered with 2xx, of one page or all.
func (r *receiver) accepted(page domain.PageID) (out []uint64) {
	for _, d := range r.deliveries() {
		if d.status < 300 && (page == "" || d.Page == page) {
			out = append(out, d.Seq)
		}
	}
	return out
}

// eventually waits until exactly these sequences were accepted.
func (r *receiver) eventually(t *testing.T, page domain.PageID, want []uint64) {
	t.Helper()
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if got := r.accepted(page); !slices.Equal(got, want) {
			return fmt.Errorf("page %q: %d accepted: %v; want %d: %v", page, len(got), got, len(want), want)
		}
		return nil
	})
}

// fixture is a stream with one receiver.
type fixture struct {
	*projectionstest.Rig
	*receiver
	path string
	logs *streamstest.Logs
	made int // number of published events
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	r := &fixture{Rig: projectionstest.NewRig(t), path: filepath.Join(t.TempDir(), "hooks.db"), logs: &streamstest.Logs{}}
	r.receiver = newReceiver(t)
	t.Cleanup(func() {
		assert.NotContains(t, r.logs.String(), private)
		assert.NotContains(t, r.logs.String(), "whsec_")
		assert.NotContains(t, r.logs.String(), "v1,")
	})
	return r
}

func (r *fixture) options(change ...func(*Options)) Options {
	o := Options{
		JS: r.JS, Identity: r.Identity, Path: r.path, Encode: encode,
		Endpoints: []Endpoint{{
			Name: "crm", URL: r.URL + "/in?token=" + private, Secrets: []string{r.secret}, All: true, Timeout: 5 * time.Second,
			From: 1,
		}},
		BackoffMin: 5 * time.Millisecond, BackoffMax: 20 * time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(r.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, f := range change {
		f(&o)
	}
	return o
}

// start runs hooks until stop is called, or the test ends.
func (r *fixture) start(t *testing.T, change ...func(*Options)) (h *Hooks, stop func()) {
	t.Helper()
	h, err := New(r.options(change...))
	require.NoError(t, err)
	return h, running(t, h)
}

func running(t *testing.T, h *Hooks) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			assert.NoError(t, err) //nolint:testifylint // Close has to follow
		case <-time.After(streamstest.Limit):
			assert.Fail(t, "Run does not end")
		}
		assert.NoError(t, h.Close())
	})
	t.Cleanup(stop)
	return stop
}

// publish stores one event for each of the pages and returns the sequences.
func (r *fixture) publish(t *testing.T, pages ...domain.PageID) (seqs []uint64) {
	t.Helper()
	var list []domain.Event
	for _, p := range pages {
		r.made++
		list = append(list, domain.Event{
			ID: fmt.Sprintf("page:%s:message:m%d", p, r.made), Type: domain.MessageReceived, Page: p, Contact: "77",
			Time: projectionstest.Epoch,
			Data: domain.Data{Object: "page", Raw: json.RawMessage(`{"text":"` + private + `"}`)},
		})
	}
	for _, x := range r.Publish(t, list...) {
		seqs = append(seqs, x.Seq)
	}
	return seqs
}

func times(page domain.PageID, n int) []domain.PageID {
	return slices.Repeat([]domain.PageID{page}, n)
}

// eventually waits until ok reports true for the status of the first endpoint.
func eventually(t *testing.T, h *Hooks, what string, ok func(Status) bool) Status {
	t.Helper()
	var s Status
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if s = h.Status()[0]; !ok(s) {
			return fmt.Errorf("not %s: %+v", what, s)
		}
		return nil
	})
	return s
}

func done(seq uint64) func(Status) bool {
	return func(s Status) bool { return s.Position >= seq && s.Behind == 0 }
}
