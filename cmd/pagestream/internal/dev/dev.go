// Package dev starts servers for trying pagestream: one with a fake Meta that sends traffic to
// it, and one for the bench. Both are the same server as serve starts, and only connect to this
// machine.
package dev

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/doctor"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/server"
	"github.com/pagestream/pagestream/config"
)

// Options configure [Start]. Dir and Logger are required.
type Options struct {
	// Dir is the directory for the data, the keys and the configuration.
	Dir string
	// Public and Private are listen addresses, NATS is that for consumers. If a port is busy,
	// another one is used.
	Public, Private, NATS string
	Log                   config.Log
	Logger                *slog.Logger
	Version               string
	// Seed is the random seed of the traffic: the same seed gives the same traffic. If Dir has
	// the state of an earlier run, the people are those of that run.
	Seed uint64
}

// Environment is a server with a fake Meta.
type Environment struct {
	*server.Program
	// Config is the server's configuration, with the addresses that it listens on. ConfigFile is
	// a configuration file with which commands in a second terminal reach the server.
	Config     config.Config
	ConfigFile string
	// Webhook is the URL to which the fake Meta delivers. MetaURL is the URL of the fake Meta,
	// where it can be scripted.
	Webhook, MetaURL string

	opts    Options
	meta    *fakeMeta
	breaker *breaker
	engine  *fakegraph.Engine
	stop    context.CancelFunc // stops the deliveries
	work    sync.WaitGroup
	failed  chan error
}

// checkEvery is how often the server compares each page with Meta, so that a page that was broken
// is found and repaired within a minute, while somebody watches. Tokens are due twice as often, so that
// each check of a page includes its token.
const checkEvery = 30 * time.Second

// Start starts the fake Meta and the server, with the state that Dir has from an earlier run. On the
// first run no page is connected yet. After an error everything is stopped again.
func Start(ctx context.Context, o Options) (w *Environment, err error) {
	w = &Environment{opts: o, failed: make(chan error, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close(context.WithoutCancel(ctx)))
		}
	}()
	if w.meta, err = startFakeMeta(o.Dir, o.Seed, o.Logger); err != nil {
		return w, err
	}
	w.MetaURL, w.breaker = w.meta.url, newBreaker(w.meta.graph)
	cfg := localConfig(o.Dir)
	cfg.HTTP.Public, cfg.HTTP.Private = freeAddr(o.Public), freeAddr(o.Private)
	cfg.NATS.Listen = freeAddr(o.NATS)
	cfg.Log = o.Log
	cfg.Reconcile.Interval, cfg.Reconcile.TokenInterval = checkEvery, checkEvery/2
	cfg.Apps = []config.App{{
		Name: app, ID: appID, Secrets: []config.Secret{config.Secret(AppSecret)}, VerifyToken: config.Secret(VerifyToken),
		GraphURL: w.meta.url, LoginURL: w.meta.url, GraphVersion: config.DefaultGraphVersion,
	}}
	so := server.Options{
		Config: cfg, Version: o.Version, OpenLogins: true, Breaker: w.breaker, Logger: o.Logger,
	}
	if err := importPast(ctx, o.Dir, cfg, w.meta, so); err != nil {
		return w, err
	}
	p := server.New(so)
	if err := p.Run(ctx); err != nil {
		return w, err
	}
	w.Program = p
	cfg.HTTP.Public, cfg.HTTP.Private = p.PublicAddr(), p.PrivateAddr()
	w.Config = cfg
	if w.ConfigFile, err = WriteConfig(o.Dir, cfg); err != nil {
		return w, err
	}
	w.Webhook = "http://" + p.PublicAddr() + "/webhooks/" + app
	if err := doctor.Handshake(ctx, w.Webhook, VerifyToken); err != nil {
		return w, fmt.Errorf("handshake with %s: %w", w.Webhook, err)
	}
	return w, nil
}

// Tokens returns the tokens of pages by page id. They stay valid after a restart with the same Dir.
func (w *Environment) Tokens(shops []Shop) (map[string]string, error) { return w.meta.tokens(shops) }

