// Package console serves the web console on the private listener: an overview of all
// Facebook Pages, the findings of each with buttons to fix them, the conversations and
// events live, and the state of the streams.
//
// The server renders everything (html/template). htmx, embedded unmodified, requests
// the same pages again and replaces the part that changed, so each page also works
// without scripts. Nothing is loaded from other servers: the Content-Security-Policy
// allows only files of this server, no inline scripts and no inline styles.
//
// A user signs in with the admin token or the read-only token and gets a session
// cookie; see [Console.Authenticate]. The server that registers these routes must
// refuse requests from other origins (net/http.CrossOriginProtection): the forms have
// no CSRF tokens.
package console

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/sse"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
)

// Options configure a [Console]. All fields but Version are required.
type Options struct {
	JS     jetstream.JetStream
	Stream string

	Pages         projections.Model
	Subscriptions projections.Model
	Conversations projections.Model
	// Operator carries out the verbs.
	Operator Operator

	// AdminToken and ReadToken are the tokens for the roles [Admin] and [ReadOnly].
	AdminToken, ReadToken string
	// SessionKey signs session cookies. It must have at least 32 bytes. Sessions survive
	// a restart with the same key.
	SessionKey []byte

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

	ctx    context.Context // ends the background work
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// New returns a console and starts to sample the rate of incoming events. It panics if
// the operator, a token or the key is missing, which is a programming error.
func New(o Options) *Console {
	if o.Operator == nil || len(o.SessionKey) < 32 || o.AdminToken == "" || o.ReadToken == "" {
		panic("console: Operator, AdminToken, ReadToken and a SessionKey of 32 bytes are required")
	}
	c := &Console{
		opts:     o,
		jobs:     jobs{of: map[string]*job{}},
		sessions: newSessions(o.SessionKey, map[Role]string{Admin: o.AdminToken, ReadOnly: o.ReadToken}, time.Now),
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
	for route, serve := range map[string]serve{
		"GET /{$}":                                   c.overview,
		"GET /live/totals":                           c.liveTotals,
		"GET /connect":                               c.showConnect,
		"POST /connect":                              c.connect,
		"GET /pages/{page}":                          c.page,
		"GET /pages/{page}/findings":                 c.findings,
		"POST /pages/{page}/check":                   c.verb("check", Operator.Check),
		"POST /pages/{page}/resubscribe":             c.verb("resubscribe", Operator.Resubscribe),
		"POST /pages/{page}/disconnect":              c.verb("disconnect", Operator.Disconnect),
		"GET /conversations":                         c.conversationPages,
		"GET /pages/{page}/conversations":            c.conversations,
		"GET /conversations/{page}":                  toConversations,
		"GET /conversations/{page}/{contact}":        c.thread,
		"POST /conversations/{page}/{contact}/reply": c.reply,
		"GET /live/conversations/{page}":             c.liveConversations,
		"GET /live/conversations/{page}/{contact}":   c.liveConversations,
		"GET /events":                                c.events,
		"GET /events/{seq}":                          c.event,
		"GET /live/events":                           c.liveEvents,
		"GET /sources":                               c.sources,
		"GET /streams":                               c.streams,
		"POST /projections/{name}/rebuild":           c.rebuild,
		"POST /projections/{name}/verify":            c.verify,
		"POST /audit":                                c.audit,
		"POST /jobs/cancel":                          c.cancelJob,
		"POST /deadletters":                          c.decide,
	} {
		mux.Handle(route, c.handler(serve))
	}
}

// pageOf returns the page in the request's path.
func pageOf(r *http.Request) domain.PageID { return domain.PageID(r.PathValue("page")) }

// contactOf returns the contact in the request's path.
func contactOf(r *http.Request) domain.ContactID { return domain.ContactID(r.PathValue("contact")) }
