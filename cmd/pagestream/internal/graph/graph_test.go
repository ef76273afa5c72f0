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
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
)

const (
	appID     = "123456789012345"
	appSecret = "very-secret-app-secret"
	page      = "1906385232743451"
	token     = "EAABsbCS1iHgBAFakeTokenForTests0123456789"
	input     = "EAABsbCS1iHgBAAnotherTokenForTests9876543210"

	user        = "10215241773831025"
	contact     = "6543210987654321"
	thread      = "t_10228886498373399"
	code        = "AQBcodeOfALoginThatIsGoodOnce"
	verifyToken = "the-verify-token-of-the-app"
	redirectURI = "https://pagestream.example.com/oauth/callback"
	text        = "a very personal message"
)

// alias matches the paths that must never be requested.
var alias = regexp.MustCompile(`(?i)/me(/|$)`)

// calls has a valid call of each method that calls Graph.
var calls = map[string]func(ctx context.Context, c *graph.Client) error{
	"SubscribedApps": func(ctx context.Context, c *graph.Client) error {
		_, err := c.SubscribedApps(ctx, page, token)
		return err
	},
	"Subscribe": func(ctx context.Context, c *graph.Client) error {
		return c.Subscribe(ctx, page, token, []string{"messages"})
	},
	"Unsubscribe": func(ctx context.Context, c *graph.Client) error { return c.Unsubscribe(ctx, page, token) },
	"Page": func(ctx context.Context, c *graph.Client) error {
		_, _, err := c.Page(ctx, page, token)
		return err
	},
	"Instagram": func(ctx context.Context, c *graph.Client) error {
		_, err := c.Instagram(ctx, page, token)
		return err
	},
	"DebugToken": func(ctx context.Context, c *graph.Client) error {
		_, err := c.DebugToken(ctx, input)
		return err
	},
	"ExchangeCode": func(ctx context.Context, c *graph.Client) error {
		_, err := c.ExchangeCode(ctx, redirectURI, code)
		return err
	},
	"LongLived": func(ctx context.Context, c *graph.Client) error {
		_, err := c.LongLived(ctx, input)
		return err
	},
	"Accounts": func(ctx context.Context, c *graph.Client) error {
		_, err := c.Accounts(ctx, user, token)
		return err
	},
	"Account": func(ctx context.Context, c *graph.Client) error {
		_, err := c.Account(ctx, page, token)
		return err
	},
	"SubscribeApp": func(ctx context.Context, c *graph.Client) error {
		return c.SubscribeApp(ctx, meta.AppSubscription{
			Object: "page", CallbackURL: "https://x/webhooks/main", Fields: []string{"messages"},
		}, input)
	},
	"AppSubscriptions": func(ctx context.Context, c *graph.Client) error {
		_, err := c.AppSubscriptions(ctx)
		return err
	},
	"Send": func(ctx context.Context, c *graph.Client) error {
		_, err := c.Send(ctx, page, token, outgoing)
		return err
	},
	"Profile": func(ctx context.Context, c *graph.Client) error {
		_, err := c.Profile(ctx, page, token, contact, false)
		return err
	},
	"Lead": func(ctx context.Context, c *graph.Client) error {
		_, _, err := c.Lead(ctx, page, token, page) // success has this id
		return err
	},
	"Conversations": func(ctx context.Context, c *graph.Client) error {
		_, _, err := c.Conversations(ctx, page, token, "messenger", "", 10)
		return err
	},
	"Messages": func(ctx context.Context, c *graph.Client) error {
		_, _, err := c.Messages(ctx, page, token, thread, "")
		return err
	},
}

var outgoing = graph.Outgoing{
	Recipient:     json.RawMessage(`{"id":"` + contact + `"}`),
	Message:       json.RawMessage(`{"text":"` + text + `"}`),
	MessagingType: "RESPONSE",
}

// success is an answer that every call accepts.
var success = answer{
	200, `{"success":true,"data":[],"id":"` + page + `","access_token":"` + token + `","message_id":"m_1"}`,
}

// corpus is the directory of Meta's documented answers.
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

// server answers each request with the next of its answers and repeats the last one.
// It checks what every request must have.
type server struct {
	*httptest.Server
	t        *testing.T
	answers  []answer
	requests []request
	slept    []time.Duration
	now      time.Time // of the client's clock, which Sleep advances
}

