// Package api serves the private side of pagestream: the read models as JSON,
// the events as JSON and as server-sent events, the admin verbs, health and
// metrics.
//
// Everything but /healthz and /readyz needs the admin token, the read-only token
// where nothing is changed, or a session. Lists are paged
// by cursor; errors are problem details (RFC 9457). A read takes ?min_seq=N
// and waits, for a bounded time, until its read model holds event N, so that a
// writer can read what it wrote.
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/projections/store"
)

// Bounds on what one request may ask for.
const (
	defaultPage  = 50
	maxPage      = 1000
	maxPageBytes = 16 << 20
	maxWait      = 10 * time.Second
)

// Model is a read model: a projection's rows, and where it stands.
type Model interface {
	View(func(*store.Tx) error) error
	// WaitFor returns once the model holds every event up to seq, or with the
	// context's error.
	WaitFor(ctx context.Context, seq uint64) error
	Status() projections.Status
}

// Options configure a [Server]. All fields but ReadToken, Session, Logger, Started
// and Version are required.
type Options struct {
	JS     jetstream.JetStream
	Stream string
	// Token is the admin token. ReadToken, if there is one, lets its bearer read.
	Token, ReadToken string
	// Session tells of a request without a token whether it is from somebody who
	// signed in, and whether they may change anything; nil if nobody can.
	Session func(*http.Request) (write, ok bool)

	Pages         Model
	Subscriptions Model
	Conversations Model
	Deliveries    Model
	// Past reads a conversation as it was at an event, or at a time if seq is 0.
	Past func(ctx context.Context, page domain.PageID, contact domain.ContactID, seq uint64, at time.Time, read func(projections.Viewer) error) error
	// Ledger has the counts of what never reached the stream.
	Ledger *deliveries.Ledger
	// Connector carries out the admin verbs on pages.
	Connector Connector
	// Actions are further things that an operator asks for.
	Actions Actions
	// Doctor says what is wrong with the pages, with all connected ones if none
	// is named; Erase removes a contact.
	Doctor func(ctx context.Context, pages []domain.PageID) (any, error)
	Erase  func(ctx context.Context, page domain.PageID, contact domain.ContactID) (any, error)
	// Ready returns every reason why the process should get no traffic.
	Ready    func(ctx context.Context) []error
	Registry *prometheus.Registry
	Version  string
	Started  time.Time
	Logger   *slog.Logger
}

// Server is the private API. Make one with [New].
type Server struct {
	opts    Options
	feeds   chan struct{}
	closing context.Context
	close   context.CancelFunc
}

// New returns the API over the given read models.
func New(o Options) (*Server, error) {
	if len(o.Token) < minToken {
		return nil, ErrTokenEmpty
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{opts: o, feeds: make(chan struct{}, maxFeeds)}
	s.closing, s.close = context.WithCancel(context.Background())
	return s, nil
}

// Close ends the open event feeds, which a graceful HTTP shutdown would wait
// for. It is idempotent.
func (s *Server) Close() { s.close() }

// Register adds the API's routes to mux.
func (s *Server) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /healthz", Health)
	mux.HandleFunc("GET /readyz", s.ready)
	mux.Handle("GET /metrics", s.require(promhttp.HandlerFor(s.opts.Registry, promhttp.HandlerOpts{})))
	routes := map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /api/v1/pages":                                   s.listPages,
		"POST /api/v1/pages":                                  s.connectPage,
		"GET /api/v1/pages/{id}":                              s.getPage,
		"GET /api/v1/pages/{id}/subscription":                 s.getSubscription,
		"GET /api/v1/pages/{id}/conversations":                s.listConversations,
		"POST /api/v1/pages/{id}/check":                       s.checkPage,
		"POST /api/v1/pages/{id}/resubscribe":                 s.resubscribePage,
		"POST /api/v1/pages/{id}/disconnect":                  s.disconnectPage,
		"GET /api/v1/conversations/{page}/{contact}":          s.getConversation,
		"GET /api/v1/conversations/{page}/{contact}/messages": s.listMessages,
		"GET /api/v1/conversations/{page}/{contact}/events":   s.listSources,
		"GET /api/v1/events":                                  s.listEvents,
		"GET /api/v1/events/{seq}":                            s.getEvent,
		"GET /api/v1/projections":                             s.listProjections,
		"GET /api/v1/status":                                  s.getStatus,
	}
	maps.Copy(routes, s.actionRoutes())
	for route, serve := range routes {
		mux.Handle(route, s.require(s.handler(serve)))
	}
	mux.Handle("/api/", s.require(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, problem(http.StatusNotFound, "there is no "+r.Method+" "+r.URL.Path+" in this API"))
	})))
}

// handler answers an error of serve as a problem. What is not meant for the
// caller is logged here, once, and answered 500 without its words.
func (s *Server) handler(serve func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := serve(w, r)
		if err == nil {
			return
		}
		var p Problem
		switch {
		case errors.As(err, &p):
		case r.Context().Err() != nil:
			return // the client is gone
		case errors.Is(err, context.DeadlineExceeded):
			p = problem(http.StatusGatewayTimeout, "it took too long; try again")
		default:
			s.opts.Logger.Error("API request failed", "method", r.Method, "path", r.URL.Path, "err", err)
			p = problem(http.StatusInternalServerError, "the server's log has the cause")
		}
		writeProblem(w, p)
	})
}

// view reads from a model, after it holds ?min_seq= if that is given.
func view(r *http.Request, m Model) (Model, error) {
	seq, err := number(r, "min_seq", 0)
	if err != nil || seq == 0 {
		return m, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), maxWait)
	defer cancel()
	if err := m.WaitFor(ctx, seq); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return nil, problem(http.StatusServiceUnavailable,
				fmt.Sprintf("the read model does not hold event %d yet; it stands at %d", seq, m.Status().Seq))
		}
		return nil, fmt.Errorf("wait for event %d: %w", seq, err)
	}
	return m, nil
}

// number reads a query parameter that is a whole number.
func number(r *http.Request, name string, otherwise uint64) (uint64, error) {
	v := r.URL.Query().Get(name)
	if v == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		return 0, problem(http.StatusBadRequest, fmt.Sprintf("%s=%q is not a whole number", name, v))
	}
	return n, nil
}

// limit reads ?limit=, at least 1 and at most most.
func limit(r *http.Request, most int) (int, error) {
	n, err := number(r, "limit", defaultPage)
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, problem(http.StatusBadRequest, "limit is at least 1")
	}
	return int(min(n, uint64(most))), nil
}
