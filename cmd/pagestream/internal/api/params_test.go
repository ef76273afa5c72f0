package api

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var pathValues = strings.NewReplacer("{id}", "104", "{page}", "104", "{contact}", "31", "{seq}", "7", "{type}", "message.read",
	"{comment}", "9_1", "{post}", "104_9", "{name}", "crm")

// eachRoute calls f with the method and path of each route of the API.
func eachRoute(t *testing.T, f func(method, path string, route route)) {
	t.Helper()
	s := New(Options{Tokens: fileTokens(t), Operator: &fakeOperator{}, Metrics: http.NotFoundHandler()})
	all := s.routes()
	require.Greater(t, len(all), 30)
	for pattern, route := range all {
		method, path, ok := strings.Cut(pattern, " ")
		require.True(t, ok, pattern)
		path = pathValues.Replace(path)
		require.NotContains(t, path, "{", "give the test a value for it")
		f(method, path, route)
	}
}

// TestNoParameterIsIgnored checks on every route that a parameter which is unknown, empty
// or repeated is refused by name, also on a feed, and that nothing was done.
func TestNoParameterIsIgnored(t *testing.T) {
	f := &fakeOperator{}
	base := serveAPI(t, f)
	refused := func(method, path, query, has string) {
		t.Helper()
		for _, accept := range []string{"application/json", "text/event-stream"} {
			req, err := http.NewRequestWithContext(t.Context(), method, base+path+"?"+query, nil)
			require.NoError(t, err)
			req.Header.Set("Authorization", "Bearer "+token)
			req.Header.Set("Accept", accept)
			resp, body := answer(t, req)
			assert.Equal(t, http.StatusBadRequest, resp.StatusCode, "%s %s?%s: %s", method, path, query, body)
			assert.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
			assert.Contains(t, body, has, "%s %s?%s", method, path, query)
		}
	}
	eachRoute(t, func(method, path string, route route) {
		names := route.params.names()
		refused(method, path, "nonesuch=1", `there is no parameter \"nonesuch\"`)
		refused(method, path, "nonesuch", `there is no parameter \"nonesuch\"`)
		refused(method, path, "page%zz=1", "can't be read")
		refused(method, path, "x=1;page=2", "can't be read")
		for _, p := range route.params {
			name, repeatable := strings.CutSuffix(p, many)
			refused(method, path, name+"=", "parameter "+name+" has an empty value")
			refused(method, path, name, "parameter "+name+" has an empty value")
			if !strings.HasSuffix(name, "s") {
				refused(method, path, name+"s=1", "did you mean "+name+"?")
			}
			refused(method, path, url.QueryEscape(name+many)+"=1", "there is no parameter")
			if repeatable {
				refused(method, path, name+"=1&"+name+"=", "parameter "+name+" has an empty value")
				refused(method, path, name+"=1,,2", "parameter "+name+" has an empty value")
			} else {
				refused(method, path, name+"=1&"+name+"=1", "parameter "+name+" is given more than once")
			}
		}
		if len(names) == 0 {
			refused(method, path, "page=104", "this request takes none")
		}
	})
	assert.Empty(t, f.got, "no verb was called")
}

