package graph_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
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

func TestLoginURL(t *testing.T) {
	s := start(t, success)
	scopes := func(o *graph.Options) { o.LoginScopes = []string{"pages_show_list", "pages_messaging"} }
	u, err := url.Parse(s.client(scopes).LoginURL(redirectURI, "a state&"))
	require.NoError(t, err)
	assert.Equal(t, "https://www.facebook.com/v25.0/dialog/oauth", u.Scheme+"://"+u.Host+u.Path)
	assert.Equal(t, url.Values{
		"client_id": {appID}, "redirect_uri": {redirectURI}, "state": {"a state&"}, "response_type": {"code"},
		"scope": {"pages_show_list,pages_messaging"},
	}, u.Query())

	c := s.client(scopes, func(o *graph.Options) { o.LoginURL, o.LoginConfigID = "http://127.0.0.1:8085/", "789" })
	u, err = url.Parse(c.LoginURL(redirectURI, "state"))
	require.NoError(t, err)
	assert.Equal(t, "http://127.0.0.1:8085/v25.0/dialog/oauth", u.Scheme+"://"+u.Host+u.Path)
	assert.Equal(t, "789", u.Query().Get("config_id"))
	assert.False(t, u.Query().Has("scope"))

	u, err = url.Parse(s.client().LoginURL(redirectURI, "state"))
	require.NoError(t, err)
	assert.Equal(
		t, "pages_show_list,pages_messaging,pages_manage_metadata,pages_read_engagement", u.Query().Get("scope"),
	)
	assert.Empty(t, s.requests)
}

func TestExchangeCode(t *testing.T) {
	s := start(t, answer{200, read(t, "oauth_long_lived.json")})
	got, err := s.client().ExchangeCode(t.Context(), redirectURI, code)
	require.NoError(t, err)
	assert.Equal(t, "EAAB...", got.Value)
	assert.Equal(t, s.now.Add(5183944*time.Second), got.Expires)
	r := s.requests[0]
	assert.Equal(t, "POST", r.method)
	assert.Equal(t, "/v25.0/oauth/access_token", r.path)
	for name, want := range map[string]string{
		"client_id": appID, "client_secret": appSecret, "redirect_uri": redirectURI, "code": code,
	} {
		assert.Equal(t, want, r.params.Get(name), name)
	}

	// A code can be used once: after a failure that may have used it, the call is not
	// repeated.
	for _, a := range []answer{{500, `{"error":{"code":2}}`}, {503, ""}, {400, `{"error":{"code":100,"error_subcode":36009}}`}, {200, "<html>"}} {
		s = start(t, a)
		_, err = s.client().ExchangeCode(t.Context(), redirectURI, code)
		require.Error(t, err)
		assert.Len(t, s.requests, 1)
	}
}

func TestLongLived(t *testing.T) {
	s := start(
		t, answer{500, `{"error":{"code":2}}`}, answer{200, `{"access_token":"` + token + `","token_type":"bearer"}`},
	)
	got, err := s.client().LongLived(t.Context(), input)
	require.NoError(t, err)
	assert.Equal(t, graph.Token{Value: token}, got, "without expires_in it has no end")
	assert.Len(t, s.requests, 2)
	assert.Equal(t, "fb_exchange_token", s.requests[0].params.Get("grant_type"))
	assert.Equal(t, input, s.requests[0].params.Get("fb_exchange_token"))

	for expires, want := range map[string]time.Duration{
		`0`: 0, `"3600"`: time.Hour, `null`: 0, `-5`: 0, `"soon"`: 0, `9223372036854775807`: 10 * 365 * 24 * time.Hour,
	} {
		s = start(t, answer{200, `{"access_token":"` + token + `","expires_in":` + expires + `}`})
		got, err = s.client().LongLived(t.Context(), input)
		require.NoError(t, err)
		if want == 0 {
			assert.Zero(t, got.Expires, expires)
			continue
		}
		assert.Equal(t, s.now.Add(want), got.Expires, expires)
	}
	_, err = start(t, answer{200, `{"access_token":""}`}).client().LongLived(t.Context(), input)
	assert.ErrorIs(t, err, graph.ErrAnswer)
}

