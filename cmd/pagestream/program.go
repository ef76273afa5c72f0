package main

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/callbacks"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/console"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/erase"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/login"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/reconcile"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/webhook"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/seal"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
)

// Program is a whole pagestream in one value: make it with [NewProgram], start
// it with Run, stop it with Close. Tests run the same value as main does.
type Program struct {
	cfg config.Config
	log *slog.Logger

	server    *embedded.Server // nil with an external NATS
	conn      *nats.Conn
	js        jetstream.JetStream
	keys      *seal.KeyRing
	runners   []*projections.Runner
	publisher *streams.Publisher
	apps      metaApps
	tokens    tokens
	connector *connect.Connector
	login     *login.Handler
	callbacks *callbacks.Handler
	eraser    *erase.Eraser
	consumers *consumers.Consumers
	parking   *streams.Parking
	hooks     *hooks.Hooks // nil without endpoints
	identity  streams.Identity
	// configFile is what the configuration was read from, empty for none.
	configFile string
	// projections are folded besides our own.
	projections []projections.Projection
	// openLogins lets anybody log in: dev's, which is offline.
	openLogins bool
	// reconciler holds what Meta does against what is wanted.
	reconciler *reconcile.Reconciler
	ledger     *deliveries.Ledger
	metrics    *api.Metrics
	recent     recent
	api        *api.Server
	console    *console.Console
	public     *http.Server
	private    *http.Server
	publicLn   net.Listener
	privateLn  net.Listener
	health     health
	started    time.Time
	// headAtStart is the stream's last event before anything was taken in.
	headAtStart uint64

	background sync.WaitGroup
	reactors   sync.WaitGroup
	failed     chan error
	closing    []closer
	closeOnce  sync.Once
	closeErr   error
}

// closer is one step of Close, in the reverse of the order of Run.
type closer struct {
	name  string
	close func(context.Context) error
}

// NewProgram returns a program that has not started.
func NewProgram(cfg config.Config, log *slog.Logger) *Program {
	return &Program{cfg: cfg, log: log, failed: make(chan error, 4), started: time.Now()}
}

// PublicAddr is the address of the public listener, once Run has returned.
func (p *Program) PublicAddr() string { return p.publicLn.Addr().String() }

// PrivateAddr is the address of the private listener, once Run has returned.
func (p *Program) PrivateAddr() string { return p.privateLn.Addr().String() }

// Failed gives the first error that stops the program after Run has returned.
func (p *Program) Failed() <-chan error { return p.failed }

// Run starts every part and returns when deliveries are accepted. Whatever it
// started is stopped again when it fails.
func (p *Program) Run(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close(context.WithoutCancel(ctx)))
		}
	}()
	if err := p.cfg.RequireApps(); err != nil {
		return err
	}
	// Listen first: a busy port should fail before anything is opened.
	if err := p.listen(); err != nil {
		return err
	}
	if err := p.openStream(ctx); err != nil {
		return err
	}
	if err := p.openKeys(ctx); err != nil {
		return err
	}
	if err := p.startProjections(ctx); err != nil {
		return err
	}
	if err := p.startPublisher(); err != nil {
		return err
	}
	if err := p.openApps(); err != nil {
		return err
	}
	if err := p.openHooks(); err != nil {
		return err
	}
	p.startReactors()
	return p.serve(ctx)
}

// Close stops everything in order: HTTP first, so that nothing new comes in;
// then the committer, which finishes what waits; then the read models, the
// connection and the server. It is idempotent and bounded by the context.
func (p *Program) Close(ctx context.Context) error {
	p.closeOnce.Do(func() {
		var errs []error
		for i := len(p.closing) - 1; i >= 0; i-- {
			c := p.closing[i]
			if err := c.close(ctx); err != nil {
				errs = append(errs, fmt.Errorf("close %s: %w", c.name, err))
			}
		}
		p.background.Wait()
		p.closeErr = errors.Join(errs...)
	})
	return p.closeErr
}

func (p *Program) onClose(name string, f func(context.Context) error) {
	p.closing = append(p.closing, closer{name, f})
}

func (p *Program) listen() error {
	for _, l := range []struct {
		key, addr string
		to        *net.Listener
	}{{"http.public", p.cfg.HTTP.Public, &p.publicLn}, {"http.private", p.cfg.HTTP.Private, &p.privateLn}} {
		ln, err := net.Listen("tcp", l.addr)
		if err != nil {
			return fmt.Errorf("listen: %w; set %s to a free address", err, l.key)
		}
		*l.to = ln
		p.onClose(l.key, func(context.Context) error {
			if err := ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				return err
			}
			return nil
		})
	}
	return nil
}

