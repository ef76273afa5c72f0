package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/apps"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/audit"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/backfill"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/backup"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/companies"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/doctor"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/erase"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/outbound"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/person"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/reconcile"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/tokens"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/seal"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
)

const token = "an-admin-token-that-is-long-enough"

// fakeOperator records its arguments and returns fixed results.
type fakeOperator struct {
	operate.Operator // methods that are not faked panic

	err      error // the error of every verb
	progress int   // how often a long verb reports progress
	got      []any
}

type rebuildingFunc = func(projections.Rebuilding)

func (f *fakeOperator) Invite(_ context.Context, r operate.InviteRequest) (operate.Invite, error) {
	f.got = append(f.got, r)
	return operate.Invite{URL: "https://example.org/oauth/start?invite=x"}, f.err
}

func (f *fakeOperator) Cluster(context.Context) (operate.Cluster, error) {
	return operate.Cluster{Streams: []operate.ClusterStream{{Leader: "n1"}}}, f.err
}

func (f *fakeOperator) ScaleCluster(_ context.Context, replicas int) (operate.Scaling, error) {
	return operate.Scaling{Streams: []operate.Scaled{{Before: 1, After: replicas}}}, f.err
}

func (f *fakeOperator) ListCompanies(context.Context) ([]companies.Company, error) {
	return []companies.Company{{ID: "acme", Name: "Acme Ltd"}}, f.err
}

func (f *fakeOperator) AddCompany(_ context.Context, name string) (companies.Company, error) {
	return companies.Company{ID: name, Name: name}, f.err
}

func (f *fakeOperator) RenameCompany(_ context.Context, company, name string) (companies.Company, error) {
	return companies.Company{ID: company, Name: name}, f.err
}

func (f *fakeOperator) SetUpApp(_ context.Context, in apps.Request) (apps.Result, error) {
	f.got = append(f.got, in.App, in.DryRun)
	return apps.Result{App: "main", DryRun: in.DryRun}, f.err
}

func (f *fakeOperator) Login(_ context.Context, app, userToken string) (operate.Login, error) {
	f.got = append(f.got, app, userToken)
	return operate.Login{ID: "abc"}, f.err
}

func (f *fakeOperator) ConnectChosen(_ context.Context, id string, c meta.Choice, progress func(meta.Outcome)) (
	operate.Connected, error,
) {
	f.got = append(f.got, id, c)
	for i := range f.progress {
		progress(meta.Outcome{Page: domain.PageID(fmt.Sprint(i))})
	}
	return operate.Connected{Chosen: f.progress}, f.err
}

func (f *fakeOperator) Connect(_ context.Context, r connect.Request) (meta.Outcome, error) {
	f.got = append(f.got, r.Page)
	return meta.Outcome{Page: r.Page, State: subscriptions.Confirmed, RetryAfter: 3}, f.err
}

func (f *fakeOperator) Check(_ context.Context, page domain.PageID) (meta.Outcome, error) {
	return meta.Outcome{Page: page, State: subscriptions.Drifted}, f.err
}

func (f *fakeOperator) Plan(_ context.Context, page domain.PageID) (meta.Outcome, error) {
	return meta.Outcome{Page: page, State: subscriptions.Drifted, Reason: "planned"}, f.err
}

func (f *fakeOperator) Resubscribe(_ context.Context, page domain.PageID) (meta.Outcome, error) {
	return meta.Outcome{Page: page, State: subscriptions.Failed}, f.err
}

func (f *fakeOperator) Disconnect(_ context.Context, page domain.PageID) (meta.Outcome, error) {
	return meta.Outcome{Page: page, State: subscriptions.Removed}, f.err
}

func (f *fakeOperator) MarkTest(_ context.Context, page domain.PageID) (operate.TestMarked, error) {
	return operate.TestMarked{Page: page, Seq: 7}, f.err
}

func (f *fakeOperator) Forget(_ context.Context, page domain.PageID) (operate.Forgotten, error) {
	return operate.Forgotten{Page: page, Seq: 8}, f.err
}

func (f *fakeOperator) Send(_ context.Context, r outbound.Request) (outbound.Sent, error) {
	f.got = append(f.got, r)
	return outbound.Sent{RecipientID: "31", MID: "m_1", Seq: 7}, f.err
}

