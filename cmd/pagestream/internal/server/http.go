package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/backfill"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/callbacks"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/console"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/outbound"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/tokens"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/webhook"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams"
)

// serve starts both HTTP servers on the listeners that p.listen opened.
func (p *Program) serve(context.Context) error {
	if err := p.health.start(p); err != nil {
		return err
	}
	p.onClose("health watch", func(context.Context) error { p.health.stop(); return nil })
	public, err := p.publicRoutes()
	if err != nil {
		return err
	}
	closeFeeds, err := p.privateRoutes()
	if err != nil {
		return err
	}
	p.start("private HTTP", limitConnections(p.privateLn, maxPrivate, 0), &http.Server{
		Handler:      p.private,
		ReadTimeout:  30 * time.Second,
		WriteTimeout: time.Minute, // an event feed sets its own deadline for each write
	}, closeFeeds)
	hook := p.cfg.Webhook
	p.start("public HTTP", limitConnections(p.publicLn, hook.MaxConnections, hook.MaxConnectionsPerAddress), &http.Server{
		Handler:      public,
		ReadTimeout:  hook.ReadTimeout,
		WriteTimeout: hook.ReadTimeout + hook.Timeout + 5*time.Second,
	}, closeFeeds)
	return nil
}

// maxPrivate is the most connections of the private listener.
const maxPrivate = 1024

// start serves HTTP on a listener until Close, which calls before and then shuts the server down.
func (p *Program) start(name string, ln *connections, s *http.Server, before func()) {
	s.ConnState = ln.state
	s.ReadHeaderTimeout = 5 * time.Second
	s.IdleTimeout = p.cfg.Webhook.IdleTimeout
	s.MaxHeaderBytes = 32 << 10
	s.Handler = p.survive(s.Handler)
	s.ErrorLog = slog.NewLogLogger(p.log.Handler(), slog.LevelDebug)
	p.background.Go(func() {
		if err := s.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			p.fail(fmt.Errorf("serve %s: %w", name, err))
		}
	})
	p.onClose(name, func(ctx context.Context) error {
		before()
		if err := s.Shutdown(ctx); err != nil {
			return errors.Join(err, s.Close())
		}
		return nil
	})
}

// currentTimeout bounds how long a request waits for events that were answered before it.
const currentTimeout = 2 * time.Second

// current lets requests see what was answered before them: it waits until the stream has it, which takes some
// milliseconds at most while JetStream works.
func (p *Program) current(next http.Handler) http.Handler {
	if p.journal == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" && p.journal.Refuses() == nil { // the console asks it each second
			ctx, cancel := context.WithTimeout(r.Context(), currentTimeout)
			_ = p.journal.Flush(ctx) // without it, the request sees somewhat less
			cancel()
		}
		next.ServeHTTP(w, r)
	})
}

// survive reports a panic of a handler, and then ends the request's connection as net/http does. The
// log has the route and the stack, but nothing of the request: its path, headers and body may contain
// secrets, and so may the value of the panic, unless it is of the runtime.
func (p *Program) survive(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			cause := recover()
			if cause == nil {
				return
			}
			if err, ok := cause.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
				p.metrics.panics.Inc()
				text := fmt.Sprintf("a %T", cause)
				if err, ok := cause.(runtime.Error); ok {
					text = err.Error()
				}
				p.log.Error("a handler panicked", "method", r.Method, "route", r.Pattern, "panic", text,
					"stack", string(debug.Stack()))
			}
			panic(http.ErrAbortHandler)
		}()
		next.ServeHTTP(w, r)
	})
}

// publicRoutes returns the handler of the public listener, which Meta and the browsers of page
// admins call.
func (p *Program) publicRoutes() (http.Handler, error) {
	mux := http.NewServeMux()
	hook := webhook.Options{
		Publisher:       p.publisher,
		MaxBody:         int64(p.cfg.Webhook.MaxBody),
		MaxInflight:     int64(p.cfg.Webhook.MaxInflight),
		ReadTimeout:     p.cfg.Webhook.ReadTimeout,
		Timeout:         p.cfg.Webhook.Timeout,
		Delay:           p.publisher.Delay,
		Ready:           p.health.door,
		Observe:         p.observe,
		Logger:          p.log.With("part", "webhook"),
		PageVerifyToken: p.isPageVerifyToken,
		Account:         p.instagramAccount,
	}
	key, err := p.keys.Derive("meta/data-deletion")
	if err != nil {
		return nil, err
	}
	metaCallbacks := callbacks.Options{
		Disconnector: p.connector, Eraser: p.admins, BaseURL: p.baseURL(), Key: key, Logger: p.log.With("part", "callbacks"),
	}
	for _, a := range p.cfg.Apps {
		secrets := secretStrings(a.Secrets)
		hook.Apps = append(hook.Apps, webhook.App{
			Name: a.Name, ID: a.ID, VerifyToken: string(a.VerifyToken), Secrets: secrets,
		})
		metaCallbacks.Apps = append(metaCallbacks.Apps, callbacks.App{Name: a.Name, Secrets: secrets})
	}
	h, err := webhook.New(hook)
	if err != nil {
		return nil, fmt.Errorf("make webhook handler: %w", err)
	}
	h.Register(mux)
	p.logins.Register(mux)
	callbacks.New(metaCallbacks).Register(mux)
	mux.HandleFunc("GET /healthz", api.Health)
	return mux, nil
}

