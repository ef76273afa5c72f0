package fakegraph

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// handshakeTimeout bounds the GET to a callback URL.
const handshakeTimeout = 5 * time.Second

// appSubscription is what an app gets of one object: delivered is only what the
// page's own list has as well.
type appSubscription struct {
	fields   []string
	callback string // empty: the engine's Target
}

// appFields returns the app's fields of an object, sorted, and the callback URL
// that it was subscribed with.
func (g *Graph) appFields(app, object string) (fields []string, callback string, on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s, on := g.appSubs[[2]string{app, object}]
	return s.fields, s.callback, on
}

// SetAppFields changes the app's own fields of an object ("page", "instagram"),
// as somebody at the dashboard may. Nil removes the object.
func (g *Graph) SetAppFields(app, object string, fields []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := [2]string{app, object}
	if fields == nil {
		delete(g.appSubs, key)
		return
	}
	s := g.appSubs[key]
	s.fields = slices.Clone(fields)
	slices.Sort(s.fields)
	g.appSubs[key] = s
}

// appSubscriptions serves the app-level subscriptions, to the app itself alone.
// https://developers.facebook.com/docs/graph-api/reference/app/subscriptions
func (g *Graph) appSubscriptions(q *request, t token, app string) (any, *failure) {
	if t.kind != "APP" || t.app != app {
		return nil, oauth(http.StatusBadRequest, 15, 0, "(#15) This method must be called with an app access_token.")
	}
	object := q.params["object"]
	switch q.method {
	case http.MethodGet:
		return g.listAppSubscriptions(app), nil
	case http.MethodDelete:
		g.mu.Lock()
		defer g.mu.Unlock()
		maps.DeleteFunc(g.appSubs, func(key [2]string, _ appSubscription) bool {
			return key[0] == app && (object == "" || key[1] == object)
		})
		return map[string]any{"success": true}, nil
	case http.MethodPost:
		return g.subscribeApp(q, app, object)
	}
	return nil, missing(q.method, app)
}

func (g *Graph) listAppSubscriptions(app string) any {
	g.mu.Lock()
	defer g.mu.Unlock()
	data := []any{}
	for _, object := range []string{objectInstagram, objectPage} {
		s, ok := g.appSubs[[2]string{app, object}]
		if !ok {
			continue
		}
		fields := []any{}
		for _, f := range s.fields {
			fields = append(fields, map[string]any{"name": f, "version": g.opts.Version})
		}
		data = append(data, map[string]any{"object": object, "callback_url": s.callback, "active": true, "fields": fields})
	}
	return map[string]any{"data": data}
}

func (g *Graph) subscribeApp(q *request, app, object string) (any, *failure) {
	if object != objectPage && object != objectInstagram {
		return nil, oauth(http.StatusBadRequest, 100, 0, "(#100) Param object must be one of {page, instagram}")
	}
	callback, err := url.Parse(q.params["callback_url"])
	if err != nil || callback.Host == "" {
		return nil, oauth(http.StatusBadRequest, 100, 0, "(#100) Param callback_url must be a valid URL")
	}
	fields := listed(q.params["fields"], ", ")
	if len(fields) == 0 {
		return nil, oauth(http.StatusBadRequest, 100, 0, "(#100) The parameter fields is required")
	}
	if wrong := shakeHands(q.http.Context(), callback, q.params["verify_token"]); wrong != "" {
		return nil, oauth(http.StatusBadRequest, 2200, 0, "(#2200) Callback verification failed with the following errors: "+wrong)
	}
	g.SetAppFields(app, object, fields)
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.appSubs[[2]string{app, object}]
	s.callback = callback.String()
	g.appSubs[[2]string{app, object}] = s
	return map[string]any{"success": true}, nil
}

// shakeHands asks a callback URL to echo a challenge, and says what went wrong, as
// Graph puts it.
func shakeHands(ctx context.Context, callback *url.URL, verify string) string {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	challenge := rand.Text()
	u := *callback
	v := u.Query()
	v.Set("hub.mode", "subscribe")
	v.Set("hub.challenge", challenge)
	v.Set("hub.verify_token", verify)
	u.RawQuery = v.Encode()
	switch status, got, _ := call(ctx, http.MethodGet, u.String(), nil); {
	case status == 0:
		return "curl_errno = 7; the URL can't be reached"
	case status != http.StatusOK || string(got) != challenge:
		return fmt.Sprintf("HTTP Status Code = %d; HTTP Message = the challenge did not come back", status)
	}
	return ""
}