// openStream starts the embedded server, or connects to the cluster, and
// makes sure of the stream.
func (p *Program) openStream(ctx context.Context) error {
	var err error
	if p.cfg.NATS.URL == "" {
		p.server, err = embedded.Start(ctx, embedded.Options{
			Dir:          filepath.Join(p.cfg.Data.Dir, "nats"),
			Sync:         embedded.SyncMode(p.cfg.Streams.Sync),
			SyncInterval: p.cfg.Streams.SyncInterval,
			MaxStore:     int64(p.cfg.Streams.MaxStore),
			Listen:       p.cfg.NATS.Listen, CertFile: p.cfg.NATS.CertFile, KeyFile: p.cfg.NATS.KeyFile,
			Logger: p.log.With("part", "nats"),
		})
		if err != nil {
			return fmt.Errorf("start embedded server: %w", err)
		}
		p.onClose("embedded server", p.server.Shutdown)
		p.conn, err = p.server.Connect("pagestream")
	} else {
		p.conn, err = p.connectCluster("pagestream")
	}
	if err != nil {
		return fmt.Errorf("connect to NATS: %w", err)
	}
	p.onClose("connection", func(context.Context) error { p.conn.Close(); return nil })
	if p.js, err = jetstream.New(p.conn); err != nil {
		return fmt.Errorf("open JetStream: %w", err)
	}
	return nil
}

func (p *Program) connectCluster(name string) (*nats.Conn, error) {
	opts := []nats.Option{nats.Name(name), nats.MaxReconnects(-1), nats.Timeout(5 * time.Second)}
	if p.cfg.NATS.Creds != "" {
		opts = append(opts, nats.UserCredentials(p.cfg.NATS.Creds))
	}
	return nats.Connect(string(p.cfg.NATS.URL), opts...)
}

// openKeys reads the key ring. Where the stream already has sealed tokens, a
// missing key file is an error and not a new key.
func (p *Program) openKeys(ctx context.Context) error {
	sealed, err := streams.Has(ctx, p.js, streams.Name, domain.PageConnected, domain.PageTokenRefreshed)
	if err != nil {
		return fmt.Errorf("look for sealed tokens: %w", err)
	}
	keys, created, err := seal.LoadOrCreate(p.cfg.Keys.File, sealed)
	if err != nil {
		return fmt.Errorf("open key ring: %w", err)
	}
	if created {
		p.log.Info("key ring made; back it up: without it sealed page tokens can't be opened", "file", p.cfg.Keys.File)
	}
	p.keys = keys
	return nil
}

// ensureStream makes sure of the stream.
func (p *Program) ensureStream(ctx context.Context) (streams.Identity, error) {
	identity, err := streams.Ensure(ctx, p.js, streams.Spec{
		Window: p.cfg.Streams.Window, Replicas: p.cfg.NATS.Replicas, MaxBytes: int64(p.cfg.Streams.MaxBytes),
	})
	if err != nil {
		return "", fmt.Errorf("make sure of the stream: %w", err)
	}
	return identity, nil
}

// startProjections opens every read model and follows the stream. The
// deliveries model goes first: it is the index of all ids, by which the others
// drop duplicates.
func (p *Program) startProjections(ctx context.Context) error {
	identity, err := p.ensureStream(ctx)
	if err != nil {
		return err
	}
	p.identity = identity
	if p.headAtStart, err = streams.Last(ctx, p.js, streams.Name); err != nil {
		return err
	}
	dir := p.cfg.ProjectionsDir()
	if err := projections.RemovePast(dir); err != nil {
		return err
	}
	tail := streams.NewTail(p.js, streams.TailOptions{Stream: streams.Name, Logger: p.log})
	p.onClose("tail of the stream", func(context.Context) error { return tail.Close() })
	var index projections.Index
	attempts := 0 // what the index has not seen would look new, so it never parks
	for _, projection := range append([]projections.Projection{
		deliveries.New(), pages.New(), subscriptions.New(), conversations.New(),
	}, p.projections...) {
		r, err := projections.NewRunner(projection, projections.RunnerOptions{
			Dir: dir, JS: p.js, Stream: streams.Name, Identity: identity, Dedup: index,
			MaxBatch: p.cfg.Projections.MaxBatch, Attempts: attempts, Tail: tail, Logger: p.log,
		})
		if err != nil {
			return fmt.Errorf("open projection %s: %w", projection.Name(), err)
		}
		p.onClose("projection "+projection.Name(), func(context.Context) error { return r.Close() })
		p.runners = append(p.runners, r)
		if index == nil {
			index, attempts = deliveries.Index{Runner: r}, projections.DefaultAttempts
		}
	}
	run, stop := context.WithCancel(context.Background())
	// Stopped as one step, before any of their files is closed.
	p.onClose("projections", func(context.Context) error { stop(); return nil })
	for _, r := range p.runners {
		p.background.Go(func() {
			if err := r.Run(run); err != nil && run.Err() == nil {
				p.fail(fmt.Errorf("projection %s: %w", r.Name(), err))
			}
		})
	}
	p.ledger, err = deliveries.OpenLedger(filepath.Join(dir, "ledger.db"))
	if err != nil {
		return fmt.Errorf("open ledger: %w", err)
	}
	p.onClose("ledger", func(context.Context) error { return p.ledger.Close() })
	return nil
}