// TestNoFieldIsIgnored checks on every route with a body that a field which is unknown, empty or
// repeated is refused by name, and on every other one that a body is refused.
func TestNoFieldIsIgnored(t *testing.T) {
	f := &fakeOperator{}
	base := serveAPI(t, f)
	eachRoute(t, func(method, path string, route route) {
		refused := func(body, has string) {
			t.Helper()
			resp, out := call(t, method, base+path, body)
			assert.Equal(t, http.StatusBadRequest, resp.StatusCode, "%s %s %s: %s", method, path, body, out)
			assert.Contains(t, out, has, "%s %s %s", method, path, body)
			assert.NotContains(t, out, "EAAsecret", "%s %s", method, path)
		}
		if method == http.MethodGet {
			assert.False(t, route.body, path)
			return
		}
		refused(`{"nonesuch":"EAAsecret"}`, `there is no field \"nonesuch\"`)
		refused(`{"EAAsecret`+strings.Repeat("x", 100)+`":1}`, "there is no field (a long name)")
		if !route.body {
			refused(`{"dry_run":true}`, "this request takes none")
			refused(`dry_run`, "takes no body")
			return
		}
		for _, body := range []string{``, `[]`, `null`, `{`, `{"EAAsecret"}`, `{} {}`} {
			refused(body, "send {")
		}
	})
	for _, r := range []struct{ path, body, has string }{
		{"consumers", `{"name":"crm","all":true,"pages":[]}`, "field pages has an empty value"},
		{"consumers", `{"name":"crm","all":true,"pages":[""]}`, "field pages has an empty value"},
		{"consumers", `{"name":"crm","all":true,"pages":["1",""]}`, "field pages has an empty value"},
		{"consumers", `{"name":"crm","all":true,"pages":null}`, "field pages has an empty value"},
		{"consumers", `{"name":"crm","all":true,"company":""}`, "field company has an empty value"},
		{"consumers", `{"name":"crm","all":true,"types":[]}`, "field types has an empty value"},
		{"consumers", `{"name":"crm","all":true,"types":[""]}`, "field types has an empty value"},
		{"consumers", `{"name":"crm","all":true,"page":["1"]}`, "did you mean pages?"},
		{"consumers", `{"name":"crm","all":true,"Company":"acme"}`, "did you mean company?"},
		{"consumers/crm/rewind", `{"to":""}`, "field to has an empty value"},
		{"consumers/crm/rewind", `{"to":"0"}`, "to is the sequence of an event, from 1"},
		{"consumers/crm/rewind", `{"to":"yesterday"}`, "or a time such as"},
		{"consumers/crm/rewind", `{"seq":"1"}`, "there is no field"},
		{"consumers", `{"name":"crm","pages":["1"],"pages":["2"]}`, "field pages is given more than once"},
		{"logins/abc", `{"pages":["104"],"all":true}`, "either choose pages"},
		{"logins/abc", `{"pages":[]}`, "field pages has an empty value"},
		{"invites", `{"company":""}`, "field company has an empty value"},
		{"deadletters", `{"action":"redrive","page":"","all":true}`, "field page has an empty value"},
		{"pages/104/backfill", `{"since":""}`, "field since has an empty value"},
	} {
		resp, out := call(t, http.MethodPost, base+"/api/v1/"+r.path, r.body)
		assert.Equal(t, http.StatusBadRequest, resp.StatusCode, "%s %s: %s", r.path, r.body, out)
		assert.Contains(t, out, r.has, "%s %s", r.path, r.body)
	}
	assert.Empty(t, f.got, "no verb was called")
}

// TestUnknownValuesAreRefused checks that a page or type that does not exist is an error, and that
// all dead letters are sent again only if the request says so.
func TestUnknownValuesAreRefused(t *testing.T) {
	f := &fakeOperator{}
	base := serveAPI(t, f)
	for path, has := range map[string]string{
		"events?page=999": "999", "events?page=104,999": "999", "export?page=104&page=999": "999",
		"events?type=mesage.received": "one is message.received", "export?type=message.red": "one is message.read",
	} {
		resp, out := call(t, http.MethodGet, base+"/api/v1/"+path, "")
		assert.Equal(t, http.StatusBadRequest, resp.StatusCode, "%s: %s", path, out)
		assert.Contains(t, out, has, path)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/api/v1/events?limit=5", nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Accept", "text/event-stream")
	resp, out := answer(t, req)
	assert.Equal(t, http.StatusBadRequest, resp.StatusCode, "a feed has no limit")
	assert.Contains(t, out, "there are after, company, page, raw, type")
	for query, status := range map[string]int{
		"": 400, "?event=0": 400, "?all=false": 400, "?all=yes": 400, "?event=5&all=true": 400, "?all=true": 200, "?event=5": 200,
	} {
		resp, out := call(t, http.MethodPost, base+"/api/v1/hooks/crm/redrive"+query, "")
		assert.Equal(t, status, resp.StatusCode, "%s: %s", query, out)
	}
	resp, _ = call(t, http.MethodPost, base+"/api/v1/pages/104/resubscribe?dry_run=yes", "")
	assert.Equal(t, http.StatusBadRequest, resp.StatusCode, "a dry run that is not understood is not a real one")
	resp, out = call(t, http.MethodGet, base+"/api/v1/export?page=105,104&page=104&type=message.read", "")
	assert.Equal(t, http.StatusOK, resp.StatusCode)
	assert.Contains(t, out, "0 [104 105] [message.read]")
	resp, _ = call(t, http.MethodPost, base+"/api/v1/pages/104/check", "{}")
	assert.Equal(t, http.StatusOK, resp.StatusCode, "an empty object asks for nothing")
}
