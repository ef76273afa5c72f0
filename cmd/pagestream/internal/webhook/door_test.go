package webhook_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/webhook"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// open sends the head of a delivery and the first bytes of its body, and leaves the rest.
func (f *fixture) open(t *testing.T, length int, begin []byte) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", f.Listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	_, err = fmt.Fprintf(conn, "POST /webhooks HTTP/1.1\r\nHost: x\r\nX-Hub-Signature-256: sha256=%s\r\n"+
		"Content-Length: %d\r\n\r\n", strings.Repeat("0", 64), length)
	require.NoError(t, err)
	_, err = conn.Write(begin)
	require.NoError(t, err)
	return conn
}

// TestUnsignedBodiesHaveABudget sends the beginnings of many large bodies, as an attacker does who knows no
// secret: the memory stays within the budget, and ordinary deliveries are stored meanwhile.
func TestUnsignedBodiesHaveABudget(t *testing.T) {
	const budget, size, senders = 16 << 20, 8 << 20, 60
	f := start(t, func(o *webhook.Options) {
		o.MaxInflight = budget
		o.Observe = func(webhook.Answer) {}
	})
	var before, during runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	begin := bytes.Repeat([]byte("x"), size-1)
	var refused atomic.Int64
	for range senders {
		conn, err := net.Dial("tcp", f.Listener.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		go func() {
			fmt.Fprintf(conn, "POST /webhooks HTTP/1.1\r\nHost: x\r\nX-Hub-Signature-256: sha256=%s\r\n"+
				"Content-Length: %d\r\n\r\n", strings.Repeat("0", 64), size)
			go func() { _, _ = conn.Write(begin) }() // it fails where the body is refused
			answer := make([]byte, 12)
			if _, err := io.ReadFull(conn, answer); err == nil && string(answer) == "HTTP/1.1 503" {
				refused.Add(1)
			}
		}()
	}
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if n := refused.Load(); n < senders-4 {
			return fmt.Errorf("%d of %d bodies of half the budget are refused", n, senders)
		}
		return nil
	})
	for range 20 {
		status, _, _ := f.post(t, "/webhooks", body, signed(secret, body))
		require.Equal(t, http.StatusOK, status)
	}
	runtime.GC()
	runtime.ReadMemStats(&during)
	require.Less(t, int64(during.HeapAlloc)-int64(before.HeapAlloc), int64(budget+size+8<<20))
}

// TestAClaimedLengthTakesNothing checks that senders which send nothing keep nobody out.
func TestAClaimedLengthTakesNothing(t *testing.T) {
	f := start(t, func(o *webhook.Options) {
		o.MaxInflight = 16 << 20
		o.Observe = func(webhook.Answer) {}
	})
	for range 100 {
		f.open(t, 8<<20, []byte("{"))
	}
	large := `{"object":"page","entry":[{"id":"7001","x":"` + strings.Repeat("x", 7<<20) + `"}]}`
	status, _, _ := f.post(t, "/webhooks", large, signed(secret, large))
	require.Equal(t, http.StatusOK, status)
}

func TestASlowBodyIsEnded(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	conn := f.open(t, 1<<20, nil)
	began := time.Now()
	go func() {
		for {
			if _, err := conn.Write(make([]byte, 100)); err != nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	}()
	require.NoError(t, conn.SetReadDeadline(began.Add(streamstest.Limit)))
	answer := make([]byte, 12)
	_, err := io.ReadFull(conn, answer)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 408", string(answer))
	require.Equal(t, "too_slow", (<-f.answers).Reason)
}

// TestASteadyBodyIsRead checks that a body may take longer than the grace if bytes arrive at the rate.
func TestASteadyBodyIsRead(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	long := `{"object":"page","entry":[{"id":"1","x":"` + strings.Repeat("x", 100<<10) + `"}]}`
	pr, pw := io.Pipe()
	go func() {
		for b := []byte(long); len(b) > 0; b = b[min(len(b), 8<<10):] {
			_, _ = pw.Write(b[:min(len(b), 8<<10)])
			time.Sleep(200 * time.Millisecond)
		}
		pw.Close()
	}()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+"/webhooks", pr)
	require.NoError(t, err)
	req.Header = signed(secret, long)
	resp, err := f.Client().Do(req)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
}

