package fakegraph_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
)

// serveControl serves a graph's control handler and returns a function that calls it.
func serveControl(t *testing.T, g *fakegraph.Graph) (do func(verb, body string) (int, map[string]any)) {
	t.Helper()
	srv := httptest.NewServer(g.Control())
	t.Cleanup(srv.Close)
	return func(verb, body string) (int, map[string]any) {
		t.Helper()
		method := http.MethodPost
		if verb == "state" {
			method = http.MethodGet
		}
		req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+"/control/"+verb, strings.NewReader(body))
		require.NoError(t, err)
		resp, err := srv.Client().Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		var out map[string]any
		require.NoError(t, json.Unmarshal(raw, &out), string(raw))
		return resp.StatusCode, out
	}
}

func TestEveryScriptingMethodHasAVerb(t *testing.T) {
	do := serveControl(t, newFixture(t, nil).Graph)
	word := regexp.MustCompile(`[A-Z]+[a-z]*`)
	scripting := regexp.MustCompile(`^(Set|Kill|Throttle|Fail|Block|Close|Expire|Request|Remove|Say|Send|Submit)`)
	checked := 0
	for _, typ := range []reflect.Type{reflect.TypeFor[*fakegraph.Graph](), reflect.TypeFor[*fakegraph.Engine]()} {
		for m := range typ.Methods() {
			if !scripting.MatchString(m.Name) {
				continue
			}
			verb := strings.ToLower(strings.Join(word.FindAllString(strings.TrimPrefix(m.Name, "Set"), -1), "-"))
			_, out := do(verb, "{}")
			assert.NotEqual(t, "no such verb", out["error"], "%s has no verb %s", m.Name, verb)
			checked++
		}
	}
	assert.Greater(t, checked, 19)
}

func TestControlReportsErrors(t *testing.T) {
	s := newStepped(t, newFixture(t, nil), nil)
	do := serveControl(t, s.Graph)
	for name, c := range map[string]struct {
		verb, body string
		status     int
	}{
		"unknown verb":      {"reboot", `{}`, http.StatusNotFound},
		"unknown parameter": {"delivery", `{"off":true}`, http.StatusBadRequest},
		"not JSON":          {"delivery", `on`, http.StatusBadRequest},
		"too large":         {"say", `{"text":"` + strings.Repeat("x", 70_000) + `"}`, http.StatusBadRequest},
		"no engine":         {"delivery", `{"on":false}`, http.StatusNotFound},
		"unknown page":      {"subscription", `{"app":"` + app + `","page":"1"}`, http.StatusNotFound},
		"no app":            {"subscription", `{"page":"` + page1 + `"}`, http.StatusNotFound},
		"unknown object":    {"app-fields", `{"app":"` + app + `","object":"user"}`, http.StatusNotFound},
		"unknown user":      {"granted", `{"app":"` + app + `","user":"1"}`, http.StatusNotFound},
		"unknown contact":   {"block", `{"contact":"1"}`, http.StatusNotFound},
		"no role":           {"tasks", `{"user":"1","page":"` + page1 + `"}`, http.StatusNotFound},
		"unknown token":     {"kill-token", `{"token":"x"}`, http.StatusNotFound},
	} {
		status, out := do(c.verb, c.body)
		assert.Equal(t, c.status, status, name)
		assert.NotEmpty(t, out["error"], name)
	}
	s.steps(1)
	for name, c := range map[string]struct {
		verb, body string
		status     int
	}{
		"engine of another app": {"delivery", `{"app":"` + otherApp + `"}`, http.StatusNotFound},
		"page of an engine":     {"quiet", `{"page":"1"}`, http.StatusNotFound},
		"no text":               {"say", `{"page":"` + page1 + `"}`, http.StatusUnprocessableEntity},
		"no contact":            {"say", `{"page":"` + page1 + `","text":"x"}`, http.StatusNotFound},
	} {
		status, out := do(c.verb, c.body)
		assert.Equal(t, c.status, status, name)
		assert.NotEmpty(t, out["error"], name)
	}
}

func TestControlRejectsOtherMachines(t *testing.T) {
	h := newFixture(t, nil).Control()
	for _, path := range []string{"/control/state", "/control/delivery"} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, nil) // from 192.0.2.1
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		assert.Equal(t, http.StatusForbidden, w.Code)
	}
}

