// Package server is the running program: it opens every part in order, connects them, serves
// HTTP, and closes them in the reverse order.
//
// A [Program] has no operations for operators: these are in package operate.
package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/companies"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/console"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/doctor"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/erase"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/ledgers"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/login"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/losses"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/reconcile"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/tokens"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/webhook"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/domain/seal"
	"github.com/pagestream/pagestream/internal/journal"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
)

// Options configure a [Program]. Config is required.
type Options struct {
	Config config.Config
	// ConfigFile is the file that Config was read from, or empty. A backup copies it.
	ConfigFile string
	// Version is shown by the API and the console. The default is "devel".
	Version string
	// Projections are run in addition to pagestream's own.
	Projections []projections.Projection
	// OpenLogins lets anybody start a login without an invitation. It is only for a program that
	// uses a fake Meta.
	OpenLogins bool
	// Breaker is the fake Meta, if the program uses one; the console then has a page that breaks it.
	Breaker console.Breaker
	// CheckFile reads a file of a read model that may be damaged. The default is store.CheckFile; see
	// projections.RunnerOptions.
	CheckFile func(ctx context.Context, path string) error
	// Logger is the logger. By default logs are discarded.
	Logger *slog.Logger
}

// Program is a whole pagestream in one value. Create it with [New], start it with Run, and stop it
// with Close. Tests run the same value as the command.
type Program struct {
	opts Options
	cfg  config.Config
	log  *slog.Logger

	publicLn, privateLn net.Listener

	// The stream.
	waits bool // for NATS; offline commands don't
	// migration is the id of the migration that this program is a part of, empty if there is none.
	migration string
	server    *embedded.Server // nil with an external NATS
	// The journal of the embedded server's stream.
	checkpoints  *embedded.Checkpoints
	journalFiles *journal.Journal
	journal      *streams.Journal

	conn     *nats.Conn
	dials    dials
	js       jetstream.JetStream
	identity streams.Identity
	secrets  *connect.Bucket
	tail     *streams.Tail
	keys     *seal.KeyRing
	rollback rollback

	// The read models.
	lost   *losses.Losses
	models operate.Models
	ledger *deliveries.Ledger
	others *ledgers.Ledgers // nil with the embedded server
	// headAtStart is the sequence of the stream's last event before this process stored any.
	headAtStart uint64
	publisher   *streams.Publisher
	parking     *streams.Parking

	// Communication with Meta.
	apps       *graph.Apps
	known      connect.Models
	tokens     connect.Tokens
	connector  *connect.Connector
	logins     *login.Handler
	eraser     *erase.Eraser
	admins     *erase.Admins
	reconciler *reconcile.Reconciler
	doctor     *doctor.Doctor

	// Outgoing events.
	consumers *consumers.Consumers
	companies *companies.Companies
	hooks     *hooks.Hooks // nil without endpoints

	// The private listener.
	access  *tokens.Tokens
	history *history.History

	recent  webhook.Recent
	metrics *metrics
	health  health
	private http.Handler
	console *console.Console
	started time.Time

	background sync.WaitGroup
	reactors   sync.WaitGroup
	failed     chan error
	closing    []closer
	closeOnce  sync.Once
	closeErr   error
}

// closer is one step of Close, in the reverse of the order of Run.
type closer struct {
	name  string
	close func(context.Context) error
}

// New returns a program that is not started.
func New(o Options) *Program {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Version = cmp.Or(o.Version, "devel")
	p := &Program{opts: o, cfg: o.Config, log: o.Logger, failed: make(chan error, 4), started: time.Now()}
	p.health.durable.p, p.health.leader.p = p, p
	return p
}

// PublicAddr returns the address of the public listener. It must be called after Run.
func (p *Program) PublicAddr() string { return p.publicLn.Addr().String() }

// PrivateAddr returns the address of the private listener. It must be called after Run.
func (p *Program) PrivateAddr() string { return p.privateLn.Addr().String() }

// Failed returns a channel that receives the errors with which the program can't continue after Run
// has returned. The caller must then call Close.
func (p *Program) Failed() <-chan error { return p.failed }

// Run starts every part and returns when both HTTP servers accept requests. It waits for an external NATS server,
// and for its JetStream, until the context ends. If it fails, it stops everything that it started.
func (p *Program) Run(ctx context.Context) (err error) {
	p.waits = true
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close(context.WithoutCancel(ctx)))
		}
	}()
	if err := p.cfg.RequireApps(); err != nil {
		return err
	}
	for _, stage := range []func(context.Context) error{
		p.listen, // first: a busy port should fail before anything is opened
		p.resumeRestore,
		p.openStream,
		p.openSecrets,
		p.openKeys,
		p.openHistory,
		p.removeFormerModels,
		p.startModels,
		p.publishLedger,
		p.startPublisher,
		p.openMeta,
		p.openHooks,
		p.startReactors,
		p.openAccess,
		p.serve,
	} {
		if err := stage(ctx); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Close stops everything in order: first HTTP, so that no new requests arrive; then the committer,
// which finishes the waiting requests; then the read models, the connection and the server. It is
// idempotent, and the context limits how long it takes. A step that does not end gets half of the time
// that is left, so that a request that never ends leaves time to write what was answered.
func (p *Program) Close(ctx context.Context) error {
	p.closeOnce.Do(func() {
		var errs []error
		for _, c := range slices.Backward(p.closing) {
			if err := c.within(ctx); err != nil {
				errs = append(errs, fmt.Errorf("close %s: %w", c.name, err))
			}
		}
		ended := make(chan struct{})
		go func() { p.background.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-ctx.Done(): // what has not been closed above does not end
			errs = append(errs, fmt.Errorf("stop background tasks: %w", ctx.Err()))
		}
		p.closeErr = errors.Join(errs...)
	})
	return p.closeErr
}

// within runs the step in half of the time that is left.
func (c closer) within(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	return c.close(ctx)
}

// end closes the program, in the time that it may take.
func (p *Program) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), p.cfg.HTTP.ShutdownTimeout)
	defer cancel()
	return p.Close(ctx)
}

// onClose adds a step to Close. The steps run in reverse order.
func (p *Program) onClose(name string, f func(context.Context) error) {
	p.closing = append(p.closing, closer{name, f})
}

// fail reports an error with which the program can't continue. It does not block.
func (p *Program) fail(err error) {
	select {
	case p.failed <- err:
	default: // one error is enough to stop the program
	}
}

// listen opens both HTTP listeners.
func (p *Program) listen(context.Context) error {
	for _, l := range []struct {
		key, addr string
		to        *net.Listener
	}{{"http.public", p.cfg.HTTP.Public, &p.publicLn}, {"http.private", p.cfg.HTTP.Private, &p.privateLn}} {
		ln, err := net.Listen("tcp", l.addr)
		if err != nil {
			return fmt.Errorf("listen: %w; set %s to a free address", err, l.key)
		}
		*l.to = ln
		p.onClose(l.key, func(context.Context) error {
			if err := ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				return err
			}
			return nil
		})
	}
	return nil
}
