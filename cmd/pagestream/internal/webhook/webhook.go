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
//	408  the body arrived too slowly
//	413  the body is larger than MaxBody, or larger than the stream can store, or has
//	     more items than MaxItems
//	503  it can't be made durable now; Retry-After says when to try again
//
// What anybody can cause is bounded: the bytes of bodies whose signature is not known
// yet, and the time in which a body arrives. What a page can cause is bounded as well: a
// delivery that can't be stored in time is refused before it is parsed, and large ones are
// parsed in turns.
//
// Meta expects an answer within 5 seconds and unsubscribes the app from a page
// after about an hour of failures.
// https://developers.facebook.com/docs/messenger-platform/webhooks
package webhook

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/bits"
	"mime"
	"net/http"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
	"github.com/pagestream/pagestream/internal/backoff"
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
	DefaultMaxBody     = 8 << 20
	DefaultMaxInflight = 64 << 20
	DefaultMaxItems    = 5000 // Meta's documented maximum is 1,000
	DefaultReadTimeout = 10 * time.Second
	DefaultTimeout     = 4 * time.Second
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

	keys []*key // of Secrets
}

// Answer describes one answered request, for metrics. It contains no body, no
// secret and no signature.
type Answer struct {
	App    string
	Method string
	Status int
	// Reason is a fixed word for why the status is not 200: "signature",
	// "verify_token", "too_large", "too_many_items", "too_slow", "unavailable",
	// "timeout", "overloaded", "inflight", "gone", "not_ready", "unreadable_request",
	// "unknown_app" or "method".
	Reason string
	// Shaped reports that a delivery with a wrong signature was like Meta's otherwise, so
	// that the app's secret may be wrong. Other ones are those of scanners.
	Shaped bool
	Took   time.Duration
	// Events and Receipts are the events of a stored delivery and their
	// receipts, in the same order. The bytes of the events are valid until Observe
	// returns.
	Events   []domain.Event
	Receipts []streams.Receipt
}

// Options configure a [Handler]. Apps and Publisher are required.
type Options struct {
	Apps      []App
	Publisher streams.Storer
	// MaxBody is the largest accepted body in bytes.
	MaxBody int64
	// MaxItems is the most items of a delivery.
	MaxItems int
	// MaxInflight is how many bytes of bodies may be in memory before they are parsed.
	MaxInflight int64
	// ReadTimeout is how long a body may take to arrive, whatever its rate.
	ReadTimeout time.Duration
	// Timeout bounds the wait until the events are durable. It must be under
	// Meta's 5 s.
	Timeout time.Duration
	// Delay estimates how long new events of a page would wait to be stored; see
	// [streams.Publisher.Delay]. Nil means that none waits.
	Delay func(app string, page domain.PageID) time.Duration
	// Ready returns an error while nothing can be stored. It is called before
	// each delivery is read, so it must be quick. Nil means always ready.
	Ready func() error
	// PageVerifyToken reports whether a token is the verify token of any
	// connected page. The time that it takes must not depend on the token. Nil accepts
	// no page's token.
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
	inflight budget
	parsing  *gate
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
	o.MaxItems = cmp.Or(o.MaxItems, DefaultMaxItems)
	o.MaxInflight = cmp.Or(o.MaxInflight, DefaultMaxInflight)
	o.ReadTimeout = cmp.Or(o.ReadTimeout, DefaultReadTimeout)
	o.Timeout = cmp.Or(o.Timeout, DefaultTimeout)
	if o.Delay == nil {
		o.Delay = func(string, domain.PageID) time.Duration { return 0 }
	}
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
	h := &Handler{
		opts: o, apps: make(map[string]App, len(o.Apps)), inflight: budget{left: o.MaxInflight, limit: o.MaxInflight},
		parsing: newGate(max(1, runtime.GOMAXPROCS(0)/2)),
	}
	for _, a := range o.Apps {
		if len(a.Secrets) == 0 || slices.Contains(a.Secrets, "") {
			return nil, fmt.Errorf("app %q: %w", a.Name, ErrNoSecret)
		}
		if _, twice := h.apps[a.Name]; twice {
			return nil, fmt.Errorf("app %q is configured twice", a.Name)
		}
		for _, secret := range a.Secrets {
			a.keys = append(a.keys, newKey(secret))
		}
		h.apps[a.Name] = a
	}
	return h, nil
}

