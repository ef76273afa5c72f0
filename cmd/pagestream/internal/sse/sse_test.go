package sse

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// limit bounds each wait of a test.
const limit = 10 * time.Second

func TestEachLineOfDataIsAField(t *testing.T) {
	for want, e := range map[string]Event{
		"id: 7\nevent: x\ndata: a\ndata: b\n\n": {"7", "x", []byte("a\nb\n")},
		"event: x\ndata: \n\n":                  {"", "x", nil},
		"data: a\ndata: \ndata:  b\n\n":         {"", "", []byte("a\n\n b")},
		"id: 9\ndata: ab\ndata: c\n\n":          {"9", "", []byte("a\rb\r\nc")},
	} {
		assert.Equal(t, want, string(e.append(nil)))
	}
}

// serve serves feeds until the test ends. It returns the URL, the results of the
// calls of Serve, and a function that ends all feeds.
func serve(t *testing.T, o Options, most int, produce func(context.Context, func(Event) error) error) (
	url string, ended <-chan error, closeAll func(),
) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	feeds, results := NewFeeds(ctx, most), make(chan error, 8)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := feeds.Serve(w, r, o, produce)
		if errors.Is(err, ErrFull) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		results <- err
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(cancel)
	return srv.URL, results, cancel
}

func get(t *testing.T, url string) (resp *http.Response, leave func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(t, err)
	resp, err = http.DefaultClient.Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp, cancel
}

func next(t *testing.T, ended <-chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(limit):
		require.Fail(t, "the feed did not end")
		return nil
	}
}

func forever(ctx context.Context, _ func(Event) error) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestServeAndRead(t *testing.T) {
	sent := []Event{
		{"1", "a", []byte("one")}, {"2", "b", []byte("two\nlines")}, {"2", "", []byte("the id of the one before")},
	}
	broken := errors.New("broken")
	o := Options{Hello: "feed", Heartbeat: "beat"}
	url, ended, _ := serve(t, o, 1, func(_ context.Context, send func(Event) error) error {
		for _, e := range sent {
			if err := send(e); err != nil {
				return err
			}
		}
		return broken
	})
	resp, _ := get(t, url)
	assert.Equal(t, http.StatusOK, resp.StatusCode)
	assert.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	assert.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
	raw, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	assert.True(t, strings.HasPrefix(string(raw), ": feed\n\nid: 1\nevent: a\ndata: one\n\n"), "%s", raw)
	var got []Event
	require.ErrorIs(t, Read(bytes.NewReader(raw), func(e Event) error { got = append(got, e); return nil }), io.EOF)
	assert.Equal(t, sent, got)
	require.ErrorIs(t, next(t, ended), broken)
}

func TestNoCommentsByDefault(t *testing.T) {
	url, ended, closeAll := serve(t, Options{}, 1, func(ctx context.Context, send func(Event) error) error {
		return errors.Join(send(Event{Type: "x", Data: []byte("1")}), forever(ctx, send))
	})
	resp, _ := get(t, url)
	closeAll()
	raw, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	assert.Equal(t, "event: x\ndata: 1\n\n", string(raw), "no hello")
	require.NoError(t, next(t, ended))
}

func TestDisconnectEndsTheFeed(t *testing.T) {
	url, ended, _ := serve(t, Options{Hello: "feed", Heartbeat: "beat"}, 1, forever)
	_, leave := get(t, url)
	leave()
	require.NoError(t, next(t, ended), "the producer's error is not returned then")

	// Its slot is free again.
	resp, _ := get(t, url)
	assert.Equal(t, http.StatusOK, resp.StatusCode)
}

func TestShutdownEndsEveryFeed(t *testing.T) {
	url, ended, closeAll := serve(t, Options{Hello: "feed", Heartbeat: "beat"}, 2, forever)
	get(t, url)
	resp, _ := get(t, url)
	closeAll()
	raw, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	assert.Equal(t, ": feed\n\n", string(raw))
	require.NoError(t, next(t, ended))
	require.NoError(t, next(t, ended))
}

func TestLimitOfOpenFeeds(t *testing.T) {
	url, ended, _ := serve(t, Options{Hello: "feed"}, 1, forever)
	get(t, url)
	resp, _ := get(t, url)
	assert.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	assert.NotEqual(t, "text/event-stream", resp.Header.Get("Content-Type"))
	require.ErrorIs(t, next(t, ended), ErrFull)
}

