package graph_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
)

const (
	appID     = "123456789012345"
	appSecret = "very-secret-app-secret"
	page      = "1906385232743451"
	token     = "EAABsbCS1iHgBAFakeTokenForTests0123456789"
	input     = "EAABsbCS1iHgBAAnotherTokenForTests9876543210"
)

// corpus has Meta's answers in the shapes that it documents.
const corpus = "../../../../../shared/corpus/graph-responses"

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(corpus, name))
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("the corpus is not beside the repository: " + corpus)
	}
	require.NoError(t, err)
	return string(b)
}

// server answers each request with the next of its answers, the last one for
// ever, and checks what must hold for every request.
type server struct {
	*httptest.Server
	t        *testing.T
	answers  []answer
	requests []request
	slept    []time.Duration
}

type answer struct {
	status int
	body   string
}

type request struct {
	method, path, auth string
	params             url.Values
}

func start(t *testing.T, answers ...answer) *server {
	t.Helper()
	s := &server{t: t, answers: answers}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for _, secret := range []string{token, input, appSecret} {
		if strings.Contains(r.URL.String(), secret) {
			s.t.Errorf("a token is in the URL %s", r.URL)
		}
	}
	if strings.Contains(r.URL.Path, "/me/") || strings.HasSuffix(r.URL.Path, "/me") {
		s.t.Errorf("a request to %s", r.URL.Path)
	}
	b, _ := io.ReadAll(r.Body)
	params, err := url.ParseQuery(string(b))
	if err != nil {
		s.t.Error(err)
	}
	for k, v := range r.URL.Query() {
		params[k] = v
	}
	bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	m := hmac.New(sha256.New, []byte(appSecret))
	m.Write([]byte(bearer))
	if params.Get("appsecret_proof") != hex.EncodeToString(m.Sum(nil)) {
		s.t.Errorf("%s %s has a wrong appsecret_proof", r.Method, r.URL.Path)
	}
	s.requests = append(s.requests, request{r.Method, r.URL.Path, bearer, params})
	a := s.answers[0]
	if len(s.answers) > 1 {
		s.answers = s.answers[1:]
	}
	w.Header().Set("Content-Type", "text/javascript; charset=UTF-8")
	if a.status >= 300 && a.status < 400 {
		w.Header().Set("Location", s.URL+"/elsewhere")
	}
	w.WriteHeader(a.status)
	_, _ = io.WriteString(w, a.body)
}

func (s *server) client(change ...func(*graph.Options)) *graph.Client {
	s.t.Helper()
	o := graph.Options{
		BaseURL: s.URL, Version: "v25.0", AppID: appID, AppSecret: appSecret,
		Sleep: func(_ context.Context, d time.Duration) error { s.slept = append(s.slept, d); return nil },
	}
	for _, c := range change {
		c(&o)
	}
	c, err := graph.New(o)
	require.NoError(s.t, err)
	return c
}

