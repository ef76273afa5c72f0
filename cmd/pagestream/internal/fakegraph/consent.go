package fakegraph

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// SetGranted changes which pages a person grants to an app, as a later consent
// does; nil is all. Tokens of the other pages stay valid, but their requests are
// rejected.
func (g *Graph) SetGranted(app, user string, pages []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := [2]string{app, user}
	if pages == nil {
		delete(g.granted, key)
		return
	}
	g.granted[key] = slices.Clone(pages)
}

// grantedPages returns the pages on which a person has a role and that they grant
// to the app. The caller holds the lock.
func (g *Graph) grantedPages(app, user string) []string {
	chosen, limited := g.granted[[2]string{app, user}]
	return slices.DeleteFunc(slices.Clone(g.users[user].Pages), func(page string) bool {
		return limited && !slices.Contains(chosen, page) || len(g.tasksOf(user, page)) == 0
	})
}

// notGranted returns the error for every request with a page token if the consent
// no longer includes the page, nil otherwise.
func (g *Graph) notGranted(t token) *failure {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.kind != "PAGE" || slices.Contains(g.grantedPages(t.app, t.user), t.page) {
		return nil
	}
	return oauth(http.StatusForbidden, 10, 0, "(#10) This endpoint requires the 'pages_manage_metadata' permission "+
		"or the page must be granted to the application")
}

// ExpireDataAccess ends the app's access to a person's data, as Meta does after 90
// days of inactivity: their tokens become invalid, and debug_token returns the
// time. A new login restores the access.
func (g *Graph) ExpireDataAccess(app, user string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dataAccess[[2]string{app, user}] = g.opts.Now().Add(-time.Minute)
}

