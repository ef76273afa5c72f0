package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
)

const token = "an-admin-token-that-is-long-enough"

// fakeActions does what the test says.
type fakeActions struct {
	err      error
	progress int
	got      []any
}

func (f *fakeActions) Invite(_ context.Context, r InviteRequest) (Invite, error) {
	f.got = append(f.got, r)
	return Invite{URL: "https://example.org/oauth/start?invite=x"}, f.err
}

func (f *fakeActions) Login(_ context.Context, r LoginRequest) (Login, error) {
	f.got = append(f.got, r)
	return Login{ID: "abc", Pages: []LoginPage{}, Gone: []LoginPage{}}, f.err
}

func (f *fakeActions) Connect(_ context.Context, id string, c LoginChoice, progress func(SubscriptionOutcome)) (LoginResult, error) {
	f.got = append(f.got, id, c)
	for i := range f.progress {
		progress(SubscriptionOutcome{Page: domain.PageID(fmt.Sprint(i))})
	}
	return LoginResult{Chosen: f.progress}, f.err
}

func (f *fakeActions) Send(_ context.Context, page domain.PageID, m MessageRequest) (MessageSent, error) {
	f.got = append(f.got, page, m)
	return MessageSent{RecipientID: "31", MessageID: "m_1", Seq: 7}, f.err
}

func (f *fakeActions) Backfill(_ context.Context, page domain.PageID, since, until time.Time, progress func(any)) (any, error) {
	f.got = append(f.got, page, since, until)
	for i := range f.progress {
		progress(map[string]int{"conversations": i})
	}
	return map[string]int{"stored": 3}, f.err
}

func (f *fakeActions) Rebuild(_ context.Context, name string, progress func(projections.Rebuilding)) (projections.Rebuilt, error) {
	for i := range f.progress {
		progress(projections.Rebuilding{Seq: uint64(i)})
	}
	return projections.Rebuilt{Name: name}, f.err
}

func (f *fakeActions) Verify(_ context.Context, name string, _ func(projections.Rebuilding)) (projections.Verified, error) {
	return projections.Verified{Name: name, Equal: true}, f.err
}

func (f *fakeActions) Explain(_ context.Context, _, bucket string, key []byte, _ func(projections.Rebuilding)) (projections.Trace, error) {
	f.got = append(f.got, bucket, string(key))
	return projections.Trace{Count: 1, First: []uint64{7}}, f.err
}

func (f *fakeActions) Audit(context.Context, func(any)) (any, error) {
	return map[string]int{"seq": 7}, f.err
}

func (f *fakeActions) DeadLetters(projection string, after projections.DeadLetter, limit int) ([]projections.DeadLetter, error) {
	f.got = append(f.got, projection, after.Seq)
	return []projections.DeadLetter{{Seq: after.Seq + 7, Error: "unfit"}}[:min(1, limit)], f.err
}

func (f *fakeActions) Decide(_ context.Context, r DecisionRequest) (DecisionResult, error) {
	f.got = append(f.got, r)
	return DecisionResult{Count: 2}, f.err
}

func (f *fakeActions) Consumers(context.Context) ([]any, error) { return []any{"crm"}, f.err }

func (f *fakeActions) AddConsumer(_ context.Context, r ConsumerRequest) (any, error) {
	f.got = append(f.got, r.Name)
	return map[string]string{"seed": "SU"}, f.err
}

func (f *fakeActions) RemoveConsumer(_ context.Context, name string) error {
	f.got = append(f.got, name)
	return f.err
}

func (f *fakeActions) Export(_ context.Context, r ExportRequest, w io.Writer) error {
	if f.err != nil {
		return f.err
	}
	_, err := fmt.Fprintf(w, "%d %v %v\n", r.From, r.Pages, r.Types)
	return err
}

func (f *fakeActions) Backup(_ context.Context, dir string, _ func(any)) (any, error) {
	f.got = append(f.got, dir)
	return map[string]string{"dir": dir}, f.err
}

func (f *fakeActions) Hooks() []any { return []any{"crm"} }

func (f *fakeActions) HookDeadLetters(_ string, after uint64, limit int) (list []any, last uint64, err error) {
	return []any{after}[:min(1, limit)], after + 1, f.err
}
func (f *fakeActions) RedriveHook(_ string, event uint64) (int, error) { return int(event), f.err }
func (f *fakeActions) EnableHook(string) error                         { return f.err }

func (f *fakeActions) Reconcile() any   { return map[string]bool{"all_silent": false} }
func (f *fakeActions) KeyIDs() []string { return []string{"k2", "k1"} }