func (p *Program) fail(err error) {
	select {
	case p.failed <- err:
	default: // one failure is enough to stop on
	}
}

func (p *Program) startPublisher() error {
	p.metrics = api.NewMetrics()
	var err error
	p.publisher, err = streams.NewPublisher(p.js, streams.PublisherOptions{
		Stream: streams.Name, Seen: deliveries.Index{Runner: p.runners[0]},
		BatchThreshold: p.cfg.Streams.BatchThreshold, MaxBatch: p.cfg.Streams.MaxBatch, QueueLimit: p.cfg.Streams.QueueLimit,
		Observe: func(o streams.BatchObservation) { p.metrics.Published(o.Size, o.Atomic, o.Took) },
		Logger:  p.log.With("part", "publisher"),
	})
	if err != nil {
		return fmt.Errorf("start publisher: %w", err)
	}
	p.onClose("publisher", p.publisher.Close)
	return nil
}

// openApps makes what calls Graph.
func (p *Program) openApps() (err error) {
	if p.apps, err = newMetaApps(p.cfg.Apps, newGraphMetrics(p.metrics.Registry).observe); err != nil {
		return err
	}
	p.parking = streams.NewParking(p.js, streams.Name)
	p.tokens = tokens{pages: p.model("pages"), keys: p.keys}
	p.connector = newConnector(p)
	p.login = login.New(login.Options{
		BaseURL: p.baseURL(), Flow: loginFlow{p.connector}, Open: p.openLogins, Logger: p.log.With("part", "login"),
	})
	p.onClose("logins", func(context.Context) error { p.login.Close(); return nil })
	key, err := p.keys.Derive("meta/data-deletion")
	if err != nil {
		return err
	}
	o := callbacks.Options{
		Disconnector: disconnector{p.connector}, BaseURL: p.baseURL(), Key: key, Logger: p.log.With("part", "callbacks"),
	}
	for _, a := range p.cfg.Apps {
		o.Apps = append(o.Apps, callbacks.App{Name: a.Name, Secrets: plain(a.Secrets)})
	}
	p.callbacks = callbacks.New(o)
	p.eraser = erase.New(erase.Options{
		JS: p.js, Connect: p.dial("erase"), Parking: p.parking, Publisher: p.publisher, Conversations: p.model("conversations"),
		Logger: p.log.With("part", "erase"),
	})
	return nil
}

// baseURL is the public listener as a browser sees it. One on loopback is only
// reached by its address.
func (p *Program) baseURL() string {
	if p.cfg.HTTP.BaseURL != "" {
		return p.cfg.HTTP.BaseURL
	}
	if addr, ok := p.publicLn.Addr().(*net.TCPAddr); ok && addr.IP.IsLoopback() {
		return "http://" + addr.String()
	}
	return ""
}

