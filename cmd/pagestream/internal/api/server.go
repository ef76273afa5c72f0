// Package api serves pagestream's private HTTP API: the read models as JSON, the
// events as JSON and as server-sent events, the admin verbs, health and metrics.
//
// All routes except /healthz and /readyz require a token, or a session, that permits the
// route: each route says which. A company's token gets what belongs to its company only.
// Requests that change anything are on record (package history). Lists are paged by
// cursor. Errors
// are problem details (RFC 9457). Reads accept ?min_seq=N: they wait up to 10 seconds
// until the read model has applied event N, so that a client can read its own writes. A
// query parameter or a field of the body that is unknown or empty is refused with 400.
//
// Events have their data in the outgoing form of package domain (Data.EncodeLine): raw is the
// item; or raw_text its text, if it has line breaks or is nested deeply; or raw_base64
// its bytes, if they are not UTF-8 or the request has ?raw=base64.
package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/sse"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/tokens"
	"github.com/pagestream/pagestream/domain"
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
	AppOperator
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
	TokenOperator
	HistoryOperator
	LossOperator
	ClusterOperator
}

var _ Operator = (*operate.Operator)(nil)

// Options configure a [Server]. All fields but Session, History and Logger are
// required.
type Options struct {
	JS     jetstream.JetStream
	Stream string
	Tokens *tokens.Tokens
	// Session returns who has the session of a request without a token. It fails with
	// [tokens.ErrInvalid] or [tokens.ErrUnavailable]. Nil means that there are no sessions.
	Session func(*http.Request) (tokens.Holder, error)
	// History has the verbs on record; nil records nothing.
	History *history.History

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

	mu           sync.Mutex
	companyFeeds map[string]int // open feeds by the tokens of a company
}

// New returns the API over the read models of o.
func New(o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Server{opts: o, feeds: sse.NewFeeds(ctx, maxFeeds), close: cancel, companyFeeds: map[string]int{}}
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
	// allow is who may call it.
	allow access
	// verb is the name under which the route is on record; each route that changes
	// anything has one. on is what the path names: page, consumer, …
	verb, on string
}

// names adds to an action what the request's path names.
func (t route) names(a *history.Action, r *http.Request) {
	name := cmp.Or(r.PathValue("page"), r.PathValue("name"), r.PathValue("id"))
	switch t.on {
	case "":
	case "company":
		a.OnText(t.on, name)
	default:
		a.On(t.on, name)
	}
	a.OnContact(domain.ContactID(r.PathValue("contact")))
}

// routes are the routes of one noun by pattern. There is a file for each noun.
type routes map[string]route

// Register adds the API's routes to mux.
func (s *Server) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /healthz", Health)
	mux.HandleFunc("GET /readyz", s.ready)
	mux.Handle("GET /metrics", s.guard(route{allow: toMetrics}, s.opts.Metrics))
	known := http.NewServeMux()
	for pattern, route := range s.routes() {
		h := s.guard(route, s.handler(route))
		mux.Handle(pattern, h)
		known.Handle(pattern, h)
	}
	mux.Handle("/api/", s.guard(route{allow: toReaders}, unknownRoute(known)))
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
		s.pageRoutes(), s.appRoutes(), s.loginRoutes(), s.messageRoutes(), s.conversationRoutes(), s.commentRoutes(), s.eventRoutes(),
		s.projectionRoutes(), s.deadLetterRoutes(), s.consumerRoutes(), s.companyRoutes(), s.hookRoutes(), s.keyRoutes(),
		s.copyRoutes(), s.statusRoutes(), s.tokenRoutes(), s.historyRoutes(), s.lossRoutes(), s.clusterRoutes(),
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
		action := history.From(r.Context())
		if err == nil {
			action.Done()
			return
		}
		var p Problem
		var damaged *projections.DamagedError
		switch {
		case errors.As(err, &p):
		case errors.As(err, &damaged):
			p = damagedProblem(damaged)
		case errors.Is(context.Cause(r.Context()), tokens.ErrInvalid):
			p = refusal(w, tokens.ErrInvalid)
		case r.Context().Err() != nil:
			return // the client is gone
		case errors.Is(err, context.DeadlineExceeded):
			p = problem(http.StatusGatewayTimeout, "it took too long; try again")
		default:
			s.opts.Logger.Error("API request failed", "method", r.Method, "path", r.URL.Path, "err", err)
			p = problem(http.StatusInternalServerError, "the server's log has the cause")
		}
		action.Ended(p.Status, p.Code)
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