func (f *fakeOperator) Backfill(_ context.Context, r backfill.Request, progress func(backfill.Progress)) (
	backfill.Sum, error,
) {
	f.got = append(f.got, r)
	for i := range f.progress {
		progress(backfill.Progress{Sum: backfill.Sum{Conversations: i}})
	}
	return backfill.Sum{Stored: 3}, f.err
}

func (f *fakeOperator) Rebuild(_ context.Context, name string, progress rebuildingFunc) (projections.Rebuilt, error) {
	for i := range f.progress {
		progress(projections.Rebuilding{Seq: uint64(i)})
	}
	return projections.Rebuilt{Name: name}, f.err
}

func (f *fakeOperator) Verify(_ context.Context, name string, _ rebuildingFunc) (projections.Verified, error) {
	return projections.Verified{Name: name, Equal: true}, f.err
}

func (f *fakeOperator) Explain(_ context.Context, _, bucket string, key []byte, _ rebuildingFunc) (
	projections.Trace, error,
) {
	f.got = append(f.got, bucket, string(key))
	return projections.Trace{Count: 1, First: []uint64{7}}, f.err
}

func (f *fakeOperator) Audit(_ context.Context, _ bool, _ func(audit.Progress)) (audit.Report, error) {
	return audit.Report{Seq: 7}, f.err
}

func (f *fakeOperator) DeadLetters(projection string, after projections.DeadLetter, limit int) (
	[]projections.DeadLetter, error,
) {
	f.got = append(f.got, projection, after.Seq)
	return []projections.DeadLetter{{Seq: after.Seq + 7, Error: "unfit"}}[:min(1, limit)], f.err
}

func (f *fakeOperator) Decide(_ context.Context, d operate.Decision) (operate.DecisionResult, error) {
	f.got = append(f.got, d)
	return operate.DecisionResult{Count: 2}, f.err
}

func (f *fakeOperator) ListConsumers(context.Context) ([]consumers.Consumer, error) {
	return []consumers.Consumer{{Durable: "crm"}}, f.err
}

func (f *fakeOperator) AddConsumer(_ context.Context, s consumers.Spec) (consumers.Added, error) {
	f.got = append(f.got, s.Name)
	return consumers.Added{Seed: "SU"}, f.err
}

func (f *fakeOperator) RewindConsumer(_ context.Context, name string, to consumers.Target) (consumers.Consumer, error) {
	f.got = append(f.got, name, to.Seq)
	return consumers.Consumer{Seq: 6}, f.err
}

func (f *fakeOperator) RemoveConsumer(_ context.Context, name string) error {
	f.got = append(f.got, name)
	return f.err
}

func (f *fakeOperator) Export(_ context.Context, r operate.ExportRequest, w io.Writer) error {
	if f.err != nil {
		return f.err
	}
	_, err := fmt.Fprintf(w, "%d %v %v\n", r.From, r.Pages, r.Types)
	return err
}

func (f *fakeOperator) Backup(
	_ context.Context, r operate.BackupRequest, _ func(operate.CopyProgress),
) (backup.Manifest, error) {
	f.got = append(f.got, r.Dir, r.WithoutKeys, r.WithoutConfig, r.EncryptTo)
	return backup.Manifest{Files: map[string]string{"dir": r.Dir}}, f.err
}

func (f *fakeOperator) ListHooks() []hooks.Status { return []hooks.Status{{Name: "crm"}} }

func (f *fakeOperator) HookDeadLetters(_ string, after uint64, limit int) ([]hooks.DeadLetter, error) {
	return []hooks.DeadLetter{{Seq: after + 1}}[:min(1, limit)], f.err
}
func (f *fakeOperator) RedriveHook(_ string, event uint64) (int, error) { return int(event), f.err }
func (f *fakeOperator) EnableHook(string) error                         { return f.err }

func (f *fakeOperator) Reconcile() reconcile.Status { return reconcile.Status{} }

func (f *fakeOperator) ListKeys(context.Context) (operate.Keys, error) {
	return operate.Keys{Items: []string{"k2", "k1"}, Secrets: map[string]int{"k1": 3}}, f.err
}