// Register adds the handler's routes to mux.
func (h *Handler) Register(mux *http.ServeMux) {
	for _, path := range []string{"/webhooks", "/webhooks/{$}", "/webhooks/{app}", "/webhooks/{app}/{$}"} {
		mux.Handle(path, h)
	}
}

// ServeHTTP answers one handshake or delivery.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	a, body := h.answer(w, r)
	a.Method, a.Took = r.Method, time.Since(start)
	h.opts.Observe(a)
	if body != nil {
		body.recycle()
	}
}

// answer answers a request. It returns the body to which the answer's events refer, if
// any.
func (h *Handler) answer(w http.ResponseWriter, r *http.Request) (Answer, *received) {
	app, ok := h.app(r.PathValue("app"))
	if !ok {
		return refuse(w, Answer{Status: http.StatusNotFound, Reason: "unknown_app"}), nil
	}
	switch r.Method {
	case http.MethodGet:
		return h.handshake(w, r, app), nil
	case http.MethodPost:
		return h.deliver(w, r, app)
	}
	w.Header().Set("Allow", "GET, POST")
	return refuse(w, Answer{App: app.Name, Status: http.StatusMethodNotAllowed, Reason: "method"}), nil
}

// app finds an app by its name in the URL; an empty name means the first app.
func (h *Handler) app(name string) (App, bool) {
	if name == "" {
		name = h.opts.Apps[0].Name
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

// deliver stores one delivery and answers 200, or answers why it was not stored. It returns
// the body if that may be recycled once the answer is observed.
func (h *Handler) deliver(w http.ResponseWriter, r *http.Request, app App) (Answer, *received) {
	a := Answer{App: app.Name}
	mac, ok := parseSignature(r.Header.Get(SignatureHeader))
	if !ok {
		return h.reject(w, a), nil
	}
	if err := h.opts.Ready(); err != nil {
		return h.unavailable(w, a, "not_ready", err), nil
	}
	if h.late(app.Name, "") {
		return h.unavailable(w, a, "overloaded", streams.ErrOverloaded), nil
	}
	body, err := receive(w, r, h.opts.MaxBody, h.opts.ReadTimeout, &h.inflight)
	if err != nil {
		return h.unread(w, a, err), nil
	}
	defer body.release()
	if !signedBy(app.keys, body.bytes, mac) {
		a.Shaped = shaped(r.Header.Get("Content-Type"), body.bytes)
		return h.reject(w, a), body
	}
	ctx, cancel := context.WithTimeout(r.Context(), h.opts.Timeout)
	defer cancel()
	split, err := h.split(ctx, app, body.bytes)
	body.release() // the publisher has its own bound
	if err != nil {
		return h.notStored(ctx, w, a, err), body
	}
	if split.TooMany {
		a.Status, a.Reason = http.StatusRequestEntityTooLarge, "too_many_items"
		http.Error(w, fmt.Sprintf("The delivery has %d items; at most %d are accepted.", split.Items, h.opts.MaxItems),
			a.Status)
		return a, body
	}
	events := split.Events
	if tp := r.Header.Get("Traceparent"); validTraceParent(tp) {
		for i := range events {
			events[i].TraceParent = tp
		}
	}
	receipts, err := h.opts.Publisher.Publish(ctx, events)
	if err != nil {
		return h.notStored(ctx, w, a, err), nil
	}
	a.Status, a.Events, a.Receipts = http.StatusOK, events, receipts
	w.WriteHeader(http.StatusOK)
	return a, body
}

// late reports whether new events of a page would wait so long that they are probably not
// stored in time.
func (h *Handler) late(app string, page domain.PageID) bool {
	return h.opts.Delay(app, page) > h.opts.Timeout/2
}

// split makes the events of a body. A large body waits for its turn. It fails with
// [streams.ErrOverloaded] if the events could not be stored in time, or with the context's
// error.
func (h *Handler) split(ctx context.Context, app App, body []byte) (messenger.Result, error) {
	page := pageOf(body)
	if h.late(app.Name, domain.PageID(page)) {
		return messenger.Result{}, fmt.Errorf("events of the page wait too long: %w", streams.ErrOverloaded)
	}
	if len(body) > largeBody {
		if err := h.parsing.enter(ctx, door{app.Name, page}); err != nil {
			return messenger.Result{}, fmt.Errorf("wait to parse: %w", err)
		}
		defer h.parsing.leave()
		if h.late(app.Name, domain.PageID(page)) { // by now
			return messenger.Result{}, fmt.Errorf("events of the page wait too long: %w", streams.ErrOverloaded)
		}
	}
	return messenger.Split(body, messenger.Options{
		App: app.Name, AppID: app.ID, Account: h.opts.Account, MaxItems: h.opts.MaxItems,
	}), nil
}

// unread answers that the body was not read to its end.
func (h *Handler) unread(w http.ResponseWriter, a Answer, err error) Answer {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		a.Status, a.Reason = http.StatusRequestEntityTooLarge, "too_large"
	case errors.Is(err, errInflight):
		w.Header().Set("Connection", "close") // instead of reading the rest
		return h.unavailable(w, a, "inflight", err)
	case tooSlow(err):
		w.Header().Set("Connection", "close")
		a.Status, a.Reason = http.StatusRequestTimeout, "too_slow"
	default:
		a.Status, a.Reason = http.StatusBadRequest, "unreadable_request"
	}
	return refuse(w, a)
}

// overloadPause is how long the answer to a delivery is held back that was refused because too much waits. A
// client that sends again at once, however many connections it has, then costs little. Meta waits longer.
const overloadPause = 500 * time.Millisecond

// notStored answers that the events were not stored.
func (h *Handler) notStored(ctx context.Context, w http.ResponseWriter, a Answer, err error) Answer {
	switch {
	case errors.Is(err, streams.ErrTooLarge):
		a.Status, a.Reason = http.StatusRequestEntityTooLarge, "too_large"
		return refuse(w, a)
	case errors.Is(err, streams.ErrOverloaded):
		_ = backoff.Sleep(ctx, overloadPause)
		return h.unavailable(w, a, "overloaded", err)
	case errors.Is(err, context.DeadlineExceeded):
		return h.unavailable(w, a, "timeout", err)
	case errors.Is(err, context.Canceled):
		a.Status, a.Reason = http.StatusServiceUnavailable, "gone" // nobody reads the answer
		return refuse(w, a)
	}
	return h.unavailable(w, a, "unavailable", err)
}

// maxShaped is up to which size a body with a wrong signature is parsed to see whether it
// has Meta's shape. Most of Meta's deliveries are much smaller.
const maxShaped = 64 << 10

// shaped reports whether a body could be Meta's.
func shaped(contentType string, body []byte) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && media == "application/json" && len(body) <= maxShaped && messenger.IsDelivery(body)
}

// reject answers 401 for a bad signature. A wrong secret in the configuration
// looks the same, and Meta then unsubscribes every page within the hour, so a delivery of
// Meta's shape is logged: at counts that are powers of two, so that a flood can't fill the
// log.
func (h *Handler) reject(w http.ResponseWriter, a Answer) Answer {
	if a.Shaped {
		if n := h.rejected.Add(1); bits.OnesCount64(n) == 1 {
			h.opts.Logger.Warn("delivery rejected: wrong signature; if it was Meta's, check the app's secrets",
				"app", a.App, "rejected", n)
		}
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
