package server

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/datadir"
	"github.com/pagestream/pagestream/domain/seal"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
)

// openStream checks the data directory, starts the embedded server if nats.url is empty, and connects
// to NATS.
func (p *Program) openStream(ctx context.Context) error {
	if err := datadir.Check(p.cfg.Data.Dir); err != nil {
		return err
	}
	var err error
	if p.cfg.NATS.URL == "" {
		p.server, err = embedded.Start(ctx, embedded.Options{
			Dir: p.natsDir(), ReadModels: p.cfg.ProjectionsDir(),
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
	}
	err = p.await(ctx, "NATS", func(context.Context) error { // the dial has a timeout of its own
		p.conn, err = p.dial(mainConnection)()
		return err
	})
	if err != nil {
		return fmt.Errorf("connect to NATS: %w", err)
	}
	p.onClose("connection", func(context.Context) error { p.conn.Close(); return nil })
	if p.js, err = streams.Open(p.conn, p.cfg.NATS.Domain); err != nil {
		return err
	}
	err = p.await(ctx, "JetStream", func(ctx context.Context) error {
		_, err := p.js.AccountInfo(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("open JetStream: %w", err)
	}
	if largest := p.storable(); int64(p.cfg.Webhook.MaxBody) > largest {
		p.log.Error("the NATS server does not take the largest deliveries, which are answered 413: "+
			"raise its max_payload, or lower webhook.max_body",
			"max_payload", p.conn.MaxPayload(), "wanted", streams.LargestEvent(int64(p.cfg.Webhook.MaxBody)),
			"webhook.max_body", p.cfg.Webhook.MaxBody, "largest", largest)
	}
	return nil
}

// dial returns a function that opens a new connection. Each reactor needs its own, because
// watermill-nats closes the connection that it was given.
func (p *Program) dial(name string) func() (*nats.Conn, error) {
	return func() (*nats.Conn, error) {
		if p.server != nil {
			return p.server.Connect(name)
		}
		opts, err := natsOptions(p.cfg.NATS, name)
		if err != nil {
			return nil, err
		}
		nc, err := nats.Connect(string(p.cfg.NATS.URL), append(opts, nats.MaxReconnects(-1))...)
		if err == nil {
			p.dials.add(nc)
		}
		return nc, err
	}
}

// dials are the connections to an external NATS. Their zero value is none.
type dials struct {
	mu   sync.Mutex
	open []*nats.Conn
}

func (d *dials) add(nc *nats.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open = append(slices.DeleteFunc(d.open, (*nats.Conn).IsClosed), nc)
}

// to returns the connections that are connected to a server now.
func (d *dials) to(server string) (out []*nats.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, nc := range d.open {
		if nc.IsConnected() && nc.ConnectedServerName() == server {
			out = append(out, nc)
		}
	}
	return out
}

// storable returns the size of the largest body of a delivery whose events NATS is certain to accept.
func (p *Program) storable() int64 { return streams.LargestBody(p.conn.MaxPayload()) }

// ensureStream creates the stream or updates its configuration.
func (p *Program) ensureStream(ctx context.Context) error {
	err := p.await(ctx, "the stream", func(ctx context.Context) (err error) {
		p.identity, err = streams.Ensure(ctx, p.js, streams.Spec{
			Window: p.cfg.Streams.Window, Replicas: p.cfg.NATS.Replicas, MaxBytes: int64(p.cfg.Streams.MaxBytes),
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("ensure stream: %w", err)
	}
	return nil
}

// openSecrets opens the bucket in which the sealed tokens are stored.
func (p *Program) openSecrets(ctx context.Context) error {
	return p.await(ctx, "the bucket of secrets", func(ctx context.Context) (err error) {
		p.secrets, err = connect.OpenBucket(ctx, p.js, streams.Name, p.cfg.NATS.Replicas)
		return err
	})
}

// openKeys reads the key ring. If the file is missing, it creates a new one, but returns an error if
// there are sealed tokens already.
func (p *Program) openKeys(ctx context.Context) error {
	empty, err := p.secrets.Empty(ctx)
	if err != nil {
		return err
	}
	keys, created, err := seal.LoadOrCreate(p.cfg.Keys.File, !empty)
	if err != nil {
		return fmt.Errorf("open key ring: %w", err)
	}
	if created {
		p.log.Info("key ring created; back it up: without it sealed page tokens can't be opened", "file", p.cfg.Keys.File)
	}
	p.keys = keys
	return nil
}
