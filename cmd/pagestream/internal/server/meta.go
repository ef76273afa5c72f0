package server

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/url"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/apps"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/companies"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/doctor"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/erase"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/erasures"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/leads"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/login"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/profile"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/reconcile"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/streams"
)

// openMeta creates the parts that communicate with Meta. It does not start them.
func (p *Program) openMeta(context.Context) (err error) {
	if p.apps, err = p.openApps(); err != nil {
		return err
	}
	p.known = p.readModels()
	p.tokens = connect.NewTokens(p.models.Pages(), p.secrets, p.keys, p.apps.ID)
	p.connector = connect.New(connect.Options{
		Graph: func(app string) (connect.Graph, string, bool) {
			g, name, ok := p.apps.Client(app)
			return g, name, ok
		},
		AppSubscriptions: p.apps.CachedSubscriptions, Endpoint: p.endpoint, Pages: p.known, Publisher: p.publisher,
		Secrets: p.secrets, Sealer: p.keys, Logger: p.log.With("part", "connect"),
	})
	p.companies = companies.New(companies.Options{JS: p.js, Pages: p.models.Pages(), Replicas: p.cfg.NATS.Replicas})
	p.logins = login.New(login.Options{
		BaseURL: p.baseURL(), Flow: p.connector, Names: p.companies.Names, Open: p.opts.OpenLogins,
		Logger: p.log.With("part", "login"),
	})
	p.onClose("logins", func(context.Context) error { p.logins.Close(); return nil })
	list := p.erasures()
	p.openErasers(func(e meta.Erasure) error { return list.Append(e) })
	interval := p.cfg.Reconcile.Interval
	if interval == 0 {
		interval = -1 // no periodic checks; refreshed tokens are still processed
	}
	p.reconciler = reconcile.New(reconcile.Options{
		JS: p.js, Connect: p.dial("reconcile", unbuffered), Parking: p.parking, Replicas: p.cfg.NATS.Replicas, Verbs: p.connector,
		Pages: p.models.Pages(), Subscriptions: p.models.Subscriptions(),
		Interval: interval, TokenInterval: p.cfg.Reconcile.TokenInterval, Logger: p.log.With("part", "reconcile"),
	})
	p.doctor = p.newDoctor()
	return nil
}

// readModels returns what the connector knows about pages.
func (p *Program) readModels() connect.Models {
	return connect.Models{
		Pages: p.models.Pages(), Subscriptions: p.models.Subscriptions(),
		Head: func(ctx context.Context) (uint64, error) { return streams.Last(ctx, p.js, streams.Name) },
	}
}

// openErasers creates the erasers. They call recorded, if it is not nil, before they record an
// erasure.
func (p *Program) openErasers(recorded func(meta.Erasure) error) {
	kept := erase.Kept{Parking: p.parking, Models: p.personal()}
	kept.Forget = func(ctx context.Context, seqs map[uint64]bool) (int, error) {
		if p.hooks == nil {
			return 0, nil
		}
		return p.hooks.Forget(ctx, seqs)
	}
	p.eraser = erase.New(erase.Options{
		JS: p.js, Journal: p.eraseJournal(), Connect: p.dial("erase", unbuffered), Publisher: p.publisher, Kept: kept,
		Conversations: p.models.Conversations(), Recorded: recorded, Logger: p.log.With("part", "erase"),
		Copies: func(ctx context.Context, e domain.Event) error {
			if p.consumers == nil { // while a restored installation is erased
				return nil
			}
			return p.consumers.Erase(ctx, e)
		},
	})
	p.admins = erase.NewAdmins(erase.AdminsOptions{
		JS: p.js, Journal: p.eraseJournal(), Connect: p.dial("erase admins", unbuffered), Publisher: p.publisher, Kept: kept,
		Pages: p.models.Pages(), Secrets: p.secrets, Recorded: recorded, Logger: p.log.With("part", "erase"),
	})
}

// eraseJournal returns the journal for the erasers, nil if there is none.
func (p *Program) eraseJournal() erase.Journal {
	if p.journal == nil {
		return nil
	}
	return p.journal
}

// erasures returns the erasures file.
func (p *Program) erasures() *erasures.File { return erasures.Open(p.cfg.ErasuresFile()) }

// openApps creates the Graph clients of the configured apps.
func (p *Program) openApps() (*graph.Apps, error) {
	var list []graph.AppOptions
	for _, a := range p.cfg.Apps {
		o := graph.AppOptions{Name: a.Name, Options: graph.Options{
			BaseURL: a.GraphURL, LoginURL: a.LoginURL, Version: a.GraphVersion, AppID: a.ID,
			LoginScopes: a.LoginScopes, LoginConfigID: a.LoginConfigID, Observe: p.metrics.graphCalled,
		}}
		if len(a.Secrets) > 0 {
			// The first secret is the current one. The other ones only verify signatures from before
			// a rotation.
			o.AppSecret = string(a.Secrets[0])
		}
		list = append(list, o)
	}
	return graph.NewApps(list)
}

// maxParked bounds the dead letters of one read model that are counted by page.
const maxParked = 10_000

// parkedPages counts by page the conversations that stand still, once for each read model and reactor.
func (p *Program) parkedPages() map[domain.PageID]int {
	out := p.parking.Stalled()
	for _, m := range p.models {
		if m.Status().Parked == 0 {
			continue
		}
		list, err := m.DeadLetters(projections.DeadLetter{}, maxParked)
		if err != nil && !errors.Is(err, projections.ErrDamaged) {
			p.log.Warn("can't read dead letters", "projection", m.Name(), "err", err)
		}
		for _, d := range list {
			if d.Behind == 0 {
				out[d.Page]++
			}
		}
	}
	return out
}

