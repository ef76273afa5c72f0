package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/backfill"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/outbound"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/profile"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/reconcile"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
)

// reactorPause is the pause before a reactor that has ended is run again.
const reactorPause = 2 * time.Second

// startReactors starts what acts on events. It is stopped before the publisher
// and the read models that it works with.
func (p *Program) startReactors() {
	run, stop := context.WithCancel(context.Background())
	p.onClose("reactors", func(context.Context) error {
		stop()
		p.reactors.Wait()
		return nil
	})
	start := func(name string, f func(context.Context) error) {
		p.reactors.Go(func() { p.keep(run, name, f) })
	}
	interval := p.cfg.Reconcile.Interval
	if interval == 0 {
		interval = -1 // refreshed tokens are followed all the same
	}
	p.reconciler = reconcile.New(reconcile.Options{
		JS: p.js, Connect: p.dial("reconcile"), Parking: p.parking, Replicas: p.cfg.NATS.Replicas, Verbs: verbs{p.connector},
		Pages: p.model("pages"), Subscriptions: p.model("subscriptions"),
		Interval: interval, TokenInterval: p.cfg.Reconcile.TokenInterval, Logger: p.log.With("part", "reconcile"),
	})
	start("reconcile", p.reconciler.Run)
	start("erase", p.eraser.Run)
	p.consumers = newConsumers(p)
	start("consumers", p.consumers.Run)
	if p.cfg.Profiles.MaxAge > 0 {
		start("profile", profile.New(profile.Options{
			Connect: p.dial("profile"), Parking: p.parking, Tokens: profileTokens{p.tokens}, Graph: profiles{p.apps},
			Publisher: p.publisher, Conversations: p.model("conversations"), MaxAge: p.cfg.Profiles.MaxAge,
			Logger: p.log.With("part", "profile"),
		}).Run)
	}
}

// keep runs a reactor again when it ends before its time, for example because
// the stream was not there.
func (p *Program) keep(ctx context.Context, name string, run func(context.Context) error) {
	for {
		err := run(ctx)
		if ctx.Err() != nil {
			return
		}
		p.log.Warn("reactor ended and is run again", "reactor", name, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(reactorPause):
		}
	}
}

// dial returns a function that makes a connection of its own: watermill-nats
// closes the one that it was given.
func (p *Program) dial(name string) func() (*nats.Conn, error) {
	return func() (*nats.Conn, error) {
		if p.server != nil {
			return p.server.Connect(name)
		}
		return p.connectCluster(name)
	}
}

// profileTokens are the tokens as package profile asks for them.
type profileTokens struct{ tokens }

func (t profileTokens) Token(ctx context.Context, page domain.PageID) (token, app string, err error) {
	token, _, app, err = t.token(ctx, page)
	switch {
	case errors.Is(err, errNotConnected):
		err = profile.ErrNotConnected
	case errors.Is(err, errTokenDead):
		err = profile.ErrTokenDead
	}
	return token, app, err
}

// senders are the pages as package outbound asks for them.
type senders struct {
	tokens
	metaApps
}

func (s senders) Access(ctx context.Context, id domain.PageID) (outbound.Access, error) {
	token, page, app, err := s.token(ctx, id)
	switch {
	case errors.Is(err, errNotConnected):
		return outbound.Access{}, outbound.ErrNotConnected
	case errors.Is(err, errTokenDead):
		return outbound.Access{}, outbound.ErrTokenDead
	case err != nil:
		return outbound.Access{}, err
	}
	a, ok := s.config(app)
	if !ok {
		return outbound.Access{}, fmt.Errorf("app %q of page %s: %w", app, page, outbound.ErrNotConnected)
	}
	return outbound.Access{Page: page, Token: token, App: a.Name, AppID: a.ID, Instagram: page != id}, nil
}

func (s senders) Send(ctx context.Context, app string, page domain.PageID, token string, m outbound.Outgoing) (recipient, mid string, err error) {
	g, _, ok := s.client(app)
	if !ok {
		return "", "", outbound.ErrNotConnected
	}
	out, err := g.Send(ctx, string(page), token, graph.Outgoing(m))
	if errors.Is(err, graph.ErrMessage) || errors.Is(err, graph.ErrPageID) {
		err = fmt.Errorf("%w: %w", outbound.ErrRequest, err) // nothing was sent
	}
	return out.RecipientID, out.MessageID, err
}

