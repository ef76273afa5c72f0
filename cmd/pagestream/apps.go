package main

import (
	"context"
	"fmt"
	"strings"

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
}

func newMetaApps(apps []config.App, observe func(graph.Observation)) (metaApps, error) {
	m := metaApps{apps: apps, clients: make(map[string]*graph.Client, len(apps))}
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
	g, _, ok := m.client(app)
	if !ok {
		return nil, false, nil
	}
	list, err := g.AppSubscriptions(ctx)
	if err != nil {
		return nil, false, fmt.Errorf("read app's subscriptions: %w", err)
	}
	for _, s := range list {
		if s.Object == "page" {
			return s.Fields, true, nil
		}
	}
	return []string{}, true, nil
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

// scopes are what the login asks for, by default what pages on Messenger need.
func scopes(a config.App) []string {
	if len(a.LoginScopes) > 0 {
		return a.LoginScopes
	}
	return strings.Fields("pages_show_list pages_messaging pages_manage_metadata pages_read_engagement")
}
