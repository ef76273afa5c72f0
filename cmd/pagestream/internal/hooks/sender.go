package hooks

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// maxResponse is how many bytes of a response body are read, so that the
	// connection can be used again.
	maxResponse = 4 << 10
	// maxResponseHeader bounds the header of a response, in bytes.
	maxResponseHeader = 32 << 10
	// grace is how long a try may go on after the context has ended.
	grace     = 3 * time.Second
	userAgent = "pagestream"
	// contentType is the Content-Type of a request body.
	contentType = "application/cloudevents+json"
)

// sender sends events to one endpoint, one try at a time.
type sender struct {
	client  *http.Client
	url     string
	keys    [][]byte
	timeout time.Duration
}

// newClient returns a client that follows no redirects and bounds what it reads.
func newClient(concurrency int) *http.Client {
	c := http.Client{}
	if t, ok := http.DefaultTransport.(*http.Transport); ok {
		t = t.Clone()
		t.MaxResponseHeaderBytes = maxResponseHeader
		t.MaxIdleConnsPerHost = concurrency
		c.Transport = t
	}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &c
}

// outcome is the result of a try; it was delivered if failure is empty. The text of
// failure comes from this package, never from the endpoint.
type outcome struct {
	failure string
	// canceled is set if the shutdown canceled the try, which then is not counted.
	canceled bool
	// gone is set after a 410.
	gone bool
	// limited is set after a 429, which applies to the whole endpoint.
	limited bool
	// after is the value of Retry-After, 0 without one.
	after time.Duration
}

// send makes one try. When ctx ends, the try has 3 seconds to finish.
func (s *sender) send(ctx context.Context, id string, body []byte) outcome {
	try, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		t := time.AfterFunc(grace, cancel)
		context.AfterFunc(try, func() { t.Stop() })
	})()

	req, err := http.NewRequestWithContext(try, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return outcome{failure: "request can't be made"}
	}
	now := time.Now()
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set(HeaderID, id)
	req.Header.Set(HeaderTimestamp, unixSeconds(now))
	req.Header.Set(HeaderSignature, signatures(s.keys, id, now, body))
	resp, err := s.client.Do(req)
	if err != nil {
		return outcome{failure: describe(err), canceled: errors.Is(try.Err(), context.Canceled)}
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, maxResponse)

	code := resp.StatusCode
	if code >= 200 && code < 300 {
		return outcome{}
	}
	out := outcome{
		failure: "answered " + strconv.Itoa(code),
		gone:    code == http.StatusGone, limited: code == http.StatusTooManyRequests,
	}
	if out.limited || code == http.StatusServiceUnavailable {
		out.after = retryAfter(resp.Header.Get("Retry-After"), now)
	}
	return out
}

// retryAfter parses Retry-After, which is seconds or a date. It returns 0 if the
// value is empty or can't be parsed.
func retryAfter(v string, now time.Time) time.Duration {
	v = strings.TrimSpace(v)
	if v == "" {
		return 0
	}
	if strings.Trim(v, "0123456789") == "" {
		const limit = 1 << 30
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n > limit {
			n = limit // a larger number would overflow the duration
		}
		return time.Duration(n) * time.Second
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	return max(0, at.Sub(now))
}

// describe returns the kind of an error as a fixed text. The error's own text is
// not used: it may quote a URL that contains a secret, or the endpoint's answer.
func describe(err error) string {
	var timeout interface{ Timeout() bool }
	var dns *net.DNSError
	var op *net.OpError
	var cert *tls.CertificateVerificationError
	switch {
	case errors.As(err, &cert):
		return "certificate is not valid"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timed out"
	case errors.As(err, &dns):
		return "host not found"
	case errors.As(err, &op) && op.Op == "dial":
		return "can't connect"
	default:
		return "connection failed"
	}
}
