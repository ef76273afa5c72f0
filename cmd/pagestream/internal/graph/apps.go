package graph

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
)

// fieldsAge is how long the app's subscription to pages, or the error of reading it, is
// cached: every check of a page needs it.
const fieldsAge = 5 * time.Second

// AppOptions configure one app of [Apps].
type AppOptions struct {
	// Name is the app's name in the configuration.
	Name string
	// Options are those of the app's client. An app without an AppID has no client:
	// it can receive deliveries but not call Graph.
	Options
}

// Apps has the clients of the configured apps. It is safe for concurrent use.
// Create it with [NewApps].
type Apps struct {
	names   []string
	clients map[string]*appClient
}

// appClient is one app's client with its cached app-level subscriptions. Concurrent
// callers wait for one read of them.
type appClient struct {
	*Client
	mu   sync.Mutex
	at   time.Time
	subs []meta.AppSubscription
	err  error
}

// NewApps creates the clients of the apps. [ErrOptions] is returned if the options
// of one are not usable.
func NewApps(list []AppOptions) (*Apps, error) {
	a := &Apps{clients: make(map[string]*appClient, len(list))}
	for _, o := range list {
		a.names = append(a.names, o.Name)
		if o.AppID == "" {
			continue
		}
		c, err := New(o.Options)
		if err != nil {
			return nil, fmt.Errorf("app %s: %w", o.Name, err)
		}
		a.clients[o.Name] = &appClient{Client: c}
	}
	return a, nil
}

// Names returns the names of all apps in the order of the configuration, with and
// without a client.
func (a *Apps) Names() []string { return a.names }

// Client returns an app's client and name; the empty name means the first app. It
// returns false if the app has no client.
func (a *Apps) Client(app string) (c *Client, name string, ok bool) {
	one, name, ok := a.find(app)
	if !ok {
		return nil, name, false
	}
	return one.Client, name, true
}

// ID returns an app's id at Meta; the empty name means the first app. It returns
// false if the app has no client.
func (a *Apps) ID(app string) (id string, ok bool) {
	c, _, ok := a.find(app)
	if !ok {
		return "", false
	}
	return c.AppID(), true
}

func (a *Apps) find(app string) (c *appClient, name string, ok bool) {
	if app == "" && len(a.names) > 0 {
		app = a.names[0]
	}
	c, ok = a.clients[app]
	return c, app, ok
}

// CachedSubscriptions is [Apps.Subscriptions] as of five seconds ago or later.
func (a *Apps) CachedSubscriptions(
	ctx context.Context, app string,
) (list []meta.AppSubscription, known bool, err error) {
	return a.subscriptions(ctx, app, fieldsAge)
}

// Subscriptions lists the app-level subscriptions: Meta delivers only fields that are
// subscribed at both levels. Known is false if the app has no client or Graph does not
// answer.
func (a *Apps) Subscriptions(ctx context.Context, app string) (list []meta.AppSubscription, known bool, err error) {
	return a.subscriptions(ctx, app, 0)
}

// subscriptions reads the list if the last one is as old as age.
func (a *Apps) subscriptions(
	ctx context.Context, app string, age time.Duration,
) (list []meta.AppSubscription, known bool, err error) {
	c, _, ok := a.find(app)
	if !ok {
		return nil, false, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.opts.Now().Sub(c.at) < age {
		return c.subs, c.err == nil, c.err
	}
	list, err = c.AppSubscriptions(ctx)
	if ctx.Err() != nil {
		return nil, false, ctx.Err() // not cached: it concerns this caller only
	}
	c.at, c.subs, c.err = c.opts.Now(), list, nil
	if err != nil {
		c.err = fmt.Errorf("read app's subscriptions: %w", err)
	}
	return c.subs, c.err == nil, c.err
}

// Usage returns for each app what [Client.Usage] returns.
func (a *Apps) Usage() map[string][]Usage {
	out := make(map[string][]Usage, len(a.clients))
	for name, c := range a.clients {
		out[name] = c.Usage()
	}
	return out
}

// clientOf returns the client of the access's app. [meta.ErrNotConnected] is
// returned if there is none.
func (a *Apps) clientOf(access meta.Access) (*Client, error) {
	c, name, ok := a.Client(access.App)
	if !ok {
		return nil, fmt.Errorf("app %q of page %s: %w", name, access.Page, meta.ErrNotConnected)
	}
	return c, nil
}

// Send calls [Client.Send] for a page. [meta.ErrNotConnected] is returned if the
// page's app has no client.
func (a *Apps) Send(ctx context.Context, access meta.Access, m Outgoing) (Sent, error) {
	c, err := a.clientOf(access)
	if err != nil {
		return Sent{}, err
	}
	return c.Send(ctx, string(access.Page), access.Token, m)
}

// Profile calls [Client.Profile] for a page. [meta.ErrNotConnected] is returned if
// the page's app has no client.
func (a *Apps) Profile(
	ctx context.Context, access meta.Access, contact domain.ContactID, instagram bool,
) (Profile, error) {
	c, err := a.clientOf(access)
	if err != nil {
		return Profile{}, err
	}
	return c.Profile(ctx, string(access.Page), access.Token, string(contact), instagram)
}

// Conversations calls [Client.Conversations] for a page. [meta.ErrNotConnected] is
// returned if the page's app has no client.
func (a *Apps) Conversations(
	ctx context.Context, access meta.Access, platform, after string, limit int,
) (list []Conversation, next string, err error) {
	c, err := a.clientOf(access)
	if err != nil {
		return nil, "", err
	}
	return c.Conversations(ctx, string(access.Page), access.Token, platform, after, limit)
}

// Messages calls [Client.Messages] for a page. [meta.ErrNotConnected] is returned
// if the page's app has no client.
func (a *Apps) Messages(
	ctx context.Context, access meta.Access, conversation, after string,
) (list []Message, next string, err error) {
	c, err := a.clientOf(access)
	if err != nil {
		return nil, "", err
	}
	return c.Messages(ctx, string(access.Page), access.Token, conversation, after)
}
