// Package webhook serves the HTTP endpoint that Meta calls: the subscription
// handshake and the deliveries.
//
// A delivery is answered 200 only when each of its items is durable in the
// stream. Any other answer makes Meta send the delivery again, or says why it
// can't be accepted.
//
//	200  every item is stored, or was stored before
//	400  the body could not be read to its end
//	401  X-Hub-Signature-256 is missing or wrong; nothing is stored
//	403  a handshake with the wrong verify token
//	404  no app has that name
//	405  neither GET nor POST
//	413  the body is larger than MaxBody, or larger than the stream can store
//	503  it can't be made durable now; Retry-After says when to try again
//
// Meta expects an answer within 5 seconds and unsubscribes the app from a page
// after about an hour of failures.
// https://developers.facebook.com/docs/messenger-platform/webhooks
package webhook

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/bits"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
	"github.com/pagestream/pagestream/streams"
)

// Errors of [New].
var (
	// ErrNoApp is returned when no app is configured, so no delivery can be trusted.
	ErrNoApp = errors.New("no Meta app is configured; " +
		"add one under apps: in the configuration (pagestream config example)")
	// ErrNoSecret is returned when an app has no secret: an empty one would accept
	// signatures that anybody can compute.
	ErrNoSecret = errors.New("app has no secret")
)

// Defaults of [Options].
const (
	DefaultMaxBody = 8 << 20
	DefaultTimeout = 4 * time.Second
)

// retryAfter is sent with a 503, in seconds.
const retryAfter = "5"

// maxChallenge bounds the challenge that a handshake echoes, in bytes; Meta's
// challenge is an integer.
const maxChallenge = 1024

// App is one Meta app that may send deliveries.
type App struct {
	// Name is the last element of its URL, /webhooks/{name}.
	Name string
	// ID is the app's id at Meta.
	ID string
	// Secrets are the app secrets that may have signed a delivery, at least
	// one. Several overlap while a secret is being rotated.
	Secrets []string
	// VerifyToken is the token that the handshake must present.
	VerifyToken string
}

// Answer describes one answered request, for metrics. It contains no body, no
// secret and no signature.
type Answer struct {
	App    string
	Method string
	Status int
	// Reason is a fixed word for why the status is not 200: "signature",
	// "verify_token", "too_large", "unavailable", "timeout", "overloaded",
	// "not_ready", "unreadable_request", "unknown_app" or "method".
	Reason string
	Took   time.Duration
	// Events and Receipts are the events of a stored delivery and their
	// receipts, in the same order.
	Events   []domain.Event
	Receipts []streams.Receipt
}

// Options configure a [Handler]. Apps and Publisher are required.
type Options struct {
	Apps      []App
	Publisher streams.Storer
	// MaxBody is the largest accepted body in bytes.
	MaxBody int64
	// Timeout bounds the wait until the events are durable. It must be under
	// Meta's 5 s.
	Timeout time.Duration
	// Ready returns an error while nothing can be stored. It is called before
	// each delivery is read, so it must be quick. Nil means always ready.
	Ready func() error
	// PageVerifyToken reports whether a token is the verify token of any
	// connected page. It must compare in constant time. Nil accepts no page's
	// token.
	PageVerifyToken func(token string) bool
	// Account returns the Instagram account that is linked to a page; see
	// [messenger.Options]. It must be quick. Nil means that no account is known.
	Account func(domain.PageID) string
	// Observe is called once for every request, after it was answered.
	Observe func(Answer)
	Logger  *slog.Logger
}

// Handler serves /webhooks and /webhooks/{app}. Make one with [New].
type Handler struct {
	opts     Options
	apps     map[string]App
	rejected atomic.Uint64
	failed   atomic.Uint64
}

// New returns a handler for the apps of o. The first app is also served at
// /webhooks itself.
func New(o Options) (*Handler, error) {
	if len(o.Apps) == 0 {
		return nil, ErrNoApp
	}
	o.MaxBody = cmp.Or(o.MaxBody, DefaultMaxBody)
	o.Timeout = cmp.Or(o.Timeout, DefaultTimeout)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	if o.Ready == nil {
		o.Ready = func() error { return nil }
	}
	if o.PageVerifyToken == nil {
		o.PageVerifyToken = func(string) bool { return false }
	}
	if o.Observe == nil {
		o.Observe = func(Answer) {}
	}
	h := &Handler{opts: o, apps: make(map[string]App, len(o.Apps))}
	for _, a := range o.Apps {
		if len(a.Secrets) == 0 || slices.Contains(a.Secrets, "") {
			return nil, fmt.Errorf("app %q: %w", a.Name, ErrNoSecret)
		}
		if _, twice := h.apps[a.Name]; twice {
			return nil, fmt.Errorf("app %q is configured twice", a.Name)
		}
		h.apps[a.Name] = a
	}
	return h, nil
}

// Register adds the handler's routes to mux.
func (h *Handler) Register(mux *http.ServeMux) {
	mux.Handle("/webhooks", h)
	mux.Handle("/webhooks/{app}", h)
}

// ServeHTTP answers one handshake or delivery.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	a := h.answer(w, r)
	a.Method, a.Took = r.Method, time.Since(start)
	h.opts.Observe(a)
}