var picker = template.Must(template.New("picker").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Log in to {{.App}}</title></head><body>
<h1>{{.User}}, choose the pages that {{.App}} may use</h1>
<form method="get" action="">
{{range $k, $v := .Hidden}}<input type="hidden" name="{{$k}}" value="{{index $v 0}}">
{{end}}{{range .Pages}}<p><label><input type="checkbox" name="page" value="{{.ID}}"{{if .On}} checked{{end}}>
{{.Name}} ({{.ID}})</label></p>
{{end}}<button name="continue" value="1">Continue</button> <button name="deny" value="1">Cancel</button></form>
</body></html>
`))

// servePicker serves the page picker, or stores the pages that were chosen there:
// page=, or pages= separated by commas for scripts. It reports whether it has
// answered the request.
func (g *Graph) servePicker(q *request, app App, user string) (answered bool) {
	query := q.http.URL.Query()
	switch {
	case query.Get("pages") != "":
		g.SetGranted(app.ID, user, strings.Split(query.Get("pages"), ","))
		return false
	case query.Get("continue") != "":
		g.SetGranted(app.ID, user, append([]string{}, query["page"]...))
		return false
	case !g.opts.Picker && query.Get("display") != "picker":
		return false
	}
	var pages []any
	g.mu.Lock()
	on := g.grantedPages(app.ID, user)
	for _, id := range g.users[user].Pages {
		if len(g.tasksOf(user, id)) > 0 {
			pages = append(pages, map[string]any{"ID": id, "Name": g.pages[id].Name, "On": slices.Contains(on, id)})
		}
	}
	g.mu.Unlock()
	q.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = picker.Execute(q.w, map[string]any{"App": app.Name, "User": g.users[user].Name, "Hidden": query, "Pages": pages})
	return true
}

// allTasks are the tasks of a person with full control of a page.
var allTasks = []string{"ADVERTISE", "ANALYZE", "CREATE_CONTENT", "MESSAGING", "MODERATE", "MANAGE"}

// SetTasks changes a person's tasks on a page. Without any the person has lost the
// role: the page is no longer among their accounts, and their tokens of the page
// become invalid with subcode 492. [ErrUnknown] is returned when the person has no
// such page.
func (g *Graph) SetTasks(user, page string, tasks []string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.Contains(g.users[user].Pages, page) {
		return fmt.Errorf("role of user %s on page %s: %w", user, page, ErrUnknown)
	}
	g.tasks[[2]string{user, page}] = append([]string{}, tasks...)
	if len(tasks) == 0 {
		g.killTokens(492, func(t *token) bool { return t.user == user && t.page == page })
	}
	return nil
}

// tasksOf returns a person's tasks on a page. The caller holds the lock.
func (g *Graph) tasksOf(user, page string) []string {
	if tasks, ok := g.tasks[[2]string{user, page}]; ok {
		return tasks
	}
	if !slices.Contains(g.users[user].Pages, page) {
		return nil
	}
	return allTasks
}

// missingTask returns the error for a request to change a page by a person who may
// only view it, nil if the person may change it.
func (g *Graph) missingTask(t token, page string) *failure {
	g.mu.Lock()
	defer g.mu.Unlock()
	may := []string{"MODERATE", "MANAGE", "CREATE_CONTENT"}
	if slices.ContainsFunc(g.tasksOf(t.user, page), func(task string) bool { return slices.Contains(may, task) }) {
		return nil
	}
	return oauth(http.StatusForbidden, 200, 0,
		"(#200) User does not have sufficient administrative permission for this action on this page")
}

// callbackTimeout limits a POST to one of the app's callbacks.
const callbackTimeout = 10 * time.Second

// KillUser invalidates every token of a person in an app: their own and those of
// their pages. Subcodes are those of [Graph.KillToken]. [ErrUnknown] is returned
// for an unknown app or user.
func (g *Graph) KillUser(app, user string, subcode int) error {
	if g.apps[app].ID == "" || g.users[user].ID == "" {
		return fmt.Errorf("tokens of user %s: %w", user, ErrUnknown)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.killTokens(subcode, func(t *token) bool { return t.app == app && t.user == user })
	return nil
}

// killTokens invalidates the valid tokens that match, and returns their number. The caller
// holds the lock.
func (g *Graph) killTokens(subcode int, match func(*token) bool) (n int) {
	for _, t := range g.tokens {
		if t.dead == 0 && match(t) {
			t.dead = cmp.Or(subcode, -1)
			n++
		}
	}
	return n
}

// RemoveApp does what happens when a person removes the app in their settings:
// their tokens become invalid with subcode 458, and the app's deauthorize callback,
// if it has one, is called once. [ErrUnknown] is returned for an unknown app or
// user, [ErrUndelivered] when the callback does not answer 200.
func (g *Graph) RemoveApp(ctx context.Context, app, user string) error {
	if err := g.KillUser(app, user, 458); err != nil {
		return err
	}
	target := g.apps[app].DeauthorizeURL
	if target == "" {
		return nil
	}
	if status, _, err := g.postCallback(ctx, target, app, user); err != nil || status != http.StatusOK {
		return fmt.Errorf("deauthorize callback answered %d: %w", status, cmp.Or(err, ErrUndelivered))
	}
	return nil
}

// RequestDataDeletion does what happens when a person requests the deletion of
// their data: it posts to the app's callback and returns its answer. [ErrUnknown]
// is returned for an unknown user or when the app has no such callback.
func (g *Graph) RequestDataDeletion(ctx context.Context, app, user string) (status int, body []byte, err error) {
	if g.apps[app].DataDeletionURL == "" || g.users[user].ID == "" {
		return 0, nil, fmt.Errorf("data deletion callback of app %s: %w", app, ErrUnknown)
	}
	return g.postCallback(ctx, g.apps[app].DataDeletionURL, app, user)
}

// postCallback posts a signed_request about a person to a callback.
func (g *Graph) postCallback(ctx context.Context, target, app, user string) (int, []byte, error) {
	form := url.Values{"signed_request": {signedRequest(g.apps[app].Secret, user, g.opts.Now())}}
	return call(ctx, callbackTimeout, http.MethodPost, target, form)
}

// call makes a request to a URL of the app. The status is 0 if there is no answer.
func call(
	ctx context.Context, timeout time.Duration, method, target string, form url.Values,
) (status int, answer []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, target, strings.NewReader(form.Encode()))
	if err != nil {
		return 0, nil, fmt.Errorf("create callback request: %w", err)
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
		return resp.StatusCode, nil, fmt.Errorf("read callback response: %w", err)
	}
	return resp.StatusCode, answer, nil
}

// signedRequest returns the signed_request that Meta posts about a person, signed
// with the app's secret.
// https://developers.facebook.com/docs/reference/login/signed-request
func signedRequest(secret, user string, at time.Time) string {
	payload := base64.RawURLEncoding.EncodeToString(marshal(map[string]any{
		"algorithm": "HMAC-SHA256", "user_id": user, "issued_at": at.Unix(), "expires": 0,
	}))
	return base64.RawURLEncoding.EncodeToString(sign(sha256.New, secret, payload)) + "." + payload
}

// permissions lists the permissions that a person has granted to the app, and
// revokes them.
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
		// The permissions are revoked, no matter what the app's callback answers.
		_ = g.RemoveApp(context.WithoutCancel(q.http.Context()), t.app, user)
		return map[string]any{"success": true}, nil
	}
	return nil, missing(q.method, user)
}
