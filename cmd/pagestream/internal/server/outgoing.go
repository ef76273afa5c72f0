package server

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/export"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
)

// openHooks starts the outgoing webhooks, if any are configured.
func (p *Program) openHooks(context.Context) error {
	if p.cfg.Hooks.File == "" {
		return nil
	}
	endpoints, err := readHooks(p.cfg.Hooks.File)
	if err != nil {
		return err
	}
	p.hooks, err = hooks.New(hooks.Options{
		JS: p.js, Identity: p.identity, Path: filepath.Join(p.cfg.ProjectionsDir(), "hooks.db"),
		Endpoints: endpoints, Encode: export.Event, GiveUpAfter: p.cfg.Hooks.GiveUpAfter,
		KnowsPage: p.knowsPage, Pages: p.models.Pages(), FindCompany: p.findCompany, Logger: p.log.With("part", "hooks"),
	})
	if err != nil {
		return fmt.Errorf("open outgoing webhooks: %w", err)
	}
	p.rollback.tell(func(uint64) { p.hooks.Recheck() })
	p.onClose("outgoing webhooks", func(context.Context) error { return p.hooks.Close() })
	p.background.Go(func() { // runs until Close
		if err := p.hooks.Run(context.Background()); err != nil && !errors.Is(err, hooks.ErrRan) {
			p.fail(fmt.Errorf("outgoing webhooks: %w", err))
		}
	})
	return nil
}

// knowsPage reports whether the read models know a page, or can't be read.
func (p *Program) knowsPage(id domain.PageID) bool {
	known, err := p.models.KnowsPage(id)
	return known || err != nil
}

// findCompany returns the id of a company, and false if there is none of that name or if it can't be read.
func (p *Program) findCompany(name string) (string, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	company, err := p.companies.Find(ctx, name)
	return company.ID, err == nil
}

// newConsumers creates the part that gives other programs access to the stream.
func (p *Program) newConsumers() (*consumers.Consumers, error) {
	// The fillers have a connection of their own, so that what they store does not wait in
	// the connection of the committer, nor it behind them.
	conn, err := p.dial("consumers")()
	if err != nil {
		return nil, fmt.Errorf("connect consumers to NATS: %w", err)
	}
	p.onClose("connection of consumers", func(context.Context) error { conn.Close(); return nil })
	js, err := streams.Open(conn, p.cfg.NATS.Domain)
	if err != nil {
		return nil, err
	}
	o := consumers.Options{
		JS: js, Stream: streams.Name, Tail: p.tail, Pages: p.models.Pages(), Replicas: p.cfg.NATS.Replicas,
		Logger: p.log.With("part", "consumers"),
	}
	if p.server != nil && p.server.Addr() != "" {
		scheme := "nats://"
		if p.cfg.NATS.CertFile != "" {
			scheme = "tls://"
		}
		o.Users = natsUsers{p.server, scheme}
	}
	return consumers.New(o), nil
}

// natsUsers adapts the embedded server's users to the interface of package consumers.
type natsUsers struct {
	*embedded.Server
	scheme string
}

func (u natsUsers) SetUser(name, publicKey, stream, durable string) error {
	return u.Server.SetUser(embedded.User{Name: name, PublicKey: publicKey, Stream: stream, Consumer: durable})
}
func (u natsUsers) URL() string { return u.scheme + u.Addr() }