func (f *fakeActions) RotateKey(_ context.Context, progress func(any)) (KeyRotation, error) {
	for i := range f.progress {
		progress(i)
	}
	return KeyRotation{Key: "k3"}, f.err
}

func serve(t *testing.T, f *fakeActions) string {
	t.Helper()
	s, err := New(Options{
		Token: token, Actions: f,
		Doctor: func(_ context.Context, pages []domain.PageID) (any, error) {
			f.got = append(f.got, pages)
			return map[string]bool{"wrong": true}, f.err
		},
		Erase: func(_ context.Context, page domain.PageID, contact domain.ContactID) (any, error) {
			f.got = append(f.got, page, contact)
			return map[string]int{"events": 2}, f.err
		},
	})
	require.NoError(t, err)
	mux := http.NewServeMux()
	s.Register(mux)
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.URL
}

func call(t *testing.T, method, url, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(b)
}

// actions are requests that reach an action, and what a good answer has in it.
var actionRequests = []struct{ method, path, body, want string }{
	{"POST", "/api/v1/invites", `{"app":"main","company":"acme"}`, "invite=x"},
	{"POST", "/api/v1/logins", `{"user_token":"EAAx"}`, `"id":"abc"`},
	{"POST", "/api/v1/logins/abc", `{"pages":["104"]}`, `"chosen":0`},
	{"POST", "/api/v1/pages/104/messages", `{"contact":"31","message":{"text":"hi"}}`, `"message_id":"m_1"`},
	{"POST", "/api/v1/pages/104/backfill", `{"since":"2026-06-01T00:00:00Z"}`, `"stored":3`},
	{"POST", "/api/v1/conversations/104/31/erase", ``, `"events":2`},
	{"GET", "/api/v1/doctor?page=104&page=105", ``, `"wrong":true`},
	{"GET", "/api/v1/reconcile", ``, `"all_silent":false`},
	{"POST", "/api/v1/audit", ``, `"seq":7`},
	{"GET", "/api/v1/hooks", ``, `"crm"`},
	{"GET", "/api/v1/hooks/crm/deadletters?cursor=6&limit=1", ``, `"next":"7"`},
	{"POST", "/api/v1/hooks/crm/redrive?event=5", ``, `"count":5`},
	{"POST", "/api/v1/hooks/crm/enable", ``, ``},
	{"GET", "/api/v1/export?from=3&page=104&type=message.read", ``, "3 [104] [message.read]"},
	{"POST", "/api/v1/backup", `{"dir":"/x"}`, `"dir":"/x"`},
	{"GET", "/api/v1/consumers", ``, `"crm"`},
	{"POST", "/api/v1/consumers", `{"name":"crm"}`, `"seed"`},
	{"DELETE", "/api/v1/consumers/crm", ``, ``},
	{"GET", "/api/v1/deadletters?projection=pages&limit=1", ``, `"seq":7`},
	{"POST", "/api/v1/deadletters", `{"action":"discard","event":7,"reason":"no use"}`, `"count":2`},
	{"GET", "/api/v1/keys", ``, `"k2"`},
	{"POST", "/api/v1/keys/rotate", ``, `"key":"k3"`},
	{"POST", "/api/v1/projections/pages/rebuild", ``, `"name":"pages"`},
	{"POST", "/api/v1/projections/pages/verify", ``, `"equal":true`},
	{"POST", "/api/v1/projections/pages/explain", `{"bucket":"pages","key":"3130340001"}`, `"first":[7]`},
}

func TestActions(t *testing.T) {
	f := &fakeActions{}
	base := serve(t, f)
	for _, r := range actionRequests {
		resp, body := call(t, r.method, base+r.path, r.body)
		assert.Less(t, resp.StatusCode, 300, "%s: %s", r.path, body)
		assert.Contains(t, body, r.want, r.path)
	}
	assert.Contains(t, f.got, []domain.PageID{"104", "105"})
	assert.Contains(t, f.got, domain.ContactID("31"))

	for _, r := range actionRequests { // none without the token
		req, err := http.NewRequestWithContext(t.Context(), r.method, base+r.path, strings.NewReader(r.body))
		require.NoError(t, err)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, http.StatusUnauthorized, resp.StatusCode, r.path)
	}
}

