package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/dev"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/domain"
)

// devChanges is the percentage of events that are comments, reactions and leads.
const devChanges = 8

// DevCommand runs everything offline: the real server, a fake Meta that sends traffic to it,
// and two pages that are connected through the real code.
type DevCommand struct {
	DataDir     string        `placeholder:"DIR" env:"PAGESTREAM_DEV_DATA_DIR" help:"Data directory (default: a temporary directory, removed at the end)."`
	HTTPPublic  string        `name:"http-public" default:"127.0.0.1:8080" env:"PAGESTREAM_DEV_HTTP_PUBLIC" help:"Listen address for the fake Meta; if the port is busy, another one is used."`
	HTTPPrivate string        `name:"http-private" default:"127.0.0.1:8081" env:"PAGESTREAM_DEV_HTTP_PRIVATE" help:"Listen address for the console and the API; if the port is busy, another one is used."`
	Rate        float64       `default:"5" env:"PAGESTREAM_DEV_RATE" help:"Events per second."`
	Duplicates  int           `default:"10" env:"PAGESTREAM_DEV_DUPLICATES" help:"Percentage of POSTs whose items are sent again."`
	Reorder     int           `default:"5" env:"PAGESTREAM_DEV_REORDER" help:"Percentage of items that are sent late."`
	Standby     int           `default:"3" env:"PAGESTREAM_DEV_STANDBY" help:"Percentage of items that are sent as standby."`
	Seed        uint64        `default:"1" env:"PAGESTREAM_DEV_SEED" help:"Random seed: the same seed gives the same traffic."`
	Duration    time.Duration `default:"0" env:"PAGESTREAM_DEV_DURATION" help:"Stop after this time; 0 runs until Ctrl-C."`
}

// Run starts everything and shows counts until the context ends or --duration is over.
func (d DevCommand) Run(c *CLI) (err error) {
	ctx := c.ctx
	if d.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.Duration)
		defer cancel()
	}
	dir, err := d.directory()
	if err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	if d.DataDir == "" {
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	o := dev.Options{
		Dir: dir, Public: d.HTTPPublic, Private: d.HTTPPrivate,
		Log: config.Default().Log, Seed: d.Seed, Version: c.build.read().Version,
	}
	o.Log.Level = cmp.Or(c.LogLevel, "warn") // so that log lines do not hide the counts
	o.Log.Format = cmp.Or(c.LogFormat, o.Log.Format)
	if o.Logger, err = c.logger(o.Log); err != nil {
		return err
	}
	w, err := dev.Start(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close(context.Background())) }()
	if c.api, err = NewClient("http://"+w.PrivateAddr(), w.Config.HTTP.TokenFile); err != nil {
		return err
	}
	if err := d.connectPages(c, w); err != nil {
		return err
	}
	engine, err := w.Deliver(fakegraph.EngineOptions{
		Rate: d.Rate, Duplicates: d.Duplicates, Reorder: d.Reorder, Standby: d.Standby, Changes: devChanges,
	})
	if err != nil {
		return err
	}
	return d.watch(ctx, c, w, engine)
}

// connectPages connects the first pages through the API as an operator does, and prints the
// addresses and some commands to try.
func (d DevCommand) connectPages(c *CLI, w *dev.Environment) error {
	fmt.Fprintf(c.Out, "pagestream dev: everything runs on this machine, nothing is sent to Meta\n\n")
	tokens, err := w.Tokens()
	if err != nil {
		return err
	}
	for _, page := range slices.Sorted(maps.Keys(tokens)) {
		out, err := post[meta.Outcome](c, pagesPath, nil, api.ConnectRequest{
			Page: domain.PageID(page), Token: tokens[page], Company: "Dev Agency",
			Fields: append(connect.DefaultFields(), "feed", "leadgen"),
		})
		if err != nil {
			return fmt.Errorf("connect page %s: %w", page, err)
		}
		fmt.Fprintf(c.Out, "  page      %s %s: %s with %d fields\n", out.Page, out.Name, out.State, len(out.Actual))
	}
	// Printing the token is safe: it is valid only for this local server, which has only fake data.
	fmt.Fprintf(c.Out, `  console   http://%[3]s/
            sign in with the token %[4]s
  webhook   %[1]s
  login     http://%[2]s/oauth/start (connects the other pages of the fake Meta in a browser)
  API       http://%[3]s/api/v1/status (the same token, also in %[5]s)
  fake Meta %[6]s/control/state (its behavior is scripted there)

In another terminal, for example:

  go run ./cmd/pagestream -c %[7]s doctor
  go run ./cmd/pagestream -c %[7]s conversations list
  go run ./cmd/pagestream -c %[7]s events tail
  go run ./cmd/pagestream -c %[7]s load --duration 10s

Ctrl-C stops it.

`, w.Webhook, w.PublicAddr(), w.PrivateAddr(), c.api.token, w.Config.HTTP.TokenFile, w.MetaURL, w.ConfigFile)
	return nil
}

// directory creates the data directory, a temporary one without --data-dir.
func (d DevCommand) directory() (string, error) {
	if d.DataDir == "" {
		return os.MkdirTemp("", "pagestream-dev-")
	}
	dir, err := filepath.Abs(d.DataDir)
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o700)
}

// watch shows a line of counts until the context ends or a part fails. On a terminal it redraws the
// line every second; otherwise it prints one every 5 seconds.
func (d DevCommand) watch(ctx context.Context, c *CLI, w *dev.Environment, engine *fakegraph.Engine) error {
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
			if line, err := devLine(context.WithoutCancel(ctx), c, engine); err == nil {
				fmt.Fprintf(c.Out, "%s\nstopping\n", line)
			}
			return nil
		case err := <-w.Failed():
			return err
		case err := <-w.Stopped():
			return err
		case <-tick.C:
		}
		line, err := devLine(ctx, c, engine)
		switch {
		case err != nil && ctx.Err() != nil:
		case err != nil:
			return err
		case terminal:
			fmt.Fprintf(c.Out, "\r\x1b[K%s", line)
		default:
			fmt.Fprintln(c.Out, line)
		}
	}
}

// devLine returns the counts since the start as one line.
func devLine(ctx context.Context, c *CLI, engine *fakegraph.Engine) (string, error) {
	var sent, acked uint64
	for _, s := range engine.Stats() {
		sent += s.Sent
		acked += s.Acked
	}
	var s operate.Status
	if err := c.api.Do(ctx, http.MethodGet, "/api/v1/status", nil, nil, &s); err != nil {
		return "", err
	}
	n := s.Conversations
	return fmt.Sprintf("sent %d  acknowledged %d  stored %d  duplicates %d  "+
		"conversations %d  messages in %d out %d  late %d",
		sent, acked, s.Stored.Events, s.Received.Duplicates(), n.Conversations, n.In, n.Out, n.Late), nil
}
