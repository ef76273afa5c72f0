package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/console"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/dev"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/config"
)

const (
	// devChanges is the percentage of events that are comments, reactions and leads.
	devChanges = 20
	// devOpening is how many events each page has when it is connected, so that there is something
	// to see at once.
	devOpening = 10
)

// DevCommand runs everything offline: the real server, a fake Meta that sends traffic to it,
// and the pages of three companies, which are connected through the real code.
type DevCommand struct {
	DataDir     string        `placeholder:"DIR" env:"PAGESTREAM_DEV_DATA_DIR" help:"Data directory, which a later dev continues with (default: a temporary directory, removed at the end)."`
	HTTPPublic  string        `name:"http-public" default:"127.0.0.1:8080" env:"PAGESTREAM_DEV_HTTP_PUBLIC" help:"Address at which the server listens for what the fake Meta sends; if the port is busy, another one is used."`
	HTTPPrivate string        `name:"http-private" default:"127.0.0.1:8081" env:"PAGESTREAM_DEV_HTTP_PRIVATE" help:"Listen address for the console and the API; if the port is busy, another one is used."`
	NATSListen  string        `name:"nats-listen" default:"127.0.0.1:4222" env:"PAGESTREAM_DEV_NATS_LISTEN" help:"Listen address for programs that read events over NATS; if the port is busy, another one is used."`
	Rate        float64       `default:"5" env:"PAGESTREAM_DEV_RATE" help:"Events per second."`
	Duplicates  int           `default:"10" env:"PAGESTREAM_DEV_DUPLICATES" help:"Percentage of POSTs whose items are sent again."`
	Reorder     int           `default:"5" env:"PAGESTREAM_DEV_REORDER" help:"Percentage of items that are sent late."`
	Standby     int           `default:"3" env:"PAGESTREAM_DEV_STANDBY" help:"Percentage of items that are sent as standby."`
	Seed        uint64        `default:"1" env:"PAGESTREAM_DEV_SEED" help:"Random seed: the same seed gives the same people and traffic. A data directory keeps its people."`
	Duration    time.Duration `default:"0" env:"PAGESTREAM_DEV_DURATION" help:"Stop after this time; 0 runs until Ctrl-C."`
}

// Run starts everything and shows counts until the context ends or --duration is over.
func (d DevCommand) Run(c *CLI) (err error) {
	began := time.Now()
	fmt.Fprintln(c.Out, "pagestream dev: starting a server and a fake Meta on this machine; "+
		"nothing is sent to the real one")
	if d.Duration > 0 {
		var cancel context.CancelFunc
		c.ctx, cancel = context.WithTimeout(c.ctx, d.Duration)
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
		Dir: dir, Public: d.HTTPPublic, Private: d.HTTPPrivate, NATS: d.NATSListen,
		Log: config.Default().Log, Seed: d.Seed, Version: c.build.read().Version,
	}
	// dev breaks pages itself: the log of that would hide what it prints, so it is shown on request.
	o.Log.Level, o.Log.Format = cmp.Or(c.LogLevel, o.Log.Level), cmp.Or(c.LogFormat, o.Log.Format)
	if o.Logger, err = c.logger(o.Log); err != nil {
		return err
	}
	if c.LogLevel == "" {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	w, err := dev.Start(c.ctx, o)
	switch {
	case err != nil && c.ctx.Err() != nil: // it was stopped meanwhile
		return nil
	case err != nil:
		return err
	}
	defer func() { err = errors.Join(err, w.Close(context.Background())) }()
	if c.api, err = NewClient("http://"+w.PrivateAddr(), w.Config.HTTP.TokenFile); err != nil {
		return err
	}
	link, err := w.SignInLink()
	if err != nil {
		return err
	}
	fmt.Fprintf(c.Out, "ready after %s; open the console (this link works once, within %.0f minutes):\n\n  %s\n\n",
		time.Since(began).Round(100*time.Millisecond), console.CodeLife.Minutes(), link)
	engine, err := w.Deliver(fakegraph.EngineOptions{
		Rate: d.Rate, Duplicates: d.Duplicates, Reorder: d.Reorder, Standby: d.Standby, Changes: devChanges,
		Opening: devOpening,
	})
	if err != nil {
		return err
	}
	switch err := newFleet(c, w).settle(); {
	case c.ctx.Err() != nil: // it was stopped meanwhile
	case err != nil:
		return err
	default:
		d.explain(c, w, link)
	}
	return d.watch(c, w, engine)
}

// explain prints the addresses and some commands to try.
func (d DevCommand) explain(c *CLI, w *dev.Environment, link string) {
	kept := "Ctrl-C stops it. With --data-dir DIR, the next dev continues where this one stopped."
	if d.DataDir != "" {
		kept = "Ctrl-C stops it. The next dev with this --data-dir continues here."
	}
	private := "http://" + w.PrivateAddr()
	fmt.Fprintf(c.Out, `
In another terminal:

  %[3]s doctor
  %[3]s conversations list
  %[3]s send PAGE CONTACT --text "Hello"    # two ids of a line of that list
  %[3]s events tail
  %[3]s deadletters list
  %[3]s consumers list

In the browser:

  sign in      %[8]s
               (once; later with the token in %[4]s)
  break it     %[1]s/break (kill a token, stop deliveries, and see what happens)
  log in       http://%[2]s/oauth/start (as the admin of the pages: connects them, and replaces dead tokens)

  API          %[1]s/api/v1/status (with the token)
  webhook      %[5]s
  fake Meta    %[6]s/control/state (it is scripted there)
  log          not shown; start with --log-level info to see it

%[7]s

What the fake Meta has sent, and what the server has stored (with events about its own work, and those of
the past weeks, with which it began):

`, private, w.PublicAddr(), program()+" -c "+quoted(w.ConfigFile), w.Config.HTTP.TokenFile, w.Webhook, w.MetaURL, kept,
		link)
}

// program returns how this program is called on a command line.
func program() string {
	path, err := os.Executable()
	if err != nil || strings.Contains(path, "go-build") {
		return "go run ./cmd/pagestream"
	}
	return quoted(path)
}

// quoted returns a path as one word of a shell.
func quoted(path string) string {
	if strings.ContainsAny(path, " \t\"'$&;()<>|*?`\\") {
		return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return path
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
func (d DevCommand) watch(c *CLI, w *dev.Environment, engine *fakegraph.Engine) error {
	terminal := isTerminal(c.Out)
	every := 5 * time.Second
	if terminal {
		every = time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-c.ctx.Done():
			if line, err := devLine(context.WithoutCancel(c.ctx), c, engine); err == nil {
				fmt.Fprintf(c.Out, "%s\nstopping\n", line)
			}
			return nil
		case err := <-w.Failed():
			return err
		case err := <-w.Stopped():
			return err
		case <-tick.C:
		}
		line, err := devLine(c.ctx, c, engine)
		switch {
		case err != nil && c.ctx.Err() != nil:
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
