package fakegraph

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fixture is a graph with one app, one person and three pages, served over HTTP.
type fixture struct {
	*Graph
	url string
}

const (
	testApp, testUser = "900", "901"
	testSecret        = "app-secret"
)

func newFixture(t *testing.T, change ...func(*Options)) *fixture {
	t.Helper()
	o := Options{
		Apps:          []App{{ID: testApp, Secret: testSecret, Name: "app"}},
		Users:         []User{{ID: testUser, Name: "U", Pages: []string{"101", "102", "103"}}},
		Pages:         []Page{{ID: "101", Name: "One"}, {ID: "102", Name: "Two"}, {ID: "103", Name: "Three"}},
		ProofOptional: true,
	}
	for _, f := range change {
		f(&o)
	}
	g, err := New(o)
	require.NoError(t, err)
	srv := httptest.NewServer(g)
	t.Cleanup(srv.Close)
	return &fixture{g, srv.URL}
}

func (w *fixture) page(t *testing.T, page string) string {
	t.Helper()
	token, err := w.PageToken(testApp, testUser, page)
	require.NoError(t, err)
	return token
}

type answer struct {
	status int
	header http.Header
	body   string
	Error  struct {
		Code    int `json:"code"`
		Subcode int `json:"error_subcode"`
	} `json:"error"`
	Data []map[string]any `json:"data"`
}

// call makes a request with parameters in pairs.
func (w *fixture) call(t *testing.T, method, path, token string, params ...string) answer {
	t.Helper()
	v := url.Values{"access_token": {token}}
	for i := 0; i < len(params); i += 2 {
		v.Set(params[i], params[i+1])
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, w.url+"/v23.0/"+path+"?"+v.Encode(), nil)
	require.NoError(t, err)
	resp, err := http.DefaultTransport.RoundTrip(req) // does not follow redirects
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	out := answer{status: resp.StatusCode, header: resp.Header, body: string(b)}
	_ = json.Unmarshal(b, &out)
	return out
}

func TestPartialConsent(t *testing.T) {
	w := newFixture(t)
	user, err := w.UserToken(testApp, testUser, true)
	require.NoError(t, err)
	two := w.page(t, "102")
	assert.Len(t, w.call(t, "GET", "me/accounts", user).Data, 3)
	w.SetGranted(testApp, testUser, []string{"101", "103"})
	assert.Len(t, w.call(t, "GET", "me/accounts", user).Data, 2)
	for _, path := range []string{"102/subscribed_apps", "102", "102/conversations"} {
		a := w.call(t, "GET", path, two)
		assert.Equal(t, http.StatusForbidden, a.status, path)
		assert.Equal(t, 10, a.Error.Code)
	}
	debug := w.call(t, "GET", "debug_token", testApp+"|"+testSecret, "input_token", two)
	assert.Contains(t, debug.body, `"is_valid":true`)
	assert.Contains(t, debug.body, `"target_ids":["101","103"]`)
	assert.Equal(t, http.StatusOK, w.call(t, "GET", "101/subscribed_apps", w.page(t, "101")).status)
	w.SetGranted(testApp, testUser, nil)
	assert.Equal(t, http.StatusOK, w.call(t, "GET", "102/subscribed_apps", two).status)
}

