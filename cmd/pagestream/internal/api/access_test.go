package api

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/tokens"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// companyRoutes are the routes that a company's token may call. A test of package server
// (TestCompanyTokenSeesItsPagesOnly) attacks each of them: a new one belongs there too.
var companyRoutes = []string{
	"GET /api/v1/comments/{page}",
	"GET /api/v1/comments/{page}/{comment}",
	"GET /api/v1/conversations/{page}/{contact}",
	"GET /api/v1/conversations/{page}/{contact}/events",
	"GET /api/v1/conversations/{page}/{contact}/messages",
	"GET /api/v1/events",
	"GET /api/v1/events/{seq}",
	"GET /api/v1/pages",
	"GET /api/v1/pages/{id}",
	"GET /api/v1/pages/{id}/conversations",
	"GET /api/v1/pages/{id}/subscription",
	"GET /api/v1/posts/{page}",
	"GET /api/v1/posts/{page}/{post}",
	"GET /api/v1/schemas",
	"GET /api/v1/schemas/{type}",
}

// closedToReaders are the routes for administrators only, although they change nothing.
var closedToReaders = []string{"GET /api/v1/history", "GET /api/v1/tokens"}

// holders are one of each kind.
var holders = map[string]tokens.Holder{
	"admin":   {Name: "a", Scope: tokens.Admin},
	"reader":  {Name: "r", Scope: tokens.Reader},
	"metrics": {Name: "m", Scope: tokens.Metrics},
	"company": {Name: "c", Scope: tokens.Company, Company: "acme"},
	"sender":  {Name: "s", Scope: tokens.Company, Company: "acme", Send: true},
	"none":    {Name: "n"},
}

// TestEveryRouteSaysWhoMayCallIt calls every route with a token of each kind that does not
// permit it, and checks that no verb was called.
func TestEveryRouteSaysWhoMayCallIt(t *testing.T) {
	assert.False(t, route{}.allow.permits(holders["reader"]), "a route that says nothing is for administrators")
	f := &fakeOperator{}
	var now tokens.Holder
	s := New(Options{
		Tokens: fileTokens(t), Operator: f,
		Session: func(*http.Request) (tokens.Holder, error) { return now, nil },
		Metrics: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}),
	})
	mux := http.NewServeMux()
	s.Register(mux)
	status := func(pattern string) int {
		method, path, _ := strings.Cut(pattern, " ")
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, pathValues.Replace(path), nil))
		return w.Code
	}
	var ofCompanies []string
	for pattern, route := range s.routes() {
		reads := strings.HasPrefix(pattern, "GET ")
		may := map[string]bool{
			"admin":   true,
			"reader":  reads && !slices.Contains(closedToReaders, pattern),
			"company": slices.Contains(companyRoutes, pattern),
			"sender":  slices.Contains(companyRoutes, pattern) || pattern == "POST /api/v1/pages/{id}/messages",
		}
		for name, holder := range holders {
			assert.Equal(t, may[name], route.allow.permits(holder), "%s by %s", pattern, name)
			if now = holder; !may[name] {
				assert.Equal(t, http.StatusForbidden, status(pattern), "%s by %s", pattern, name)
			}
		}
		if route.allow == toCompanies {
			ofCompanies = append(ofCompanies, pattern)
		}
		assert.Equal(t, !reads, route.verb != "", "%s: what changes anything is on record", pattern)
	}
	assert.ElementsMatch(t, companyRoutes, ofCompanies)
	assert.Empty(t, f.got, "no verb was called")
	for name, holder := range holders {
		now = holder
		metrics := slices.Contains([]string{"admin", "reader", "metrics"}, name)
		assert.Equal(t, metrics, status("GET /metrics") == http.StatusOK, name)
		reader := slices.Contains([]string{"admin", "reader"}, name)
		assert.Equal(t, reader, status("GET /api/v1/no/such") == http.StatusNotFound, name)
	}
}

// TestEachVerbIsOnRecord carries out every verb, and one that fails, and checks who did
// what, and that neither a text nor a token nor a contact's id is in an entry.
func TestEachVerbIsOnRecord(t *testing.T) {
	js := streamstest.Run(t)
	h := history.New(history.Options{JS: js.JS})
	defer func() { assert.NoError(t, h.Close(t.Context())) }()
	f := &fakeOperator{}
	s := New(Options{Tokens: fileTokens(t), Operator: f, Metrics: http.NotFoundHandler(), History: h})
	mux := http.NewServeMux()
	s.Register(mux)
	srv := httptest.NewServer(mux)
	defer srv.Close()
	var want []string
	for _, r := range verbRequests {
		resp, body := call(t, r.method, srv.URL+r.path, r.body)
		require.Less(t, resp.StatusCode, 300, body)
		if r.method == http.MethodGet {
			assert.Empty(t, resp.Header.Get("X-Request-Id"), r.path)
			continue
		}
		want = append(want, resp.Header.Get("X-Request-Id"))
	}
	list, _, err := h.Read(t.Context(), history.Query{Limit: 1000})
	require.NoError(t, err)
	var got []string
	verbs := map[string]map[string]string{}
	for _, e := range slices.Backward(list) {
		got = append(got, e.ID)
		verbs[e.Verb] = e.On
		assert.Equal(t, tokens.AdminName, e.Who)
		assert.Equal(t, "127.0.0.1", e.From)
		assert.Equal(t, history.OK, e.Outcome, e.Verb)
		for _, name := range e.On {
			assert.NotContains(t, name, "EAA")
			assert.NotEqual(t, "31", name, "a contact's id")
		}
	}
	assert.Equal(t, want, got, "in order")
	for _, route := range s.routes() {
		if route.verb != "" {
			assert.Contains(t, verbs, route.verb, "give the test a request for it")
		}
	}
	assert.Equal(t, "104", verbs["send"]["page"])
	assert.Len(t, verbs["send"]["contact"], 32)
	assert.Equal(t, verbs["send"]["contact"], verbs["erase"]["contact"])
	assert.Equal(t, "crm", verbs["tokens_revoke"]["token"])

	f.err, f.progress = http.ErrAbortHandler, 1
	call(t, http.MethodPost, srv.URL+"/api/v1/pages/104/check", "")
	resp, _ := call(t, http.MethodPost, srv.URL+"/api/v1/keys/rotate", "")
	require.Equal(t, http.StatusOK, resp.StatusCode, "it has begun")
	call(t, http.MethodPost, srv.URL+"/api/v1/pages/104/messages", `{"text":"hello"}`)
	list, _, err = h.Read(t.Context(), history.Query{Limit: 3})
	require.NoError(t, err)
	for i, want := range []history.Outcome{history.Refused, history.Failed, history.Failed} {
		assert.Equal(t, want, list[i].Outcome, list[i].Verb)
	}
}