func (f *fakeOperator) RetireKey(_ context.Context, id string, progress func(operate.KeyRetirement)) (
	operate.KeyRetirement, error,
) {
	for i := range f.progress {
		progress(operate.KeyRetirement{Resealed: i})
	}
	f.got = append(f.got, id)
	return operate.KeyRetirement{Key: id}, f.err
}

func (f *fakeOperator) RotateKey(_ context.Context, progress func(operate.KeyRotation)) (operate.KeyRotation, error) {
	for i := range f.progress {
		progress(operate.KeyRotation{Resealed: i})
	}
	return operate.KeyRotation{Key: "k3"}, f.err
}

func (f *fakeOperator) Examine(_ context.Context, pages []domain.PageID) (doctor.Report, error) {
	f.got = append(f.got, pages)
	return doctor.Report{Wrong: true}, f.err
}

func (f *fakeOperator) CheckPages(_ context.Context, pages []domain.PageID) error {
	if slices.Contains(pages, "999") {
		return fmt.Errorf("%w 999", doctor.ErrUnknownPage)
	}
	return nil
}

func (f *fakeOperator) Adopt(_ context.Context, page domain.PageID, a operate.Adoption, _ func(operate.Adopted)) (
	operate.Adopted, error,
) {
	f.got = append(f.got, page, a)
	return operate.Adopted{Adopted: 2}, f.err
}

func (f *fakeOperator) ListTokens() []tokens.Token { return []tokens.Token{{Name: "crm"}} }

func (f *fakeOperator) AddToken(_ context.Context, t tokens.Token) (tokens.Added, error) {
	f.got = append(f.got, t)
	return tokens.Added{Token: t, Text: "pst_x"}, f.err
}

func (f *fakeOperator) Losses(_ context.Context, after uint64) (operate.Loss, error) {
	f.got = append(f.got, after)
	return operate.Loss{}, f.err
}

func (f *fakeOperator) AcceptLoss(_ context.Context, by string) (streams.Losses, error) {
	f.got = append(f.got, by)
	return streams.Losses{Events: 2, Ranges: []streams.Range{{From: 7, To: 8}}}, f.err
}

func (f *fakeOperator) RevokeToken(_ context.Context, name string) error {
	f.got = append(f.got, name)
	return f.err
}

func (f *fakeOperator) ListHistory(_ context.Context, q history.Query) ([]history.Entry, uint64, error) {
	f.got = append(f.got, q)
	return []history.Entry{{Seq: 7, Verb: "erase"}}, 7, f.err
}

func (f *fakeOperator) Erase(_ context.Context, page domain.PageID, contact domain.ContactID) (erase.Result, error) {
	f.got = append(f.got, page, contact)
	return erase.Result{Events: 2}, f.err
}

func (f *fakeOperator) ExportPerson(
	_ context.Context, page domain.PageID, contact domain.ContactID, dir string, _ func(operate.PersonProgress),
) (person.Report, error) {
	f.got = append(f.got, page, contact, dir)
	return person.Report{}, f.err
}

// fileTokens has the admin token only.
func fileTokens(t *testing.T) *tokens.Tokens {
	t.Helper()
	known, err := tokens.New(tokens.Options{Admin: token})
	require.NoError(t, err)
	return known
}

func serveAPI(t *testing.T, f *fakeOperator) string {
	t.Helper()
	s := New(Options{Tokens: fileTokens(t), Operator: f, Metrics: http.NotFoundHandler()})
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
	return answer(t, req)
}

func answer(t *testing.T, req *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(b)
}

