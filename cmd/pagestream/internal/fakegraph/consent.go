package fakegraph

import (
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"
)

// SetGranted changes which pages a person lets an app use, as a later consent
// does; nil is all. Tokens of the others stay valid and are refused.
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

// grantedPages are the pages that a person has a role on and lets the app use.
// The lock is held.
func (g *Graph) grantedPages(app, user string) []string {
	chosen, some := g.granted[[2]string{app, user}]
	var out []string
	for _, page := range g.users[user].Pages {
		if (!some || slices.Contains(chosen, page)) && len(g.tasksOf(user, page)) > 0 {
			out = append(out, page)
		}
	}
	return out
}

// deselected is what a page's token gets for anything where the consent does not
// include the page any more.
func (g *Graph) deselected(t token) *failure {
	if t.kind != "PAGE" {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if slices.Contains(g.grantedPages(t.app, t.user), t.page) {
		return nil
	}
	return oauth(http.StatusForbidden, 10, 0, "(#10) This endpoint requires the 'pages_manage_metadata' permission or the page must be granted to the application")
}

// ExpireDataAccess ends the app's access to a person's data, as after 90 days
// without them: their tokens die, and debug_token tells when. A new login mends
// it.
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
{{end}}{{range .Pages}}<p><label><input type="checkbox" name="page" value="{{.ID}}"{{if .On}} checked{{end}}> {{.Name}} ({{.ID}})</label></p>
{{end}}<button name="continue" value="1">Continue</button> <button name="deny" value="1">Cancel</button></form>
</body></html>
`))

// choose shows the picker, or takes over what was chosen there: page=, or pages=
// with commas for a script. It reports whether it has answered.
func (g *Graph) choose(q *request, app App, user string) (answered bool) {
	query := q.http.URL.Query()
	if list := query.Get("pages"); list != "" {
		g.SetGranted(app.ID, user, strings.Split(list, ","))
		return false
	}
	if query.Get("continue") != "" {
		g.SetGranted(app.ID, user, append([]string{}, query["page"]...))
		return false
	}
	if !g.opts.Picker && query.Get("display") != "picker" {
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