func TestCalls(t *testing.T) {
	ctx := t.Context()
	t.Run("subscribed apps", func(t *testing.T) {
		s := start(t, answer{200, read(t, "subscribed_apps_get.json")})
		apps, err := s.client().SubscribedApps(ctx, page, token)
		require.NoError(t, err)
		assert.Equal(t, []graph.App{{ID: appID, Name: "My Sample App", Fields: []string{"messages"}}}, apps)
		assert.Equal(t, "GET", s.requests[0].method)
		assert.Equal(t, "/v25.0/"+page+"/subscribed_apps", s.requests[0].path)
		assert.Equal(t, token, s.requests[0].auth)
	})
	t.Run("our own fields, over two pages of apps", func(t *testing.T) {
		s := start(t,
			answer{200, `{"data":[{"id":"1","subscribed_fields":["feed"]}],"paging":{"cursors":{"after":"AA"},"next":"https://x/?access_token=` + token + `"}}`},
			answer{200, `{"data":[{"id":` + appID + `,"subscribed_fields":["standby","messages","messages"]}],"paging":{"cursors":{"after":"BB"}}}`},
		)
		fields, ok, err := s.client().SubscribedFields(ctx, page, token)
		require.NoError(t, err)
		assert.True(t, ok)
		assert.Equal(t, []string{"messages", "standby"}, fields)
		require.Len(t, s.requests, 2)
		assert.Equal(t, "AA", s.requests[1].params.Get("after"))
	})
	t.Run("not subscribed", func(t *testing.T) {
		s := start(t, answer{200, `{"data":[{"id":"1","subscribed_fields":["feed"]}]}`})
		_, ok, err := s.client().SubscribedFields(ctx, page, token)
		require.NoError(t, err)
		assert.False(t, ok)
	})
	t.Run("subscribe", func(t *testing.T) {
		s := start(t, answer{200, read(t, "subscribed_apps_post_ok.json")})
		require.NoError(t, s.client().Subscribe(ctx, page, token, []string{"messages", "standby"}))
		r := s.requests[0]
		assert.Equal(t, "POST", r.method)
		assert.Equal(t, "messages,standby", r.params.Get("subscribed_fields"))
	})
	t.Run("success as a string", func(t *testing.T) {
		s := start(t, answer{200, `{"success":"true"}`})
		require.NoError(t, s.client().Unsubscribe(ctx, page, token))
		assert.Equal(t, "DELETE", s.requests[0].method)
	})
	t.Run("page", func(t *testing.T) {
		s := start(t, answer{200, `{"id":` + page + `,"name":"Dian Aul","instagram_business_account":{"id":"17841400000000001"}}`})
		name, instagram, err := s.client().Page(ctx, page, token)
		require.NoError(t, err)
		assert.Equal(t, "Dian Aul", name)
		assert.Equal(t, "17841400000000001", instagram)
	})
	t.Run("page without permission for Instagram", func(t *testing.T) {
		s := start(t, answer{403, `{"error":{"code":10,"message":"no"}}`}, answer{200, `{"id":"` + page + `","name":"Dian Aul"}`})
		name, instagram, err := s.client().Page(ctx, page, token)
		require.NoError(t, err)
		assert.Equal(t, "Dian Aul", name)
		assert.Empty(t, instagram)
	})
	t.Run("another page", func(t *testing.T) {
		s := start(t, answer{200, `{"id":"1","name":"x"}`})
		_, _, err := s.client().Page(ctx, page, token)
		assert.ErrorIs(t, err, graph.ErrOtherPage)
	})
	t.Run("debug token", func(t *testing.T) {
		s := start(t, answer{200, read(t, "debug_token.json")})
		info, err := s.client().DebugToken(ctx, input)
		require.NoError(t, err)
		assert.Equal(t, graph.TokenInfo{
			AppID: appID, Type: "PAGE", Page: page, User: "10215241773831025", Valid: true,
			Issued: time.Unix(1789296000, 0).UTC(), DataAccessExpires: time.Unix(1797072000, 0).UTC(),
			Scopes:  []string{"pages_show_list", "pages_messaging", "pages_manage_metadata"},
			Granted: map[string][]string{"pages_messaging": {page}},
		}, info)
		r := s.requests[0]
		assert.Equal(t, "POST", r.method)
		assert.Equal(t, "GET", r.params.Get("method"))
		assert.Equal(t, input, r.params.Get("input_token"))
		assert.Equal(t, appID+"|"+appSecret, r.auth)
	})
	t.Run("debug token of a dead one", func(t *testing.T) {
		s := start(t, answer{200, `{"data":{"is_valid":false,"error":{"code":190,"subcode":460,"message":"Malformed ` + input + `"},"scopes":[]}}`})
		info, err := s.client().DebugToken(ctx, input)
		require.NoError(t, err)
		assert.False(t, info.Valid)
		require.ErrorIs(t, info.Err, graph.ErrTokenInvalid)
		assert.Equal(t, 460, info.Err.Subcode)
		assert.NotContains(t, info.Err.Error(), input)
	})
}

