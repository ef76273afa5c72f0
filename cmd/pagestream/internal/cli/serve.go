package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/server"
)

// ServerFlags are flags for the most used configuration keys of a server. Other keys are set in
// the file or the environment.
type ServerFlags struct {
	DataDir     string `placeholder:"DIR" env:"PAGESTREAM_DATA_DIR" help:"Directory of the stream and the read models (data.dir)."`
	HTTPPublic  string `name:"http-public" placeholder:"ADDR" env:"PAGESTREAM_HTTP_PUBLIC" help:"Listen address for Meta (http.public)."`
	HTTPPrivate string `name:"http-private" placeholder:"ADDR" env:"PAGESTREAM_HTTP_PRIVATE" help:"Listen address for the API (http.private)."`
	NATSURL     string `name:"nats-url" placeholder:"URL" env:"PAGESTREAM_NATS_URL" help:"External NATS instead of the embedded server (nats.url)."`
}

func (f ServerFlags) keys() map[string]any {
	return map[string]any{
		"data.dir": f.DataDir, "http.public": f.HTTPPublic, "http.private": f.HTTPPrivate,
		"nats.url": f.NATSURL,
	}
}

// ServeCommand runs the server until the context ends.
type ServeCommand struct {
	ServerFlags
}

// Run starts the server, waits for a signal or a failure, and stops the server.
func (s ServeCommand) Run(c *CLI) error {
	o, err := c.serverOptions(s.keys())
	if err != nil {
		return err
	}
	cfg, log := o.Config, o.Logger
	for _, w := range server.Warnings(o) {
		log.Warn("configuration", "warning", w)
	}
	p := server.New(o)
	if err := p.Run(c.ctx); err != nil {
		return err
	}
	go releaseMemory(c.ctx, p.ReleaseMemory)
	log.Info("pagestream is running", "public", p.PublicAddr(), "private", p.PrivateAddr(),
		"token_file", cfg.HTTP.TokenFile, "apps", len(cfg.Apps), "data", cfg.Data.Dir)

	var failure error
	select {
	case <-c.ctx.Done():
		log.Info("stopping")
	case failure = <-p.Failed():
	}
	ctx, cancel := context.WithTimeout(context.Background(), cfg.HTTP.ShutdownTimeout)
	defer cancel()
	if err := p.Close(ctx); err != nil {
		return errors.Join(failure, fmt.Errorf("stop: %w", err))
	}
	return failure
}

// serverOptions returns the options of a server from the configuration and the flags.
func (c *CLI) serverOptions(flags map[string]any) (server.Options, error) {
	cfg, err := c.load(flags)
	if err != nil {
		return server.Options{}, err
	}
	log, err := c.logger(cfg.Log)
	return server.Options{Config: cfg, ConfigFile: c.ConfigFile, Version: c.build.read().Version, Logger: log, CheckFile: c.checkFile}, err
}

// offline runs f on the files of a stopped server.
func (c *CLI) offline(f func(*operate.Offline) error) error {
	o, err := c.serverOptions(nil)
	if err != nil {
		return err
	}
	return server.Offline(c.ctx, o, f)
}
