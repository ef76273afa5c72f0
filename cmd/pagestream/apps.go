package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/profile"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/domain"
)

// metaApps are the Graph clients of the configured apps. An app without an id
// can receive but not call.
type metaApps struct {
	apps    []config.App
	clients map[string]*graph.Client
	fields  *fieldCache
}

// fieldsAge is how long an app's own fields, or that they can't be read, are taken
// for true: they are asked for with every page that is checked.
const fieldsAge = 5 * time.Second

// fieldCache has the apps' own fields of a moment ago.
type fieldCache struct {
	mu sync.Mutex
	of map[string]*appFields
}

// appFields are one app's. Whoever asks while they are read waits for that.
type appFields struct {
	mu     sync.Mutex
	at     time.Time
	fields []string
	err    error
}

func (c *fieldCache) app(name string) *appFields {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of[name] == nil {
		c.of[name] = &appFields{}
	}
	return c.of[name]
}

func newMetaApps(apps []config.App, observe func(graph.Observation)) (metaApps, error) {
	m := metaApps{
		apps: apps, clients: make(map[string]*graph.Client, len(apps)),
		fields: &fieldCache{of: map[string]*appFields{}},
	}
	for _, a := range apps {
		if a.ID == "" {
			continue
		}
		// The first secret is the current one; further ones only verify what
		// was signed before a rotation.
		g, err := graph.New(graph.Options{
			BaseURL: a.GraphURL, LoginURL: a.LoginURL, Version: a.GraphVersion,
			AppID: a.ID, AppSecret: string(a.Secrets[0]), Observe: observe,
		})
		if err != nil {
			return metaApps{}, fmt.Errorf("app %s: %w", a.Name, err)
		}
		m.clients[a.Name] = g
	}
	return m, nil
}

// client finds an app's client; the empty name is the first app.
func (m metaApps) client(app string) (g *graph.Client, name string, ok bool) {
	if app == "" {
		app = m.apps[0].Name
	}
	g, ok = m.clients[app]
	return g, app, ok
}

// config finds an app by its name; the empty name is the first app.
func (m metaApps) config(app string) (config.App, bool) {
	for _, a := range m.apps {
		if app == "" || a.Name == app {
			return a, a.ID != ""
		}
	}
	return config.App{}, false
}

// appFields are the app-level fields of what pages bring: only what is
// subscribed at both levels is delivered.
func (m metaApps) appFields(ctx context.Context, app string) (fields []string, known bool, err error) {
	g, name, ok := m.client(app)
	if !ok {
		return nil, false, nil
	}
	a := m.fields.app(name)
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Since(a.at) < fieldsAge {
		return a.fields, a.err == nil, a.err
	}
	list, err := g.AppSubscriptions(ctx)
	if ctx.Err() != nil {
		return nil, false, ctx.Err() // of this caller alone
	}
	a.at, a.fields, a.err = time.Now(), []string{}, nil
	if err != nil {
		a.err = fmt.Errorf("read app's subscriptions: %w", err)
	}
	for _, s := range list {
		if s.Object == "page" {
			a.fields = s.Fields
		}
	}
	return a.fields, a.err == nil, a.err
}

// profiles asks who a contact is.
type profiles struct{ metaApps }

func (p profiles) Profile(ctx context.Context, app string, page domain.PageID, token string, contact domain.ContactID, instagram bool) (name, picture string, err error) {
	g, _, ok := p.client(app)
	if !ok {
		return "", "", profile.ErrNotConnected
	}
	out, err := g.Profile(ctx, string(page), token, string(contact), instagram)
	return out.Name, out.Picture, err
}

// person is an app's client as package connect asks what a person lets it use.
type person struct {
	*graph.Client
	app config.App
}

func (c person) LoginURL(redirectURI, state string) string {
	return c.Client.LoginURL(redirectURI, state, scopes(c.app), c.app.LoginConfigID)
}

func (c person) ExchangeCode(ctx context.Context, redirectURI, code string) (string, error) {
	t, err := c.Client.ExchangeCode(ctx, redirectURI, code)
	return t.Value, err
}

func (c person) LongLived(ctx context.Context, userToken string) (string, time.Time, error) {
	t, err := c.Client.LongLived(ctx, userToken)
	return t.Value, t.Expires, err
}

func (c person) Debug(ctx context.Context, token string) (connect.TokenInfo, error) {
	t, err := c.DebugToken(ctx, token)
	if err != nil {
		return connect.TokenInfo{}, err
	}
	out := connect.TokenInfo{
		App: t.AppID, Kind: t.Type, Page: t.Page, User: t.User, Valid: t.Valid,
		Expires: t.Expires, DataAccessExpires: t.DataAccessExpires, Scopes: t.Scopes, Granted: t.Granted,
	}
	if t.Err != nil {
		out.Code, out.Subcode, out.Words = t.Err.Code, t.Err.Subcode, t.Err.Words()
	}
	return out, nil
}

func (c person) Accounts(ctx context.Context, user, userToken string) ([]connect.Account, error) {
	list, err := c.Client.Accounts(ctx, user, userToken)
	out := make([]connect.Account, len(list))
	for i, a := range list {
		out[i] = connect.Account{Page: domain.PageID(a.ID), Name: a.Name, Token: a.Token, Instagram: a.Instagram, Tasks: a.Tasks}
	}
	return out, err
}

// scopes are what the login asks for, by default what pages on Messenger need.
func scopes(a config.App) []string {
	if len(a.LoginScopes) > 0 {
		return a.LoginScopes
	}
	return strings.Fields("pages_show_list pages_messaging pages_manage_metadata pages_read_engagement")
}
