package graph

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
)

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
func (c *Client) AppSubscriptions(ctx context.Context) ([]meta.AppSubscription, error) {
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
	subs := make([]meta.AppSubscription, 0, len(list))
	for _, i := range list {
		fields := make([]string, 0, len(i.Fields))
		for _, f := range i.Fields {
			if f != "" {
				fields = append(fields, string(f))
			}
		}
		slices.Sort(fields)
		subs = append(subs, meta.AppSubscription{
			Object: i.Object, CallbackURL: i.Callback, Fields: slices.Compact(fields), Active: bool(i.Active),
		})
	}
	return subs, nil
}

// SubscribeApp subscribes the app to an object, with the app's own token. Meta asks the callback URL for
// a handshake with the verify token before it answers, and refuses with code 2200 if that fails. The
// fields become those of the subscription. The call may be repeated. No error contains the verify token.
// https://developers.facebook.com/docs/graph-api/webhooks/subscriptions-edge
func (c *Client) SubscribeApp(ctx context.Context, s meta.AppSubscription, verifyToken string) error {
	if len(s.Fields) == 0 {
		return ErrNoFields
	}
	return c.succeed(ctx, call{
		method: http.MethodPost, path: path(c.opts.AppID, "subscriptions"), edge: "subscriptions", token: c.appToken(),
		params: url.Values{
			"object": {s.Object}, "callback_url": {s.CallbackURL}, "fields": {strings.Join(s.Fields, ",")},
			"verify_token": {verifyToken},
		},
		secrets: []string{verifyToken},
	})
}