// recorder records the write deadlines. Its writes fail with fail if that is set.
type recorder struct {
	*httptest.ResponseRecorder
	deadlines []time.Duration
	fail      error
}

func (r *recorder) SetWriteDeadline(at time.Time) error {
	r.deadlines = append(r.deadlines, time.Until(at))
	return nil
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.fail != nil {
		return 0, r.fail
	}
	return r.ResponseRecorder.Write(b)
}

func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &recorder{ResponseRecorder: httptest.NewRecorder()}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		o := Options{Hello: "feed", Heartbeat: "beat"}
		err := NewFeeds(t.Context(), 1).Serve(w, r, o, func(context.Context, func(Event) error) error {
			time.Sleep(2*heartbeat + time.Second)
			return nil
		})
		require.NoError(t, err)
		assert.Equal(t, ": feed\n\n: beat\n\n: beat\n\n", w.Body.String())
		assert.Equal(t, []time.Duration{writeLimit, writeLimit, writeLimit}, w.deadlines, "each write has its own")
	})
}

func TestFailedWriteEndsTheFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &recorder{ResponseRecorder: httptest.NewRecorder(), fail: errors.New("i/o timeout")}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		begun := time.Now()
		o := Options{Heartbeat: "beat", WriteLimit: time.Second}
		err := NewFeeds(t.Context(), 1).Serve(w, r, o, func(ctx context.Context, send func(Event) error) error {
			<-ctx.Done() // the heartbeat could not be written
			return send(Event{})
		})
		require.NoError(t, err)
		assert.Equal(t, heartbeat, time.Since(begun))
		assert.Equal(t, []time.Duration{time.Second, time.Second}, w.deadlines)

		err = NewFeeds(t.Context(), 1).Serve(w, r, Options{Hello: "feed"}, func(context.Context, func(Event) error) error {
			return errors.New("produce must not be called")
		})
		require.NoError(t, err)
	})
}

func TestRead(t *testing.T) {
	const feed = ": a comment\n\n" +
		"id: 7\nevent: x\ndata: a\ndata:b\ndata:  c\n\n" +
		"retry: 10\r\ndata: with carriage returns\r\n\r\n" +
		"id: 8\nevent: no data\n\n" +
		"data\ndata\n\n" +
		"odd\nid:\ndata: x\n\n" +
		"data: cut off\n"
	var got []Event
	require.ErrorIs(t, Read(strings.NewReader(feed), func(e Event) error { got = append(got, e); return nil }), io.EOF)
	assert.Equal(t, []Event{
		{"7", "x", []byte("a\nb\n c")},
		{"7", "", []byte("with carriage returns")},
		{"8", "", []byte("\n")},
		{"", "", []byte("x")},
	}, got)

	stop := errors.New("stop")
	n := 0
	require.ErrorIs(t, Read(strings.NewReader(feed), func(Event) error { n++; return stop }), stop)
	assert.Equal(t, 1, n)
}

// FuzzRead checks that Read ends without a panic for any input, and that the events
// it read are the same after they are written and read again.
func FuzzRead(f *testing.F) {
	f.Add([]byte("id: 7\nevent: x\ndata: a\ndata: b\n\n"))
	f.Add([]byte(": beat\n\ndata\n\ndata:\n\n\r\n\x00:\n"))
	f.Add([]byte("data: a\r\rb\r\n\n"))
	f.Add([]byte("id: 7\ndata: a\ndata\ndata\n\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var first, again []Event
		var sent []byte
		err := Read(bytes.NewReader(raw), func(e Event) error {
			e.ID, e.Type = strings.ReplaceAll(e.ID, "\r", ""), strings.ReplaceAll(e.Type, "\r", "")
			if e.ID == "" {
				return nil // it would get the id of the one before
			}
			sent = e.append(sent)
			// Carriage returns and the last newline of data are not written.
			e.Data = bytes.TrimSuffix(bytes.ReplaceAll(e.Data, []byte("\r"), nil), []byte("\n"))
			if len(e.Data) == 0 {
				e.Data = []byte{}
			}
			first = append(first, e)
			return nil
		})
		require.ErrorIs(t, err, io.EOF)
		require.ErrorIs(t, Read(bytes.NewReader(sent), func(e Event) error { again = append(again, e); return nil }), io.EOF)
		assert.Equal(t, first, again)
	})
}
