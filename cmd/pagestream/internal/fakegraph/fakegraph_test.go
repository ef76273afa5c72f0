package fakegraph_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	app, appSecret     = "100200300400500", "app-secret"
	otherApp           = "100200300400501"
	user, poorUser     = "10215241773831025", "10215241773831026"
	page1, page2       = "1906385232743451", "1906385232743452"
	instagram          = "17841400000000001"
	messagesAndStandby = "messages,standby"
)

// clock is a clock that moves by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// fixture is a graph with two apps, two users and two pages, served over HTTP.
type fixture struct {
	*fakegraph.Graph
	t     *testing.T
	url   string
	http  *http.Client
	clock *clock
}

// newFixture returns a fixture whose options change may modify.
func newFixture(t *testing.T, change func(*fakegraph.Options)) *fixture {
	t.Helper()
	c := &clock{now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	o := fakegraph.Options{
		Apps: []fakegraph.App{
			{ID: app, Secret: appSecret, Name: "pagestream"},
			{ID: otherApp, Secret: "other", Name: "other"},
		},
		Users: []fakegraph.User{
			{ID: user, Name: "Dian", Pages: []string{page1, page2}},
			{ID: poorUser, Name: "Poor", Pages: []string{page1}, Scopes: []string{"pages_show_list", "pages_manage_metadata"}},
		},
		Pages: []fakegraph.Page{
			{ID: page1, Name: "Müllers Fahrräder", Category: "Shop", Instagram: instagram},
			{ID: page2, Name: "Café 8/9", Category: "Café"},
		},
		Seed: 5, Now: c.Now,
	}
	if change != nil {
		change(&o)
	}
	g, err := fakegraph.New(o)
	require.NoError(t, err)
	srv := httptest.NewServer(g)
	t.Cleanup(srv.Close)
	client := srv.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &fixture{Graph: g, t: t, url: srv.URL, http: client, clock: c}
}

// proof returns the appsecret_proof of a token.
func proof(token, secret string) string {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write([]byte(token))
	return hex.EncodeToString(m.Sum(nil))
}

type answer struct {
	status int
	header http.Header
	raw    string
	body   map[string]any
}

// failure returns "status code/subcode" of an error, "" if there is none.
func (a answer) failure() string {
	e, ok := a.body["error"].(map[string]any)
	if !ok {
		return ""
	}
	sub, _ := e["error_subcode"].(float64)
	return fmt.Sprintf("%d %v/%.0f", a.status, e["code"], sub)
}

// call makes a request with the token in the header and the proof in the form.
func (f *fixture) call(method, path, token string, params ...string) answer {
	f.t.Helper()
	q := url.Values{}
	if token != "" {
		q.Set("appsecret_proof", proof(token, appSecret))
	}
	for i := 0; i < len(params); i += 2 {
		if params[i+1] == "" {
			q.Del(params[i])
		} else {
			q.Set(params[i], params[i+1])
		}
	}
	target, body := f.url+path, ""
	if method == http.MethodPost {
		body = q.Encode()
	} else {
		target += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(f.t.Context(), method, target, strings.NewReader(body))
	require.NoError(f.t, err)
	if body != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return f.do(req)
}

func (f *fixture) do(req *http.Request) answer {
	f.t.Helper()
	resp, err := f.http.Do(req)
	require.NoError(f.t, err)
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header, body: map[string]any{}}
	b := new(strings.Builder)
	_, err = fmt.Fprint(b, readAll(f.t, resp))
	require.NoError(f.t, err)
	a.raw = b.String()
	if strings.HasPrefix(a.raw, "{") {
		require.NoError(f.t, json.Unmarshal([]byte(a.raw), &a.body))
	}
	return a
}

func (f *fixture) pageToken(u, page string) string {
	f.t.Helper()
	s, err := f.PageToken(app, u, page)
	require.NoError(f.t, err)
	return s
}

func (f *fixture) fields(page string) string {
	fields, ok := f.SubscribedFields(app, page)
	if !ok {
		return "none"
	}
	return strings.Join(fields, ",")
}

func TestSubscribedApps(t *testing.T) {
	f := newFixture(t, nil)
	t1, t2 := f.pageToken(user, page1), f.pageToken(user, page2)
	userToken, err := f.UserToken(app, user, true)
	require.NoError(t, err)
	edge := "/v23.0/" + page1 + "/subscribed_apps"

	assert.Equal(t, `{"data":[]}`, f.call("GET", edge, t1).raw)
	a := f.call("POST", edge, t1, "subscribed_fields", "messages,message_reads")
	assert.Equal(t, `{"success":true}`, a.raw)
	assert.Equal(t, "v23.0", a.header.Get("facebook-api-version"))
	assert.NotEmpty(t, a.header.Get("x-fb-trace-id"))
	assert.Equal(t, "text/javascript; charset=UTF-8", a.header.Get("Content-Type"))
	assert.Equal(t, "message_reads,messages", f.fields(page1))
	assert.Equal(t, "none", f.fields(page2))

	// A list replaces the previous one. It may be in JSON, and any version prefix or
	// none is accepted.
	a = f.call("POST", "/"+page1+"/subscribed_apps", t1, "subscribed_fields", `["messages","standby"]`)
	assert.Equal(t, `{"success":true}`, a.raw)
	assert.Equal(t, messagesAndStandby, f.fields(page1))
	a = f.call("GET", "/v26.0/"+page1+"/subscribed_apps", t1)
	assert.Contains(t, a.raw, `"id":"`+app+`"`)
	assert.Contains(t, a.raw, `"subscribed_fields":["messages","standby"]`)
	assert.Contains(t, a.raw, `https:\/\/example.com\/`)

	for name, c := range map[string]struct {
		token string
		args  []string
		want  string
	}{
		"unknown field":      {t1, []string{"subscribed_fields", "messages,mentions"}, "400 100/0"},
		"no field":           {t1, nil, "400 100/0"},
		"no pages_messaging": {f.pageToken(poorUser, page1), []string{"subscribed_fields", "feed,messages"}, "403 200/0"},
		"user token":         {userToken, []string{"subscribed_fields", "messages"}, "400 210/0"},
		"other page's token": {t2, []string{"subscribed_fields", "messages"}, "403 200/0"},
		"no proof":           {t1, []string{"subscribed_fields", "feed", "appsecret_proof", ""}, "400 100/0"},
		"proof with a secret": {
			t1,
			[]string{"subscribed_fields", "feed", "appsecret_proof", proof(t1, "guess")},
			"400 100/0",
		},
		"no token":      {"", []string{"subscribed_fields", "feed"}, "400 104/0"},
		"no such token": {"EAAnothing", []string{"subscribed_fields", "feed"}, "400 190/0"},
	} {
		t.Run(name, func(t *testing.T) {
			a := f.call("POST", edge, c.token, c.args...)
			assert.Equal(t, c.want, a.failure(), a.raw)
			assert.Equal(t, messagesAndStandby, f.fields(page1), "the fields were changed")
		})
	}
	a = f.call("POST", edge, f.pageToken(poorUser, page1), "subscribed_fields", "feed,messages")
	assert.Contains(t, a.raw, "To subscribe to the messages field, one of these permissions is needed: pages_messaging")
	a = f.call("POST", edge, t1, "subscribed_fields", "mentions")
	assert.Contains(t, a.raw, `Param subscribed_fields[0] must be one of {`)

	assert.Equal(t, `{"success":true}`, f.call("DELETE", edge, t1).raw)
	assert.Equal(t, "none", f.fields(page1))
}

func TestMe(t *testing.T) {
	for _, overwrites := range []bool{false, true} {
		t.Run(fmt.Sprint("overwrites ", overwrites), func(t *testing.T) {
			f := newFixture(t, func(o *fakegraph.Options) { o.MeOverwrites = overwrites })
			f.SetSubscription(otherApp, page2, "feed")
			f.call("POST", "/"+page2+"/subscribed_apps", f.pageToken(user, page2), "subscribed_fields", "messages")
			a := f.call("POST", "/me/subscribed_apps", f.pageToken(user, page1), "subscribed_fields", "messages")
			assert.Equal(t, `{"success":true}`, a.raw)
			assert.Equal(t, "messages", f.fields(page1))
			want := "messages"
			if overwrites {
				want = "none"
			}
			assert.Equal(t, want, f.fields(page2))
			_, other := f.SubscribedFields(otherApp, page2)
			assert.True(t, other, "another app lost its subscription")

			// A POST to an explicit page never changes another page.
			f.call("POST", "/"+page2+"/subscribed_apps", f.pageToken(user, page2), "subscribed_fields", "feed")
			assert.Equal(t, "messages", f.fields(page1))
		})
	}
	f := newFixture(t, nil)
	long, err := f.UserToken(app, user, true)
	require.NoError(t, err)
	assert.Equal(t, user, f.call("GET", "/me", long).body["id"])
	assert.Equal(t, page2, f.call("GET", "/me", f.pageToken(user, page2)).body["id"])
}

func TestPageNode(t *testing.T) {
	f := newFixture(t, nil)
	a := f.call("GET", "/v23.0/"+page1, f.pageToken(user, page1),
		"fields", "id,name,instagram_business_account{id,username}")
	assert.Equal(t, `{"id":"`+page1+`","instagram_business_account":{"id":"`+instagram+`"},`+
		`"name":"M\u00fcllers Fahrr\u00e4der"}`, a.raw)
	assert.Equal(t, "400 100/33", f.call("GET", "/"+page1, f.pageToken(user, page2)).failure())
	assert.Equal(t, "400 100/33", f.call("GET", "/404404", f.pageToken(user, page2)).failure())
	assert.Equal(t, "400 100/0", f.call("GET", "/"+page1, f.pageToken(user, page1), "fields", "id,nonsense").failure())
	assert.Equal(t, "400 2500/0", f.call("GET", "/"+page1+"/nonsense", f.pageToken(user, page1)).failure())
}

func TestLogin(t *testing.T) {
	f := newFixture(t, nil)
	const back = "http://127.0.0.1:8080/oauth/callback"
	login := func() url.Values {
		a := f.call("GET", "/v23.0/dialog/oauth", "", "client_id", app, "redirect_uri", back, "state", "s t",
			"response_type", "code")
		require.Equal(t, http.StatusFound, a.status)
		u, err := url.Parse(a.header.Get("Location"))
		require.NoError(t, err)
		assert.Equal(t, "s t", u.Query().Get("state"))
		return url.Values{
			"client_id": {app}, "client_secret": {appSecret}, "redirect_uri": {back},
			"code": {u.Query().Get("code")},
		}
	}
	exchange := func(q url.Values, change ...string) answer {
		args := []string{}
		for k := range q {
			args = append(args, k, q.Get(k))
		}
		return f.call("POST", "/v23.0/oauth/access_token", "", append(args, change...)...)
	}
	q := login()
	assert.Equal(t, "400 100/36008", exchange(q, "redirect_uri", back+"/").failure())
	assert.Equal(t, "400 1/0", exchange(q, "client_secret", "guess").failure())
	a := exchange(q)
	short, _ := a.body["access_token"].(string)
	require.NotEmpty(t, short, a.raw)
	assert.Equal(t, "400 100/36009", exchange(q).failure(), "a code works once")
	q = login()
	f.clock.add(11 * time.Minute)
	assert.Equal(t, "400 100/36007", exchange(q).failure())

	a = exchange(url.Values{
		"client_id": {app}, "client_secret": {appSecret}, "grant_type": {"fb_exchange_token"},
		"fb_exchange_token": {short},
	})
	long, _ := a.body["access_token"].(string)
	assert.NotEqual(t, short, long)
	assert.InDelta(t, 60*24*3600, a.body["expires_in"], 1)

	f.clock.add(3 * time.Hour)
	assert.Equal(t, "400 190/463", f.call("GET", "/me", short).failure())
	assert.Empty(t, f.call("GET", "/me", long).failure())
	a = exchange(url.Values{
		"client_id": {app}, "client_secret": {appSecret}, "grant_type": {"fb_exchange_token"},
		"fb_exchange_token": {short},
	})
	assert.Equal(t, "400 190/463", a.failure(), "an expired token can't be exchanged")
}

func TestAccountsArePaged(t *testing.T) {
	f := newFixture(t, func(o *fakegraph.Options) {
		for i := range 58 {
			id := fmt.Sprint(5000000000 + i)
			o.Pages = append(o.Pages, fakegraph.Page{ID: id, Name: "Page " + id})
			o.Users[0].Pages = append(o.Users[0].Pages, id)
		}
	})
	long, err := f.UserToken(app, user, true)
	require.NoError(t, err)
	seen, sizes := map[string]bool{}, []int{}
	a := f.call("GET", "/v23.0/me/accounts", long, "fields", "id,name,access_token")
	for {
		data, _ := a.body["data"].([]any)
		sizes = append(sizes, len(data))
		for _, d := range data {
			p, _ := d.(map[string]any)
			id, _ := p["id"].(string)
			seen[id] = true
			token, _ := p["access_token"].(string)
			assert.Equal(t, f.pageToken(user, id), token)
		}
		paging, _ := a.body["paging"].(map[string]any)
		next, _ := paging["next"].(string)
		if next == "" {
			break
		}
		u, err := url.Parse(next)
		require.NoError(t, err)
		assert.Equal(t, "/v23.0/"+user+"/accounts", u.Path)
		a = f.call("GET", u.Path, long, "after", u.Query().Get("after"), "limit", u.Query().Get("limit"),
			"fields", u.Query().Get("fields"))
	}
	assert.Equal(t, []int{25, 25, 10}, sizes)
	assert.Len(t, seen, 60)
}

func TestDebugToken(t *testing.T) {
	f := newFixture(t, nil)
	appToken := app + "|" + appSecret
	data := func(input string) map[string]any {
		a := f.call("POST", "/v23.0/debug_token", appToken, "method", "get", "input_token", input)
		require.Equal(t, 200, a.status, a.raw)
		d, _ := a.body["data"].(map[string]any)
		return d
	}
	token := f.pageToken(user, page1)
	d := data(token)
	assert.Equal(t, true, d["is_valid"])
	assert.Equal(t, "PAGE", d["type"])
	assert.Equal(t, page1, d["profile_id"])
	assert.InDelta(t, 0, d["expires_at"], 0)
	require.NoError(t, f.KillToken(token, 460))
	d = data(token)
	assert.Equal(t, false, d["is_valid"])
	assert.InDelta(t, 460, d["error"].(map[string]any)["subcode"], 0)
	a := f.call("GET", "/"+page1, token)
	assert.Equal(t, "400 190/460", a.failure())
	assert.Contains(t, a.header.Get("WWW-Authenticate"), "invalid_token")
	assert.NotEqual(t, token, f.pageToken(user, page1), "an invalid token must be replaced")
	assert.Equal(t, false, data("EAAnothing")["is_valid"])
	assert.Equal(t, "400 100/0", f.call("GET", "/debug_token", f.pageToken(user, page2), "input_token", token).failure())
	assert.Equal(t, "400 190/0", f.call("GET", "/debug_token", app+"|guess", "input_token", token).failure())
}

func TestSameSeedGivesSameTokensAndPeople(t *testing.T) {
	a, b := newFixture(t, nil), newFixture(t, nil)
	c := newFixture(t, func(o *fakegraph.Options) { o.Seed = 6 })
	assert.Equal(t, a.pageToken(user, page1), b.pageToken(user, page1))
	assert.Equal(t, a.Contacts(page1), b.Contacts(page1))
	assert.NotEqual(t, a.pageToken(user, page1), c.pageToken(user, page1))
	assert.NotEqual(t, a.pageToken(user, page1), a.pageToken(user, page2))
}

func TestProfiles(t *testing.T) {
	f := newFixture(t, nil)
	people := f.Contacts(page1)
	require.Len(t, people, fakegraph.DefaultContacts)
	a := f.call("GET", "/"+people[0], f.pageToken(user, page1), "fields", "name,profile_pic")
	assert.NotEmpty(t, a.body["name"])
	assert.Equal(t, "400 100/33", f.call("GET", "/"+people[0], f.pageToken(user, page2)).failure())
	assert.Equal(t, "400 100/2018218", f.call("GET", "/"+people[11], f.pageToken(user, page1)).failure())
	assert.False(t, slices.Contains(f.Contacts(page2), people[0]))
}

func TestOptionsAreChecked(t *testing.T) {
	good := fakegraph.Options{
		Apps:  []fakegraph.App{{ID: "1", Secret: "s"}},
		Users: []fakegraph.User{{ID: "2", Pages: []string{"3"}}}, Pages: []fakegraph.Page{{ID: "3"}},
	}
	for name, change := range map[string]func(*fakegraph.Options){
		"no app":       func(o *fakegraph.Options) { o.Apps = nil },
		"no secret":    func(o *fakegraph.Options) { o.Apps = []fakegraph.App{{ID: "1"}} },
		"id twice":     func(o *fakegraph.Options) { o.Pages = []fakegraph.Page{{ID: "1"}} },
		"me":           func(o *fakegraph.Options) { o.Pages = []fakegraph.Page{{ID: "me"}} },
		"unknown page": func(o *fakegraph.Options) { o.Users = []fakegraph.User{{ID: "2", Pages: []string{"9"}}} },
		"many people":  func(o *fakegraph.Options) { o.Contacts = 1 << 40 },
	} {
		t.Run(name, func(t *testing.T) {
			o := good
			change(&o)
			_, err := fakegraph.New(o)
			assert.ErrorIs(t, err, fakegraph.ErrOptions)
		})
	}
	_, err := fakegraph.New(good)
	assert.NoError(t, err)
}