func TestDialog(t *testing.T) {
	w := newFixture(t, func(o *Options) { o.Picker = true })
	params := []string{"client_id", testApp, "redirect_uri", "http://127.0.0.1/cb?x=1", "state", "s<>"}
	a := w.call(t, "GET", "dialog/oauth", "", params...)
	assert.Equal(t, http.StatusOK, a.status)
	assert.Contains(t, a.body, "Three (103)")
	assert.NotContains(t, a.body, "s<>")
	a = w.call(t, "GET", "dialog/oauth", "", append(params, "continue", "1", "page", "102")...)
	require.Equal(t, http.StatusFound, a.status)
	to, err := url.Parse(a.header.Get("Location"))
	require.NoError(t, err)
	assert.Equal(t, "s<>", to.Query().Get("state"))
	assert.NotEmpty(t, to.Query().Get("code"))
	user, err := w.UserToken(testApp, testUser, false)
	require.NoError(t, err)
	assert.Len(t, w.call(t, "GET", "me/accounts", user).Data, 1)
	a = w.call(t, "GET", "dialog/oauth", "", append(params, "deny", "1")...)
	require.Equal(t, http.StatusFound, a.status)
	assert.Contains(t, a.header.Get("Location"), "error=access_denied")
	assert.Contains(t, a.header.Get("Location"), "error_code=200")
}

func TestRoles(t *testing.T) {
	w := newFixture(t)
	token := w.page(t, "101")
	require.NoError(t, w.SetTasks(testUser, "101", []string{"ANALYZE"}))
	a := w.call(t, "POST", "101/subscribed_apps", token, "subscribed_fields", "messages")
	assert.Equal(t, []int{http.StatusForbidden, 200}, []int{a.status, a.Error.Code})
	require.NoError(t, w.SetTasks(testUser, "101", nil))
	a = w.call(t, "GET", "101/subscribed_apps", token)
	assert.Equal(t, []int{190, 492}, []int{a.Error.Code, a.Error.Subcode})
	user, err := w.UserToken(testApp, testUser, false)
	require.NoError(t, err)
	assert.Len(t, w.call(t, "GET", testUser+"/accounts", user).Data, 2)
	_, err = w.PageToken(testApp, testUser, "101")
	require.ErrorIs(t, err, ErrUnknown)
	require.NoError(t, w.SetTasks(testUser, "101", []string{"MANAGE"}))
	assert.Equal(t, http.StatusOK, w.call(t, "GET", "101/subscribed_apps", w.page(t, "101")).status, "a new token")
	require.ErrorIs(t, w.SetTasks("5", "101", nil), ErrUnknown)
}

func TestRemovedApp(t *testing.T) {
	got := make(chan string, 2)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.FormValue("signed_request")
		_, _ = w.Write([]byte(`{"url":"https://example.org","confirmation_code":"x"}`))
	}))
	t.Cleanup(srv.Close)
	w := newFixture(t, func(o *Options) { o.Apps[0].DeauthorizeURL, o.Apps[0].DataDeletionURL = srv.URL, srv.URL })
	user, err := w.UserToken(testApp, testUser, true)
	require.NoError(t, err)
	page := w.page(t, "101")
	assert.NotEmpty(t, w.call(t, "GET", "me/permissions", user).Data)
	status, body, err := w.RequestDataDeletion(t.Context(), testApp, testUser)
	require.NoError(t, err)
	assert.Equal(t, http.StatusOK, status)
	assert.Contains(t, string(body), "confirmation_code")
	assert.Len(t, strings.Split(<-got, "."), 2)
	assert.Equal(t, http.StatusOK, w.call(t, "DELETE", "me/permissions", user).status)
	assert.NotEmpty(t, <-got)
	for _, token := range []string{user, page} {
		assert.Equal(t, 458, w.call(t, "GET", "me", token).Error.Subcode)
	}
	w.ExpireDataAccess(testApp, testUser)
	page = w.page(t, "102")
	assert.Equal(t, 190, w.call(t, "GET", "102", page).Error.Code)
}