// verbRequests are requests that call a verb, with a part of the expected response.
var verbRequests = []struct{ method, path, body, want string }{
	{"POST", "/api/v1/apps/setup", `{"dry_run":true}`, `"dry_run":true`},
	{"POST", "/api/v1/apps/setup", `{"app":"main"}`, `"app":"main"`},
	{"POST", "/api/v1/invites", `{"app":"main","company":"acme"}`, "invite=x"},
	{"POST", "/api/v1/logins", `{"user_token":"EAAx"}`, `"id":"abc"`},
	{"POST", "/api/v1/logins/abc", `{"pages":["104"]}`, `"chosen":0`},
	{"POST", "/api/v1/pages", `{"page":"104","token":"EAAx"}`, `"retry_after":3`},
	{"POST", "/api/v1/pages/104/check", ``, `"state":"drifted"`},
	{"POST", "/api/v1/pages/104/resubscribe", ``, `"state":"failed"`},
	{"POST", "/api/v1/pages/104/resubscribe?dry_run=1", ``, `"reason":"planned"`},
	{"POST", "/api/v1/pages/104/disconnect", ``, `"state":"removed"`},
	{"POST", "/api/v1/pages/104/test", ``, `"seq":7`},
	{"POST", "/api/v1/pages/104/forget", ``, `"seq":8`},
	{"POST", "/api/v1/pages/104/messages", `{"contact":"31","message":{"text":"hi"}}`, `"message_id":"m_1"`},
	{"POST", "/api/v1/pages/104/backfill", `{"since":"2026-06-01T00:00:00Z"}`, `"stored":3`},
	{"POST", "/api/v1/pages/104/adopt", `{"all":true}`, `"adopted":2`},
	{"POST", "/api/v1/conversations/104/31/erase", ``, `"events":2`},
	{"POST", "/api/v1/conversations/104/31/export", `{"dir":"/x"}`, `"dir":"/x"`},
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
	{"POST", "/api/v1/consumers", `{"name":"crm","all":true}`, `"seed"`},
	{"GET", "/api/v1/companies", ``, `"Acme Ltd"`},
	{"POST", "/api/v1/companies", `{"name":"acme"}`, `"id":"acme"`},
	{"POST", "/api/v1/companies/acme%20ag/rename", `{"name":"Acme Ltd"}`, `"id":"acme ag","name":"Acme Ltd"`},
	{"POST", "/api/v1/consumers/crm/rewind", `{"to":"7"}`, `"seq":6`},
	{"DELETE", "/api/v1/consumers/crm", ``, ``},
	{"GET", "/api/v1/deadletters?projection=pages&limit=1", ``, `"seq":7`},
	{"POST", "/api/v1/deadletters", `{"action":"discard","event":7,"reason":"no use"}`, `"count":2`},
	{"GET", "/api/v1/tokens", ``, `"crm"`},
	{"POST", "/api/v1/tokens", `{"name":"crm","scope":"company","company":"acme"}`, `"token":"pst_x"`},
	{"DELETE", "/api/v1/tokens/crm", ``, ``},
	{"GET", "/api/v1/losses?after=7", ``, `"messages":null`},
	{"POST", "/api/v1/losses/accept", ``, `"ranges":[{"from":7,"to":8}]`},
	{"GET", "/api/v1/cluster", ``, `"leader":"n1"`},
	{"POST", "/api/v1/cluster/scale", `{"replicas":3}`, `"before":1,"after":3`},
	{"GET", "/api/v1/history?on=104&verb=erase&limit=1", ``, `"next":"7"`},
	{"GET", "/api/v1/keys", ``, `{"items":["k2","k1"],"secrets":{"k1":3}}`},
	{"POST", "/api/v1/keys/k1/retire", ``, `"key":"k1"`},
	{"POST", "/api/v1/keys/rotate", ``, `"key":"k3"`},
	{"POST", "/api/v1/projections/pages/rebuild", ``, `"name":"pages"`},
	{"POST", "/api/v1/projections/pages/verify", ``, `"equal":true`},
	{"POST", "/api/v1/projections/pages/explain", `{"bucket":"pages","key":"3130340001"}`, `"first":[7]`},
}

func TestVerbsNeedTheToken(t *testing.T) {
	f := &fakeOperator{}
	base := serveAPI(t, f)
	for _, r := range verbRequests {
		resp, body := call(t, r.method, base+r.path, r.body)
		assert.Less(t, resp.StatusCode, 300, "%s: %s", r.path, body)
		assert.Contains(t, body, r.want, r.path)
	}
	assert.Contains(t, f.got, []domain.PageID{"104", "105"})
	assert.Contains(t, f.got, domain.ContactID("31"))

	for _, r := range verbRequests { // each is refused without the token
		req, err := http.NewRequestWithContext(t.Context(), r.method, base+r.path, strings.NewReader(r.body))
		require.NoError(t, err)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, http.StatusUnauthorized, resp.StatusCode, r.path)
	}
}