func TestControlScriptsTheFake(t *testing.T) {
	s := newStepped(t, newFixture(t, nil), nil)
	do := serveControl(t, s.Graph)
	ok := func(verb, body string) map[string]any {
		t.Helper()
		status, out := do(verb, body)
		require.Equal(t, http.StatusOK, status, out)
		return out
	}
	ok("subscription", `{"app":"`+app+`","page":"`+page1+`","fields":["standby","messages"]}`)
	s.steps(5)
	assert.NotEmpty(t, s.take())

	ok("quiet", `{"page":"`+page1+`"}`)
	ok("standby", `{"page":"`+page1+`"}`)
	ok("secret", `{"app":"`+app+`","secret":"wrong"}`)
	said := ok("say", `{"page":"`+page1+`","contact":"`+s.Contacts(page1)[0]+`","text":"hello"}`)
	mid := said["result"].(map[string]any)["mid"]
	s.steps(1)
	s.mu.Lock()
	assert.NotContains(t, s.signed[0], proof(string(s.bodies[0]), appSecret))
	assert.Contains(t, s.signed[0], proof(string(s.bodies[0]), "wrong"))
	s.mu.Unlock()
	got := s.take()
	require.Len(t, got, 1)
	assert.True(t, got[0].standby)
	assert.Equal(t, mid, got[0].Message.Mid)

	ok("muted", `{"page":"`+page1+`"}`)
	lost := s.Stats()[page1].Lost
	ok("say", `{"page":"`+page1+`","contact":"`+s.Contacts(page1)[0]+`","text":"anybody?"}`)
	s.steps(1)
	assert.Empty(t, s.take(), "nothing of a muted page is delivered")
	assert.Equal(t, lost+1, s.Stats()[page1].Lost)

	ok("delivery", `{"on":false}`)
	status, _ := do("send-test", "")
	assert.Equal(t, http.StatusUnprocessableEntity, status)
	state := ok("state", "")
	engine := state["engines"].([]any)[0].(map[string]any)
	assert.Equal(t, false, engine["delivery"])
	assert.Equal(t, []any{page1}, engine["quiet"])
	assert.Equal(t, []any{page1}, engine["muted"])
	assert.Equal(t, []any{page1}, engine["standby"])
	assert.Positive(t, engine["pages"].(map[string]any)[page1].(map[string]any)["acked"])
	ok("delivery", `{"on":true}`)
	ok("send-test", "")
	assert.Len(t, s.bodies, 1)

	ok("duplicates", `{"percent":100}`)
	ok("reorder", `{"percent":30}`)
	engine = ok("state", "")["engines"].([]any)[0].(map[string]any)
	assert.Equal(t, []any{100.0, 30.0}, []any{engine["duplicates"], engine["reorder"]})
	assert.Equal(t, fakegraph.Switches{Delivery: true, Duplicates: 100, Reorder: 30}, s.Switches())

	token := s.pageToken(user, page1)
	page := `{"app":"` + app + `","user":"` + user + `","page":"` + page1 + `"`
	ok("kill-tokens", page+`,"subcode":490}`)
	assert.Equal(t, "400 190/490", s.call("GET", "/"+page1, token).failure())
	assert.Equal(t, []string{page1}, s.Checkpointed(app, user))
	status, _ = do("kill-tokens", page+`}`)
	assert.Equal(t, http.StatusNotFound, status, "it is dead already")
	ok("revive-tokens", page+`}`)
	assert.Empty(t, s.call("GET", "/"+page1, token).failure())
	status, _ = do("revive-tokens", page+`}`)
	assert.Equal(t, http.StatusNotFound, status, "no checkpoint has ended it")
	assert.Empty(t, s.Checkpointed(app, user))
	ok("kill-token", page+`,"subcode":460}`)
	assert.Equal(t, "400 190/460", s.call("GET", "/"+page1, token).failure())
	fresh := s.pageToken(user, page1)
	ok("kill-token", `{"token":"`+fresh+`","subcode":458}`)
	assert.Equal(t, "400 190/458", s.call("GET", "/"+page1, fresh).failure())
	ok("subscription", `{"app":"`+app+`","page":"`+page1+`"}`)
	state = ok("state", "")
	raw, err := json.Marshal(state)
	require.NoError(t, err)
	for _, secret := range []string{token, fresh, "EAA", appSecret, "wrong"} {
		assert.NotContains(t, string(raw), secret)
	}
	assert.Empty(t, state["subscriptions"])
	dead := map[float64]bool{}
	for _, tok := range state["tokens"].([]any) {
		if tok := tok.(map[string]any); tok["alive"] == false {
			dead[tok["subcode"].(float64)] = true
		}
	}
	assert.Equal(t, map[float64]bool{458: true, 460: true}, dead)
}

