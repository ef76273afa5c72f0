package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/deliveries"
)

// DevCommand runs everything offline: the real server, a fake of Meta that
// delivers traffic to it, and two pages connected through the real code.
type DevCommand struct {
	DataDir     string        `placeholder:"DIR" env:"PAGESTREAM_DEV_DATA_DIR" help:"Keep the data there (default: a temporary directory, removed at the end)."`
	HTTPPublic  string        `name:"http-public" default:"127.0.0.1:8080" env:"PAGESTREAM_DEV_HTTP_PUBLIC" help:"Listen address for the fake Meta; another port is taken if it is busy."`
	HTTPPrivate string        `name:"http-private" default:"127.0.0.1:8081" env:"PAGESTREAM_DEV_HTTP_PRIVATE" help:"Listen address for the console and the API; another port is taken if it is busy."`
	Rate        float64       `default:"5" env:"PAGESTREAM_DEV_RATE" help:"Events a second."`
	Duplicates  int           `default:"10" env:"PAGESTREAM_DEV_DUPLICATES" help:"Percentage of POSTs whose items come again."`
	Reorder     int           `default:"5" env:"PAGESTREAM_DEV_REORDER" help:"Percentage of items that come late."`
	Standby     int           `default:"3" env:"PAGESTREAM_DEV_STANDBY" help:"Percentage of items that come as standby."`
	Seed        uint64        `default:"1" env:"PAGESTREAM_DEV_SEED" help:"Same seed, same traffic."`
	Duration    time.Duration `default:"0" env:"PAGESTREAM_DEV_DURATION" help:"Stop by itself after this long; 0 runs until Ctrl-C."`
}

// The app and the pages of the fake Meta.
const (
	devAppID     = "100000000000001"
	devAppSecret = "dev-app-secret-that-signs-nothing-real" //nolint:gosec // the fake's own
	devVerify    = "dev-verify-token"
	devUser      = "100000000000900"
	devApp       = "dev"
)

// devConnected is how many of devPages are connected at the start; the others wait
// for somebody who tries the login.
const devConnected = 2

var devPages = []fakegraph.Page{
	{ID: "100000000000101", Name: "Corner Bakery", Category: "Bakery"},
	{ID: "100000000000102", Name: "Harbour Bikes", Category: "Bicycle shop"},
	{ID: "100000000000103", Name: "Old Mill Books", Category: "Book shop"},
	{ID: "100000000000104", Name: "Fern & Moss", Category: "Florist"},
}

// Run starts everything and shows counts until it is stopped.
func (d DevCommand) Run(c *CLI) (err error) {
	ctx := c.ctx
	if d.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.Duration)
		defer cancel()
	}
	dir, cleanup, err := d.directory()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cleanup()) }()

	meta, err := startFakeMeta(d.Seed)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, meta.close()) }()

	cfg := d.config(c, dir, meta.url)
	log, err := newLogger(cfg.Log, c.Err)
	if err != nil {
		return err
	}
	p := NewProgram(cfg, log)
	p.openLogins = true
	if err := p.Run(ctx); err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.Background(), cfg.HTTP.ShutdownTimeout)
		defer cancel()
		err = errors.Join(err, p.Close(closing))
	}()
	cfg.HTTP.Public, cfg.HTTP.Private = p.PublicAddr(), p.PrivateAddr()
	file, err := writeDevConfig(dir, cfg)
	if err != nil {
		return err
	}

	webhook := "http://" + p.PublicAddr() + "/webhooks/" + devApp
	if err := shakeHands(ctx, webhook, devVerify); err != nil {
		return fmt.Errorf("handshake with %s: %w", webhook, err)
	}
	cl, err := newClient("http://"+p.PrivateAddr(), cfg.HTTP.TokenFile)
	if err != nil {
		return err
	}
	// Dev's own token, which opens this machine's fake and nothing else.
	token, err := api.ReadToken(cfg.HTTP.TokenFile)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.Out, "pagestream dev: everything is on this machine, nothing goes to Meta\n\n")
	for _, page := range devPages[:devConnected] {
		out, err := meta.connect(ctx, cl, page.ID)
		if err != nil {
			return fmt.Errorf("connect page %s: %w", page.ID, err)
		}
		fmt.Fprintf(c.Out, "  page      %s %s: %s with %d fields\n", out.Page, out.Name, out.State, len(out.Actual))
	}
	fmt.Fprintf(c.Out, `  console   http://%[3]s/
            sign in with %[4]s
  webhook   %[1]s
  login     http://%[2]s/oauth/start (connects the other pages of the fake Meta in a browser)
  API       http://%[3]s/api/v1/status (the same token, in %[5]s)
  fake Meta %[6]s/control/state (what it does is scripted there)

In another terminal, for example:

  go run ./cmd/pagestream -c %[7]s doctor
  go run ./cmd/pagestream -c %[7]s conversations list
  go run ./cmd/pagestream -c %[7]s events tail
  go run ./cmd/pagestream -c %[7]s load --duration 10s

Ctrl-C stops it.

`, webhook, p.PublicAddr(), p.PrivateAddr(), token, cfg.HTTP.TokenFile, meta.url, file)

	engine, err := fakegraph.NewEngine(fakegraph.EngineOptions{
		Graph: meta.graph, Target: webhook, Rate: d.Rate, Seed: d.Seed,
		Duplicates: d.Duplicates, Reorder: d.Reorder, Standby: d.Standby, Logger: log,
	})
	if err != nil {
		return fmt.Errorf("make delivery engine: %w", err)
	}
	running, stop := context.WithCancel(ctx)
	var delivering sync.WaitGroup
	delivering.Go(func() {
		if err := engine.Run(running); err != nil && running.Err() == nil {
			p.fail(fmt.Errorf("delivery engine: %w", err))
		}
	})
	defer delivering.Wait()
	defer stop()
	return d.watch(ctx, c, p, engine)
}

