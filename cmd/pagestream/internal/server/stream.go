package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/datadir"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/domain/seal"
	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/internal/disk"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
)

// openStream checks the data directory, starts the embedded server if nats.url is empty, and connects
// to NATS.
func (p *Program) openStream(ctx context.Context) error {
	if err := datadir.CheckMigrating(p.cfg.Data.Dir, p.migration); err != nil {
		return err
	}
	if err := datadir.Convert(p.cfg.Data.Dir); err != nil {
		return err
	}
	return p.openNATS(ctx)
}

// openNATS starts the embedded server if nats.url is empty, and connects to NATS.
func (p *Program) openNATS(ctx context.Context) error {
	var err error
	if p.cfg.NATS.URL == "" {
		p.server, err = embedded.Start(ctx, embedded.Options{
			Dir: p.natsDir(), ReadModels: p.cfg.ProjectionsDir(),
			MaxStore: int64(p.cfg.Streams.MaxStore), Prepare: p.prepareJournal,
			Listen: p.cfg.NATS.Listen, CertFile: p.cfg.NATS.CertFile, KeyFile: p.cfg.NATS.KeyFile,
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
	if p.server == nil {
		return nil
	}
	_, err = p.js.Stream(ctx, streams.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if mended, err := p.mendUnreadable(ctx); !mended || err != nil {
			return err // ensureStream makes it
		}
	}
	return p.ensureStream(ctx) // with the configured limits, what the journal has may fit
}

// unbuffered makes a reactor's connection refuse what is sent while it is broken, see streams.ReactorOptions.Connect.
var unbuffered = nats.ReconnectBufSize(-1)

// dial returns a function that opens a new connection. Each reactor needs its own, because
// watermill-nats closes the connection that it was given.
func (p *Program) dial(name string, more ...nats.Option) func() (*nats.Conn, error) {
	// By default the client writes them to standard error.
	more = append([]nats.Option{nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		p.log.Warn("connection to NATS has an error", "connection", name, "err", err)
	})}, more...)
	return func() (*nats.Conn, error) {
		if p.server != nil {
			return p.server.Connect(name, more...)
		}
		opts, err := natsOptions(p.cfg.NATS, name)
		if err != nil {
			return nil, err
		}
		nc, err := nats.Connect(string(p.cfg.NATS.URL), slices.Concat(opts, []nats.Option{nats.MaxReconnects(-1)}, more)...)
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

// errStreamGone is returned when there is no stream of events, although this installation has used one.
var errStreamGone = errors.New("the stream of events is gone; nothing was made in its place. If nats.url or data.dir " +
	"is not what it was, correct it; or restore a backup; or begin again with an empty stream, without the events and " +
	"with read models that are built from nothing: pagestream recover --new-stream --yes")

// ensureStream updates the configuration of the stream, or creates it if this installation had none: it fails with
// errStreamGone otherwise.
func (p *Program) ensureStream(ctx context.Context) error {
	return p.makeStream(ctx, func() error {
		_, err := os.Stat(p.usedPath())
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return cmp.Or(err, errStreamGone)
	})
}

// makeStream creates the stream, unless create refuses that, or updates its configuration.
func (p *Program) makeStream(ctx context.Context, create func() error) error {
	own, _, err := p.readRestore()
	if err != nil {
		return err
	}
	err = p.await(ctx, "the stream", func(ctx context.Context) (err error) {
		p.identity, err = streams.Ensure(ctx, p.js, streams.Spec{
			Journal: p.server != nil,
			Window:  p.cfg.Streams.Window, Replicas: p.cfg.NATS.Replicas, MaxBytes: int64(p.cfg.Streams.MaxBytes),
			Migrating: p.migration != "", Restore: own.ID,
			Create: create,
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("ensure stream: %w", err)
	}
	if was, err := os.ReadFile(p.usedPath()); err == nil && string(was) == string(p.identity) {
		return p.openJournal(ctx)
	}
	if err := disk.Replace(p.usedPath(), []byte(p.identity)); err != nil {
		return err
	}
	return p.openJournal(ctx)
}

// usedPath is the path of a file with the identity of the stream that this installation uses.
func (p *Program) usedPath() string { return filepath.Join(p.cfg.Data.Dir, "STREAM") }

// newStream creates the stream if there is none, whatever this installation has used before, and puts that on record.
func (p *Program) newStream(ctx context.Context) (made bool, err error) {
	if err := p.makeStream(ctx, func() error { made = true; return nil }); err != nil || !made {
		return false, err
	}
	h := history.New(history.Options{JS: p.js, Replicas: p.cfg.NATS.Replicas, Logger: p.log.With("part", "history")})
	h.Note("stream_new", map[string]string{"stream": streams.Name})
	p.log.Warn("a new, empty stream of events was made", "stream", p.identity)
	return true, h.Close(ctx)
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
	keys.Follow(p.cfg.Keys.File)
	p.keys = keys
	watch, stop := context.WithCancel(context.Background())
	p.background.Go(func() { p.followKeys(watch) })
	p.onClose("key file", func(context.Context) error { stop(); return nil })
	return nil
}

// keysEvery is the interval in which the key file is looked at.
const keysEvery = time.Second

// followKeys takes up what other nodes, and the operator, change in the key file.
func (p *Program) followKeys(ctx context.Context) {
	told := ""
	for backoff.Sleep(ctx, keysEvery) == nil {
		changed, err := p.keys.Refresh()
		switch {
		case err == nil:
			told = ""
		case err.Error() != told:
			told = err.Error()
			p.log.Error("the key file was changed and can't be used; the keys stay as they were", "err", err)
		}
		if changed {
			p.secrets.Forget()
			p.log.Info("the key file was changed by another process; its keys are used from now on", "keys", p.keys)
		}
	}
}