func TestABodyThatTakesTooLongIsEnded(t *testing.T) {
	t.Parallel()
	f := start(t, func(o *webhook.Options) { o.ReadTimeout = 100 * time.Millisecond })
	conn := f.open(t, 1<<20, []byte("{"))
	answer := make([]byte, 12)
	_, err := io.ReadFull(conn, answer)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 408", string(answer))
}

func TestTooManyItemsAreRefused(t *testing.T) {
	f := start(t, nil)
	of := func(n int) string {
		return `{"object":"page","entry":[{"id":"7001","messaging":[` + strings.Repeat(`{"x":1},`, n-1) + `{"x":1}]}]}`
	}
	most := of(webhook.DefaultMaxItems)
	status, _, _ := f.post(t, "/webhooks", most, signed(secret, most))
	require.Equal(t, http.StatusOK, status)
	require.Len(t, f.pub.events, webhook.DefaultMaxItems)
	<-f.answers
	more := of(webhook.DefaultMaxItems + 1)
	status, answer, _ := f.post(t, "/webhooks", more, signed(secret, more))
	require.Equal(t, http.StatusRequestEntityTooLarge, status)
	require.Contains(t, answer, "5001 items; at most 5000")
	require.Equal(t, "too_many_items", (<-f.answers).Reason)
	require.Len(t, f.pub.events, webhook.DefaultMaxItems)
}

func TestUpperCaseHexAndATrailingSlashAreAccepted(t *testing.T) {
	f := start(t, nil)
	digits := strings.TrimPrefix(sign(secret, body), "sha256=")
	upper := http.Header{"X-Hub-Signature-256": {"sha256=" + strings.ToUpper(digits)}}
	for _, path := range []string{"/webhooks", "/webhooks/", "/webhooks/main", "/webhooks/main/"} {
		status, _, _ := f.post(t, path, body, upper)
		require.Equal(t, http.StatusOK, status, path)
		resp, err := f.Client().Get(f.URL + path + "?hub.mode=subscribe&hub.verify_token=verify-main&hub.challenge=1")
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, http.StatusOK, resp.StatusCode, path)
	}
	status, _, _ := f.post(t, "/webhooks/main/x", body, upper)
	require.Equal(t, http.StatusNotFound, status)
}

// TestOnlyDeliveriesOfMetasShapeAreHeldAgainstTheSecret checks which wrong signatures say that a secret is wrong.
func TestOnlyDeliveriesOfMetasShapeAreHeldAgainstTheSecret(t *testing.T) {
	f := start(t, nil)
	wrong := sign("another", "x")
	for name, c := range map[string]struct {
		signature, contentType, body string
		shaped                       bool
	}{
		"Meta's":             {wrong, "application/json", body, true},
		"with a charset":     {wrong, "application/json; charset=utf-8", body, true},
		"without signature":  {"", "application/json", body, false},
		"malformed":          {"sha256=1", "application/json", body, false},
		"a form":             {wrong, "application/x-www-form-urlencoded", body, false},
		"without a type":     {wrong, "", body, false},
		"another object":     {wrong, "application/json", `{"action":"opened"}`, false},
		"an array":           {wrong, "application/json", `[1]`, false},
		"no JSON":            {wrong, "application/json", `<?xml version="1.0"?>`, false},
		"an empty body":      {wrong, "application/json", ``, false},
		"larger than usual":  {wrong, "application/json", body + strings.Repeat(" ", 64<<10), false},
		"entry is no array":  {wrong, "application/json", `{"object":"page","entry":1}`, false},
		"object is no text":  {wrong, "application/json", `{"object":1,"entry":[]}`, false},
		"an empty entry":     {wrong, "application/json", `{"object":"page","entry":[]}`, true},
		"signed as expected": {sign(secret, body), "application/json", body, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := http.Header{"Content-Type": {c.contentType}, "X-Hub-Signature-256": {c.signature}}
			f.post(t, "/webhooks", c.body, h)
			require.Equal(t, c.shaped, (<-f.answers).Shaped)
		})
	}
}