type answer struct {
	status int
	body   string
}

// usage adds headers to an answer, without their "X-": "App-Usage: …",
// "Page-Usage: …" and so on.
func (a answer) usage(headers ...string) answer {
	a.body = strings.Join(headers, "\n") + "\n\n" + a.body
	return a
}

type request struct {
	method, path, auth string
	params             url.Values
}

func start(t *testing.T, answers ...answer) *server {
	t.Helper()
	s := &server{t: t, answers: answers, now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func proof(token string) string {
	m := hmac.New(sha256.New, []byte(appSecret))
	m.Write([]byte(token))
	return hex.EncodeToString(m.Sum(nil))
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for _, secret := range []string{token, input, appSecret, code, verifyToken} {
		assert.NotContains(s.t, r.URL.String(), secret, "a token is in the URL")
	}
	for name := range r.URL.Query() {
		secret := strings.Contains(name, "token") || strings.Contains(name, "secret") && name != "appsecret_proof"
		assert.False(s.t, secret || name == "code", "%s is in the URL %s", name, r.URL)
	}
	assert.False(s.t, alias.MatchString(r.URL.Path), "a request to %s", r.URL.Path)
	b, _ := io.ReadAll(r.Body)
	params, err := url.ParseQuery(string(b))
	assert.NoError(s.t, err)
	for k, v := range r.URL.Query() {
		params[k] = v
	}
	bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	assert.Equal(s.t, proof(bearer), params.Get("appsecret_proof"),
		"%s %s has a wrong appsecret_proof", r.Method, r.URL.Path)
	s.requests = append(s.requests, request{r.Method, r.URL.Path, bearer, params})
	a := s.answers[0]
	if len(s.answers) > 1 {
		s.answers = s.answers[1:]
	}
	w.Header().Set("Content-Type", "text/javascript; charset=UTF-8")
	if a.status >= 300 && a.status < 400 {
		w.Header().Set("Location", s.URL+"/elsewhere")
	}
	if headers, body, ok := strings.Cut(a.body, "\n\n"); ok {
		for _, h := range strings.Split(headers, "\n") {
			name, value, _ := strings.Cut(h, ": ")
			w.Header().Set("X-"+name, value)
		}
		a.body = body
	}
	w.WriteHeader(a.status)
	_, _ = io.WriteString(w, a.body)
}

func (s *server) client(change ...func(*graph.Options)) *graph.Client {
	s.t.Helper()
	o := graph.Options{
		BaseURL: s.URL, Version: "v25.0", AppID: appID, AppSecret: appSecret,
		Sleep: func(_ context.Context, d time.Duration) error {
			s.slept = append(s.slept, d)
			s.now = s.now.Add(d)
			return nil
		},
		Now: func() time.Time { return s.now },
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
	t.Run("subscribed apps over two pages of the listing", func(t *testing.T) {
		s := start(
			t,
			answer{
				200,
				`{"data":[{"id":"1","subscribed_fields":["feed"]}],"paging":{"cursors":{"after":"AA"},"next":"https://x/?access_token=` + token + `"}}`,
			},
			answer{
				200,
				`{"data":[{"id":` + appID + `,"subscribed_fields":["standby","messages","messages"]}],"paging":{"cursors":{"after":"BB"}}}`,
			},
		)
		c := s.client()
		apps, err := c.SubscribedApps(ctx, page, token)
		require.NoError(t, err)
		require.Len(t, apps, 2)
		assert.Equal(t, graph.App{ID: "1", Fields: []string{"feed"}}, apps[0])
		assert.Equal(t, c.AppID(), apps[1].ID)
		assert.Equal(t, []string{"messages", "standby"}, apps[1].Fields)
		require.Len(t, s.requests, 2)
		assert.Equal(t, "AA", s.requests[1].params.Get("after"))
	})
	t.Run("not subscribed", func(t *testing.T) {
		s := start(t, answer{200, `{"data":[{"id":"1","subscribed_fields":["feed"]}]}`})
		c := s.client()
		apps, err := c.SubscribedApps(ctx, page, token)
		require.NoError(t, err)
		assert.False(t, slices.ContainsFunc(apps, func(a graph.App) bool { return a.ID == c.AppID() }))
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
		s := start(
			t, answer{200, `{"id":` + page + `,"name":"Dian Aul","instagram_business_account":{"id":"17841400000000001"}}`},
		)
		name, instagram, err := s.client().Page(ctx, page, token)
		require.NoError(t, err)
		assert.Equal(t, "Dian Aul", name)
		assert.Equal(t, "17841400000000001", instagram)
	})
	t.Run("page without permission for Instagram", func(t *testing.T) {
		s := start(
			t, answer{403, `{"error":{"code":10,"message":"no"}}`}, answer{200, `{"id":"` + page + `","name":"Dian Aul"}`},
		)
		name, instagram, err := s.client().Page(ctx, page, token)
		require.NoError(t, err)
		assert.Equal(t, "Dian Aul", name)
		assert.Empty(t, instagram)
	})
	t.Run("linked account", func(t *testing.T) {
		s := start(
			t, answer{200, `{"id":"` + page + `","instagram_business_account":{"id":"17841400000000001"}}`},
			answer{200, `{"id":"` + page + `"}`}, answer{403, `{"error":{"code":10,"message":"no"}}`}, answer{200, `{"id":"1"}`},
		)
		account, err := s.client().Instagram(ctx, page, token)
		require.NoError(t, err)
		assert.Equal(t, "17841400000000001", account)
		account, err = s.client().Instagram(ctx, page, token)
		require.NoError(t, err)
		assert.Empty(t, account)
		_, err = s.client().Instagram(ctx, page, token)
		require.Error(t, err, "the token may not see it")
		_, err = s.client().Instagram(ctx, page, token)
		require.ErrorIs(t, err, graph.ErrOtherPage)
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
	t.Run("debug token of an invalid token", func(t *testing.T) {
		s := start(
			t,
			answer{
				200,
				`{"data":{"is_valid":false,"error":{"code":190,"subcode":460,"message":"Malformed ` + input + `"},"scopes":[]}}`,
			},
		)
		info, err := s.client().DebugToken(ctx, input)
		require.NoError(t, err)
		assert.False(t, info.Valid)
		require.ErrorIs(t, info.Err, meta.ErrTokenDead)
		assert.Equal(t, meta.TokenDead, info.Err.Class())
		assert.Equal(t, 460, info.Err.Subcode)
		assert.NotContains(t, info.Err.Error(), input)
	})
}

func TestErrorsAreClassifiedByCode(t *testing.T) {
	for file, want := range map[string]meta.Class{
		"err_100_2018001_no_user.json": meta.PersonUnreachable, "err_10_2018278_window.json": meta.WindowClosed,
		"err_190_458_app_removed.json": meta.TokenDead, "err_190_460_password.json": meta.TokenDead,
		"err_190_463_expired.json": meta.TokenDead, "err_190_490_checkpoint.json": meta.TokenDead,
		"err_4_app_rate.json": meta.Throttled, "err_613_rate.json": meta.Throttled,
		"err_80006_messenger_buc.json": meta.Throttled, "err_551_1545041.json": meta.PersonUnreachable,
		"subscribed_apps_post_bad_field.json":          meta.Parameter,
		"subscribed_apps_post_missing_permission.json": meta.Permission,
		"fbmessenger-hs_errorResponse.json":            meta.Parameter,
	} {
		for _, status := range []int{200, 400} { // an error in the body counts with status 200 as well
			t.Run(fmt.Sprint(file, " ", status), func(t *testing.T) {
				s := start(t, answer{status, read(t, file)})
				err := s.client().Subscribe(t.Context(), page, token, []string{"messages"})
				require.Equal(t, want, meta.ClassOf(err), err)
				refusal := meta.Refused(err)
				assert.NotZero(t, refusal.Code)
				assert.NotEmpty(t, refusal.Words())
				assert.NotEmpty(t, refusal.Type)
				assert.Equal(t, status, refusal.Status)
				if want != meta.Throttled {
					assert.Len(t, s.requests, 1, "it was tried again")
				}
			})
		}
	}
}

func TestTransientFailuresAreRetried(t *testing.T) {
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
	assert.Equal(t, meta.Transient, meta.ClassOf(s.client().Unsubscribe(t.Context(), page, token)))
	assert.Len(t, s.requests, 1+graph.DefaultRetries)

	s = start(t, transient)
	require.Error(t, s.client(func(o *graph.Options) { o.Retries = -1 }).Unsubscribe(t.Context(), page, token))
	assert.Len(t, s.requests, 1)

	// The wait ends with the context.
	s = start(t, transient)
	ctx, cancel := context.WithCancel(t.Context())
	c := s.client(func(o *graph.Options) {
		o.Sleep = func(ctx context.Context, _ time.Duration) error { cancel(); <-ctx.Done(); return ctx.Err() }
	})
	err := c.Unsubscribe(ctx, page, token)
	require.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, meta.Transient, meta.ClassOf(err))
}

func TestUnexpectedAnswersAreErrors(t *testing.T) {
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
		require.NotNil(t, meta.Refused(s.client().Subscribe(t.Context(), page, token, []string{"messages"})))
		assert.Len(t, s.requests, 1, "the redirect was followed")
	})
	t.Run("no data", func(t *testing.T) {
		s := start(t, answer{200, `{}`})
		_, err := s.client().SubscribedApps(t.Context(), page, token)
		require.ErrorIs(t, err, graph.ErrAnswer)
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
		require.ErrorIs(t, err, graph.ErrAnswer)
		assert.Equal(t, 50, n)
	})
}

// No error contains a token, the secret or a proof, whatever its cause.
func TestErrorsHaveNoTokens(t *testing.T) {
	// The server quotes the request in its error.
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		said, _ := json.Marshal(
			fmt.Sprint("Malformed ", r.Header["Authorization"], r.PostForm, " EAASomeOtherTokenThatNobodyGave1"),
		)
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"error":{"code":190,"message":%s,"fbtrace_id":"%s"}}`, said, token)
	})
	s := start(t)
	s.Config.Handler = echo
	gone := start(t)
	gone.Close()
	slow := start(t)
	slow.Config.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // otherwise the server does not notice that the client has gone
		<-r.Context().Done()
	})
	for name, c := range map[string]*graph.Client{
		"refused": s.client(), "gone": gone.client(),
		"slow":             slow.client(func(o *graph.Options) { o.Timeout = 20 * time.Millisecond }),
		"broken transport": s.client(func(o *graph.Options) { o.HTTP = &http.Client{Transport: broken{}} }),
	} {
		for method, call := range calls {
			err := call(t.Context(), c)
			require.Error(t, err, name)
			for _, said := range []string{err.Error(), fmt.Sprintf("%+v %#v", err, err)} {
				for _, secret := range []string{
					token, input, appSecret, code, verifyToken, text, "EAASomeOther", proof(token),
					proof(appID + "|" + appSecret),
				} {
					assert.NotContains(t, said, secret, "%s %s", name, method)
				}
			}
			if name != "refused" {
				require.ErrorIs(t, err, graph.ErrUnreachable, "%s %s", name, method)
			}
		}
		assert.NotContains(t, fmt.Sprintf("%v %+v %#v %d %q", c, c, c, c, c), appSecret)
	}
	_, _, err := slow.client(func(o *graph.Options) { o.Timeout = 20 * time.Millisecond }).Page(t.Context(), page, token)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
}

// broken is a transport that fails with the request's headers in its error.
type broken struct{}

func (broken) RoundTrip(r *http.Request) (*http.Response, error) {
	return nil, fmt.Errorf("can't send %v to %s", r.Header, r.URL.Host)
}

func TestOnlyNumericIDsAreAccepted(t *testing.T) {
	s := start(t, answer{200, `{"success":true,"data":[]}`})
	c := s.client()
	for _, id := range []string{
		"", "me", "me/subscribed_apps", "ME", "1/../me", "1?x", "1#", "%6de", "12 ", "-1", "１",
		strings.Repeat("1", 33),
	} {
		_, apps := c.SubscribedApps(t.Context(), id, token)
		_, _, node := c.Page(t.Context(), id, token)
		_, accounts := c.Accounts(t.Context(), id, token)
		_, sent := c.Send(t.Context(), id, token, outgoing)
		_, profile := c.Profile(t.Context(), id, token, contact, false)
		_, person := c.Profile(t.Context(), page, token, id, true)
		_, _, lead := c.Lead(t.Context(), id, token, contact)
		_, _, ofPage := c.Lead(t.Context(), page, token, id)
		_, _, list := c.Conversations(t.Context(), id, token, "messenger", "", 10)
		_, _, messages := c.Messages(t.Context(), id, token, thread, "")
		for _, err := range []error{
			apps, node, accounts, sent, profile, person, lead, ofPage, list, messages,
			c.Subscribe(t.Context(), id, token, []string{"messages"}), c.Unsubscribe(t.Context(), id, token),
		} {
			require.ErrorIs(t, err, graph.ErrPageID, "%q", id)
		}
		if id == strings.Repeat("1", 33) {
			continue
		}
		_, _, thread := c.Messages(t.Context(), page, token, id, "")
		require.ErrorIs(t, thread, graph.ErrConversation, "%q", id)
	}
	assert.Empty(t, s.requests)
	// The alias does not occur in the code.
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

// Every method that calls Graph is in calls, so that the tests of all methods do not
// miss a new one: the server fails the test for a request with the alias, with a
// token in its URL or without a correct proof.
func TestEveryMethodIsCovered(t *testing.T) {
	local := []string{"AppID", "LoginURL", "Usage", "Format"} // these do not call Graph
	typ := reflect.TypeFor[*graph.Client]()
	assert.Equal(t, typ.NumMethod(), len(calls)+len(local))
	for i := range typ.NumMethod() {
		name := typ.Method(i).Name
		if slices.Contains(local, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			require.Contains(t, calls, name)
			s := start(t, success)
			if name == "DebugToken" {
				s.answers[0] = answer{200, `{"data":{"is_valid":true}}`}
			}
			var seen []graph.Observation
			c := s.client(func(o *graph.Options) { o.Observe = func(b graph.Observation) { seen = append(seen, b) } })
			require.NoError(t, calls[name](t.Context(), c))
			require.Len(t, s.requests, 1)
			assert.Regexp(
				t, `^/v25.0/(oauth/access_token|debug_token|[0-9]+(/[a-z_]+)?|t_[0-9]+/messages)$`, s.requests[0].path,
			)
			require.Len(t, seen, 1)
			assert.Equal(t, s.requests[0].method, seen[0].Method)
			assert.Equal(t, 200, seen[0].Status)
			assert.Regexp(t, `^[a-z_/]+$`, seen[0].Edge, "the name has an id in it")
			assert.Positive(t, seen[0].Took)
			assert.Empty(t, c.Usage())
		})
	}
}

func TestInvalidArgumentsAreNotSent(t *testing.T) {
	s := start(t, success)
	c := s.client()
	ctx := t.Context()
	require.ErrorIs(t, c.Subscribe(ctx, page, token, nil), graph.ErrNoFields)
	require.ErrorIs(t, c.Unsubscribe(ctx, page, ""), graph.ErrNoToken)
	_, err := c.DebugToken(ctx, "")
	require.ErrorIs(t, err, graph.ErrNoToken)
	_, err = c.ExchangeCode(ctx, redirectURI, "")
	require.ErrorIs(t, err, graph.ErrNoToken)
	_, err = c.LongLived(ctx, "")
	require.ErrorIs(t, err, graph.ErrNoToken)
	_, err = c.Accounts(ctx, user, "")
	require.ErrorIs(t, err, graph.ErrNoToken)
	for name, m := range map[string]graph.Outgoing{
		"nothing":      {},
		"no recipient": {Message: outgoing.Message},
		"no object":    {Recipient: json.RawMessage(`"` + contact + `"`), Message: outgoing.Message},
		"not JSON":     {Recipient: outgoing.Recipient, Message: json.RawMessage(`{"text":`)},
		"no message":   {Recipient: outgoing.Recipient},
		"both":         {Recipient: outgoing.Recipient, Message: outgoing.Message, SenderAction: "typing_on"},
		"half of both": {Recipient: outgoing.Recipient, Message: json.RawMessage(`{`), SenderAction: "typing_on"},
	} {
		_, err := c.Send(ctx, page, token, m)
		require.ErrorIs(t, err, graph.ErrMessage, name)
	}
	assert.Empty(t, s.requests)
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
		"login URL":      func(o *graph.Options) { o.LoginURL = "www.facebook.com" },
		"version":        func(o *graph.Options) { o.Version = "23" },
		"alias for page": func(o *graph.Options) { o.Version = "v23.0/me" },
	} {
		o := good
		change(&o)
		_, err := graph.New(o)
		require.ErrorIs(t, err, graph.ErrOptions, name)
	}
	_, err := graph.New(good)
	assert.NoError(t, err)
}