func TestRefusalsByCode(t *testing.T) {
	for file, want := range map[string]error{
		"err_100_2018001_no_user.json": graph.ErrPerson, "err_10_2018278_window.json": graph.ErrWindow,
		"err_190_458_app_removed.json": graph.ErrTokenInvalid, "err_190_460_password.json": graph.ErrTokenInvalid,
		"err_190_463_expired.json": graph.ErrTokenInvalid, "err_190_490_checkpoint.json": graph.ErrTokenInvalid,
		"err_4_app_rate.json": graph.ErrThrottled, "err_613_rate.json": graph.ErrThrottled,
		"err_80006_messenger_buc.json": graph.ErrThrottled, "err_551_1545041.json": graph.ErrPerson,
		"subscribed_apps_post_bad_field.json": graph.ErrParameter, "subscribed_apps_post_missing_permission.json": graph.ErrPermission,
		"fbmessenger-hs_errorResponse.json": graph.ErrParameter,
	} {
		for _, status := range []int{200, 400} { // an error in a body with status 200 is one
			t.Run(fmt.Sprint(file, " ", status), func(t *testing.T) {
				s := start(t, answer{status, read(t, file)})
				err := s.client().Subscribe(t.Context(), page, token, []string{"messages"})
				require.ErrorIs(t, err, want)
				var refusal *graph.Error
				require.ErrorAs(t, err, &refusal)
				assert.NotZero(t, refusal.Code)
				assert.NotEmpty(t, refusal.Words())
				assert.NotEmpty(t, refusal.Type)
				assert.Equal(t, status, refusal.Status)
				assert.Len(t, s.requests, 1, "it was tried again")
			})
		}
	}
	kinds := []error{
		graph.ErrTokenInvalid, graph.ErrPermission, graph.ErrThrottled, graph.ErrNotFound, graph.ErrTransient, graph.ErrParameter,
		graph.ErrWindow, graph.ErrPerson, graph.ErrNoProfile, graph.ErrRestricted,
	}
	for _, c := range []struct {
		status, code, sub int
		kind              error
	}{
		{400, 100, 33, graph.ErrNotFound},
		{400, 100, 0, graph.ErrParameter},
		{400, 102, 0, graph.ErrTokenInvalid},
		{403, 210, 0, graph.ErrPermission},
		{403, 3, 0, graph.ErrPermission},
		{403, 10, 1893063, graph.ErrRestricted},
		{400, 368, 0, graph.ErrRestricted},
		{400, 100, 2018218, graph.ErrNoProfile},
		{400, 230, 0, graph.ErrPerson},
		{400, 17, 0, graph.ErrThrottled},
		{400, 32, 0, graph.ErrThrottled},
		{400, 80001, 0, graph.ErrThrottled},
		{429, 0, 0, graph.ErrThrottled},
		{500, 1, 0, graph.ErrTransient},
		{400, 2, 0, graph.ErrTransient},
		{503, 0, 0, graph.ErrTransient},
		{400, 4711, 0, nil},
	} {
		err := &graph.Error{Status: c.status, Code: c.code, Subcode: c.sub}
		for _, k := range kinds {
			want := k == c.kind //nolint:errorlint // which of the kinds it is
			assert.Equal(t, want, errors.Is(err, k), "%v is %v", err, k)
		}
	}
	assert.ErrorIs(t, &graph.Error{Status: 400, Code: 4711, Transient: true}, graph.ErrTransient)
}

