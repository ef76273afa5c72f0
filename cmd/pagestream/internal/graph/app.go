package graph

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// AppSubscription is what the app itself is subscribed to for one kind of
// object. A page's events come only for fields that are subscribed here and on
// the page.
type AppSubscription struct {
	// Object is "page" or "instagram".
	Object      string
	CallbackURL string
	// Fields are sorted.
	Fields []string
	Active bool
}

// field is the name of a webhook field, which comes as a string or, since there
// are versions of them, as {"name", "version"}.
type field string

func (f *field) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, (*string)(f))
	}
	var in struct {
		Name string `json:"name"`
	}
	err := json.Unmarshal(b, &in)
	*f = field(in.Name)
	return err
}

// AppSubscriptions lists the app's own subscriptions, with the app's token.
// https://developers.facebook.com/docs/graph-api/reference/app/subscriptions
func (c *Client) AppSubscriptions(ctx context.Context) ([]AppSubscription, error) {
	type item struct {
		Object   string  `json:"object"`
		Callback string  `json:"callback_url"`
		Active   flag    `json:"active"`
		Fields   []field `json:"fields"`
	}
	list, err := all[item](ctx, c, call{path: path(c.opts.AppID, "subscriptions"), edge: "subscriptions", token: c.appToken()}, maxPages)
	if err != nil {
		return nil, err
	}
	subs := make([]AppSubscription, 0, len(list))
	for _, i := range list {
		fields := make([]string, 0, len(i.Fields))
		for _, f := range i.Fields {
			if f != "" {
				fields = append(fields, string(f))
			}
		}
		slices.Sort(fields)
		subs = append(subs, AppSubscription{
			Object: i.Object, CallbackURL: i.Callback, Fields: slices.Compact(fields), Active: bool(i.Active),
		})
	}
	return subs, nil
}

// SubscribeApp sets what the app is subscribed to for s.Object: exactly these
// fields, delivered to s.CallbackURL. Graph asks that URL for the verify token
// before it answers. It may be repeated; s.Active is not looked at.
func (c *Client) SubscribeApp(ctx context.Context, s AppSubscription, verifyToken string) error {
	switch {
	case s.Object == "":
		return ErrObject
	case len(s.Fields) == 0:
		return ErrNoFields
	case verifyToken == "":
		return ErrNoToken
	}
	return c.succeed(ctx, call{
		method: http.MethodPost, path: path(c.opts.AppID, "subscriptions"), edge: "subscriptions", token: c.appToken(), secrets: []string{verifyToken},
		params: url.Values{
			"object": {s.Object}, "callback_url": {s.CallbackURL}, "fields": {strings.Join(s.Fields, ",")},
			"include_values": {"true"}, "verify_token": {verifyToken},
		},
	})
}

// UnsubscribeApp ends the app's subscription for object, for all its pages. It
// may be repeated. Without an object Graph would end all of them, so that is
// refused here.
func (c *Client) UnsubscribeApp(ctx context.Context, object string) error {
	if object == "" {
		return ErrObject
	}
	return c.succeed(ctx, call{
		method: http.MethodDelete, path: path(c.opts.AppID, "subscriptions"), edge: "subscriptions", token: c.appToken(), params: url.Values{"object": {object}},
	})
}