func TestLimits(t *testing.T) {
	now := time.Unix(1790000000, 0)
	w := newFixture(t, func(o *Options) { o.ConversationLimit, o.Now = 2, func() time.Time { return now } })
	one, two := w.page(t, "101"), w.page(t, "102")
	w.Throttle("101", 80006, 2)
	for _, want := range []int{80006, 80006, 0} {
		assert.Equal(t, want, w.call(t, "GET", "101", one).Error.Code)
	}
	w.SetUsage("102", 97, 5)
	a := w.call(t, "GET", "102", two)
	assert.Contains(t, a.header.Get("X-Business-Use-Case-Usage"), `"estimated_time_to_regain_access":5`)
	assert.Contains(t, a.header.Get("X-Business-Use-Case-Usage"), `"102":[`)
	w.SetUsage("", 40, 0)
	assert.Contains(t, w.call(t, "GET", "debug_token", "x").body, "error")
	a = w.call(t, "GET", testApp+"/subscriptions", testApp+"|"+testSecret)
	assert.Contains(t, a.header.Get("X-App-Usage"), `"call_count":40`)
	for _, want := range []int{0, 0, 613} {
		assert.Equal(t, want, w.call(t, "GET", "101/conversations", one).Error.Code)
	}
	now = now.Add(time.Second)
	assert.Equal(t, 0, w.call(t, "GET", "101/conversations", one).Error.Code)
}

func TestScriptedFailures(t *testing.T) {
	w := newFixture(t)
	token := w.page(t, "101")
	w.FailNext("101/subscribed_apps", Failure{Status: 200, Code: 2, Message: "Service temporarily unavailable"}, 1)
	w.FailNext("101/subscribed_apps", Failure{Status: 502}, 1)
	w.FailNext("101/subscribed_apps", Failure{Status: 500, Code: 1, ApplyFirst: true}, 1)
	a := w.call(t, "POST", "101/subscribed_apps", token, "subscribed_fields", "messages")
	assert.Equal(t, []int{200, 2}, []int{a.status, a.Error.Code})
	a = w.call(t, "POST", "101/subscribed_apps", token, "subscribed_fields", "messages")
	assert.Equal(t, 502, a.status)
	assert.Empty(t, a.body)
	_, on := w.SubscribedFields(testApp, "101")
	assert.False(t, on)
	a = w.call(t, "POST", "101/subscribed_apps", token, "subscribed_fields", "messages")
	assert.Equal(t, 500, a.status)
	_, on = w.SubscribedFields(testApp, "101")
	assert.True(t, on, "the request must be executed before the failure")
	assert.Equal(t, 200, w.call(t, "GET", "101/subscribed_apps", token).status)
}

func TestAppSubscriptions(t *testing.T) {
	w := newFixture(t)
	app := testApp + "|" + testSecret
	a := w.call(t, "GET", testApp+"/subscriptions", app)
	require.Len(t, a.Data, 1)
	assert.Equal(t, "page", a.Data[0]["object"])
	assert.Equal(t, 15, w.call(t, "GET", testApp+"/subscriptions", w.page(t, "101")).Error.Code)
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("hub.verify_token") == "right" {
			_, _ = w.Write([]byte(r.URL.Query().Get("hub.challenge")))
		}
	}))
	t.Cleanup(echo.Close)
	post := func(verify string) answer {
		return w.call(t, "POST", testApp+"/subscriptions", app, "object", "page", "callback_url", echo.URL,
			"fields", "messages,standby", "verify_token", verify)
	}
	assert.Equal(t, 2200, post("wrong").Error.Code)
	assert.Equal(t, http.StatusOK, post("right").status)
	fields, callback, on := w.appFields(testApp, "page")
	assert.Equal(t, []string{"messages", "standby"}, fields)
	assert.Equal(t, echo.URL, callback)
	assert.True(t, on)
	// A refused call changes nothing.
	for _, params := range [][]string{
		{"object", "page", "callback_url", echo.URL, "fields", "mentions", "verify_token", "right"},
		{"object", "instagram", "callback_url", echo.URL, "fields", "feed", "verify_token", "right"},
		{"object", "page", "callback_url", echo.URL, "fields", "feed"},
		{"object", "page", "callback_url", echo.URL, "verify_token", "right"},
		{"object", "user", "callback_url", echo.URL, "fields", "feed", "verify_token", "right"},
	} {
		assert.Equal(t, 100, w.call(t, "POST", testApp+"/subscriptions", app, params...).Error.Code, params)
	}
	assert.Equal(t, []string{"messages", "standby"}, w.delivers(testApp, "page"))
	w.SetAppCallback(testApp, "page", "https://old/hook", false)
	a = w.call(t, "GET", testApp+"/subscriptions", app)
	require.Len(t, a.Data, 1)
	assert.Equal(t, false, a.Data[0]["active"])
	assert.Equal(t, "https://old/hook", a.Data[0]["callback_url"])
	assert.Empty(t, w.delivers(testApp, "page"))
	assert.Equal(t, http.StatusOK, post("right").status)
	assert.NotEmpty(t, w.delivers(testApp, "page"), "a new subscription is active")
	assert.Equal(t, http.StatusOK, w.call(t, "DELETE", testApp+"/subscriptions", app, "object", "page").status)
	assert.Empty(t, w.call(t, "GET", testApp+"/subscriptions", app).Data)
}