// TestWhatIsLateIsRefusedBeforeItIsParsed checks that deliveries are refused that could not be stored in time.
func TestWhatIsLateIsRefusedBeforeItIsParsed(t *testing.T) {
	var all, page time.Duration
	var asked []domain.PageID
	f := start(t, func(o *webhook.Options) {
		o.Delay = func(app string, id domain.PageID) time.Duration {
			assert.Equal(t, "main", app)
			asked = append(asked, id)
			if id == "" {
				return all
			}
			return page
		}
	})
	for _, c := range []struct {
		all, page time.Duration
		status    int
		asked     []domain.PageID
	}{
		{0, 0, http.StatusOK, []domain.PageID{"", "7001"}},
		{webhook.DefaultTimeout/2 + 1, 0, http.StatusServiceUnavailable, []domain.PageID{""}},
		{0, webhook.DefaultTimeout/2 + 1, http.StatusServiceUnavailable, []domain.PageID{"", "7001"}},
	} {
		all, page, asked = c.all, c.page, nil
		status, _, header := f.post(t, "/webhooks", body, signed(secret, body))
		require.Equal(t, c.status, status)
		require.Equal(t, c.asked, asked)
		if a := <-f.answers; status != http.StatusOK {
			require.Equal(t, "overloaded", a.Reason)
			require.NotEmpty(t, header.Get("Retry-After"))
		}
	}
	require.Len(t, f.pub.events, 1)
}

// waiting is a publisher that waits for the end of its context.
type waiting struct{ called chan struct{} }

func (w waiting) Publish(ctx context.Context, _ []domain.Event) ([]streams.Receipt, error) {
	close(w.called)
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestACallerThatHasGoneEndsThePublish(t *testing.T) {
	w := waiting{make(chan struct{})}
	f := start(t, func(o *webhook.Options) { o.Publisher, o.Timeout = w, time.Minute })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-w.called; cancel() }()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.URL+"/webhooks", strings.NewReader(body))
	require.NoError(t, err)
	req.Header = signed(secret, body)
	_, err = f.Client().Do(req) //nolint:bodyclose // there is none
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, "gone", (<-f.answers).Reason)
}

// keeping is a publisher that keeps a copy of the raw items, and fails where told to.
type keeping struct {
	mu  sync.Mutex
	raw []string
}

func (k *keeping) Publish(_ context.Context, events []domain.Event) ([]streams.Receipt, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range events {
		k.raw = append(k.raw, string(e.Data.Raw))
	}
	if len(k.raw)%3 == 0 {
		return nil, errors.New("not now")
	}
	return make([]streams.Receipt, len(events)), nil
}

// TestBuffersAreUsedAgain checks that deliveries of all sizes, answered at the same time, keep their own bytes.
func TestBuffersAreUsedAgain(t *testing.T) {
	k := &keeping{}
	var observed sync.Map
	f := start(t, func(o *webhook.Options) {
		o.Publisher = k
		o.Observe = func(a webhook.Answer) {
			for _, e := range a.Events {
				observed.Store(string(e.Data.Raw), true)
			}
		}
	})
	var wg sync.WaitGroup
	var want sync.Map
	for sender := range 8 {
		wg.Go(func() {
			for i := range 50 {
				item := fmt.Sprintf(`{"n":"%d_%d","x":%q}`, sender, i, strings.Repeat(string(rune('a'+sender)), 1<<(i%18)))
				want.Store(item, true)
				b := `{"object":"page","entry":[{"id":"7001","messaging":[` + item + `]}]}`
				r := httptest.NewRequest(http.MethodPost, "/webhooks", strings.NewReader(b))
				r.Header = signed(secret, b)
				if i%2 == 0 {
					r.ContentLength = -1
				}
				f.Config.Handler.ServeHTTP(httptest.NewRecorder(), r)
			}
		})
	}
	wg.Wait()
	require.Len(t, k.raw, 8*50)
	for _, item := range k.raw {
		_, found := want.Load(item)
		require.True(t, found, "%.40s", item)
	}
	observed.Range(func(item, _ any) bool {
		_, found := want.Load(item)
		return assert.True(t, found, "%.40s", item)
	})
}
