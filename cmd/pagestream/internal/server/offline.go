package server

import (
	"context"
	"errors"
	"sync"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/streams"
)

// Offline runs f with the streams of a stopped server. It serves no HTTP and calls nothing of Meta.
func Offline(ctx context.Context, o Options, f func(*operate.Offline) error) (err error) {
	o.Config.NATS.Listen = "" // no consumer reads meanwhile
	p := New(o)
	defer func() { err = errors.Join(err, p.end()) }()
	if err := p.openStream(ctx); err != nil {
		return err
	}
	return f(&operate.Offline{
		Conn: p.conn, JS: p.js, Stream: streams.Name, KeyFile: p.cfg.Keys.File, Replicas: p.cfg.NATS.Replicas,
		Journal:   p.server != nil,
		Ensure:    p.ensureImport,
		NewStream: p.newStream,
		Begin:     p.beginRestore, Copied: p.copied, Finish: p.finishRestore,
		Secrets: func(ctx context.Context) (*connect.Bucket, error) {
			err := p.openSecrets(ctx)
			return p.secrets, err
		},
		Models: sync.OnceValues(func() (operate.Models, error) {
			err := p.startModels(ctx)
			return p.models, err
		}),
	})
}
