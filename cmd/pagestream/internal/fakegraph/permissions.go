package fakegraph

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// callbackTimeout bounds a POST to one of the app's callbacks.
const callbackTimeout = 10 * time.Second

// KillUser makes every token of a person in an app invalid: their own and those
// of their pages. Subcodes are those of [Graph.KillToken].
func (g *Graph) KillUser(app, user string, subcode int) error {
	if g.apps[app].ID == "" || g.users[user].ID == "" {
		return fmt.Errorf("tokens of user %s: %w", user, ErrUnknown)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.killTokens(subcode, func(t *token) bool { return t.app == app && t.user == user })
	return nil
}

// killTokens lets those die that live; the lock is held.
func (g *Graph) killTokens(subcode int, which func(*token) bool) {
	for _, t := range g.tokens {
		if t.dead == 0 && which(t) {
			t.dead = cmp.Or(subcode, -1)
		}
	}
}

// RemoveApp is a person removing the app in their settings: their tokens die with
// 458, and the app's deauthorize callback is told, once, if it has one.
func (g *Graph) RemoveApp(ctx context.Context, app, user string) error {
	if err := g.KillUser(app, user, 458); err != nil {
		return err
	}
	target := g.apps[app].DeauthorizeURL
	if target == "" {
		return nil
	}
	if status, _, err := g.callBack(ctx, target, app, user); err != nil || status != http.StatusOK {
		return fmt.Errorf("deauthorize callback answered %d: %w", status, cmp.Or(err, ErrUndelivered))
	}
	return nil
}

// RequestDataDeletion is a person asking for their data to be deleted: it posts to
// the app's callback and returns what that answered.
func (g *Graph) RequestDataDeletion(ctx context.Context, app, user string) (status int, body []byte, err error) {
	if g.apps[app].DataDeletionURL == "" || g.users[user].ID == "" {
		return 0, nil, fmt.Errorf("data deletion callback of app %s: %w", app, ErrUnknown)
	}
	return g.callBack(ctx, g.apps[app].DataDeletionURL, app, user)
}

// callBack posts a signed_request about a person.
func (g *Graph) callBack(ctx context.Context, target, app, user string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callbackTimeout)
	defer cancel()
	return call(ctx, http.MethodPost, target, url.Values{"signed_request": {signedRequest(g.apps[app].Secret, user, g.opts.Now())}})
}

// call makes a request to a URL of the app's. Where there is no answer the status is 0.
func call(ctx context.Context, method, target string, form url.Values) (status int, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, target, strings.NewReader(form.Encode()))
	if err != nil {
		return 0, nil, fmt.Errorf("make callback: %w", err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("post callback: %w", err)
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return resp.StatusCode, nil, fmt.Errorf("read callback's answer: %w", err)
	}
	return resp.StatusCode, answer, nil
}

// signedRequest is what Meta posts about a person, signed with the app's secret.
// https://developers.facebook.com/docs/reference/login/signed-request
func signedRequest(secret, user string, at time.Time) string {
	payload := base64.RawURLEncoding.EncodeToString(marshal(map[string]any{
		"algorithm": "HMAC-SHA256", "user_id": user, "issued_at": at.Unix(), "expires": 0,
	}))
	return base64.RawURLEncoding.EncodeToString(sign(sha256.New, secret, payload)) + "." + payload
}

// permissions serves what a person has granted the app, and lets them take it
// back.
// https://developers.facebook.com/docs/graph-api/reference/user/permissions
func (g *Graph) permissions(q *request, t token, user string) (any, *failure) {
	if t.kind != "USER" || t.user != user {
		return nil, missing(q.method, user)
	}
	switch q.method {
	case http.MethodGet:
		data := []any{}
		for _, s := range t.scopes {
			data = append(data, map[string]any{"permission": s, "status": "granted"})
		}
		return map[string]any{"data": data}, nil
	case http.MethodDelete:
		// The permissions are gone whatever the app's callback answers.
		_ = g.RemoveApp(context.WithoutCancel(q.http.Context()), t.app, user)
		return map[string]any{"success": true}, nil
	}
	return nil, missing(q.method, user)
}
