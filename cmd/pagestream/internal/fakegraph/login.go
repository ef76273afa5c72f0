package fakegraph

import (
	"cmp"
	"crypto/hmac"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// dialog serves the login dialog. The first user, or the one in the parameter user,
// consents at once, unless the picker is shown.
// https://developers.facebook.com/docs/facebook-login/guides/advanced/manual-flow
func (g *Graph) dialog(q *request) (any, *failure) {
	if q.method != http.MethodGet {
		return nil, missing(q.method, "dialog")
	}
	app, ok := g.apps[q.params["client_id"]]
	if !ok {
		return nil, oauth(http.StatusBadRequest, 101, 0, "Invalid App ID")
	}
	redirect, err := url.Parse(q.params["redirect_uri"])
	if err != nil || redirect.Host == "" || redirect.Fragment != "" ||
		redirect.Scheme != "http" && redirect.Scheme != "https" {
		return nil, oauth(http.StatusBadRequest, 191, 0, "The redirect_uri URL must be absolute")
	}
	if kind := q.params["response_type"]; kind != "" && kind != "code" {
		return nil, oauth(http.StatusBadRequest, 100, 0, "(#100) This dialog gives response_type=code")
	}
	user := cmp.Or(q.params["user"], g.opts.Users[0].ID)
	if _, ok := g.users[user]; !ok {
		return nil, missing(q.method, user)
	}
	answer := url.Values{
		"error": {"access_denied"}, "error_code": {"200"}, "error_reason": {"user_denied"},
		"error_description": {"Permissions error"},
	}
	if q.params["deny"] == "" {
		if g.servePicker(q, app, user) {
			return nil, nil //nolint:nilnil // servePicker has answered
		}
		now := g.opts.Now()
		text := letters(g.hash("code", g.nextSerial(), now.String()))
		g.codes.Add(text, &code{app: app.ID, user: user, redirect: q.params["redirect_uri"], issued: now})
		answer = url.Values{"code": {text}}
	}
	if state, ok := q.params["state"]; ok {
		answer.Set("state", state)
	}
	query := redirect.Query()
	maps.Copy(query, answer)
	redirect.RawQuery = query.Encode()
	http.Redirect(q.w, q.http, redirect.String(), http.StatusFound)
	return nil, nil //nolint:nilnil // the redirect is the answer
}

// exchange returns a token for a login code, for another token, or for the app's
// secret.
// https://developers.facebook.com/docs/facebook-login/guides/access-tokens
func (g *Graph) exchange(q *request) (any, *failure) {
	if q.method != http.MethodGet && q.method != http.MethodPost {
		return nil, missing(q.method, "access_token")
	}
	app, ok := g.apps[q.params["client_id"]]
	if !ok {
		return nil, oauth(http.StatusBadRequest, 101, 0,
			"Error validating application. Cannot get application info due to a system error.")
	}
	if !hmac.Equal([]byte(q.params["client_secret"]), []byte(app.Secret)) {
		return nil, oauth(http.StatusBadRequest, 1, 0, "Error validating client secret.")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch grant := q.params["grant_type"]; grant {
	case "client_credentials":
		return map[string]any{"access_token": app.ID + "|" + app.Secret, "token_type": "bearer"}, nil
	case "fb_exchange_token":
		t := g.tokens[q.params["fb_exchange_token"]]
		if t == nil || t.kind != "USER" || t.app != app.ID {
			return nil, oauth(http.StatusBadRequest, 190, 0, "Invalid OAuth access token - Cannot parse access token")
		}
		if fail := g.tokenError(t); fail != nil {
			return nil, fail
		}
		return g.tokenResponse(app.ID, t.user, true), nil
	case "", "authorization_code":
	default:
		return nil, oauth(http.StatusBadRequest, 100, 0, "(#100) grant_type "+strconv.Quote(grant)+" is not supported")
	}
	c, _ := g.codes.Get(q.params["code"])
	switch {
	case c == nil || c.app != app.ID:
		return nil, oauth(http.StatusBadRequest, 100, 36009, "Invalid verification code format.")
	case c.used:
		return nil, oauth(http.StatusBadRequest, 100, 36009, "This authorization code has been used.")
	case g.opts.Now().Sub(c.issued) > codeLife:
		return nil, oauth(http.StatusBadRequest, 100, 36007, "This authorization code has expired.")
	case c.redirect != q.params["redirect_uri"]:
		return nil, oauth(http.StatusBadRequest, 100, 36008,
			"Error validating verification code. Please make sure your redirect_uri is identical "+
				"to the one you used in the OAuth dialog request")
	}
	c.used = true
	delete(g.dataAccess, [2]string{app.ID, c.user})
	return g.tokenResponse(app.ID, c.user, false), nil
}

// tokenResponse returns a user token as exchange answers it. The caller holds the
// lock.
func (g *Graph) tokenResponse(app, user string, long bool) any {
	access := g.userToken(app, user, long)
	life := g.tokens[access].expires.Sub(g.opts.Now())
	return map[string]any{"access_token": access, "token_type": "bearer", "expires_in": int64(life / time.Second)}
}

// debugToken describes a token. For an invalid token it returns data with is_valid
// false, not an error.
// https://developers.facebook.com/docs/graph-api/reference/debug_token
func (g *Graph) debugToken(q *request) (any, *failure) {
	if q.method != http.MethodGet {
		return nil, missing(q.method, "debug_token")
	}
	caller, fail := g.authorize(q)
	if fail != nil {
		return nil, fail
	}
	if caller.kind != "APP" {
		return nil, oauth(http.StatusBadRequest, 100, 0, "(#100) You must provide an app access token, "+
			"or a user access token that is an owner or developer of the app")
	}
	input := q.params["input_token"]
	if input == "" {
		return nil, oauth(http.StatusBadRequest, 100, 0, "(#100) The parameter input_token is required")
	}
	if strings.Contains(input, "|") {
		t, fail := g.findToken(input)
		if fail != nil {
			return invalidTokenInfo(fail), nil
		}
		return map[string]any{"data": map[string]any{
			"app_id": t.app, "type": "APP", "application": g.apps[t.app].Name, "is_valid": true, "scopes": []string{},
		}}, nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.tokens[input]
	if t == nil {
		return invalidTokenInfo(oauth(0, 190, 0, "Invalid OAuth access token.")), nil
	}
	if t.app != caller.app {
		return nil, oauth(http.StatusBadRequest, 100, 0,
			"(#100) The App_id in the input_token did not match the Viewing App")
	}
	// A page token, too, has the pages that its person has granted.
	targets := append([]string{}, g.grantedPages(t.app, t.user)...)
	granular := []any{}
	for _, s := range t.scopes {
		granular = append(granular, map[string]any{"scope": s, "target_ids": targets})
	}
	dataEnds, ended := g.dataAccess[[2]string{t.app, t.user}]
	if !ended {
		dataEnds = t.issued.Add(dataAccess)
	}
	data := map[string]any{
		"app_id": t.app, "type": t.kind, "application": g.apps[t.app].Name, "user_id": t.user, "is_valid": true,
		"issued_at": t.issued.Unix(), "expires_at": 0, "data_access_expires_at": dataEnds.Unix(),
		"scopes": t.scopes, "granular_scopes": granular,
	}
	if !t.expires.IsZero() {
		data["expires_at"] = t.expires.Unix()
	}
	if t.kind == "PAGE" {
		data["profile_id"] = t.page
	}
	if fail := g.tokenError(t); fail != nil {
		data["is_valid"] = false
		data["error"] = map[string]any{"code": fail.code, "message": fail.message, "subcode": fail.sub}
	}
	return map[string]any{"data": data}, nil
}

// invalidTokenInfo returns the data of debug_token for an invalid token.
func invalidTokenInfo(f *failure) any {
	return map[string]any{"data": map[string]any{
		"error": map[string]any{"code": f.code, "message": f.message}, "is_valid": false, "scopes": []string{},
	}}
}
