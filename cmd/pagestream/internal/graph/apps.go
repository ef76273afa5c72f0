package graph

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
)

// fieldsAge is how long an app's own fields, or that they can't be read, are
// believed: they are asked for with every page that is checked.
const fieldsAge = 5 * time.Second

// AppOptions configure one app of [Apps].
type AppOptions struct {
	// Name is what the app is called in the configuration.
	Name string
	// Options are those of its client. An app without an AppID has none: it can
	// receive but not call.
	Options
}

// Apps are the clients of the configured apps. It is safe for concurrent use. Make
// one with [NewApps].
type Apps struct {
	names []string
	of    map[string]*appClient
}

// appClient is one app's client, with the app's own fields of a moment ago. Who
// asks for them while they are read waits for that.
type appClient struct {
	*Client
	mu     sync.Mutex
	at     time.Time
	fields []string
	err    error
}

// NewApps returns the clients of the apps, in their order.
func NewApps(list []AppOptions) (*Apps, error) {
	a := &Apps{of: make(map[string]*appClient, len(list))}
	for _, o := range list {
		a.names = append(a.names, o.Name)
		if o.AppID == "" {
			continue
		}
		c, err := New(o.Options)
		if err != nil {
			return nil, fmt.Errorf("app %s: %w", o.Name, err)
		}
		a.of[o.Name] = &appClient{Client: c}
	}
	return a, nil
}

// Names returns the names of the apps, with and without a client.
func (a *Apps) Names() []string { return a.names }

// Client returns an app's client and its name; the empty name is the first app.
func (a *Apps) Client(app string) (c *Client, name string, ok bool) {
	one, name, ok := a.find(app)
	if !ok {
		return nil, name, false
	}
	return one.Client, name, true
}

// ID returns an app's id at Meta; the empty name is the first app.
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
	c, ok = a.of[app]
	return c, app, ok
}

// PageFields returns the fields that the app itself is subscribed to for pages, as
// they were at most five seconds ago: Meta delivers only what is subscribed at
// both levels. Known is false for an app without a client, and where Graph does
// not tell.
func (a *Apps) PageFields(ctx context.Context, app string) (fields []string, known bool, err error) {
	c, _, ok := a.find(app)
	if !ok {
		return nil, false, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.opts.Now().Sub(c.at) < fieldsAge {
		return c.fields, c.err == nil, c.err
	}
	list, err := c.AppSubscriptions(ctx)
	if ctx.Err() != nil {
		return nil, false, ctx.Err() // of this caller alone
	}
	c.at, c.fields, c.err = c.opts.Now(), []string{}, nil
	if err != nil {
		c.err = fmt.Errorf("read app's subscriptions: %w", err)
	}
	for _, s := range list {
		if s.Object == "page" {
			c.fields = s.Fields
		}
	}
	return c.fields, c.err == nil, c.err
}

// Subscriptions lists what the app itself is subscribed to, as Graph says now. Known
// is false for an app without a client.
func (a *Apps) Subscriptions(ctx context.Context, app string) (list []AppSubscription, known bool, err error) {
	c, _, ok := a.Client(app)
	if !ok {
		return nil, false, nil
	}
	list, err = c.AppSubscriptions(ctx)
	return list, true, err
}

// Usage lists by app what Graph last said of each limit, as [Client.Usage] does.
func (a *Apps) Usage() map[string][]Usage {
	out := make(map[string][]Usage, len(a.of))
	for name, c := range a.of {
		out[name] = c.Usage()
	}
	return out
}

// called returns the client of the app that access is of, or fails with
// [meta.ErrNotConnected].
func (a *Apps) called(access meta.Access) (*Client, error) {
	c, name, ok := a.Client(access.App)
	if !ok {
		return nil, fmt.Errorf("app %q of page %s: %w", name, access.Page, meta.ErrNotConnected)
	}
	return c, nil
}

// Send is [Client.Send] for a page. It fails with [meta.ErrNotConnected] where the
// page's app has no client.
func (a *Apps) Send(ctx context.Context, access meta.Access, m Outgoing) (Sent, error) {
	c, err := a.called(access)
	if err != nil {
		return Sent{}, err
	}
	return c.Send(ctx, string(access.Page), access.Token, m)
}

// Profile is [Client.Profile] for a page. It fails with [meta.ErrNotConnected]
// where the page's app has no client.
func (a *Apps) Profile(
	ctx context.Context, access meta.Access, contact domain.ContactID, instagram bool,
) (Profile, error) {
	c, err := a.called(access)
	if err != nil {
		return Profile{}, err
	}
	return c.Profile(ctx, string(access.Page), access.Token, string(contact), instagram)
}

// Conversations is [Client.Conversations] for a page. It fails with
// [meta.ErrNotConnected] where the page's app has no client.
func (a *Apps) Conversations(
	ctx context.Context, access meta.Access, platform, after string, limit int,
) (list []Conversation, next string, err error) {
	c, err := a.called(access)
	if err != nil {
		return nil, "", err
	}
	return c.Conversations(ctx, string(access.Page), access.Token, platform, after, limit)
}

// Messages is [Client.Messages] for a page. It fails with [meta.ErrNotConnected]
// where the page's app has no client.
func (a *Apps) Messages(
	ctx context.Context, access meta.Access, conversation, after string,
) (list []Message, next string, err error) {
	c, err := a.called(access)
	if err != nil {
		return nil, "", err
	}
	return c.Messages(ctx, string(access.Page), access.Token, conversation, after)
}
