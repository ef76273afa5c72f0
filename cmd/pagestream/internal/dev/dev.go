// Package dev starts servers to try pagestream with: one beside a fake Meta that
// delivers traffic to it, and one for the bench. Both are the server as serve starts
// it, and reach nothing but this machine.
package dev

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/doctor"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/server"
	"github.com/pagestream/pagestream/config"
)

// Options configure [Start]. Dir and Logger are required.
type Options struct {
	// Dir keeps the data, the keys and the configuration.
	Dir string
	// Public and Private are listen addresses; another port is taken where one is
	// busy.
	Public, Private string
	Log             config.Log
	Logger          *slog.Logger
	Version         string
	// Seed makes the same traffic again.
	Seed uint64
}

// World is a server beside a fake Meta.
type World struct {
	*server.Program
	// Config is the server's, with the addresses that it listens on. ConfigFile has
	// what a second terminal needs to reach it.
	Config     config.Config
	ConfigFile string
	// Webhook is where the fake delivers to, MetaURL where it can be scripted.
	Webhook, MetaURL string

	opts   Options
	meta   *fakeMeta
	stop   context.CancelFunc // of the deliveries
	work   sync.WaitGroup
	failed chan error
}

// Start starts the fake and the server, which has a connection to neither page yet.
func Start(ctx context.Context, o Options) (w *World, err error) {
	w = &World{opts: o, failed: make(chan error, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close(context.WithoutCancel(ctx)))
		}
	}()
	if w.meta, err = startFakeMeta(o.Seed); err != nil {
		return w, err
	}
	w.MetaURL = w.meta.url
	cfg := localConfig(o.Dir)
	cfg.HTTP.Public, cfg.HTTP.Private = freeAddr(o.Public), freeAddr(o.Private)
	cfg.Log = o.Log
	cfg.Apps = []config.App{{
		Name: app, ID: appID, Secrets: []config.Secret{AppSecret}, VerifyToken: Verify,
		GraphURL: w.meta.url, LoginURL: w.meta.url, GraphVersion: config.DefaultGraphVersion,
	}}
	p := server.New(server.Options{Config: cfg, Version: o.Version, OpenLogins: true, Logger: o.Logger})
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
	if err := doctor.Handshake(ctx, w.Webhook, Verify); err != nil {
		return w, fmt.Errorf("handshake with %s: %w", w.Webhook, err)
	}
	return w, nil
}

// Tokens are the page tokens of those that are connected at the start, by page.
func (w *World) Tokens() (map[string]string, error) {
	out := map[string]string{}
	for _, page := range fakePages[:connected] {
		token, err := w.meta.graph.PageToken(appID, user, page.ID)
		if err != nil {
			return nil, fmt.Errorf("get page token: %w", err)
		}
		out[page.ID] = token
	}
	return out, nil
}

// Deliver lets the fake deliver traffic until Close, and returns its engine.
func (w *World) Deliver(o fakegraph.EngineOptions) (*fakegraph.Engine, error) {
	o.Graph, o.Target, o.Seed, o.Logger = w.meta.graph, w.Webhook, w.opts.Seed, w.opts.Logger
	engine, err := fakegraph.NewEngine(o)
	if err != nil {
		return nil, fmt.Errorf("make delivery engine: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	w.work.Go(func() {
		if err := engine.Run(ctx); err != nil && ctx.Err() == nil {
			w.failed <- fmt.Errorf("delivery engine: %w", err)
		}
	})
	return engine, nil
}

// Stopped gives the error of deliveries that ended by themselves.
func (w *World) Stopped() <-chan error { return w.failed }

// Close stops deliveries, the server and the fake, in this order.
func (w *World) Close(ctx context.Context) error {
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

// localConfig is serve's configuration with all files below dir.
func localConfig(dir string) config.Config {
	cfg := config.Default()
	cfg.Data.Dir = filepath.Join(dir, "data")
	cfg.Keys.File = filepath.Join(dir, "keys.json")
	cfg.HTTP.TokenFile = filepath.Join(dir, "admin.token")
	return cfg
}

// freeAddr returns addr, or the same host with a port of the system's choice if
// somebody listens there already.
func freeAddr(addr string) string {
	ln, err := net.Listen("tcp", addr)
	if err == nil {
		_ = ln.Close()
		return addr
	}
	host, _, splitErr := net.SplitHostPort(addr)
	if splitErr != nil {
		return addr // the server says what is wrong with it
	}
	return net.JoinHostPort(host, "0")
}

// WriteConfig writes to dir what a second terminal needs to reach a server of one
// app. The secrets of cfg are in it.
func WriteConfig(dir string, cfg config.Config) (file string, err error) {
	path := filepath.Join(dir, "pagestream.yaml")
	a := cfg.Apps[0]
	text := fmt.Sprintf(`# Made by pagestream dev: reaches the server that it runs.
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
