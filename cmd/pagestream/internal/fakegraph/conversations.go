package fakegraph

import (
	"cmp"
	"encoding/base64"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// maxHistory is the maximum number of messages that are kept per page.
const maxHistory = 2000

// storedMessage is a message in the history of a conversation.
type storedMessage struct {
	page, psid, mid, platform, text string
	thread                          string // the conversation's id
	fromPage                        bool
	at                              time.Time
	attachments                     []attachment
}

type attachment struct {
	Payload map[string]any `json:"payload"`
	Type    string         `json:"type"`
}

// storeMessage stores a message for the Conversations API, whether or not it is
// delivered. A message with a known mid is ignored.
func (g *Graph) storeMessage(m storedMessage) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.contacts[m.psid]; !m.fromPage && m.at.After(c.lastIn) {
		c.lastIn = m.at
	}
	list := g.history[m.page]
	if slices.ContainsFunc(list, func(o storedMessage) bool { return o.mid == m.mid }) {
		return
	}
	m.thread = "t_" + letters(g.hash("thread", m.page, m.platform, m.psid))[:24]
	list = append(list, m)
	g.history[m.page] = list[max(0, len(list)-maxHistory):]
}

// newestFirst returns the page's messages that match, newest first.
func (g *Graph) newestFirst(page string, match func(storedMessage) bool) []storedMessage {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := slices.DeleteFunc(slices.Clone(g.history[page]), func(m storedMessage) bool { return !match(m) })
	slices.SortStableFunc(out, func(a, b storedMessage) int {
		return cmp.Or(b.at.Compare(a.at), cmp.Compare(a.psid, b.psid))
	})
	return out
}

// threads returns the page's conversations on a platform, newest first, each with
// its messages, newest first.
func (g *Graph) threads(page, platform string) (out [][]storedMessage) {
	index := map[string]int{} // in out, by PSID
	for _, m := range g.newestFirst(page, func(m storedMessage) bool { return m.platform == platform }) {
		n, ok := index[m.psid]
		if !ok {
			n = len(out)
			index[m.psid] = n
			out = append(out, nil)
		}
		out[n] = append(out[n], m)
	}
	return out
}

// conversation returns the messages of a conversation by its id, newest first, nil
// if there is none.
func (g *Graph) conversation(id string) []storedMessage {
	for page := range g.pages {
		if list := g.newestFirst(page, func(m storedMessage) bool { return m.thread == id }); len(list) > 0 {
			return list
		}
	}
	return nil
}

var nestedLimit = regexp.MustCompile(`messages\.limit\((\d+)\)`)

// conversations lists a page's conversations.
// https://developers.facebook.com/docs/graph-api/reference/page/conversations
func (g *Graph) conversations(q *request, t token, page string) (any, *failure) {
	if fail := requirePageToken(page, t, "pages_messaging"); fail != nil {
		return nil, fail
	}
	platform := cmp.Or(q.params["platform"], "messenger")
	all := g.threads(page, platform)
	from, to, fail := pageBounds(q, len(all))
	if fail != nil {
		return nil, fail
	}
	nested := 0
	if m := nestedLimit.FindStringSubmatch(q.params["fields"]); m != nil {
		nested, _ = strconv.Atoi(m[1])
	}
	data := []any{}
	for _, list := range all[from:to] {
		id := list[0].thread
		one := map[string]any{
			"id": id, "link": "/" + page + "/inbox/" + list[0].psid + "/", "updated_time": graphTime(list[0].at),
			"participants": map[string]any{"data": []any{g.participant(list[0].psid), g.participant(page)}},
		}
		if nested > 0 {
			n := min(nested, len(list))
			one["messages"] = g.paged(q, id+"/messages", g.messageNodes(list[:n]), 0, n, len(list))
		}
		data = append(data, one)
	}
	return g.paged(q, page+"/conversations", data, from, to, len(all)), nil
}

// messagesOf lists the messages of a conversation, newest first.
func (g *Graph) messagesOf(q *request, t token, id string) (any, *failure) {
	list := g.conversation(id)
	if list == nil {
		return nil, missing(q.method, id)
	}
	if fail := requirePageToken(list[0].page, t, "pages_messaging"); fail != nil {
		return nil, fail
	}
	from, to, fail := pageBounds(q, len(list))
	if fail != nil {
		return nil, fail
	}
	return g.paged(q, id+"/messages", g.messageNodes(list[from:to]), from, to, len(list)), nil
}