func (h *Handler) answer(w http.ResponseWriter, r *http.Request) Answer {
	app, ok := h.app(r.PathValue("app"))
	if !ok {
		return refuse(w, Answer{Status: http.StatusNotFound, Reason: "unknown_app"})
	}
	switch r.Method {
	case http.MethodGet:
		return h.handshake(w, r, app)
	case http.MethodPost:
		return h.deliver(w, r, app)
	}
	w.Header().Set("Allow", "GET, POST")
	return refuse(w, Answer{App: app.Name, Status: http.StatusMethodNotAllowed, Reason: "method"})
}

// app finds an app by its name in the URL; an empty name means the first app.
func (h *Handler) app(name string) (App, bool) {
	if name == "" {
		return h.opts.Apps[0], true
	}
	a, ok := h.apps[name]
	return a, ok
}

// handshake answers Meta's check that this endpoint belongs to the app.
func (h *Handler) handshake(w http.ResponseWriter, r *http.Request, app App) Answer {
	q := r.URL.Query()
	token, challenge := q.Get("hub.verify_token"), q.Get("hub.challenge")
	valid := q.Get("hub.mode") == "subscribe" && challenge != "" && len(challenge) <= maxChallenge &&
		token != "" && (equal(token, app.VerifyToken) || h.opts.PageVerifyToken(token))
	if !valid {
		return refuse(w, Answer{App: app.Name, Status: http.StatusForbidden, Reason: "verify_token"})
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff") // the challenge is the caller's text
	_, _ = io.WriteString(w, challenge)
	return Answer{App: app.Name, Status: http.StatusOK}
}

// deliver stores one delivery and answers 200, or answers why it was not stored.
func (h *Handler) deliver(w http.ResponseWriter, r *http.Request, app App) Answer {
	a := Answer{App: app.Name}
	mac, ok := parseSignature(r.Header.Get(SignatureHeader))
	if !ok {
		return h.reject(w, a)
	}
	if err := h.opts.Ready(); err != nil {
		return h.unavailable(w, a, "not_ready", err)
	}
	body, err := readBody(http.MaxBytesReader(w, r.Body, h.opts.MaxBody), r.ContentLength, h.opts.MaxBody)
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			a.Status, a.Reason = http.StatusRequestEntityTooLarge, "too_large"
			return refuse(w, a)
		}
		a.Status, a.Reason = http.StatusBadRequest, "unreadable_request"
		return refuse(w, a)
	}
	if !signedBy(app.Secrets, body, mac) {
		return h.reject(w, a)
	}

	events := messenger.Split(body, messenger.Options{App: app.Name, AppID: app.ID, Account: h.opts.Account}).Events
	if tp := r.Header.Get("Traceparent"); validTraceParent(tp) {
		for i := range events {
			events[i].TraceParent = tp
		}
	}

	// The wait goes on when the client disconnects: finishing a publish that is
	// under way is better than leaving it for the next delivery.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), h.opts.Timeout)
	defer cancel()
	receipts, err := h.opts.Publisher.Publish(ctx, events)
	switch {
	case errors.Is(err, streams.ErrTooLarge):
		a.Status, a.Reason = http.StatusRequestEntityTooLarge, "too_large"
		return refuse(w, a)
	case errors.Is(err, streams.ErrOverloaded):
		return h.unavailable(w, a, "overloaded", err)
	case errors.Is(err, context.DeadlineExceeded):
		return h.unavailable(w, a, "timeout", err)
	case err != nil:
		return h.unavailable(w, a, "unavailable", err)
	}
	a.Status, a.Events, a.Receipts = http.StatusOK, events, receipts
	w.WriteHeader(http.StatusOK)
	return a
}

// reject answers 401 for a bad signature. A wrong secret in the configuration
// looks the same, and Meta then unsubscribes every page within the hour, so it is
// logged: at counts that are powers of two, so that a flood can't fill the log.
func (h *Handler) reject(w http.ResponseWriter, a Answer) Answer {
	if n := h.rejected.Add(1); bits.OnesCount64(n) == 1 {
		h.opts.Logger.Warn("delivery rejected: signature missing or wrong; if it was Meta's, check the app's secrets",
			"app", a.App, "rejected", n)
	}
	a.Status, a.Reason = http.StatusUnauthorized, "signature"
	return refuse(w, a)
}

// unavailable answers 503, so that Meta sends the delivery again.
func (h *Handler) unavailable(w http.ResponseWriter, a Answer, reason string, err error) Answer {
	if n := h.failed.Add(1); bits.OnesCount64(n) == 1 {
		h.opts.Logger.Error("delivery not stored; answered 503 so that Meta sends it again",
			"app", a.App, "reason", reason, "failed", n, "err", err)
	}
	w.Header().Set("Retry-After", retryAfter)
	a.Status, a.Reason = http.StatusServiceUnavailable, reason
	return refuse(w, a)
}

// refuse writes the status and its standard text, and nothing about the reason.
func refuse(w http.ResponseWriter, a Answer) Answer {
	http.Error(w, http.StatusText(a.Status), a.Status)
	return a
}

// readBody reads the whole body. The first allocation follows contentLength, up to
// 64 KiB: a sender can claim any length at no cost.
func readBody(body io.Reader, contentLength, limit int64) ([]byte, error) {
	if contentLength > limit {
		return nil, &http.MaxBytesError{Limit: limit}
	}
	const maxFirst = 64 << 10
	buf := bytes.NewBuffer(make([]byte, 0, min(max(contentLength, 0), maxFirst)+bytes.MinRead))
	if _, err := buf.ReadFrom(body); err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	return buf.Bytes(), nil
}
