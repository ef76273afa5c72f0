package api

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/tokens"
)

// access is who may call a route. The zero value is administrators only, so a route is
// closed to all others until it says something else.
type access int

const (
	toAdmins access = iota
	// toReaders adds the tokens that may read everything.
	toReaders
	// toCompanies adds the tokens of companies to toReaders. The handler answers them with
	// what belongs to their company only; see [Server.bound].
	toCompanies
	// toSenders adds the tokens of companies that may send to toAdmins. The handler
	// checks the page.
	toSenders
	// toMetrics adds the tokens for metrics to toReaders.
	toMetrics
)

// permits reports whether the holder of a token may call the route.
func (a access) permits(h tokens.Holder) bool {
	switch h.Scope {
	case tokens.Admin:
		return true
	case tokens.Reader:
		return a == toReaders || a == toCompanies || a == toMetrics
	case tokens.Company:
		return a == toCompanies || a == toSenders && h.Send
	case tokens.Metrics:
		return a == toMetrics
	}
	return false
}

type holderKey struct{}

// holder returns who sends the request.
func holder(r *http.Request) tokens.Holder {
	h, _ := r.Context().Value(holderKey{}).(tokens.Holder)
	return h
}

// companyOf returns the company to whose rows a request is limited, empty for none.
func companyOf(r *http.Request) string {
	if h := holder(r); h.Scope == tokens.Company {
		return h.Company
	}
	return ""
}

// guard passes a request to next if its token, or its session, permits the route, and puts
// a verb on record. A read ends when its token is revoked or expires. A token in a query
// parameter is not accepted: a token in a URL ends up in logs.
func (s *Server) guard(route route, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, err := s.authenticate(r)
		if err != nil {
			writeProblem(w, refusal(w, err))
			return
		}
		var action *history.Action
		if route.verb != "" {
			action = s.opts.History.Begin(r, h.Name, string(h.Scope), route.verb)
			defer action.End()
			route.names(action, r)
			w.Header().Set("X-Request-Id", action.ID())
		}
		reads := r.Method == http.MethodGet || r.Method == http.MethodHead
		if !route.allow.permits(h) {
			action.Denied(http.StatusForbidden)
			writeProblem(w, problem(http.StatusForbidden, denied(h, reads)))
			return
		}
		ctx := action.With(context.WithValue(r.Context(), holderKey{}, h))
		if reads {
			var cancel context.CancelFunc
			ctx, cancel = h.Until(ctx)
			defer cancel()
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// denied says why a token does not permit a request.
func denied(h tokens.Holder, reads bool) string {
	if h.Scope == tokens.Reader && !reads {
		return "this token only reads; the admin token is in the file that http.token_file names"
	}
	return "this token's scope, " + string(h.Scope) + ", does not permit this request"
}

// refusal returns the problem of a request without a valid token.
func refusal(w http.ResponseWriter, err error) Problem {
	if errors.Is(err, tokens.ErrUnavailable) {
		p := problem(http.StatusServiceUnavailable, err.Error())
		p.RetryAfter = 1
		return p
	}
	w.Header().Set("WWW-Authenticate", `Bearer realm="pagestream"`)
	return problem(http.StatusUnauthorized,
		"send the admin token as Authorization: Bearer …; it is in the file that http.token_file names")
}

// authenticate returns who sends a request. It fails with [tokens.ErrInvalid] or
// [tokens.ErrUnavailable].
func (s *Server) authenticate(r *http.Request) (tokens.Holder, error) {
	given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case ok:
		return s.opts.Tokens.Find(given)
	case s.opts.Session == nil:
		return tokens.Holder{}, tokens.ErrInvalid
	}
	return s.opts.Session(r)
}