// serve starts both HTTP servers on the listeners that Run opened.
func (p *Program) serve(ctx context.Context) error {
	p.health.start(p)
	p.onClose("health watch", func(context.Context) error { p.health.stop(); return nil })
	hook, err := p.newWebhook()
	if err != nil {
		return err
	}
	if err := p.newAPI(); err != nil {
		return err
	}

	public := http.NewServeMux()
	hook.Register(public)
	p.login.Register(public)
	p.callbacks.Register(public)
	public.HandleFunc("GET /healthz", api.Health)
	p.public = &http.Server{
		Handler:           public,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       p.cfg.Webhook.ReadTimeout,
		WriteTimeout:      p.cfg.Webhook.ReadTimeout + p.cfg.Webhook.Timeout + 5*time.Second,
		IdleTimeout:       p.cfg.Webhook.IdleTimeout,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
	private := http.NewServeMux()
	p.api.Register(private)
	p.console.Register(private)
	p.private = &http.Server{
		// A browser with a session does nothing at another site's wish.
		Handler:           http.NewCrossOriginProtection().Handler(private),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      time.Minute, // an event feed sets its own, write by write
		IdleTimeout:       p.cfg.Webhook.IdleTimeout,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
	for _, s := range []struct {
		name   string
		server *http.Server
		ln     net.Listener
	}{{"private HTTP", p.private, p.privateLn}, {"public HTTP", p.public, p.publicLn}} {
		p.background.Go(func() {
			if err := s.server.Serve(s.ln); !errors.Is(err, http.ErrServerClosed) {
				p.fail(fmt.Errorf("serve %s: %w", s.name, err))
			}
		})
		p.onClose(s.name, func(ctx context.Context) error {
			p.api.Close()
			p.console.Close()
			if err := s.server.Shutdown(ctx); err != nil {
				return errors.Join(err, s.server.Close())
			}
			return nil
		})
	}
	return ctx.Err()
}

func (p *Program) newWebhook() (*webhook.Handler, error) {
	o := webhook.Options{
		Publisher:       p.publisher,
		MaxBody:         int64(p.cfg.Webhook.MaxBody),
		Timeout:         p.cfg.Webhook.Timeout,
		Ready:           p.health.storing,
		Observe:         p.observe,
		Logger:          p.log.With("part", "webhook"),
		PageVerifyToken: p.isPageVerifyToken,
	}
	for _, a := range p.cfg.Apps {
		o.Apps = append(o.Apps, webhook.App{Name: a.Name, VerifyToken: string(a.VerifyToken), Secrets: plain(a.Secrets)})
	}
	h, err := webhook.New(o)
	if err != nil {
		return nil, fmt.Errorf("make webhook handler: %w", err)
	}
	return h, nil
}

// plain are secrets for those who have to use them.
func plain(secrets []config.Secret) (out []string) {
	for _, s := range secrets {
		out = append(out, string(s))
	}
	return out
}

// observe counts one answered webhook request, in the metrics and the ledger.
func (p *Program) observe(a webhook.Answer) {
	p.metrics.Answered(a.App, a.Method, a.Reason, a.Status, a.Took)
	for i, e := range a.Events {
		p.metrics.Stored(e.Type, a.Receipts[i].Duplicate)
	}
	if a.Method != http.MethodPost {
		return
	}
	p.recent.answered(time.Now(), a.Status, a.Took)
	if a.Status != http.StatusOK {
		p.ledger.Rejected(a.Reason)
		return
	}
	p.ledger.Received(a.Events, a.Receipts)
}

// isPageVerifyToken reports whether a connected page has this verify token.
func (p *Program) isPageVerifyToken(token string) bool {
	model := p.model("pages")
	found := false
	err := pages.Each(model, func(page pages.Page) error {
		c, err := pages.Credentials(model, page.ID)
		if errors.Is(err, pages.ErrNoCredentials) || err == nil && c.SealedVerifyToken == "" {
			return nil
		}
		if err != nil {
			return err
		}
		plain, err := p.keys.Open(c.SealedVerifyToken, connect.VerifyTokenAAD(page.ID))
		if err == nil && subtle.ConstantTimeCompare(plain, []byte(token)) == 1 {
			found = true // and every other page is tried too: time tells nothing
		}
		return nil
	})
	if err != nil {
		p.log.Error("verify tokens of pages can't be read", "err", err)
	}
	return found
}

// model finds a runner by its projection's name.
func (p *Program) model(name string) *projections.Runner {
	for _, r := range p.runners {
		if r.Name() == name {
			return r
		}
	}
	panic("no projection " + name) // a name is ours, never a caller's
}

func (p *Program) newAPI() error {
	token, created, err := api.ReadOrCreateToken(p.cfg.HTTP.TokenFile)
	if err != nil {
		return err
	}
	if created {
		p.log.Info("admin token made", "file", p.cfg.HTTP.TokenFile)
	}
	readToken, created, err := api.ReadOrCreateToken(p.cfg.ReadTokenFile())
	if err != nil {
		return fmt.Errorf("read-only token: %w", err)
	}
	if created {
		p.log.Info("read-only token made", "file", p.cfg.ReadTokenFile())
	}
	verbs, actions := connector{p.connector, newKnownPages(p)}, newActions(p)
	p.api, err = api.New(api.Options{
		JS: p.js, Stream: streams.Name, Token: token, ReadToken: readToken,
		Session: func(r *http.Request) (write, ok bool) { return p.console.Authenticate(r) },
		Pages:   p.model("pages"), Subscriptions: p.model("subscriptions"),
		Conversations: p.model("conversations"), Deliveries: p.model("deliveries"), Past: p.past,
		Ledger: p.ledger, Connector: verbs, Actions: actions, Erase: p.erase, Ready: p.health.reasons,
		Doctor:   func(ctx context.Context, ids []domain.PageID) (any, error) { return p.examine(ctx, ids) },
		Registry: p.metrics.Registry, Version: readBuild().Version, Started: p.started,
		Logger: p.log.With("part", "api"),
	})
	if err != nil {
		return fmt.Errorf("make API: %w", err)
	}
	p.metrics.Watch(p.model("pages"), p.api.Statuses)
	p.metrics.Registry.MustRegister(pageCollector{p})
	return p.newConsole(operator{p, verbs, actions}, token, readToken)
}
