// Package api serves pagestream's private HTTP API: the read models as JSON, the
// events as JSON and as server-sent events, the admin verbs, health and metrics.
//
// All routes except /healthz and /readyz require the admin token, the read-only token
// (for requests that change nothing), or a session. Lists are paged by cursor. Errors
// are problem details (RFC 9457). Reads accept ?min_seq=N: they wait up to 10 seconds
// until the read model has applied event N, so that a client can read its own writes. A
// query parameter or a field of the body that is unknown or empty is refused with 400.
//
// Events have their data in the outgoing form of package domain (Data.EncodeLine): raw is the
// item; or raw_text its text, if it has line breaks or is nested deeply; or raw_base64
// its bytes, if they are not UTF-8 or the request has ?raw=base64.
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/sse"
	"github.com/pagestream/pagestream/projections"
)

// Bounds of one request.
const (
	defaultPage  = 50
	maxPage      = 1000
	maxPageBytes = 16 << 20
	maxWait      = 10 * time.Second
)

// Operator carries out the verbs. [operate.Operator] implements it. Its errors are
// written for the operator: they contain no token, and [operate.KindOf] returns their
// kind.
type Operator interface {
	PageOperator
	LoginOperator
	MessageOperator
	CommentOperator
	ModelOperator
	DeadLetterOperator
	ConsumerOperator
	CompanyOperator
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
	// Token is the admin token. ReadToken, if it is not empty, only permits reading.
	Token, ReadToken string
	// Session reports whether a request without a token has a valid session, and
	// whether the session may change anything. Nil means that there are no sessions.
	Session func(*http.Request) (write, ok bool)

	Pages         projections.Model
	Subscriptions projections.Model
	Conversations projections.Model
	Comments      projections.Model
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

// New returns the API over the read models of o. It fails if the admin token has fewer
// than 32 characters.
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

// Close ends the open feeds; otherwise a graceful HTTP shutdown would wait for them.
// It is idempotent.
func (s *Server) Close() { s.close() }

// serve is a handler that returns an error instead of writing it; see
// [Server.handler].
type serve func(http.ResponseWriter, *http.Request) error

// route is a handler with the query parameters that it knows.
type route struct {
	serve  serve
	params params
	// body is set if serve decodes the body; other routes take none.
	body bool
}

// routes are the routes of one noun by pattern. There is a file for each noun.
type routes map[string]route

// Register adds the API's routes to mux.
func (s *Server) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /healthz", Health)
	mux.HandleFunc("GET /readyz", s.ready)
	mux.Handle("GET /metrics", s.require(s.opts.Metrics))
	known := http.NewServeMux()
	for pattern, route := range s.routes() {
		h := s.require(s.handler(route))
		mux.Handle(pattern, h)
		known.Handle(pattern, h)
	}
	mux.Handle("/api/", s.require(unknownRoute(known)))
}

// unknownRoute answers requests for which the API has no route: 405 with the methods that
// the path has, or 404 if it has none.
func unknownRoute(known *http.ServeMux) http.Handler {
	methods := []string{
		http.MethodDelete, http.MethodGet, http.MethodHead, http.MethodPatch, http.MethodPost, http.MethodPut,
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var allowed []string
		for _, method := range methods {
			if _, pattern := known.Handler(&http.Request{Method: method, Host: r.Host, URL: r.URL}); pattern != "" {
				allowed = append(allowed, method)
			}
		}
		if len(allowed) == 0 {
			writeProblem(w, problem(http.StatusNotFound, "there is no "+r.Method+" "+r.URL.Path+" in this API"))
			return
		}
		allow := strings.Join(allowed, ", ")
		w.Header().Set("Allow", allow)
		writeProblem(w, problem(http.StatusMethodNotAllowed, r.URL.Path+" has the methods "+allow))
	})
}

// routes returns the routes of all nouns.
func (s *Server) routes() routes {
	all := routes{}
	for _, noun := range []routes{
		s.pageRoutes(), s.loginRoutes(), s.messageRoutes(), s.conversationRoutes(), s.commentRoutes(), s.eventRoutes(),
		s.projectionRoutes(), s.deadLetterRoutes(), s.consumerRoutes(), s.companyRoutes(), s.hookRoutes(), s.keyRoutes(),
		s.copyRoutes(), s.statusRoutes(),
	} {
		maps.Copy(all, noun)
	}
	return all
}

// handler checks a request's parameters, serves it, and writes an error as a problem.
// An error that is not meant for the client is logged here, once, and answered 500
// without its text.
func (s *Server) handler(route route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := route.params.check(r)
		if err == nil && !route.body {
			err = noBody(w, r)
		}
		if err == nil {
			err = route.serve(w, r)
		}
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

// await waits until the read models have applied event ?min_seq=, if it is given.
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
				fmt.Sprintf("the read model has not applied event %d yet; it is at event %d", seq, m.Status().Seq))
		}
		if err != nil {
			return fmt.Errorf("wait for event %d: %w", seq, err)
		}
	}
	return nil
}
