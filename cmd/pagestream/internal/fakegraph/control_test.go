package fakegraph_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
)

// controlled serves a graph's control and returns what posts to it.
func controlled(t *testing.T, g *fakegraph.Graph) (do func(verb, body string) (int, map[string]any)) {
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

func TestControlSaysWhatIsWrong(t *testing.T) {
	s := step(t, start(t, nil), nil)
	do := controlled(t, s.Graph)
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
		"nothing to say":        {"say", `{"page":"` + page1 + `"}`, http.StatusUnprocessableEntity},
		"nobody to say it":      {"say", `{"page":"` + page1 + `","text":"x"}`, http.StatusNotFound},
	} {
		status, out := do(c.verb, c.body)
		assert.Equal(t, c.status, status, name)
		assert.NotEmpty(t, out["error"], name)
	}
}

func TestControlIsForThisMachine(t *testing.T) {
	h := start(t, nil).Control()
	for _, path := range []string{"/control/state", "/control/delivery"} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, nil) // from 192.0.2.1
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		assert.Equal(t, http.StatusForbidden, w.Code)
	}
}

func TestControlScriptsTheFake(t *testing.T) {
	s := step(t, start(t, nil), nil)
	do := controlled(t, s.Graph)
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
	mid := ok("say", `{"page":"`+page1+`","contact":"`+s.Contacts(page1)[0]+`","text":"hello"}`)["result"].(map[string]any)["mid"]
	s.steps(1)
	s.mu.Lock()
	assert.NotContains(t, s.signed[0], proof(string(s.bodies[0]), appSecret))
	assert.Contains(t, s.signed[0], proof(string(s.bodies[0]), "wrong"))
	s.mu.Unlock()
	got := s.take()
	require.Len(t, got, 1)
	assert.True(t, got[0].standby)
	assert.Equal(t, mid, got[0].Message.Mid)

	ok("delivery", `{"on":false}`)
	status, _ := do("send-test", "")
	assert.Equal(t, http.StatusUnprocessableEntity, status)
	state := ok("state", "")
	engine := state["engines"].([]any)[0].(map[string]any)
	assert.Equal(t, false, engine["delivery"])
	assert.Equal(t, []any{page1}, engine["quiet"])
	assert.Equal(t, []any{page1}, engine["standby"])
	assert.Positive(t, engine["pages"].(map[string]any)[page1].(map[string]any)["acked"])
	ok("delivery", `{"on":true}`)
	ok("send-test", "")
	assert.Len(t, s.bodies, 1)

	token := s.pageToken(user, page1)
	ok("kill-token", `{"app":"`+app+`","user":"`+user+`","page":"`+page1+`","subcode":460}`)
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
