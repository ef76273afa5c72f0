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
	if err != nil {
		t.Fatal(err)
	}
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
			if json.Unmarshal([]byte(body), &in) != nil || in.Error != nil || status > 299 {
				t.Fatalf("status %d and %q are a success", status, body)
			}
			return
		}
		refusal := meta.Refused(err)
		if refusal == nil && !errors.Is(err, graph.ErrAnswer) {
			t.Fatalf("%v is not a known error", err)
		}
		if strings.Contains(err.Error(), token) || len([]rune(err.Error())) > 5000 {
			t.Fatal(err)
		}
		if refusal == nil {
			return
		}
		if (refusal.Class() == meta.TokenDead) != errors.Is(err, meta.ErrTokenDead) {
			t.Fatalf("%v has the class %q", err, refusal.Class())
		}
		if refusal.RetryAfter() > 0 != (refusal.Class() == meta.Throttled) {
			t.Fatalf("%v has the retry time %s", err, refusal.RetryAfter())
		}
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
		if err != nil && (len(list) > 0 || next != "") {
			t.Fatalf("%v, and %v up to %q", err, list, next)
		}
		for _, conversation := range list {
			if conversation.Updated.IsZero() {
				t.Fatal("no time")
			}
			if _, _, err := c.Messages(t.Context(), page, token, conversation.ID, ""); errors.Is(err, graph.ErrConversation) {
				t.Fatal(err)
			}
			for _, m := range conversation.Messages {
				if !json.Valid(m.Raw) {
					t.Fatalf("%q is not JSON", m.Raw)
				}
			}
		}
		if _, err := c.Accounts(t.Context(), user, token); err != nil && strings.Contains(err.Error(), token) {
			t.Fatal(err)
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
		if err := c.Unsubscribe(t.Context(), page, token); err != nil {
			t.Fatal(err)
		}
		for _, u := range c.Usage() {
			if u.Key != "app" && strings.Trim(u.Key, "0123456789") != "" ||
				min(u.CallCount, u.TotalTime, u.TotalCPUTime) < 0 ||
				!u.RegainAt.IsZero() && u.RegainAt.Sub(u.At) > 24*time.Hour {
				t.Fatalf("%+v", u)
			}
		}
		err := c.Unsubscribe(t.Context(), page, token)
		held := meta.Refused(err)
		if err != nil && (held == nil || !held.Held || held.RetryAfter() > 24*time.Hour) {
			t.Fatal(err)
		}
	})
}
