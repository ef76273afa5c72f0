package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
)

// connector is the API's view of package connect. Whoever was answered finds
// what was done in the read models.
type connector struct {
	c     *connect.Connector
	known knownPages
}

// newConnector wires the verbs on pages to Graph, the publisher, the key ring
// and the read models. An app without an id can receive but not connect.
func newConnector(p *Program) *connect.Connector {
	return connect.New(connect.Options{
		Graph: func(app string) (connect.Graph, string, bool) {
			g, name, ok := p.apps.client(app)
			return g, name, ok
		},
		Login: func(app string) (connect.Login, string, bool) {
			g, name, ok := p.apps.client(app)
			a, _ := p.apps.config(name)
			return person{g, a}, name, ok
		},
		AppFields: p.apps.appFields,
		Pages:     newKnownPages(p),
		Publisher: p.publisher,
		Sealer:    p.keys,
	})
}

func (c connector) Connect(ctx context.Context, r api.ConnectRequest) (api.SubscriptionOutcome, error) {
	return c.outcome(ctx)(c.c.Connect(ctx, connect.Request{
		Page: r.Page, Token: r.Token, VerifyToken: r.VerifyToken, Company: r.Company, App: r.App, Fields: r.Fields,
	}))
}

func (c connector) Check(ctx context.Context, page domain.PageID) (api.SubscriptionOutcome, error) {
	return c.outcome(ctx)(c.c.Check(ctx, page))
}

func (c connector) Plan(ctx context.Context, page domain.PageID) (api.SubscriptionOutcome, error) {
	return c.outcome(ctx)(c.c.Plan(ctx, page))
}

func (c connector) Resubscribe(ctx context.Context, page domain.PageID) (api.SubscriptionOutcome, error) {
	return c.outcome(ctx)(c.c.Resubscribe(ctx, page))
}

func (c connector) Disconnect(ctx context.Context, page domain.PageID) (api.SubscriptionOutcome, error) {
	return c.outcome(ctx)(c.c.Disconnect(ctx, page))
}

// outcome is [outcome] once the read models have what it tells of.
func (c connector) outcome(ctx context.Context) func(connect.Outcome, error) (api.SubscriptionOutcome, error) {
	return func(o connect.Outcome, err error) (api.SubscriptionOutcome, error) {
		c.known.settle(ctx, o.Seq)
		return outcome(o, err)
	}
}

func outcome(o connect.Outcome, err error) (api.SubscriptionOutcome, error) {
	switch {
	case errors.Is(err, connect.ErrNotConnected):
		return api.SubscriptionOutcome{}, api.ErrNotConnected
	case errors.Is(err, connect.ErrRequest), errors.Is(err, connect.ErrUnknownApp), errors.Is(err, connect.ErrTokenRefused):
		return api.SubscriptionOutcome{}, fmt.Errorf("%w: %w", api.ErrRefused, err)
	case err != nil:
		return api.SubscriptionOutcome{}, err
	}
	return api.SubscriptionOutcome{
		Page: o.Page, Name: o.Name, State: o.State, Wanted: o.Wanted, Actual: o.Actual, Missing: o.Missing,
		AppFields: o.AppFields, AppMissing: o.AppMissing, Field: o.Field, RetryAfter: int(math.Ceil(o.RetryAfter.Seconds())),
		Reason: o.Reason, Code: o.Code, Subcode: o.Subcode, Seq: o.Seq,
	}, nil
}

// knownPages reads what package connect has to know from the read models.
type knownPages struct {
	pages, subscriptions *projections.Runner
	// head is the stream's last event.
	head func(context.Context) (uint64, error)
}

func newKnownPages(p *Program) knownPages {
	return knownPages{
		pages: p.model("pages"), subscriptions: p.model("subscriptions"),
		head: func(ctx context.Context) (uint64, error) { return streams.Last(ctx, p.js, streams.Name) },
	}
}

// waitFor waits until both models hold atLeast.
func (k knownPages) waitFor(ctx context.Context, atLeast uint64) error {
	for _, m := range []*projections.Runner{k.pages, k.subscriptions} {
		if err := m.WaitFor(ctx, atLeast); err != nil {
			return fmt.Errorf("wait for read model: %w", err)
		}
	}
	return nil
}

// settleWait is how long an answer waits for the read models.
const settleWait = 5 * time.Second

// settle waits, for a while, until both models hold seq: what was done is done,
// so that a model which lags delays the answer and does not fail it.
func (k knownPages) settle(ctx context.Context, seq uint64) {
	ctx, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	_ = k.waitFor(ctx, seq)
}

// connected lists the connected pages that match, as of the stream's last event.
func (k knownPages) connected(ctx context.Context, match func(pages.Page) bool) (out []domain.PageID, err error) {
	last, err := k.head(ctx)
	if err != nil {
		return nil, err
	}
	if err := k.waitFor(ctx, last); err != nil {
		return nil, err
	}
	err = pages.Each(k.pages, func(p pages.Page) error {
		if p.State == pages.Connected && match(p) {
			out = append(out, p.ID)
		}
		return nil
	})
	return out, err
}

// Known waits until both models hold atLeast.
func (k knownPages) Known(ctx context.Context, page domain.PageID, atLeast uint64) (connect.Known, error) {
	if err := k.waitFor(ctx, atLeast); err != nil {
		return connect.Known{}, err
	}
	p, err := pages.Get(k.pages, page)
	if errors.Is(err, pages.ErrNotFound) {
		return connect.Known{}, nil
	}
	if err != nil {
		return connect.Known{}, fmt.Errorf("read page: %w", err)
	}
	known := connect.Known{
		Connected: p.State == pages.Connected,
		Connection: domain.Connection{
			ConnectionID: p.ConnectionID, Company: p.Company, App: p.App, Name: p.Name, Instagram: p.Instagram,
			Admin: p.Admin, Fields: p.Fields,
		},
		TokenDead: p.Token == pages.TokenInvalid,
	}
	secrets, err := pages.Credentials(k.pages, page)
	switch {
	case err == nil:
		known.Connection.SealedToken, known.Connection.SealedVerifyToken = secrets.SealedToken, secrets.SealedVerifyToken
	case !errors.Is(err, pages.ErrNoCredentials):
		return connect.Known{}, fmt.Errorf("read credentials: %w", err)
	}
	sub, err := subscriptions.Get(k.subscriptions, page, p.App)
	switch {
	case err == nil:
		known.State, known.Reason, known.Wanted, known.Actual = string(sub.State), sub.Reason, sub.Wanted, sub.Actual
	case !errors.Is(err, subscriptions.ErrNotFound):
		return connect.Known{}, fmt.Errorf("read subscription: %w", err)
	}
	return known, nil
}

// ByAdmin lists the pages that the person has connected through the app.
func (k knownPages) ByAdmin(ctx context.Context, app, admin string) ([]domain.PageID, error) {
	return k.connected(ctx, func(p pages.Page) bool { return p.App == app && p.Admin == admin && admin != "" })
}
