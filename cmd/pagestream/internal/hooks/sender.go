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
	// maxAnswer is how much of an answer is read, to use the connection again.
	maxAnswer = 4 << 10
	// maxAnswerHeader bounds the header of an answer.
	maxAnswerHeader = 32 << 10
	// grace is how long a try may go on when everything ends.
	grace     = 3 * time.Second
	userAgent = "pagestream"
	// contentType is that of a body.
	contentType = "application/cloudevents+json"
)

// sender makes single tries at one endpoint.
type sender struct {
	client  *http.Client
	url     string
	keys    [][]byte
	timeout time.Duration
}

// newClient returns a client that follows no redirect and bounds what it reads.
func newClient(concurrency int) *http.Client {
	c := http.Client{}
	if t, ok := http.DefaultTransport.(*http.Transport); ok {
		t = t.Clone()
		t.MaxResponseHeaderBytes = maxAnswerHeader
		t.MaxIdleConnsPerHost = concurrency
		c.Transport = t
	}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &c
}

// outcome is how a try ended: delivered where failure is empty. Failure is our
// own words, never those of the endpoint.
type outcome struct {
	failure string
	// canceled says that the try was cut off by us, and counts for nothing.
	canceled bool
	// gone is a 410.
	gone bool
	// limited is a 429, which concerns the whole endpoint.
	limited bool
	// after is Retry-After, 0 without one.
	after time.Duration
}

// send makes one try. When ctx ends the try has a moment to come to its end.
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
	req.Header.Set(HeaderTimestamp, stampOf(now))
	req.Header.Set(HeaderSignature, signatures(s.keys, id, now, body))
	resp, err := s.client.Do(req)
	if err != nil {
		return outcome{failure: describe(err), canceled: errors.Is(try.Err(), context.Canceled)}
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer)

	code := resp.StatusCode
	if code >= 200 && code < 300 {
		return outcome{}
	}
	out := outcome{failure: "answered " + strconv.Itoa(code), gone: code == http.StatusGone, limited: code == http.StatusTooManyRequests}
	if out.limited || code == http.StatusServiceUnavailable {
		out.after = retryAfter(resp.Header.Get("Retry-After"), now)
	}
	return out
}

// retryAfter reads the header's seconds or date; 0 is none.
func retryAfter(v string, now time.Time) time.Duration {
	v = strings.TrimSpace(v)
	if v == "" {
		return 0
	}
	if strings.Trim(v, "0123456789") == "" {
		const most = 1 << 30
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n > most {
			n = most // more than its type holds
		}
		return time.Duration(n) * time.Second
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	return max(0, at.Sub(now))
}

// describe says what kind of error it is. The error's own text may quote the
// address with what is secret in it, or what the endpoint answered.
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