func TestTryingAgain(t *testing.T) {
	transient := answer{500, `{"error":{"code":2,"message":"Service temporarily unavailable","is_transient":true}}`}
	good := answer{200, `{"success":true}`}
	s := start(t, transient, answer{502, "<html>"}, answer{200, `{"error":{"code":1}}`}, good)
	require.NoError(t, s.client().Unsubscribe(t.Context(), page, token))
	require.Len(t, s.slept, 3)
	for i, d := range s.slept {
		full := 500 * time.Millisecond << i
		assert.True(t, d >= full/2 && d <= full, "wait %d is %s", i, d)
	}

	s = start(t, transient)
	assert.ErrorIs(t, s.client().Unsubscribe(t.Context(), page, token), graph.ErrTransient)
	assert.Len(t, s.requests, 1+graph.DefaultRetries)

	s = start(t, transient)
	assert.Error(t, s.client(func(o *graph.Options) { o.Retries = -1 }).Unsubscribe(t.Context(), page, token))
	assert.Len(t, s.requests, 1)

	// The wait ends with the context.
	s = start(t, transient)
	ctx, cancel := context.WithCancel(t.Context())
	c := s.client(func(o *graph.Options) {
		o.Sleep = func(ctx context.Context, _ time.Duration) error { cancel(); <-ctx.Done(); return ctx.Err() }
	})
	err := c.Unsubscribe(ctx, page, token)
	assert.ErrorIs(t, err, context.Canceled)
	assert.ErrorIs(t, err, graph.ErrTransient)
}

func TestAnswersThatAreNotGraphs(t *testing.T) {
	for name, a := range map[string]answer{
		"not JSON":     {200, "<html>token " + token + "</html>"},
		"too large":    {200, `{"success":true,"x":"` + strings.Repeat("a", 5<<20) + `"}`},
		"no success":   {200, `{"success":false}`},
		"empty":        {200, ""},
		"another type": {200, `{"success":true`},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, a)
			err := s.client().Subscribe(t.Context(), page, token, []string{"messages"})
			require.ErrorIs(t, err, graph.ErrAnswer)
			assert.NotContains(t, err.Error(), token)
		})
	}
	t.Run("redirect", func(t *testing.T) {
		s := start(t, answer{302, ""})
		var refusal *graph.Error
		require.ErrorAs(t, s.client().Subscribe(t.Context(), page, token, []string{"messages"}), &refusal)
		assert.Len(t, s.requests, 1, "the redirect was followed")
	})
	t.Run("no data", func(t *testing.T) {
		s := start(t, answer{200, `{}`})
		_, err := s.client().SubscribedApps(t.Context(), page, token)
		assert.ErrorIs(t, err, graph.ErrAnswer)
		_, err = s.client().DebugToken(t.Context(), input)
		assert.ErrorIs(t, err, graph.ErrAnswer)
	})
	t.Run("a listing without end", func(t *testing.T) {
		n := 0
		s := start(t)
		s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			n++
			fmt.Fprintf(w, `{"data":[],"paging":{"cursors":{"after":"%d"},"next":"x"}}`, n)
		})
		_, err := s.client().SubscribedApps(t.Context(), page, token)
		assert.ErrorIs(t, err, graph.ErrAnswer)
		assert.Equal(t, 50, n)
	})
}

// Whatever goes wrong, no error has a token, the secret or a proof in it.
func TestErrorsHaveNoTokens(t *testing.T) {
	echo := answer{400, `{"error":{"code":190,"message":"Malformed access token ` + token + ` or ` + input + ` of ` + appSecret + ` EAASomeOtherTokenThatNobodyGave1","fbtrace_id":"` + token + `"}}`}
	s := start(t, echo)
	gone := start(t, echo)
	gone.Close()
	slow := start(t)
	slow.Config.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // else the server does not see the client go
		<-r.Context().Done()
	})
	for name, c := range map[string]*graph.Client{
		"refused": s.client(), "gone": gone.client(), "slow": slow.client(func(o *graph.Options) { o.Timeout = 20 * time.Millisecond }),
		"broken transport": s.client(func(o *graph.Options) { o.HTTP = &http.Client{Transport: broken{}} }),
	} {
		_, apps := c.SubscribedApps(t.Context(), page, token)
		_, _, fields := c.SubscribedFields(t.Context(), page, token)
		_, _, node := c.Page(t.Context(), page, token)
		_, debug := c.DebugToken(t.Context(), input)
		for _, err := range []error{
			apps, fields, node, debug, c.Unsubscribe(t.Context(), page, token), c.Subscribe(t.Context(), page, token, []string{"messages"}),
		} {
			require.Error(t, err, name)
			for _, text := range []string{err.Error(), fmt.Sprintf("%+v %#v", err, err)} {
				for _, secret := range []string{token, input, appSecret, "EAASomeOther", "appsecret_proof"} {
					assert.NotContains(t, text, secret, name)
				}
			}
			if name != "refused" {
				assert.ErrorIs(t, err, graph.ErrUnreachable, name)
			}
		}
		assert.NotContains(t, fmt.Sprintf("%v %+v %#v", c, c, c), appSecret)
	}
	_, _, err := slow.client(func(o *graph.Options) { o.Timeout = 20 * time.Millisecond }).Page(t.Context(), page, token)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
}