func TestTokensDoNotPrint(t *testing.T) {
	var log bytes.Buffer
	held := graph.Token{Value: token}
	account := graph.Account{ID: page, Name: "Dian Aul", Token: token}
	logger := slog.New(slog.NewTextHandler(&log, nil))
	logger.Info("x", "token", held, "account", account)
	fmt.Fprintf(&log, "%v %+v %#v %s %v %+v %#v", held, held, held, held, account, account, account)
	fmt.Fprintf(&log, "%d %q %d %q", held, held, account, account)
	fmt.Fprintf(&log, "%v %+v %#v", []graph.Account{account}, struct{ T graph.Token }{held}, []graph.Token{held})
	for _, v := range []any{held, account} {
		b, err := json.Marshal(v)
		require.NoError(t, err)
		log.Write(b)
	}
	assert.NotContains(t, log.String(), token)
	assert.Contains(t, log.String(), page)
}

func TestAccounts(t *testing.T) {
	t.Run("to the end", func(t *testing.T) {
		next := `"next":"https://graph.facebook.com/v25.0/` + user + `/accounts?access_token=` + token + `&after=`
		s := start(
			t,
			answer{200, read(t, "me_accounts_page1.json")},
			// Some of Graph's pages are empty, and then have no cursors.
			answer{200, `{"data":[],"paging":{` + next + `CC"}}`},
			answer{
				200,
				`{"data":[{"id":987,"name":"Other","access_token":"` + input + `","instagram_business_account":{"id":17841400000000001}},{"id":"123456789"}],"paging":{"cursors":{"after":"DD"},` + next + `DD"}}`,
			},
			answer{200, `{"data":[{"id":"5"}],"paging":{"cursors":{"after":"EE"}}}`},
		)
		got, err := s.client().Accounts(t.Context(), user, token)
		require.NoError(t, err)
		assert.Equal(t, []graph.Account{
			{
				ID: "123456789", Name: "Dian Aul", Category: "Brand", Token: "EAAB-page-1",
				Tasks: []string{"ADVERTISE", "ANALYZE", "CREATE_CONTENT", "MESSAGING", "MODERATE", "MANAGE"},
			},
			{ID: "987", Name: "Other", Token: input, Instagram: "17841400000000001"},
			{ID: "5"},
		}, got)
		require.Len(t, s.requests, 4)
		for i, after := range []string{"", "QVFIV...", "CC", "DD"} {
			assert.Equal(t, "/v25.0/"+user+"/accounts", s.requests[i].path)
			assert.Equal(t, after, s.requests[i].params.Get("after"))
			assert.Equal(t, "100", s.requests[i].params.Get("limit"))
			assert.Equal(t, token, s.requests[i].auth)
		}
	})
	t.Run("5000 pages, 25 at a time", func(t *testing.T) {
		s := start(t)
		n := 0
		s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			var list []string
			for range 25 {
				n++
				list = append(list, fmt.Sprintf(`{"id":"%d"}`, n))
			}
			next := ""
			if n < 5000 {
				next = "x"
			}
			fmt.Fprintf(w, `{"data":[%s],"paging":{"cursors":{"after":"%d"},"next":%q}}`, strings.Join(list, ","), n, next)
		})
		got, err := s.client().Accounts(t.Context(), user, token)
		require.NoError(t, err)
		assert.Len(t, got, 5000)
	})
	t.Run("without Instagram", func(t *testing.T) {
		for _, refusal := range []answer{{403, `{"error":{"code":200}}`}, {400, `{"error":{"code":100}}`}} {
			s := start(t, refusal, answer{200, `{"data":[{"id":"5"}]}`})
			got, err := s.client().Accounts(t.Context(), user, token)
			require.NoError(t, err)
			assert.Len(t, got, 1)
			assert.Contains(t, s.requests[0].params.Get("fields"), "instagram")
			assert.NotContains(t, s.requests[1].params.Get("fields"), "instagram")
		}
	})
	// An incomplete listing is an error: the missing pages would look as if they were no
	// longer granted.
	page := func(data, paging string) answer {
		return answer{200, `{"data":[` + data + `],"paging":{` + paging + `}}`}
	}
	more := page(`{"id":"1"}`, `"cursors":{"after":"AA"},"next":"x"`)
	for name, answers := range map[string][]answer{
		"fails later":    {more, {400, `{"error":{"code":190}}`}},
		"no way on":      {more, page(`{"id":"2"}`, `"next":"https://x/?limit=25"`)},
		"next not a URL": {page(`{"id":"2"}`, `"next":"%zz"`)},
		"no id":          {page(`{"name":"x"}`, ``)},
		"id not digits":  {page(`{"id":"me"}`, ``)},
		"no data":        {{200, `{}`}},
		"in a circle":    {more},
	} {
		s := start(t, answers...)
		got, err := s.client().Accounts(t.Context(), user, token)
		require.Error(t, err, name)
		assert.Empty(t, got, name)
		assert.LessOrEqual(t, len(s.requests), 2, name)
	}
}

