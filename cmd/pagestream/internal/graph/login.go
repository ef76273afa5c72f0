package graph

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxAccountPages limits the listing of a person's pages. It is enough for 5000 even
// if Graph returns its default of 25 at a time, with some empty pages in between.
const maxAccountPages = 250

// Token is an access token that Graph issued. Printing it does not show its value.
type Token struct {
	Value string `json:"-"`
	// Expires is zero for a token that does not expire, or if Graph does not say.
	Expires time.Time
}

// Format keeps the token out of logs, for every format verb.
func (t Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[token]") }

// DefaultLoginScopes returns the permissions that the login requests if [Options]
// has none: those that pages on Messenger need.
func DefaultLoginScopes() []string {
	return []string{"pages_show_list", "pages_messaging", "pages_manage_metadata", "pages_read_engagement"}
}

// LoginURL returns the URL of the dialog in which a person grants pages to the app.
// RedirectURI must be the same, byte for byte, in [Client.ExchangeCode].
// https://developers.facebook.com/docs/facebook-login/guides/advanced/manual-flow
func (c *Client) LoginURL(redirectURI, state string) string {
	q := url.Values{
		"client_id": {c.opts.AppID}, "redirect_uri": {redirectURI}, "state": {state}, "response_type": {"code"},
	}
	if c.opts.LoginConfigID != "" {
		q.Set("config_id", c.opts.LoginConfigID)
	} else {
		q.Set("scope", strings.Join(c.opts.LoginScopes, ","))
	}
	return c.login + "/dialog/oauth?" + q.Encode()
}

// ExchangeCode exchanges the code of a login for the person's token. A code can be
// used once: after any error except a rate limit, a new login is needed.
func (c *Client) ExchangeCode(ctx context.Context, redirectURI, code string) (Token, error) {
	if code == "" {
		return Token{}, ErrNoToken
	}
	return c.exchange(ctx, call{
		params: url.Values{"redirect_uri": {redirectURI}, "code": {code}}, secrets: []string{code}, noRetry: true,
	})
}

// LongLived exchanges a person's valid token for one that lasts about 60 days. Page
// tokens that are read with it do not expire. The call may be repeated.
func (c *Client) LongLived(ctx context.Context, userToken string) (Token, error) {
	if userToken == "" {
		return Token{}, ErrNoToken
	}
	return c.exchange(ctx, call{
		params:  url.Values{"grant_type": {"fb_exchange_token"}, "fb_exchange_token": {userToken}},
		secrets: []string{userToken},
	})
}

// exchange requests a token. Graph documents a GET; OAuth requires a POST (RFC 6749,
// section 3.2), which Graph accepts as well and which keeps the secrets out of URLs.
func (c *Client) exchange(ctx context.Context, k call) (Token, error) {
	k.method, k.path, k.edge, k.token = http.MethodPost, "/oauth/access_token", "oauth/access_token", c.appToken()
	k.params.Set("client_id", c.opts.AppID)
	k.params.Set("client_secret", c.opts.AppSecret)
	var out struct {
		Token   string `json:"access_token"`
		Expires number `json:"expires_in"` // seconds
	}
	asked := c.opts.Now()
	if err := c.do(ctx, k, &out); err != nil {
		return Token{}, err
	}
	if out.Token == "" {
		return Token{}, fmt.Errorf("POST %s: %w: it has no token", k.path, ErrAnswer)
	}
	t := Token{Value: out.Token}
	if out.Expires > 0 {
		const limit = 10 * 365 * 24 * 3600 // prevents an overflow of the duration
		t.Expires = asked.Add(time.Duration(min(out.Expires, limit)) * time.Second)
	}
	return t, nil
}

// Account is a page that a person granted to the app. Printing it does not show
// its token.
type Account struct {
	// ID is the page's id.
	ID       string
	Name     string
	Category string
	// Token is the page's own token, empty if the person's role gives none.
	Token string `json:"-"`
	// Instagram is the id of the linked account, empty if there is none or the token
	// may not see it.
	Instagram string
	// Tasks are what the person may do on the page: "MANAGE", "MODERATE", "MESSAGING"
	// and others.
	Tasks []string
}

// Format keeps the token out of logs, for every format verb.
func (a Account) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "page "+a.ID) }

// Accounts lists every page that the person granted to the app, each once, in
// Graph's order. Graph omits pages that were not granted, without an error.
// https://developers.facebook.com/docs/graph-api/reference/user/accounts
func (c *Client) Accounts(ctx context.Context, user, userToken string) ([]Account, error) {
	p := path(user, "accounts")
	get := func(fields string) ([]accountItem, error) {
		return listAll[accountItem](ctx, c, call{
			path: p, edge: "accounts", token: userToken, params: url.Values{"fields": {fields}, "limit": {"100"}},
		}, maxAccountPages)
	}
	list, err := get("id,name,access_token,tasks,category,instagram_business_account{id}")
	if notGranted(err) {
		list, err = get("id,name,access_token,tasks,category")
	}
	if err != nil {
		return nil, err
	}
	accounts := make([]Account, 0, len(list))
	seen := make(map[id]bool, len(list))
	for _, a := range list {
		if !isID(string(a.ID)) {
			return nil, fmt.Errorf("GET %s: %w: a page has no id", p, ErrAnswer)
		}
		if seen[a.ID] {
			continue // it moved while the listing was read
		}
		seen[a.ID] = true
		accounts = append(accounts, a.account())
	}
	return accounts, nil
}

// accountItem is a page that a person may use, in Graph's JSON.
type accountItem struct {
	ID        id       `json:"id"`
	Name      string   `json:"name"`
	Category  string   `json:"category"`
	Token     string   `json:"access_token"`
	Tasks     []string `json:"tasks"`
	Instagram struct {
		ID id `json:"id"`
	} `json:"instagram_business_account"`
}

func (a accountItem) account() Account {
	return Account{
		ID: string(a.ID), Name: a.Name, Category: a.Category, Token: a.Token, Instagram: string(a.Instagram.ID),
		Tasks: a.Tasks,
	}
}

// Account reads one page that the person granted to the app, with its token. Graph lists a page that
// the person has through a business only if the app has business_management, but answers about it by
// its id. The account has no Tasks, which only the list has.
func (c *Client) Account(ctx context.Context, page, userToken string) (Account, error) {
	p := path(page, "")
	var out accountItem
	get := func(fields string) error {
		return c.do(ctx, call{
			method: http.MethodGet, path: p, edge: "page", token: userToken, params: url.Values{"fields": {fields}},
		}, &out)
	}
	err := get("id,name,access_token,category,instagram_business_account{id}")
	if notGranted(err) {
		err = get("id,name,access_token,category")
	}
	if err != nil {
		return Account{}, err
	}
	if string(out.ID) != page {
		return Account{}, fmt.Errorf("GET %s: %w", p, ErrOtherPage)
	}
	return out.account(), nil
}