// broken fails as a careless transport might: with the headers in its error.
type broken struct{}

func (broken) RoundTrip(r *http.Request) (*http.Response, error) {
	return nil, fmt.Errorf("can't send %v to %s", r.Header, r.URL.Host)
}

func TestNothingButAPageCanBeAsked(t *testing.T) {
	s := start(t, answer{200, `{"success":true,"data":[]}`})
	c := s.client()
	for _, id := range []string{"", "me", "me/subscribed_apps", "ME", "1/../me", "1?x", "1#", "%6de", "12 ", "-1", "１", strings.Repeat("1", 33)} {
		_, apps := c.SubscribedApps(t.Context(), id, token)
		_, _, fields := c.SubscribedFields(t.Context(), id, token)
		_, _, node := c.Page(t.Context(), id, token)
		for _, err := range []error{
			apps, fields, node, c.Subscribe(t.Context(), id, token, []string{"messages"}), c.Unsubscribe(t.Context(), id, token),
		} {
			assert.ErrorIs(t, err, graph.ErrPageID, "%q", id)
		}
	}
	assert.ErrorIs(t, c.Subscribe(t.Context(), page, token, nil), graph.ErrNoFields)
	assert.ErrorIs(t, c.Unsubscribe(t.Context(), page, ""), graph.ErrNoToken)
	_, err := c.DebugToken(t.Context(), "")
	assert.ErrorIs(t, err, graph.ErrNoToken)
	assert.Empty(t, s.requests)

	// And the alias is nowhere in the code.
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") || f == "doc.go" {
			continue
		}
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		assert.NotRegexp(t, `"/me["/?]`, string(b), f)
		assert.NotContains(t, string(b), `"me`+`"`, f)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	good := graph.Options{AppID: appID, AppSecret: appSecret}
	for name, change := range map[string]func(*graph.Options){
		"no app":         func(o *graph.Options) { o.AppID = "" },
		"no secret":      func(o *graph.Options) { o.AppSecret = "" },
		"no host":        func(o *graph.Options) { o.BaseURL = "graph.facebook.com" },
		"scheme":         func(o *graph.Options) { o.BaseURL = "ftp://graph.facebook.com" },
		"token in URL":   func(o *graph.Options) { o.BaseURL = "https://graph.facebook.com/?access_token=x" },
		"user in URL":    func(o *graph.Options) { o.BaseURL = "https://a:b@graph.facebook.com/" },
		"version":        func(o *graph.Options) { o.Version = "23" },
		"alias for page": func(o *graph.Options) { o.Version = "v23.0/me" },
	} {
		o := good
		change(&o)
		_, err := graph.New(o)
		assert.ErrorIs(t, err, graph.ErrOptions, name)
	}
	_, err := graph.New(good)
	assert.NoError(t, err)
}

func TestErrorsAreJSONSafe(t *testing.T) {
	b, err := json.Marshal(&graph.Error{Code: 190, Message: "x"})
	require.NoError(t, err)
	assert.Contains(t, string(b), "190")
}