// TestTargetsOfTheCorpus checks that a stored answer of debug_token names its pages, and that a page is
// read by its id in the form of a stored list.
func TestTargetsOfTheCorpus(t *testing.T) {
	dir := filepath.Join("..", "..", "..", "..", "..", "shared", "corpus", "graph-responses")
	info, err := os.ReadFile(filepath.Join(dir, "debug_token.json"))
	if os.IsNotExist(err) {
		t.Skip("the corpus is not next to the project")
	}
	require.NoError(t, err)
	list, err := os.ReadFile(filepath.Join(dir, "me_accounts_page1.json"))
	require.NoError(t, err)
	var accounts struct{ Data []json.RawMessage }
	require.NoError(t, json.Unmarshal(list, &accounts))
	var first struct{ ID, Name string }
	require.NoError(t, json.Unmarshal(accounts.Data[0], &first))

	s := start(t, answer{200, string(info)}, answer{200, string(accounts.Data[0])})
	got, err := s.client().DebugToken(t.Context(), token)
	require.NoError(t, err)
	assert.Equal(t, map[string][]string{"pages_messaging": {"1906385232743451"}}, got.Granted)
	account, err := s.client().Account(t.Context(), first.ID, token)
	require.NoError(t, err)
	assert.Equal(t, first.Name, account.Name)
	assert.NotEmpty(t, account.Token)
}

// TestAccount checks the fields that are asked for, without those that the token may not see, and that
// the answer is about the page.
func TestAccount(t *testing.T) {
	s := start(t,
		answer{400, `{"error":{"code":100,"message":"nonexisting field (instagram_business_account)"}}`},
		answer{200, `{"id":"` + page + `","name":"Bakery","access_token":"EAAofThePage"}`},
		answer{200, `{"id":"5","name":"Other"}`},
	)
	got, err := s.client().Account(t.Context(), page, token)
	require.NoError(t, err)
	assert.Equal(t, graph.Account{ID: page, Name: "Bakery", Token: "EAAofThePage"}, got)
	assert.Contains(t, s.requests[0].params.Get("fields"), "instagram_business_account{id}")
	assert.Equal(t, "id,name,access_token,category", s.requests[1].params.Get("fields"))
	assert.NotContains(t, s.requests[1].params.Get("fields"), "tasks", "a page has none by its id")
	_, err = s.client().Account(t.Context(), page, token)
	require.ErrorIs(t, err, graph.ErrOtherPage)
	_, err = s.client().Account(t.Context(), "me", token)
	require.ErrorIs(t, err, graph.ErrPageID)
}