// message serves one message of the token's page by its mid.
func (g *Graph) message(q *request, t token, mid string) (any, *failure) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range g.history[t.page] {
		if m.mid == mid {
			return g.messageNode(m), nil
		}
	}
	return nil, missing(q.method, mid)
}

// requirePageToken returns an error unless t is a token of the page with the scope.
func requirePageToken(page string, t token, scope string) *failure {
	switch {
	case t.kind != "PAGE":
		return oauth(http.StatusBadRequest, 210, 0, "(#210) A page access token is required to request this resource.")
	case t.page != page:
		return oauth(http.StatusForbidden, 200, 0,
			"(#200) The token is of another page; it must be the access token of page "+page)
	case !slices.Contains(t.scopes, scope):
		return oauth(http.StatusForbidden, 200, 0, "(#200) Requires "+scope+" permission to manage the object")
	}
	return nil
}

func (g *Graph) messageNodes(list []storedMessage) []any {
	out := make([]any, len(list))
	for i, m := range list {
		out[i] = g.messageNode(m)
	}
	return out
}

func (g *Graph) messageNode(m storedMessage) map[string]any {
	from, to := m.psid, m.page
	if m.platform == objectInstagram {
		to = g.instagram(m.page)
	}
	if m.fromPage {
		from, to = to, from
	}
	out := map[string]any{
		"id": m.mid, "created_time": graphTime(m.at), "message": m.text,
		"from": g.participant(from), "to": map[string]any{"data": []any{g.participant(to)}},
	}
	if len(m.attachments) > 0 {
		data := []any{}
		for _, a := range m.attachments {
			file := map[string]any{"mime_type": "application/octet-stream", "file_url": a.Payload["url"]}
			if a.Type == "image" || a.Type == "sticker" {
				file = map[string]any{"mime_type": "image/jpeg", "image_data": map[string]any{"url": a.Payload["url"]}}
			}
			data = append(data, file)
		}
		out["attachments"] = map[string]any{"data": data}
	}
	return out
}

func (g *Graph) participant(id string) map[string]any {
	name := g.pages[id].Name // empty for an Instagram account, as Meta returns none
	if c := g.contacts[id]; c != nil {
		name = c.first + " " + c.last
	}
	return map[string]any{"id": id, "name": name, "email": id + "@facebook.com"}
}

// graphTime formats a time as the Graph API does: in seconds, without a colon in
// the zone.
func graphTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05-0700") }

// pageBounds returns the positions in a list of n items for the parameters limit
// and after.
func pageBounds(q *request, n int) (from, to int, fail *failure) {
	limit, err := strconv.Atoi(q.params["limit"])
	if err != nil || limit < 1 {
		limit = 25
	}
	limit = min(limit, 100)
	if after := q.params["after"]; after != "" {
		b, err := base64.RawURLEncoding.DecodeString(after)
		from, _ = strconv.Atoi(string(b))
		if err != nil || from < 1 || from > n {
			return 0, 0, oauth(http.StatusBadRequest, 100, 0, "(#100) Invalid cursors values.")
		}
	}
	return from, min(from+limit, n), nil
}

// paged returns the items from one position to another of n as a list with its
// cursors.
func (g *Graph) paged(q *request, path string, data []any, from, to, n int) map[string]any {
	out := map[string]any{"data": data}
	if len(data) == 0 {
		return out
	}
	cursor := func(n int) string { return base64.RawURLEncoding.EncodeToString([]byte(strconv.Itoa(n))) }
	paging := map[string]any{"cursors": map[string]any{"before": cursor(from), "after": cursor(to)}}
	if to < n {
		next := url.Values{"access_token": {q.access}, "limit": {strconv.Itoa(to - from)}, "after": {cursor(to)}}
		if f := q.params["fields"]; f != "" && path == q.path {
			next.Set("fields", f)
		}
		paging["next"] = "http://" + q.http.Host + "/" + q.version + "/" + path + "?" + next.Encode()
	}
	out["paging"] = paging
	return out
}