// disconnector is the connector as package callbacks asks for it.
type disconnector struct{ c *connect.Connector }

func (d disconnector) DisconnectAdmin(ctx context.Context, app, admin, reason string) (int, error) {
	list, err := d.c.DisconnectAdmin(ctx, app, admin, reason)
	return len(list), err
}

// verbs are the connector's as package reconcile asks for them.
type verbs struct{ c *connect.Connector }

func (v verbs) Check(ctx context.Context, page domain.PageID) (reconcile.Outcome, error) {
	return reconciled(v.c.Check(ctx, page))
}

func (v verbs) Resubscribe(ctx context.Context, page domain.PageID) (reconcile.Outcome, error) {
	return reconciled(v.c.Resubscribe(ctx, page))
}

func (v verbs) Probe(ctx context.Context, page domain.PageID) (reconcile.TokenReport, error) {
	t, err := v.c.Probe(ctx, page)
	return reconcile.TokenReport{
		State: t.State, Code: t.Code, Subcode: t.Subcode, Reason: t.Reason,
		Expires: t.Expires, DataAccessExpires: t.DataAccessExpires, MissingScopes: t.MissingScopes,
	}, err
}

func reconciled(o connect.Outcome, err error) (reconcile.Outcome, error) {
	return reconcile.Outcome{
		State: o.State, Missing: o.Missing, AppMissing: o.AppMissing, Reason: o.Reason, Code: o.Code, Subcode: o.Subcode,
		RetryAfter: o.RetryAfter, Seq: o.Seq,
	}, err
}

// fillers are the pages, and Graph, as package backfill asks for them.
type fillers struct {
	tokens
	metaApps
}

func (f fillers) Access(ctx context.Context, id domain.PageID) (backfill.Access, error) {
	token, page, app, err := f.token(ctx, id)
	switch {
	case errors.Is(err, errNotConnected):
		return backfill.Access{}, backfill.ErrNotConnected
	case errors.Is(err, errTokenDead):
		return backfill.Access{}, backfill.ErrTokenDead
	case err != nil:
		return backfill.Access{}, err
	case page != id:
		return backfill.Access{}, fmt.Errorf("%w: fill the gap of page %s, to which the account is linked", backfill.ErrRequest, page)
	}
	p, err := pages.Get(f.pages, page)
	if err != nil {
		return backfill.Access{}, fmt.Errorf("read page: %w", err)
	}
	return backfill.Access{Token: token, App: app, Instagram: domain.PageID(p.Instagram)}, nil
}

func (f fillers) Conversations(ctx context.Context, app string, page domain.PageID, token, platform, after string, limit int) (out []backfill.Conversation, next string, err error) {
	g, _, ok := f.client(app)
	if !ok {
		return nil, "", backfill.ErrNotConnected
	}
	list, next, err := g.Conversations(ctx, string(page), token, platform, after, limit)
	for _, c := range list {
		out = append(out, backfill.Conversation{ID: c.ID, Updated: c.Updated, Messages: fillerMessages(c.Messages), After: c.After})
	}
	return out, next, err
}

func (f fillers) Messages(ctx context.Context, app string, page domain.PageID, token, conversation, after string) ([]backfill.Message, string, error) {
	g, _, ok := f.client(app)
	if !ok {
		return nil, "", backfill.ErrNotConnected
	}
	list, next, err := g.Messages(ctx, string(page), token, conversation, after)
	return fillerMessages(list), next, err
}

func fillerMessages(list []graph.Message) (out []backfill.Message) {
	for _, m := range list {
		to := backfill.Message{
			ID: m.ID, Created: m.Created, From: m.From, To: m.To, Text: m.Text, Sticker: m.Sticker,
			Unsupported: m.Unsupported, ReplyTo: m.ReplyTo, Raw: m.Raw,
		}
		for _, a := range m.Attachments {
			to.Attachments = append(to.Attachments, backfill.Attachment(a))
		}
		out = append(out, to)
	}
	return out
}