// Spoil makes the trouble of a page that comes after the page was connected. It returns the verb of
// the API with which an operator finds it, empty if the page has no such trouble.
func (w *Environment) Spoil(s Shop) (verb string, err error) {
	if subcode := subcodes[s.Trouble]; subcode != 0 {
		return "check", w.meta.graph.KillTokens(appID, s.admin(), s.ID, subcode)
	}
	switch s.Trouble {
	case Unsubscribed:
		w.meta.graph.SetSubscription(appID, s.ID)
		return "check", nil
	case RoleLost:
		w.meta.graph.SetSubscription(appID, s.ID)
		return "resubscribe", w.meta.graph.SetTasks(s.admin(), s.ID, []string{"ANALYZE"})
	default:
		return "", nil
	}
}

// RefuseLead makes a person submit a lead to a page, and Graph refuse to show the next lead that it
// is asked for, as it does when the lead was not written to all of its servers yet. It must be called
// after Deliver.
func (w *Environment) RefuseLead(s Shop) error {
	w.meta.graph.FailNext("GET "+fakegraph.LeadPrefix, fakegraph.Failure{
		Status: http.StatusBadRequest, Code: 100, Subcode: 33,
		Message: "Unsupported get request. Object does not exist or cannot be loaded",
	}, 1)
	_, err := w.engine.SubmitLead(s.ID)
	return err
}

// Deliver starts the fake Meta's deliveries and returns their engine. They run until Close.
func (w *Environment) Deliver(o fakegraph.EngineOptions) (*fakegraph.Engine, error) {
	o.Graph, o.Target, o.Seed, o.Logger = w.meta.graph, w.Webhook, w.opts.Seed, w.opts.Logger
	engine, err := fakegraph.NewEngine(o)
	if err != nil {
		return nil, fmt.Errorf("make delivery engine: %w", err)
	}
	for _, s := range Shops() {
		engine.SetStandby(s.ID, s.Trouble == Handover)
		engine.SetQuiet(s.ID, s.Trouble == Quiet)
		engine.SetMuted(s.ID, s.Trouble == Silent)
	}
	w.engine = engine
	w.breaker.deliver(engine)
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	w.work.Go(func() {
		if err := engine.Run(ctx); err != nil && ctx.Err() == nil {
			w.failed <- fmt.Errorf("delivery engine: %w", err)
		}
	})
	return engine, nil
}

// Stopped returns a channel that receives the error of deliveries that ended before Close.
func (w *Environment) Stopped() <-chan error { return w.failed }

// Close stops the deliveries, the server and the fake Meta, in this order.
func (w *Environment) Close(ctx context.Context) error {
	if w.stop != nil {
		w.stop()
		w.work.Wait()
	}
	var errs []error
	if w.Program != nil {
		ctx, cancel := context.WithTimeout(ctx, w.Config.HTTP.ShutdownTimeout)
		defer cancel()
		errs = append(errs, w.Program.Close(ctx))
	}
	if w.meta != nil {
		errs = append(errs, w.meta.close())
	}
	return errors.Join(errs...)
}

// localConfig returns the default configuration with all files below dir.
func localConfig(dir string) config.Config {
	cfg := config.Default()
	cfg.Data.Dir = filepath.Join(dir, "data")
	cfg.Keys.File = filepath.Join(dir, "keys.json")
	cfg.HTTP.TokenFile = filepath.Join(dir, "admin.token")
	return cfg
}

// freeAddr returns addr, or the same host with port 0, which lets the system choose a port, if
// addr is in use.
func freeAddr(addr string) string {
	ln, err := net.Listen("tcp", addr)
	if err == nil {
		_ = ln.Close()
		return addr
	}
	host, _, splitErr := net.SplitHostPort(addr)
	if splitErr != nil {
		return addr // the server reports what is wrong with it
	}
	return net.JoinHostPort(host, "0")
}

// WriteConfig writes a configuration file to dir with which commands reach a server that has one
// app. The file contains the secrets of cfg and has mode 0600.
func WriteConfig(dir string, cfg config.Config) (file string, err error) {
	path := filepath.Join(dir, "pagestream.yaml")
	a := cfg.Apps[0]
	text := fmt.Sprintf(`# Written by pagestream dev: with this file, commands reach its server.
data: {dir: %q}
keys: {file: %q}
http: {public: %q, private: %q, token_file: %q}
apps:
  - {name: %q, id: %q, secrets: [%q], verify_token: %q, graph_url: %q}
`, cfg.Data.Dir, cfg.Keys.File, cfg.HTTP.Public, cfg.HTTP.Private, cfg.HTTP.TokenFile,
		a.Name, a.ID, string(a.Secrets[0]), string(a.VerifyToken), a.GraphURL)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return "", fmt.Errorf("write configuration: %w", err)
	}
	return path, nil
}
