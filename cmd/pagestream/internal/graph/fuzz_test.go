package graph_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
)

// canned is a transport that returns the same answer to every request.
type canned struct {
	status int
	header http.Header
	body   string
}

func (c canned) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: c.status,
		Header:     c.header,
		Body:       io.NopCloser(strings.NewReader(c.body)),
		Request:    r,
		ProtoMajor: 1,
		ProtoMinor: 1,
	}, nil
}

func fuzzed(t *testing.T, answer canned) *graph.Client {
	t.Helper()
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	c, err := graph.New(graph.Options{
		AppID: appID, AppSecret: appSecret, Retries: -1, HTTP: &http.Client{Transport: answer},
		Now: func() time.Time { return now }, Sleep: func(context.Context, time.Duration) error { return nil },
	})
	require.NoError(t, err)
	return c
}

func seed(f *testing.F, add func(body string)) {
	files, _ := filepath.Glob(filepath.Join(corpus, "*.json"))
	for _, name := range files {
		if b, err := os.ReadFile(name); err == nil {
			add(string(b))
		}
	}
	add(`{"error":{"code":"190","error_subcode":null,"message":5}}`)
	add(`{"error":{"message":"` + token + `","code":1e3}}`)
	add(`{"error":[]}`)
	add(`null`)
}

// FuzzErrors checks that an answer is a success or a known error without a token in
// its text.
func FuzzErrors(f *testing.F) {
	seed(f, func(body string) { f.Add(400, body); f.Add(200, body) })
	f.Fuzz(func(t *testing.T, status int, body string) {
		if status < 200 || status > 599 {
			return
		}
		err := fuzzed(t, canned{status: status, body: body}).Unsubscribe(t.Context(), page, token)
		if err == nil {
			var in struct {
				Error any `json:"error"`
			}
			require.NoError(t, json.Unmarshal([]byte(body), &in), "status %d", status)
			require.Nil(t, in.Error, "status %d", status)
			require.LessOrEqual(t, status, 299)
			return
		}
		refusal := meta.Refused(err)
		if refusal == nil {
			require.ErrorIs(t, err, graph.ErrAnswer)
		}
		require.NotContains(t, err.Error(), token)
		require.LessOrEqual(t, len([]rune(err.Error())), 5000)
		if refusal == nil {
			return
		}
		require.Equal(t, errors.Is(err, meta.ErrTokenDead), refusal.Class() == meta.TokenDead, "%v", err)
		require.Equal(t, refusal.Class() == meta.Throttled, refusal.RetryAfter() > 0, "%v", err)
	})
}

// FuzzConversations checks that each returned conversation has a time and an id that
// Messages accepts, and each message its JSON.
func FuzzConversations(f *testing.F) {
	seed(f, func(body string) { f.Add(body) })
	f.Add(
		`{"data":[{"id":"t_1","updated_time":"2026-11-20T10:33:13+0000","messages":{"data":[null,{"attachments":{"data":[null]}}]}}]}`,
	)
	f.Fuzz(func(t *testing.T, body string) {
		c := fuzzed(t, canned{status: 200, body: body})
		list, next, err := c.Conversations(t.Context(), page, token, "messenger", "", 10)
		if err != nil {
			require.Empty(t, list)
			require.Empty(t, next)
		}
		for _, conversation := range list {
			require.False(t, conversation.Updated.IsZero(), "a conversation without time")
			_, _, err := c.Messages(t.Context(), page, token, conversation.ID, "")
			require.NotErrorIs(t, err, graph.ErrConversation)
			for _, m := range conversation.Messages {
				require.True(t, json.Valid(m.Raw), "%q is not JSON", m.Raw)
			}
		}
		if _, err := c.Accounts(t.Context(), user, token); err != nil {
			require.NotContains(t, err.Error(), token)
		}
		_, _ = c.AppSubscriptions(t.Context())
		_, _ = c.DebugToken(t.Context(), input)
	})
}

// FuzzUsage checks that no header holds calls for longer than a day, and that every
// key is an id.
func FuzzUsage(f *testing.F) {
	f.Add(
		`{"call_count":28,"total_time":25,"total_cputime":25}`,
		`{"`+page+`":[{"type":"pages","call_count":100,"estimated_time_to_regain_access":5}]}`,
	)
	f.Add(`{"call_count":"1e9"}`, `{"1":[{"estimated_time_to_regain_access":9223372036854775807}]}`)
	f.Add(`null`, `{"":[{}],"x":null}`)
	f.Fuzz(func(t *testing.T, app, business string) {
		c := fuzzed(t, canned{status: 200, body: success.body, header: http.Header{
			"X-App-Usage": {app}, "X-Page-Usage": {app}, "X-Business-Use-Case-Usage": {business},
		}})
		require.NoError(t, c.Unsubscribe(t.Context(), page, token))
		for _, u := range c.Usage() {
			if u.Key != "app" {
				require.Empty(t, strings.Trim(u.Key, "0123456789"))
			}
			require.GreaterOrEqual(t, min(u.CallCount, u.TotalTime, u.TotalCPUTime), 0)
			if !u.RegainAt.IsZero() {
				require.LessOrEqual(t, u.RegainAt.Sub(u.At), 24*time.Hour)
			}
		}
		err := c.Unsubscribe(t.Context(), page, token)
		held := meta.Refused(err)
		if err != nil {
			require.NotNil(t, held)
			require.True(t, held.Held)
			require.LessOrEqual(t, held.RetryAfter(), 24*time.Hour)
		}
	})
}