// TestVerbErrors checks that an error has the same status for every verb.
func TestVerbErrors(t *testing.T) {
	window := &meta.Error{Code: 10, Subcode: 2018278, Message: "outside of allowed window", FBTrace: "Abc"}
	throttled := &meta.Error{Code: 80006, Message: "too many", After: 1500 * time.Millisecond}
	for name, c := range map[string]struct {
		err    error
		status int
		retry  string
		has    string
	}{
		"refused":        {fmt.Errorf("connect: %w", operate.ErrNoLogin), 422, "", "no such login"},
		"not connected":  {fmt.Errorf("look: %w", meta.ErrNotConnected), 404, "", "not connected"},
		"token missing":  {fmt.Errorf("send: %w", meta.ErrToken), 422, "", "connect the page again"},
		"key missing":    {fmt.Errorf("send: %w: %w", meta.ErrToken, seal.ErrUnknownKey), 422, "", "connect the page again"},
		"key in use":     {fmt.Errorf("retire: %w", seal.ErrPrimaryKey), 422, "", "rotate first"},
		"token dead":     {fmt.Errorf("send: %w", meta.ErrTokenDead), 422, "", "pagestream pages login"},
		"graph":          {fmt.Errorf("send: %w", window), 422, "", `"subcode":2018278`},
		"throttled":      {throttled, 429, "2", `"retry_after":2`},
		"unknown name":   {fmt.Errorf("rebuild: %w", operate.ErrUnknown), 404, "", "nothing of that name"},
		"busy":           {fmt.Errorf("rebuild: %w", projections.ErrBuilding), 409, "", "already"},
		"unsure":         {fmt.Errorf("%w: connection reset", outbound.ErrUnsure), 502, "", "not known"},
		"unsure by code": {fmt.Errorf("%w: %w", outbound.ErrUnsure, &meta.Error{Status: 500, Code: 2}), 502, "", "not known"},
		"other":          {errors.New("connection refused"), 502, "", "connection refused"},
	} {
		base := serveAPI(t, &fakeOperator{err: c.err})
		for _, r := range verbRequests {
			if r.path == "/api/v1/reconcile" || r.path == "/api/v1/hooks" ||
				r.method == http.MethodGet && r.path == "/api/v1/tokens" {
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

func TestVerbsRefuseBadInput(t *testing.T) {
	f := &fakeOperator{}
	base := serveAPI(t, f)
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
	assert.Empty(t, f.got, "no verb was called")
}

// TestLongVerbsReportProgress checks that each progress report is a line, and that the
// last line contains the result or the error.
func TestLongVerbsReportProgress(t *testing.T) {
	for _, path := range []string{
		"/api/v1/logins/abc", "/api/v1/pages/104/backfill", "/api/v1/keys/rotate", "/api/v1/projections/pages/rebuild",
		"/api/v1/keys/k1/retire",
	} {
		f := &fakeOperator{progress: 3}
		base := serveAPI(t, f)
		body := map[string]string{
			"/api/v1/logins/abc": `{"all":true}`, "/api/v1/pages/104/backfill": `{"since":"2026-06-01T00:00:00Z"}`,
		}[path]
		for _, f.err = range []error{nil, &meta.Error{Code: 4, Message: "limit"}} {
			resp, out := call(t, http.MethodPost, base+path, body)
			assert.Equal(t, http.StatusOK, resp.StatusCode)
			assert.Equal(t, "application/x-ndjson", resp.Header.Get("Content-Type"))
			lines := strings.Split(strings.TrimSpace(out), "\n")
			require.Len(t, lines, 4, out)
			var last line[json.RawMessage, json.RawMessage]
			require.NoError(t, json.Unmarshal([]byte(lines[3]), &last))
			assert.NotNil(t, last.Result, "the result is there also after an error")
			assert.Equal(t, f.err != nil, last.Error != nil)
		}
	}
}