// directory returns where the data is kept, and what to do about it at the end.
func (d DevCommand) directory() (string, func() error, error) {
	if d.DataDir != "" {
		dir, err := filepath.Abs(d.DataDir)
		if err == nil {
			err = os.MkdirAll(dir, 0o700)
		}
		if err != nil {
			return "", nil, fmt.Errorf("make data directory: %w", err)
		}
		return dir, func() error { return nil }, nil
	}
	dir, err := os.MkdirTemp("", "pagestream-dev-")
	if err != nil {
		return "", nil, fmt.Errorf("make data directory: %w", err)
	}
	return dir, func() error { return os.RemoveAll(dir) }, nil
}

// config is serve's configuration with the fake Meta as its app.
func (d DevCommand) config(c *CLI, dir, graphURL string) config.Config {
	cfg := config.Default()
	cfg.Data.Dir = filepath.Join(dir, "data")
	cfg.Keys.File = filepath.Join(dir, "keys.json")
	cfg.HTTP.TokenFile = filepath.Join(dir, "admin.token")
	cfg.HTTP.Public, cfg.HTTP.Private = freeAddr(d.HTTPPublic), freeAddr(d.HTTPPrivate)
	cfg.Log.Level = "warn" // the counts are what there is to see
	if c.LogLevel != "" {
		cfg.Log.Level = c.LogLevel
	}
	if c.LogFormat != "" {
		cfg.Log.Format = c.LogFormat
	}
	cfg.Apps = []config.App{{
		Name: devApp, ID: devAppID, Secrets: []config.Secret{devAppSecret}, VerifyToken: devVerify,
		GraphURL: graphURL, LoginURL: graphURL, GraphVersion: config.DefaultGraphVersion,
	}}
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

// writeDevConfig writes what a second terminal needs to reach this server. The
// secrets in it are the fake's.
func writeDevConfig(dir string, cfg config.Config) (string, error) {
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

// fakeMeta is the fake Graph API on a listener of its own.
type fakeMeta struct {
	graph  *fakegraph.Graph
	server *http.Server
	url    string
	done   chan struct{}
}

func startFakeMeta(seed uint64) (*fakeMeta, error) {
	user := fakegraph.User{ID: devUser, Name: "Dev Operator"}
	for _, p := range devPages {
		user.Pages = append(user.Pages, p.ID)
	}
	g, err := fakegraph.New(fakegraph.Options{
		Apps:  []fakegraph.App{{ID: devAppID, Secret: devAppSecret, Name: "pagestream dev"}},
		Users: []fakegraph.User{user}, Pages: devPages, Seed: seed, Picker: true,
	})
	if err != nil {
		return nil, fmt.Errorf("make fake Graph: %w", err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for fake Graph: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", g)
	mux.Handle("/control/", g.Control()) // answers this machine only, as the listener does
	m := &fakeMeta{
		graph: g, server: &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second},
		url: "http://" + ln.Addr().String(), done: make(chan struct{}),
	}
	go func() {
		defer close(m.done)
		_ = m.server.Serve(ln) // ends with close
	}()
	return m, nil
}

func (m *fakeMeta) close() error {
	err := m.server.Close()
	<-m.done
	return err
}

// connect connects a page as an operator would: its token, through the API.
func (m *fakeMeta) connect(ctx context.Context, cl *client, page string) (api.SubscriptionOutcome, error) {
	var out api.SubscriptionOutcome
	token, err := m.graph.PageToken(devAppID, devUser, page)
	if err != nil {
		return out, fmt.Errorf("get page token: %w", err)
	}
	err = cl.do(ctx, http.MethodPost, "/api/v1/pages", nil, api.ConnectRequest{
		Page: domain.PageID(page), Token: token, Company: "Dev Agency",
	}, &out)
	return out, err
}

// watch shows a line of counts: redrawn on a terminal, else every 5 seconds.
func (d DevCommand) watch(ctx context.Context, c *CLI, p *Program, engine *fakegraph.Engine) error {
	terminal := isTerminal(c.Out)
	every := 5 * time.Second
	if terminal {
		every = time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			if line, err := devLine(p, engine); err == nil {
				fmt.Fprintf(c.Out, "%s\nstopping\n", line)
			}
			return nil
		case err := <-p.Failed():
			return err
		case <-tick.C:
		}
		line, err := devLine(p, engine)
		if err != nil {
			return err
		}
		if terminal {
			fmt.Fprintf(c.Out, "\r\x1b[K%s", line)
		} else {
			fmt.Fprintln(c.Out, line)
		}
	}
}

// devLine is what has happened so far on one line.
func devLine(p *Program, engine *fakegraph.Engine) (string, error) {
	var sent, acked uint64
	for _, s := range engine.Stats() {
		sent += s.Sent
		acked += s.Acked
	}
	stored, err := deliveries.Read(p.model("deliveries"))
	if err != nil {
		return "", fmt.Errorf("read ledger: %w", err)
	}
	counts, err := conversations.Count(p.model("conversations"), "")
	if err != nil {
		return "", fmt.Errorf("count conversations: %w", err)
	}
	return fmt.Sprintf("sent %d  acknowledged %d  stored %d  duplicates %d  conversations %d  messages in %d out %d  late %d",
		sent, acked, stored.Events, p.ledger.Counts().Duplicates(), counts.Conversations, counts.In, counts.Out, counts.Late), nil
}