// newDoctor creates the doctor, which judges pages.
func (p *Program) newDoctor() *doctor.Doctor {
	o := doctor.Options{
		Pages: p.models.Pages(), Subscriptions: p.models.Subscriptions(), Head: p.known.Head, Verbs: p.connector,
		Loop: func(page domain.PageID) (meta.Loop, bool) {
			s, ok := p.reconciler.Page(page)
			return s.Loop, ok
		},
		AllSilent: p.reconciler.AllSilent,
		Parked:    p.parkedPages,
		Recent:    p.recent.Sum,
		Refused: func() (out []string) {
			for _, err := range p.health.refusals() {
				out = append(out, err.Error())
			}
			return out
		},
		Space: p.health.space.now, Durability: p.health.durable.state,
		MaxBody:  int64(p.cfg.Webhook.MaxBody),
		Storable: p.storable,
		Lost: func() string {
			if lost := p.lost.Found(); lost.Events > 0 {
				return lost.String()
			}
			return ""
		},
		AppSubscriptions: p.apps.Subscriptions,
		Endpoint:         p.endpoint,
		RetrievesLeads:   p.cfg.Leads.Retrieve,
	}
	for _, a := range p.cfg.Apps {
		one := doctor.App{Name: a.Name, VerifyToken: string(a.VerifyToken)}
		if a.ID != "" {
			one.GraphVersion = cmp.Or(a.GraphVersion, meta.GraphVersion)
		}
		o.Apps = append(o.Apps, one)
	}
	return doctor.New(o)
}

// newAppSetup creates what sets up the apps at Meta.
func (p *Program) newAppSetup() *apps.Setup {
	return apps.New(apps.Options{
		Names: p.apps.Names(), Endpoint: p.endpoint, Pages: p.models.Pages(),
		Graph: func(app string) (apps.Graph, bool) {
			c, name, ok := p.apps.Client(app)
			return appAtMeta{c, p.apps, name}, ok
		},
		VerifyToken: func(app string) string {
			for _, a := range p.cfg.Apps {
				if a.Name == app {
					return string(a.VerifyToken)
				}
			}
			return ""
		},
	})
}

// appAtMeta is the Graph of one app. What it reads is what checks of pages use for the next seconds.
type appAtMeta struct {
	*graph.Client
	apps *graph.Apps
	name string
}

// AppSubscriptions calls [graph.Apps.Subscriptions].
func (a appAtMeta) AppSubscriptions(ctx context.Context) ([]meta.AppSubscription, error) {
	list, _, err := a.apps.Subscriptions(ctx, a.name)
	return list, err
}

// endpoint returns the callback URL of an app's webhooks, or "" if the public URL is not known.
func (p *Program) endpoint(app string) string {
	base := p.baseURL()
	if base == "" {
		return ""
	}
	return base + "/webhooks/" + url.PathEscape(app)
}

// baseURL returns the URL of the public listener for browsers: http.base_url, or the listener's
// address if that is on loopback. It returns "" if the URL is not known.
func (p *Program) baseURL() string {
	if p.cfg.HTTP.BaseURL != "" {
		return p.cfg.HTTP.BaseURL
	}
	if addr, ok := p.publicLn.Addr().(*net.TCPAddr); ok && addr.IP.IsLoopback() {
		return "http://" + addr.String()
	}
	return ""
}

// startReactors starts the reactors. They are stopped before the publisher and the read models
// that they use.
func (p *Program) startReactors(context.Context) (err error) {
	if p.consumers, err = p.newConsumers(); err != nil {
		return err
	}
	p.rollback.tell(func(uint64) { p.consumers.Recheck() })
	run, stop := context.WithCancel(context.Background())
	p.onClose("reactors", func(context.Context) error {
		stop()
		p.reactors.Wait()
		return nil
	})
	start := func(name string, f func(context.Context) error) {
		p.reactors.Go(func() { streams.KeepRunning(run, p.log.With("reactor", name), f) })
	}
	start("reconcile", p.reconciler.Run)
	start("erase", p.eraser.Run)
	start("erase admins", p.admins.Run)
	start("secrets", p.secrets.Run)
	start("consumers", p.consumers.Run)
	if p.cfg.Profiles.MaxAge > 0 {
		profiles := profile.New(profile.Options{
			Connect: p.dial("profile", unbuffered), Domain: p.cfg.NATS.Domain, JS: p.js, Replicas: p.cfg.NATS.Replicas, Tail: p.tail,
			Parking: p.parking, Tokens: p.tokens, Graph: p.apps, Publisher: p.publisher, Conversations: p.models.Conversations(),
			MaxAge: p.cfg.Profiles.MaxAge, Logger: p.log.With("part", "profile"),
		})
		p.rollback.tell(func(uint64) { profiles.Recheck() })
		start("profile", profiles.Run)
	}
	if p.cfg.Leads.Retrieve {
		start("leads", leads.New(leads.Options{
			Connect: p.dial("leads", unbuffered), Domain: p.cfg.NATS.Domain, JS: p.js, Parking: p.parking, Tokens: p.tokens,
			Graph: p.apps, Publisher: p.publisher, Observe: p.metrics.leadTried, Logger: p.log.With("part", "leads"),
		}).Run)
	}
	return nil
}
