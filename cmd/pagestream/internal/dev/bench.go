package dev

import (
	"context"
	"errors"
	"log/slog"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/bench"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/server"
	"github.com/pagestream/pagestream/config"
)

// benchSecret is the app secret that signs the bench's traffic.
const benchSecret = "bench-app-secret-that-signs-nothing-real" //nolint:gosec // used by the bench only

// StartBench starts the same server as serve, with an app that only calls this machine. The caller
// must close the returned system.
func StartBench(ctx context.Context, o bench.StartOptions, log *slog.Logger) (*bench.System, error) {
	cfg := localConfig(o.Dir)
	cfg.HTTP.Public, cfg.HTTP.Private = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Streams.QueueLimit = max(cfg.Streams.QueueLimit, o.Queue)
	cfg.Webhook.Timeout = max(cfg.Webhook.Timeout, o.Timeout)
	if o.Window > 0 {
		cfg.Streams.Window = o.Window
		cfg.Profiles.MaxAge = 0
	}
	cfg.Apps = []config.App{{
		Name: "bench", ID: "900", Secrets: []config.Secret{benchSecret}, VerifyToken: "bench",
		GraphURL: "http://127.0.0.1:1", LoginURL: "http://127.0.0.1:1", GraphVersion: config.DefaultGraphVersion,
	}}
	p := server.New(server.Options{Config: cfg, Logger: log})
	if err := p.Run(ctx); err != nil {
		return nil, err
	}
	token, err := api.ReadToken(cfg.HTTP.TokenFile)
	if err != nil {
		return nil, errors.Join(err, p.Close(context.WithoutCancel(ctx)))
	}
	return &bench.System{
		Public: p.PublicAddr(), Private: p.PrivateAddr(), Token: token, Secret: benchSecret, Close: p.Close,
	}, nil
}