func TestConversationsAPI(t *testing.T) {
	w := newFixture(t)
	token := w.page(t, "101")
	at := time.Unix(1790000000, 0)
	people := w.Contacts("101")
	for i := range 9 {
		w.storeMessage(storedMessage{
			page: "101", psid: people[i%3], mid: "m_" + string(rune('a'+i)), platform: "messenger",
			text: "t", fromPage: i > 6, at: at.Add(time.Duration(i) * time.Second),
		})
	}
	w.storeMessage(storedMessage{page: "101", psid: people[0], mid: "m_a", platform: "messenger", at: at}) // a known mid
	a := w.call(t, "GET", "101/conversations", token, "limit", "2",
		"fields", "id,updated_time,messages.limit(2){id,message}")
	require.Len(t, a.Data, 2)
	assert.Equal(t, at.Add(8*time.Second).UTC().Format("2006-01-02T15:04:05-0700"), a.Data[0]["updated_time"])
	var cursors struct {
		Paging struct {
			Cursors struct{ After string }
			Next    string
		}
	}
	require.NoError(t, json.Unmarshal([]byte(a.body), &cursors))
	assert.NotEmpty(t, cursors.Paging.Next)
	rest := w.call(t, "GET", "101/conversations", token, "limit", "2", "after", cursors.Paging.Cursors.After)
	assert.Len(t, rest.Data, 1)
	list := w.call(t, "GET", a.Data[0]["id"].(string)+"/messages", token)
	require.Len(t, list.Data, 3)
	assert.Equal(t, "m_i", list.Data[0]["id"])
	assert.Equal(t, http.StatusOK, w.call(t, "GET", "m_a", token).status)
	assert.Equal(t, http.StatusForbidden, w.call(t, "GET", "101/conversations", w.page(t, "102")).status)
	assert.Empty(t, w.call(t, "GET", "101/conversations", token, "platform", "instagram").Data)
}

func TestSendWindow(t *testing.T) {
	w := newFixture(t)
	token := w.page(t, "101")
	people := w.Contacts("101")
	send := func(psid, tag string) answer {
		return w.call(t, "POST", "101/messages", token, "recipient", `{"id":"`+psid+`"}`, "message", `{"text":"hi"}`,
			"tag", tag)
	}
	assert.Equal(t, http.StatusOK, send(people[0], "").status)
	w.CloseWindow(people[0])
	assert.Equal(t, 2018278, send(people[0], "").Error.Subcode)
	assert.Equal(t, http.StatusOK, send(people[0], "HUMAN_AGENT").status)
	w.Block(people[1])
	a := send(people[1], "")
	assert.Equal(t, []int{551, 1545041}, []int{a.Error.Code, a.Error.Subcode})
	w = newFixture(t, func(o *Options) { o.Window = true })
	token = w.page(t, "101")
	assert.Equal(t, 2018278, send(people[2], "").Error.Subcode, "the person has never written")
}