// secretStrings returns secrets as plain strings, for code that signs or verifies with them.
func secretStrings(secrets []config.Secret) (out []string) {
	for _, s := range secrets {
		out = append(out, string(s))
	}
	return out
}

// observe counts one answered webhook request in the metrics and the ledger.
func (p *Program) observe(a webhook.Answer) {
	p.metrics.answered(a)
	if a.Method != http.MethodPost {
		return
	}
	// A scanner's requests don't say that a secret is wrong, and a caller that has gone was answered nothing.
	if (a.Status != http.StatusUnauthorized || a.Shaped) && a.Reason != "gone" {
		p.recent.Answered(time.Now(), a.Status, a.Took)
	}
	if a.Status != http.StatusOK {
		p.ledger.Rejected(a.Reason)
		return
	}
	p.ledger.Received(a.Events, a.Receipts)
}

// verifyTimeout bounds the reading of the pages' verify tokens for one handshake.
const verifyTimeout = 10 * time.Second

// isPageVerifyToken reports whether a connected page has this verify token.
func (p *Program) isPageVerifyToken(token string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), verifyTimeout)
	defer cancel()
	found, err := p.tokens.Verify(ctx, token)
	if err != nil {
		p.log.Error("can't read verify tokens of pages", "err", err)
	}
	return found
}

// instagramAccount returns the Instagram account that is linked to a page, or "" if none
// is known.
func (p *Program) instagramAccount(id domain.PageID) string {
	page, err := pages.Get(p.models.Pages().Partial(), id)
	if err != nil && !errors.Is(err, pages.ErrNotFound) && !errors.Is(err, projections.ErrDamaged) {
		p.log.Warn("can't read the linked account of a page", "page", id, "err", err)
	}
	return page.Instagram
}

// privateRoutes creates the API and the console and sets p.private. closeFeeds ends the live feeds,
// for which a graceful shutdown would wait otherwise.
func (p *Program) privateRoutes() (closeFeeds func(), err error) {
	// Sessions are encrypted with a key of the key ring, so that they survive a restart.
	key, err := p.keys.Derive("console/session")
	if err != nil {
		return nil, fmt.Errorf("make console: %w", err)
	}
	operator := p.newOperator()
	p.metrics.registerCollector(p)
	p.console = console.New(console.Options{
		JS: p.js, Stream: streams.Name,
		Pages: p.models.Pages(), Subscriptions: p.models.Subscriptions(), Conversations: p.models.Conversations(),
		Operator: operator, Tokens: p.access, History: p.history, SessionKey: key, Breaker: p.opts.Breaker,
		Version: p.opts.Version, Logger: p.log.With("part", "console"),
	})
	c := p.console
	a := api.New(api.Options{
		JS: p.js, Stream: streams.Name, Tokens: p.access, Session: c.Authenticate, History: p.history,
		Pages: p.models.Pages(), Subscriptions: p.models.Subscriptions(), Conversations: p.models.Conversations(),
		Comments: p.models.Comments(),
		Operator: operator, Metrics: p.metrics.handler(), Logger: p.log.With("part", "api"),
	})
	mux := http.NewServeMux()
	a.Register(mux)
	c.Register(mux)
	guard := api.NewGuard(p.privateHosts(), p.log.With("part", "guard"))
	// The cross-origin protection refuses requests that another site makes with the browser's session.
	p.private = guard.Hosts(http.NewCrossOriginProtection().Handler(guard.Failures(p.current(c.OrNotFound(mux)))))
	return func() { a.Close(); c.Close() }, nil
}

