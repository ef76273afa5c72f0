package graph

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
)

// App is any app that is subscribed to a page.
type App struct {
	ID   string
	Name string
	// Fields are the subscribed webhook fields, sorted.
	Fields []string
}

// maxPages is how many pages of a listing are read at most.
const maxPages = 50

// SubscribedApps lists every app that is subscribed to the page. It needs the
// page's own token.
// https://developers.facebook.com/docs/graph-api/reference/page/subscribed_apps
func (c *Client) SubscribedApps(ctx context.Context, page, token string) ([]App, error) {
	type item struct {
		ID     id       `json:"id"`
		Name   string   `json:"name"`
		Fields []string `json:"subscribed_fields"`
	}
	list, err := listAll[item](ctx, c, call{
		path: path(page, "subscribed_apps"), edge: "subscribed_apps", page: page, token: token,
		params: url.Values{"limit": {"100"}},
	}, maxPages)
	if err != nil {
		return nil, err
	}
	apps := make([]App, 0, len(list))
	for _, a := range list {
		slices.Sort(a.Fields)
		apps = append(apps, App{ID: string(a.ID), Name: a.Name, Fields: slices.Compact(a.Fields)})
	}
	return apps, nil
}

// Subscribe subscribes the app to the page with exactly these fields; fields of an
// earlier call that are not among them are removed. Graph refuses the whole call if
// one field is not allowed. The call may be repeated.
func (c *Client) Subscribe(ctx context.Context, page, token string, fields []string) error {
	if len(fields) == 0 {
		return ErrNoFields
	}
	return c.succeed(ctx, call{
		method: http.MethodPost, path: path(page, "subscribed_apps"), edge: "subscribed_apps", page: page, token: token,
		params: url.Values{"subscribed_fields": {strings.Join(fields, ",")}},
	})
}

// Unsubscribe removes the app from the page. The call may be repeated.
func (c *Client) Unsubscribe(ctx context.Context, page, token string) error {
	return c.succeed(ctx, call{
		method: http.MethodDelete, path: path(page, "subscribed_apps"), edge: "subscribed_apps", page: page, token: token,
	})
}

// succeed makes a call whose answer is {"success": true}.
func (c *Client) succeed(ctx context.Context, k call) error {
	var out struct {
		Success flag `json:"success"`
	}
	if err := c.do(ctx, k, &out); err != nil {
		return err
	}
	if !out.Success {
		return fmt.Errorf("%s %s: %w: it does not report success", k.method, k.path, ErrAnswer)
	}
	return nil
}

// Page returns the page's name and the id of its linked Instagram account. The id is
// empty if there is none or the token may not see it.
func (c *Client) Page(ctx context.Context, page, token string) (name, instagram string, err error) {
	p := path(page, "")
	var out struct {
		ID        id     `json:"id"`
		Name      string `json:"name"`
		Instagram struct {
			ID id `json:"id"`
		} `json:"instagram_business_account"`
	}
	get := func(fields string) error {
		return c.do(ctx, call{
			method: http.MethodGet, path: p, edge: "page", page: page, token: token, params: url.Values{"fields": {fields}},
		}, &out)
	}
	err = get("id,name,instagram_business_account{id}")
	if notGranted(err) {
		err = get("id,name")
	}
	if err != nil {
		return "", "", err
	}
	if string(out.ID) != page {
		return "", "", fmt.Errorf("GET %s: %w", p, ErrOtherPage)
	}
	return out.Name, string(out.Instagram.ID), nil
}

// Instagram returns the id of the Instagram account that is linked to the page, empty
// if there is none. It fails if the token may not see the account.
func (c *Client) Instagram(ctx context.Context, page, token string) (string, error) {
	var out struct {
		ID        id `json:"id"`
		Instagram struct {
			ID id `json:"id"`
		} `json:"instagram_business_account"`
	}
	p := path(page, "")
	err := c.do(ctx, call{
		method: http.MethodGet, path: p, edge: "page", page: page, token: token,
		params: url.Values{"fields": {"id,instagram_business_account{id}"}},
	}, &out)
	if err != nil {
		return "", err
	}
	if string(out.ID) != page {
		return "", fmt.Errorf("GET %s: %w", p, ErrOtherPage)
	}
	return string(out.Instagram.ID), nil
}

// TokenInfo is what Graph reports about a token.
type TokenInfo struct {
	AppID string
	// Type is "PAGE", "USER" or "APP".
	Type string
	// Page is the page of a page token, User the app-scoped id of the person who
	// granted it.
	Page  string
	User  string
	Valid bool
	// A time that does not apply is zero: a page token made with a long-lived user
	// token has no Expires.
	Issued, Expires, DataAccessExpires time.Time
	Scopes                             []string
	// Granted lists for each scope the objects that it was granted for; a scope without
	// an entry was granted for all.
	Granted map[string][]string
	// Err is why the token is not valid, nil if it is or Graph does not say.
	Err *meta.Error
}

// DebugToken asks Graph about a token, with the app's own token. An invalid token is
// not an error: see [TokenInfo.Valid].
//
// Graph documents a GET with the token in the URL. To keep the token out of URLs,
// the call is a POST with method=GET in the form, which Graph has always accepted
// and Meta's first SDKs relied on.
// https://developers.facebook.com/docs/graph-api/reference/debug_token
func (c *Client) DebugToken(ctx context.Context, inputToken string) (TokenInfo, error) {
	if inputToken == "" {
		return TokenInfo{}, ErrNoToken
	}
	var out struct {
		Data *struct {
			AppID             id         `json:"app_id"`
			Type              string     `json:"type"`
			Profile           id         `json:"profile_id"`
			User              id         `json:"user_id"`
			Valid             flag       `json:"is_valid"`
			Issued            number     `json:"issued_at"`
			Expires           number     `json:"expires_at"`
			DataAccessExpires number     `json:"data_access_expires_at"`
			Scopes            []string   `json:"scopes"`
			Error             *errorBody `json:"error"`
			Granular          []struct {
				Scope   string `json:"scope"`
				Targets []id   `json:"target_ids"`
			} `json:"granular_scopes"`
		} `json:"data"`
	}
	k := call{
		method: http.MethodPost, path: "/debug_token", edge: "debug_token", token: c.appToken(),
		params:  url.Values{"method": {http.MethodGet}, "input_token": {inputToken}},
		secrets: []string{inputToken},
	}
	if err := c.do(ctx, k, &out); err != nil {
		return TokenInfo{}, err
	}
	d := out.Data
	if d == nil {
		return TokenInfo{}, fmt.Errorf("debug_token: %w: it has no data", ErrAnswer)
	}
	info := TokenInfo{
		AppID: string(d.AppID), Type: d.Type, Page: string(d.Profile), User: string(d.User), Valid: bool(d.Valid),
		Issued: unix(d.Issued), Expires: unix(d.Expires), DataAccessExpires: unix(d.DataAccessExpires),
		Scopes: d.Scopes,
	}
	for _, g := range d.Granular {
		if info.Granted == nil {
			info.Granted = map[string][]string{}
		}
		// A scope without targets was granted for all objects.
		for _, target := range g.Targets {
			info.Granted[g.Scope] = append(info.Granted[g.Scope], string(target))
		}
	}
	if d.Error != nil {
		info.Err = d.Error.refusal(http.StatusOK, []string{inputToken, c.opts.AppSecret})
	}
	return info, nil
}

func unix(seconds number) time.Time {
	if seconds <= 0 {
		return time.Time{}
	}
	return time.Unix(int64(seconds), 0).UTC()
}
