package fakegraph

import (
	"cmp"
	"net/http"
	"slices"
)

// sees reports whether the token's owner has a role on the page.
func (g *Graph) sees(t token, page string) bool {
	if t.kind == "PAGE" {
		return t.page == page
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return t.kind == "USER" && slices.Contains(g.grantedPages(t.app, t.user), page)
}

func (g *Graph) pageNode(q *request, t token, id string) (any, *failure) {
	if !g.sees(t, id) {
		return nil, missing(q.method, id)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	node, fail := g.pageFields(t, id)
	if fail != nil {
		return nil, fail
	}
	return pick("Page", q.params["fields"], node)
}

func (g *Graph) pageFields(t token, id string) (map[string]any, *failure) {
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
	if p.Instagram != "" {
		node["instagram_business_account"] = map[string]any{"id": p.Instagram}
	}
	return node, nil
}

func (g *Graph) userNode(q *request, t token, id string) (any, *failure) {
	if t.user != id {
		return nil, missing(q.method, id)
	}
	return pick("User", q.params["fields"], map[string]any{"id": id, "name": g.users[id].Name})
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
	all := g.grantedPages(t.app, id)
	from, to, fail := window(q, len(all), accountPage)
	if fail != nil {
		return nil, fail
	}
	names := cmp.Or(q.params["fields"], "access_token,category,name,tasks")
	data := []any{}
	for _, page := range all[from:to] {
		node, fail := g.pageFields(t, page)
		if fail != nil {
			return nil, fail
		}
		one, fail := pick("Page", names, node)
		if fail != nil {
			return nil, fail
		}
		data = append(data, one)
	}
	return g.paged(q, id+"/accounts", data, from, to, len(all)), nil
}

// profile tells a page about a person who has written to it.
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
	return pick("User", cmp.Or(q.params["fields"], "first_name,last_name,profile_pic"), map[string]any{
		"id": psid, "name": c.first + " " + c.last, "first_name": c.first, "last_name": c.last,
		"profile_pic": "https://platform-lookaside.fbsbx.com/platform/profilepic/?psid=" + psid + "&width=1024&ext=1790000000&hash=fake",
	})
}
