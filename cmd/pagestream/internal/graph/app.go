package graph

import (
	"context"
	"encoding/json"
	"slices"
)

// AppSubscription is the app-level subscription to one kind of object. Meta
// delivers a page's events only for fields that are subscribed here and on the
// page.
type AppSubscription struct {
	// Object is "page" or "instagram".
	Object      string
	CallbackURL string
	// Fields are sorted.
	Fields []string
	Active bool
}

// field is the name of a webhook field. Graph returns it as a string or, since
// fields have versions, as {"name", "version"}.
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

// AppSubscriptions lists the app-level subscriptions, with the app's own token.
// https://developers.facebook.com/docs/graph-api/reference/app/subscriptions
func (c *Client) AppSubscriptions(ctx context.Context) ([]AppSubscription, error) {
	type item struct {
		Object   string  `json:"object"`
		Callback string  `json:"callback_url"`
		Active   flag    `json:"active"`
		Fields   []field `json:"fields"`
	}
	k := call{path: path(c.opts.AppID, "subscriptions"), edge: "subscriptions", token: c.appToken()}
	list, err := listAll[item](ctx, c, k, maxPages)
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