// SignInLink returns a URL that signs in to the console as the administrator, once and within
// [console.CodeLife]; see [console.Console.SignInPath]. It must be called after Run.
func (p *Program) SignInLink() (string, error) {
	token, err := api.ReadToken(p.cfg.HTTP.TokenFile)
	if err != nil {
		return "", err
	}
	path, err := p.console.SignInPath(token)
	if err != nil {
		return "", fmt.Errorf("make sign-in link: %w", err)
	}
	return "http://" + p.PrivateAddr() + path, nil
}

// ConsumersURL returns where programs that read events over NATS connect to the embedded server. It is
// empty if the server does not listen for them, and must be called after Run.
func (p *Program) ConsumersURL() string { return p.consumers.URL() }

// privateHosts returns the host names of the private listener.
func (p *Program) privateHosts() []string {
	hosts := slices.Clone(p.cfg.HTTP.PrivateHosts)
	if host, _, err := net.SplitHostPort(p.cfg.HTTP.Private); err == nil {
		hosts = append(hosts, host)
	}
	if base, err := url.Parse(p.cfg.HTTP.BaseURL); err == nil {
		hosts = append(hosts, base.Hostname())
	}
	if name, err := os.Hostname(); err == nil {
		hosts = append(hosts, name)
	}
	return slices.DeleteFunc(hosts, func(host string) bool { return host == "" })
}

// openAccess opens the tokens of the private listener.
func (p *Program) openAccess(ctx context.Context) error {
	admin, err := p.token("admin token", p.cfg.HTTP.TokenFile)
	if err != nil {
		return err
	}
	read, err := p.token("read-only token", p.cfg.ReadTokenFile())
	if err != nil {
		return err
	}
	p.access, err = tokens.New(tokens.Options{
		JS: p.js, Replicas: p.cfg.NATS.Replicas, Admin: admin, Reader: read, Logger: p.log.With("part", "tokens"),
	})
	if err != nil {
		return fmt.Errorf("open tokens: %w", err)
	}
	p.onClose("tokens", func(context.Context) error { p.access.Close(); return nil })
	if err := p.access.Open(ctx); err != nil {
		return fmt.Errorf("open tokens: %w", err)
	}
	return nil
}

// openHistory opens the history of what operators do, and of what the process does by itself.
func (p *Program) openHistory(context.Context) error {
	p.history = history.New(history.Options{
		JS: p.js, Replicas: p.cfg.NATS.Replicas, Logger: p.log.With("part", "history"),
	})
	p.onClose("history", p.history.Close)
	return nil
}

// token reads a token of the private listener from a file, or creates both.
func (p *Program) token(what, file string) (string, error) {
	token, created, err := api.ReadOrCreateToken(file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	if created {
		p.log.Info(what+" created", "file", file)
	}
	return token, nil
}

// newOperator creates the operator with all parts that its operations need.
func (p *Program) newOperator() *operate.Operator {
	var appIDs []string
	for _, a := range p.cfg.Apps {
		appIDs = append(appIDs, a.ID)
	}
	return operate.New(operate.Parts{
		Conn: p.conn, JS: p.js, Stream: streams.Name, Journal: p.journal,
		Models: p.models, Ledger: p.ledger, Ledgers: p.others, Parking: p.parking, Publisher: p.publisher,
		AppSetup: p.newAppSetup(), Connector: p.connector, Known: p.known, Logins: p.logins, Reconciler: p.reconciler, Doctor: p.doctor,
		Sender: outbound.New(outbound.Options{Tokens: p.tokens, Graph: p.apps, Publisher: p.publisher}),
		Filler: backfill.New(backfill.Options{
			Tokens: p.tokens, Graph: p.apps, Publisher: p.publisher,
			Erased: func(page domain.PageID, contact domain.ContactID) (time.Time, bool, error) {
				return conversations.ErasedAt(p.models.Conversations(), page, contact)
			},
		}),
		Lost: p.lost, Eraser: p.eraser, ErasuresFile: p.erasures(), Consumers: p.consumers, Companies: p.companies, Tokens: p.access,
		History: p.history, Hooks: p.hooks, Keys: p.keys, Secrets: p.secrets, Ready: p.health.reasons,
		Space: p.health.space.now, Durability: p.health.durable.state,
		Apps: p.apps.Names(), AppIDs: appIDs, KeyFile: p.cfg.Keys.File, ConfigFile: p.opts.ConfigFile, ModelsDir: p.cfg.ProjectionsDir(),
		Version: p.opts.Version, Started: p.started, Logger: p.log.With("part", "operate"),
	})
}
