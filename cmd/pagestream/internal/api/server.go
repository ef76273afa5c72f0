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
	"net/http"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/sse"
	"github.com/pagestream/pagestream/projections"
)

// Bounds on what one request may ask for.
const (
	defaultPage  = 50
	maxPage      = 1000
	maxPageBytes = 16 << 20
	maxWait      = 10 * time.Second
)

// Operator carries the verbs out. Its errors are for the operator to read: they have
// no token in them, and [operate.KindOf] says what kind they are. An
// [operate.Operator] is one.
type Operator interface {
	PageOperator
	LoginOperator
	MessageOperator
	ModelOperator
	DeadLetterOperator
	ConsumerOperator
	HookOperator
	KeyOperator
	CopyOperator
	StatusOperator
}

var _ Operator = (*operate.Operator)(nil)

// Options configure a [Server]. All fields but ReadToken, Session and Logger are
// required.
type Options struct {
	JS     jetstream.JetStream
	Stream string
	// Token is the admin token. ReadToken, if there is one, lets its bearer read.
	Token, ReadToken string
	// Session tells of a request without a token whether it is from somebody who
	// signed in, and whether they may change anything; nil if nobody can.
	Session func(*http.Request) (write, ok bool)

	Pages         projections.Model
	Subscriptions projections.Model
	Conversations projections.Model
	Operator      Operator
	// Metrics serves GET /metrics.
	Metrics http.Handler
	Logger  *slog.Logger
}

// Server is the private API. Make one with [New].
type Server struct {
	opts  Options
	feeds *sse.Feeds
	close context.CancelFunc
}

// New returns the API over the given read models.
func New(o Options) (*Server, error) {
	if len(o.Token) < minToken {
		return nil, errTokenEmpty
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Server{opts: o, feeds: sse.NewFeeds(ctx, maxFeeds), close: cancel}, nil
}

// Close ends the open event feeds, which a graceful HTTP shutdown would wait
// for. It is idempotent.
func (s *Server) Close() { s.close() }

// serve serves a request, or returns why not; see [Server.handler].
type serve func(http.ResponseWriter, *http.Request) error

// routes are those of one noun; each noun's stand in its own file.
type routes map[string]serve

// Register adds the API's routes to mux.
func (s *Server) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /healthz", Health)
	mux.HandleFunc("GET /readyz", s.ready)
	mux.Handle("GET /metrics", s.require(s.opts.Metrics))
	for _, noun := range []routes{
		s.pageRoutes(), s.loginRoutes(), s.messageRoutes(), s.conversationRoutes(), s.eventRoutes(), s.projectionRoutes(),
		s.deadLetterRoutes(), s.consumerRoutes(), s.hookRoutes(), s.keyRoutes(), s.copyRoutes(), s.statusRoutes(),
	} {
		for route, serve := range noun {
			mux.Handle(route, s.require(s.handler(serve)))
		}
	}
	mux.Handle("/api/", s.require(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, problem(http.StatusNotFound, "there is no "+r.Method+" "+r.URL.Path+" in this API"))
	})))
}

// handler answers an error of serve as a problem. What is not meant for the
// caller is logged here, once, and answered 500 without its words.
func (s *Server) handler(serve serve) http.Handler {
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

// await waits until read models hold ?min_seq=, if that is given.
func await(r *http.Request, models ...projections.Model) error {
	seq, err := number(r, "min_seq", 0)
	if err != nil || seq == 0 {
		return err
	}
	for _, m := range models {
		ctx, cancel := context.WithTimeout(r.Context(), maxWait)
		err := m.WaitFor(ctx, seq)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			return problem(http.StatusServiceUnavailable,
				fmt.Sprintf("the read model does not hold event %d yet; it stands at %d", seq, m.Status().Seq))
		}
		if err != nil {
			return fmt.Errorf("wait for event %d: %w", seq, err)
		}
	}
	return nil
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

// limit reads ?limit=, at least 1 and at most maxPage.
func limit(r *http.Request) (int, error) {
	n, err := number(r, "limit", defaultPage)
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, problem(http.StatusBadRequest, "limit is at least 1")
	}
	return int(min(n, maxPage)), nil
}
