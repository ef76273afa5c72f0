package fakegraph

import (
	"cmp"
	"net/http"
	"slices"
)

func (g *Graph) pageNode(q *request, t token, id string) (any, *failure) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.page != id && (t.kind != "USER" || !slices.Contains(g.grantedPages(t.app, t.user), id)) {
		return nil, missing(q.method, id)
	}
	return g.pageFields(t, id, q.params["fields"])
}

// pageFields returns the fields of a page for a person with a role on it. The caller
// holds the lock.
func (g *Graph) pageFields(t token, id, names string) (any, *failure) {
	p := g.pages[id]
	access, err := g.pageToken(t.app, t.user, id, t.long)
	if err != nil {
		return nil, missing(http.MethodGet, id)
	}
	node := map[string]any{
		"id": id, "name": p.Name, "category": p.Category, "access_token": access,
		"tasks": g.tasksOf(t.user, id),
		"link":  "https://www.facebook.com/" + id, "instagram_business_account": nil,
	}
	if account := g.instagram(id); account != "" {
		node["instagram_business_account"] = map[string]any{"id": account}
	}
	return selectFields("Page", names, node)
}

func (g *Graph) userNode(q *request, t token, id string) (any, *failure) {
	if t.user != id {
		return nil, missing(q.method, id)
	}
	return selectFields("User", q.params["fields"], map[string]any{"id": id, "name": g.users[id].Name})
}

// accounts lists the user's pages with their tokens.
// https://developers.facebook.com/docs/graph-api/reference/user/accounts
func (g *Graph) accounts(q *request, t token, id string) (any, *failure) {
	if t.kind != "USER" || t.user != id {
		return nil, missing(q.method, id)
	}
	if !slices.Contains(t.scopes, "pages_show_list") {
		return map[string]any{"data": []any{}}, nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	all := slices.DeleteFunc(g.grantedPages(t.app, id), func(page string) bool {
		return slices.Contains(g.users[id].Business, page)
	})
	from, to, fail := pageBounds(q, len(all))
	if fail != nil {
		return nil, fail
	}
	names := cmp.Or(q.params["fields"], "access_token,category,name,tasks")
	data := []any{}
	for _, page := range all[from:to] {
		one, fail := g.pageFields(t, page, names)
		if fail != nil {
			return nil, fail
		}
		data = append(data, one)
	}
	return g.paged(q, id+"/accounts", data, from, to, len(all)), nil
}

// profile serves the profile of a person to the page that they write to.
// https://developers.facebook.com/docs/messenger-platform/identity/user-profile
func (g *Graph) profile(q *request, t token, psid string) (any, *failure) {
	c := g.contacts[psid]
	if t.kind != "PAGE" || t.page != c.page {
		return nil, missing(q.method, psid)
	}
	if !slices.Contains(t.scopes, "pages_messaging") {
		return nil, oauth(http.StatusForbidden, 200, 2018247, "(#200) Insufficient permission to access user profile.")
	}
	if c.first == "" {
		return nil, oauth(http.StatusBadRequest, 100, 2018218, "(#100) No profile available for this user.")
	}
	return selectFields("User", cmp.Or(q.params["fields"], "first_name,last_name,profile_pic"), map[string]any{
		"id": psid, "name": c.first + " " + c.last, "first_name": c.first, "last_name": c.last,
		"profile_pic": "https://platform-lookaside.fbsbx.com/platform/profilepic/?psid=" + psid +
			"&width=1024&ext=1790000000&hash=fake",
	})
}
