// Package console serves the web console on the private listener: an overview of all
// Facebook Pages, the findings of each with buttons to fix them, the conversations and
// events live, and the state of the streams.
//
// The server renders everything (html/template). htmx, embedded unmodified, requests
// the same pages again and replaces the part that changed, so each page also works
// without scripts. Nothing is loaded from other servers: the Content-Security-Policy
// allows only files of this server, no inline scripts and no inline styles.
//
// A user signs in with a token of an administrator or a reader and gets a session
// cookie; see [Console.Authenticate]. The server that registers these routes must
// refuse requests from other origins (net/http.CrossOriginProtection): the forms have
// no CSRF tokens.
package console

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/sse"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/tokens"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
)

// Options configure a [Console]. All fields but Version and Breaker are required.
type Options struct {
	JS     jetstream.JetStream
	Stream string

	Pages         projections.Model
	Subscriptions projections.Model
	Conversations projections.Model
	// Operator carries out the verbs.
	Operator Operator

	// Tokens are the tokens that can sign in.
	Tokens *tokens.Tokens
	// History has the actions on record.
	History *history.History
	// SessionKey encrypts session cookies. It must have 32 bytes. Sessions survive a
	// restart with the same key.
	SessionKey []byte
	// Breaker is the fake Meta of `pagestream dev`, nil in every other program: then there
	// is no page that breaks it.
	Breaker Breaker

	Version string
	Logger  *slog.Logger
}

// Console serves the web console. Make one with [New] and end it with Close; it is
// safe for concurrent use.
type Console struct {
	opts     Options
	sessions *sessions
	feeds    *sse.Feeds
	rates    rates
	jobs     jobs
	past     past

	ctx    context.Context // ends the background work
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// New returns a console and starts to sample the rate of incoming events. It panics if
// the operator, the tokens or the key is missing, which is a programming error.
func New(o Options) *Console {
	if o.Operator == nil || len(o.SessionKey) != keySize || o.Tokens == nil {
		panic("console: Operator, Tokens and a SessionKey of 32 bytes are required")
	}
	c := &Console{
		opts:     o,
		jobs:     jobs{of: map[string]*job{}},
		sessions: newSessions(o.SessionKey, o.Tokens, time.Now),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.feeds = sse.NewFeeds(c.ctx, maxFeeds)
	c.work.Go(c.sample)
	return c
}

// Close ends the open feeds and the background jobs, and waits for the jobs. A canceled
// rebuild leaves the live read model unchanged. Close is idempotent.
func (c *Console) Close() {
	c.cancel()
	c.work.Wait()
}

// Register adds the console's routes to mux.
func (c *Console) Register(mux *http.ServeMux) {
	mux.Handle("GET /assets/", assets())
	mux.HandleFunc("GET /sign-in", c.showSignIn)
	mux.HandleFunc("POST /sign-in", c.signIn)
	mux.HandleFunc("POST /sign-out", c.signOut)
	routes := c.routes()
	if c.opts.Breaker != nil {
		maps.Copy(routes, c.breakRoutes())
	}
	for pattern, route := range routes {
		mux.Handle(pattern, c.handler(route))
	}
}

// OrNotFound returns a handler that serves mux, and that answers a browser's request for a page that
// is on none of its routes with a page of the console. Other clients get the answer of mux.
func (c *Console) OrNotFound(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.Header.Get("Accept"), "text/html") {
			if _, pattern := mux.Handler(r); pattern == "" {
				c.showError(w, r, notFound("There is no such page here."))
				return
			}
		}
		mux.ServeHTTP(w, r)
	})
}

// route is a handler of the console. One that changes anything has a verb, under which it
// is on record.
type route struct {
	serve serve
	verb  string
	// admin is set if it is for administrators only, as all that change anything are.
	admin bool
}

// routes returns the routes that need a session, by pattern.
func (c *Console) routes() map[string]route {
	return map[string]route{
		"GET /{$}":                       {serve: c.overview},
		"GET /live/totals":               {serve: c.liveTotals},
		"GET /connect":                   {serve: c.showConnect},
		"POST /connect":                  {serve: c.connect, verb: "pages_login"},
		"POST /pages":                    {serve: c.onPages, verb: "pages_batch"},
		"GET /pages/{page}":              {serve: c.page},
		"GET /pages/{page}/findings":     {serve: c.findings},
		"POST /pages/{page}/check":       {serve: c.verb("check", Operator.Check), verb: "pages_check"},
		"POST /pages/{page}/resubscribe": {serve: c.verb("resubscribe", Operator.Resubscribe), verb: "pages_resubscribe"},
		"POST /pages/{page}/disconnect":  {serve: c.verb("disconnect", Operator.Disconnect), verb: "pages_disconnect"},
		"GET /conversations":             {serve: c.inbox},

		"GET /pages/{page}/conversations":            {serve: c.conversations},
		"GET /conversations/{page}":                  {serve: toConversations},
		"GET /conversations/{page}/{contact}":        {serve: c.thread},
		"POST /conversations/{page}/{contact}/reply": {serve: c.reply, verb: "send"},
		"GET /live/conversations/{page}":             {serve: c.liveConversations},
		"GET /live/conversations/{page}/{contact}":   {serve: c.liveConversations},

		"GET /events":                      {serve: c.events},
		"GET /events/{seq}":                {serve: c.event},
		"GET /live/events":                 {serve: c.liveEvents},
		"GET /sources":                     {serve: c.sources},
		"GET /streams":                     {serve: c.streams},
		"POST /projections/{name}/rebuild": {serve: c.rebuild, verb: "projections_rebuild"},
		"POST /projections/{name}/verify":  {serve: c.verify, verb: "projections_verify"},
		"POST /audit":                      {serve: c.audit, verb: "audit"},
		"POST /jobs/cancel":                {serve: c.cancelJob, verb: "jobs_cancel"},
		"POST /deadletters":                {serve: c.decide, verb: "deadletters_decide"},
		"GET /tokens":                      {serve: c.tokens, admin: true},
		"POST /tokens":                     {serve: c.addToken, verb: "tokens_add"},
		"POST /tokens/{name}/revoke":       {serve: c.revokeToken, verb: "tokens_revoke"},
		"GET /history":                     {serve: c.history, admin: true},
	}
}

// pageOf returns the page in the request's path.
func pageOf(r *http.Request) domain.PageID { return domain.PageID(r.PathValue("page")) }

// contactOf returns the contact in the request's path.
func contactOf(r *http.Request) domain.ContactID { return domain.ContactID(r.PathValue("contact")) }