func TestControlScriptsTheGraph(t *testing.T) {
	f := newFixture(t, nil)
	do := serveControl(t, f.Graph)
	ok := func(verb, body string) map[string]any {
		t.Helper()
		status, out := do(verb, body)
		require.Equal(t, http.StatusOK, status, out)
		return out
	}
	appUser := `"app":"` + app + `","user":"` + user + `"`
	node := func() string { return f.call("GET", "/"+page1, f.pageToken(user, page1)).failure() }
	sent := func(person int) string {
		return f.call("POST", "/"+page1+"/messages", f.pageToken(user, page1),
			"recipient", `{"id":"`+f.Contacts(page1)[person]+`"}`, "message", `{"text":"x"}`).failure()
	}
	require.Empty(t, node())

	ok("fail-next", `{"in":"GET `+page1+`","failure":{"status":500,"code":2}}`)
	assert.Equal(t, "500 2/0", node())
	ok("throttle", `{"page":"`+page1+`","code":32,"calls":2}`)
	assert.Contains(t, node(), " 32/")
	assert.Contains(t, node(), " 32/")
	assert.Empty(t, node())
	ok("usage", `{"page":"`+page1+`","percent":97,"regain_minutes":3}`)
	h := f.call("GET", "/"+page1, f.pageToken(user, page1)).header
	assert.Contains(t, h.Get("X-Business-Use-Case-Usage"), "97")

	require.Empty(t, sent(0))
	ok("block", `{"contact":"`+f.Contacts(page1)[0]+`"}`)
	assert.Equal(t, "400 551/1545041", sent(0))
	ok("close-window", `{"contact":"`+f.Contacts(page1)[2]+`"}`)
	assert.Equal(t, "400 10/2018278", sent(2))

	ok("granted", `{`+appUser+`,"pages":["`+page2+`"]}`)
	assert.Equal(t, "403 10/0", node())
	ok("granted", `{`+appUser+`}`)
	assert.Empty(t, node())

	ok("app-fields", `{"app":"`+app+`","object":"instagram","fields":["messages"]}`)
	ok("app-fields", `{"app":"`+app+`","object":"page"}`)
	list := ok("state", "")["app_subscriptions"].([]any)
	assert.Contains(t, list, map[string]any{"app": app, "object": "instagram", "fields": []any{"messages"}})
	for _, s := range list {
		s := s.(map[string]any)
		assert.False(t, s["app"] == app && s["object"] == "page", "the app still has object page")
	}

	old := f.pageToken(user, page1)
	wantInvalid := func(want string) {
		t.Helper()
		assert.Equal(t, want, f.call("GET", "/"+page1, old).failure())
		old = f.pageToken(user, page1)
	}
	ok("kill-user", `{`+appUser+`,"subcode":460}`)
	wantInvalid("400 190/460")
	ok("remove-app", `{`+appUser+`}`)
	wantInvalid("400 190/458")
	ok("tasks", `{"user":"`+user+`","page":"`+page1+`","tasks":[]}`)
	assert.Equal(t, "400 190/492", f.call("GET", "/"+page1, old).failure())

	// The apps of the fixture have no data deletion callback.
	status, out := do("request-data-deletion", `{`+appUser+`}`)
	assert.NotEqual(t, http.StatusOK, status, out)
	other, _ := f.UserToken(app, poorUser, true)
	ok("expire-data-access", `{"app":"`+app+`","user":"`+poorUser+`"}`)
	assert.Contains(t, f.call("GET", "/"+poorUser, other).failure(), "190/")
}