// TestActionErrors: every error has one status, wherever it comes from.
func TestActionErrors(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		status int
		retry  string
		has    string
	}{
		"refused":       {fmt.Errorf("%w: there is no such login", ErrRefused), 422, "", "no such login"},
		"not connected": {fmt.Errorf("look: %w", ErrNotConnected), 404, "", "not connected"},
		"graph":         {&GraphError{Code: 10, Subcode: 2018278, Words: "outside of allowed window", FBTrace: "Abc", Doing: "send"}, 422, "", `"subcode":2018278`},
		"throttled":     {&GraphError{Code: 80006, Words: "too many", RetryAfter: 1500 * time.Millisecond, Doing: "send"}, 429, "2", `"retry_after":2`},
		"no such":       {fmt.Errorf("rebuild: %w", ErrUnknown), 404, "", "nothing of that name"},
		"at it already": {fmt.Errorf("rebuild: %w", projections.ErrBuilding), 409, "", "already"},
		"unsure":        {fmt.Errorf("%w: connection reset", ErrUnsure), 502, "", "not known"},
		"other":         {errors.New("connection refused"), 502, "", "connection refused"},
	} {
		base := serve(t, &fakeActions{err: c.err})
		for _, r := range actionRequests {
			if r.path == "/api/v1/reconcile" || r.path == "/api/v1/hooks" || r.path == "/api/v1/keys" {
				continue
			}
			resp, body := call(t, r.method, base+r.path, r.body)
			assert.Equal(t, c.status, resp.StatusCode, "%s %s: %s", name, r.path, body)
			assert.Equal(t, c.retry, resp.Header.Get("Retry-After"), "%s %s", name, r.path)
			assert.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
			assert.Contains(t, body, c.has, "%s %s", name, r.path)
		}
	}
}

func TestActionsRefuseBadInput(t *testing.T) {
	f := &fakeActions{}
	base := serve(t, f)
	for _, r := range []struct{ path, body string }{
		{"/api/v1/logins", `{}`},
		{"/api/v1/logins", `{"user_token":`},
		{"/api/v1/logins", `{"user_tokne":"x"}`},
		{"/api/v1/logins/abc", `{}`},
		{"/api/v1/pages/104/backfill", `{}`},
		{"/api/v1/pages/104/backfill", `{"since":"yesterday"}`},
		{"/api/v1/pages/104/messages", `[]`},
		{"/api/v1/projections/pages/explain", `{"bucket":"pages","key":"no hex"}`},
		{"/api/v1/projections/pages/explain", `{"key":"31"}`},
		{"/api/v1/backup", `{}`},
		{"/api/v1/deadletters", `{"action":"keep","all":true}`},
		{"/api/v1/deadletters", `{"action":"redrive"}`},
		{"/api/v1/deadletters", `{"action":"redrive","all":true,"page":"104"}`},
		{"/api/v1/deadletters", `{"action":"discard","all":true}`},
		{"/api/v1/deadletters", `{"action":"discard","all":true,"reason":"` + strings.Repeat("x", 2000) + `"}`},
		{"/api/v1/pages/104/messages", `{"contact":"` + strings.Repeat("x", 2<<20) + `"}`},
	} {
		resp, body := call(t, http.MethodPost, base+r.path, r.body)
		assert.GreaterOrEqual(t, resp.StatusCode, 400, body)
		assert.Less(t, resp.StatusCode, 500, body)
		assert.NotContains(t, body, "yesterday")
	}
	assert.Empty(t, f.got, "nothing was asked for")
}

// TestLongActionsTellAsTheyGo: a line each, and the last one says how it ended.
func TestLongActionsTellAsTheyGo(t *testing.T) {
	for _, path := range []string{"/api/v1/logins/abc", "/api/v1/pages/104/backfill", "/api/v1/keys/rotate", "/api/v1/projections/pages/rebuild"} {
		f := &fakeActions{progress: 3}
		base := serve(t, f)
		body := `{"all":true}`
		if strings.HasSuffix(path, "backfill") {
			body = `{"since":"2026-06-01T00:00:00Z"}`
		}
		for _, f.err = range []error{nil, &GraphError{Code: 4, Words: "limit", Doing: "x"}} {
			resp, out := call(t, http.MethodPost, base+path, body)
			assert.Equal(t, http.StatusOK, resp.StatusCode)
			assert.Equal(t, "application/x-ndjson", resp.Header.Get("Content-Type"))
			lines := strings.Split(strings.TrimSpace(out), "\n")
			require.Len(t, lines, 4, out)
			var last line
			require.NoError(t, json.Unmarshal([]byte(lines[3]), &last))
			assert.NotNil(t, last.Result, "also what was done before the error")
			assert.Equal(t, f.err != nil, last.Error != nil)
		}
	}
}
