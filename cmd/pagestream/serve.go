package main

import (
	"context"
	"errors"
	"fmt"
)

// ServerFlags are the configuration keys that a server is most often started
// with; the rest is in the file or the environment.
type ServerFlags struct {
	DataDir     string `placeholder:"DIR" env:"PAGESTREAM_DATA_DIR" help:"Where the stream and the read models live (data.dir)."`
	HTTPPublic  string `name:"http-public" placeholder:"ADDR" env:"PAGESTREAM_HTTP_PUBLIC" help:"Listen address for Meta (http.public)."`
	HTTPPrivate string `name:"http-private" placeholder:"ADDR" env:"PAGESTREAM_HTTP_PRIVATE" help:"Listen address for the API (http.private)."`
	NATSURL     string `name:"nats-url" placeholder:"URL" env:"PAGESTREAM_NATS_URL" help:"External NATS instead of the embedded server (nats.url)."`
	StreamsSync string `name:"streams-sync" placeholder:"MODE" env:"PAGESTREAM_STREAMS_SYNC" help:"always or interval (streams.sync)."`
}

func (f ServerFlags) keys() map[string]any {
	return map[string]any{
		"data.dir": f.DataDir, "http.public": f.HTTPPublic, "http.private": f.HTTPPrivate,
		"nats.url": f.NATSURL, "streams.sync": f.StreamsSync,
	}
}

// ServeCommand runs the server until it is told to stop.
type ServeCommand struct {
	ServerFlags
}

// Run starts a [Program] and waits for a signal or a failure.
func (s ServeCommand) Run(c *CLI) error {
	cfg, err := c.load(s.keys())
	if err != nil {
		return err
	}
	log, err := newLogger(cfg.Log, c.Err)
	if err != nil {
		return err
	}
	p := NewProgram(cfg, log)
	p.configFile = c.ConfigFile
	if err := p.Run(c.ctx); err != nil {
		return err
	}
	log.Info("pagestream serves", "public", p.PublicAddr(), "private", p.PrivateAddr(),
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
