package hooks

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRetryAfter(t *testing.T) {
	now := time.Unix(vectorUnix, 0).UTC()
	for v, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7 * time.Second, "-7": 0, "soon": 0, "1.5": 0,
		now.Add(time.Minute).Format(http.TimeFormat):  time.Minute,
		now.Add(-time.Minute).Format(http.TimeFormat): 0,
		strings.Repeat("9", 40):                       time.Second << 30,
	} {
		assert.Equal(t, want, retryAfter(v, now), v)
	}
}

func TestDescribeHasNoTextOfTheError(t *testing.T) {
	wrap := func(err error) error {
		return &url.Error{Op: "Post", URL: "http://x/?token=" + private, Err: err}
	}
	for want, err := range map[string]error{
		"timed out":         wrap(context.DeadlineExceeded),
		"host not found":    wrap(&net.OpError{Op: "dial", Err: &net.DNSError{Name: private}}),
		"can't connect":     wrap(&net.OpError{Op: "dial", Err: errors.New(private)}),
		"connection failed": wrap(errors.New("malformed HTTP status code " + private)),
	} {
		assert.Equal(t, want, describe(err))
	}
}

// TestInvalidResponses checks that the text of an endpoint's response does not appear in
// failures, and that the size of what is read is bounded.
func TestInvalidResponses(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	endless := "HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("x", 2*maxResponse)
	huge := "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2*maxResponseHeader) + "\r\n\r\n"
	answers := []string{"HTTP/1.1 " + private + "\r\n\r\n", huge, endless}
	go func() {
		for _, a := range answers {
			c, err := l.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 1<<10)
			_, _ = c.Read(buf)
			_, _ = c.Write([]byte(a))
			t.Cleanup(func() { c.Close() }) // the connection stays open until the end of the test
		}
	}()
	client := newClient(1)
	t.Cleanup(client.CloseIdleConnections)
	s := &sender{
		client: client, url: "http://" + l.Addr().String(), keys: [][]byte{make([]byte, 32)}, timeout: 10 * time.Second,
	}
	assert.Equal(t, "connection failed", s.send(t.Context(), "id", nil).failure)
	assert.Equal(t, "connection failed", s.send(t.Context(), "id", nil).failure)
	begun := time.Now()
	assert.Empty(t, s.send(t.Context(), "id", nil).failure)
	assert.Less(t, time.Since(begun), s.timeout)
	require.NoError(t, l.Close())
	assert.Equal(t, "can't connect", s.send(t.Context(), "id", nil).failure)
}
