package doctor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/doctor"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
)

var (
	start  = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	wanted = []string{"message_reads", "messages"}
	valid  = meta.TokenReport{State: meta.TokenValid}
)

const verifyToken = "let me in & out"

// model is a read model that events are applied to at once.
type model struct {
	*store.Store
	projections.Projection
	waited atomic.Uint64
}

func (m *model) WaitFor(_ context.Context, seq uint64) error {
	for was := m.waited.Load(); seq > was && !m.waited.CompareAndSwap(was, seq); was = m.waited.Load() {
	}
	return nil
}

type answer = func() (meta.TokenReport, meta.Outcome, error)

// fixture is a fake of Graph, package connect and the read models. Its Verbs store the
// events that connect would store.
type fixture struct {
	t           *testing.T
	pages, subs *model

	mu  sync.Mutex
	now time.Time
	seq uint64
	// answer is Graph's answer for a page; a page without one is healthy.
	answer    map[domain.PageID]answer
	checked   []domain.PageID
	appFields []string
	appSubs   []meta.AppSubscription // to other objects than page
	appErr    error
	base      string
	*doctor.Doctor
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{t: t, now: start, appFields: meta.DefaultFields(), answer: map[domain.PageID]answer{}}
	open := func(p projections.Projection) *model {
		st, err := store.Open(filepath.Join(t.TempDir(), p.Name()+".db"), store.Options{NoSync: true})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, st.Close()) })
		return &model{Store: st, Projection: p}
	}
	f.pages, f.subs = open(pages.New()), open(subscriptions.New())
	f.Doctor = doctor.New(doctor.Options{
		Pages: f.pages, Subscriptions: f.subs, Verbs: f,
		Head: func(context.Context) (uint64, error) { return f.seq, nil },
		Loop: func(domain.PageID) (meta.Loop, bool) { return meta.Loop{}, false }, AllSilent: func() bool { return false },
		Recent: func(time.Time) meta.Recent { return meta.Recent{} }, Refused: func() []string { return nil },
		Apps: []doctor.App{{Name: "main", VerifyToken: verifyToken, GraphVersion: "v23.0"}},
		AppSubscriptions: func(context.Context, string) ([]meta.AppSubscription, bool, error) {
			return append(f.appSubs, meta.AppSubscription{Object: "page", Fields: f.appFields, Active: true}), true, f.appErr
		},
		Endpoint: func(app string) string {
			if f.base == "" {
				return ""
			}
			return f.base + "/webhooks/" + app
		},
		Now: func() time.Time { return f.now },
	})
	return f
}

// store stores an event and returns its sequence.
func (f *fixture) store(page domain.PageID, t domain.Type, d domain.Data) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seq++
	d.App = "main"
	e := domain.Event{ID: fmt.Sprintf("%s-%d", page, f.seq), Type: t, Page: page, Time: f.now, Data: d}
	for _, m := range []*model{f.pages, f.subs} {
		require.NoError(f.t, m.Update(func(tx *store.Tx) error {
			return m.Apply(tx, streams.Stored{Event: e, Seq: f.seq, At: f.now})
		}))
	}
	return f.seq
}

func (f *fixture) message(page domain.PageID) {
	f.store(page, domain.MessageReceived, domain.Data{})
}

// connect connects and subscribes a page and stores a message of it.
func (f *fixture) connect(page domain.PageID) {
	f.store(page, domain.PageConnected, domain.Data{Connection: &domain.Connection{
		ConnectionID: "c", Name: "Page " + string(page), App: "main", Secret: "ref", Fields: wanted,
	}})
	f.subscription(page, domain.SubscriptionConfirmed, wanted)
	f.message(page)
}

func (f *fixture) subscription(page domain.PageID, t domain.Type, actual []string) uint64 {
	return f.store(page, t, domain.Data{Subscription: &domain.Subscription{App: "main", Wanted: wanted, Actual: actual}})
}

// ask returns Graph's answer for the page.
func (f *fixture) ask(page domain.PageID) (meta.TokenReport, meta.Outcome, error) {
	f.mu.Lock()
	answer := f.answer[page]
	f.mu.Unlock()
	if answer == nil {
		return valid, meta.Outcome{State: subscriptions.Confirmed, Wanted: wanted, Actual: wanted}, nil
	}
	return answer()
}

func (f *fixture) Check(_ context.Context, page domain.PageID) (meta.Outcome, error) {
	_, o, err := f.ask(page)
	if o.State == subscriptions.Drifted {
		o.Seq = f.subscription(page, domain.SubscriptionDrifted, o.Actual)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.checked = append(f.checked, page)
	return o, err
}

func (f *fixture) Probe(_ context.Context, page domain.PageID) (meta.TokenReport, error) {
	report, _, err := f.ask(page)
	if report.State == meta.TokenInvalid || report.State == meta.TokenDeselected {
		report.Seq = f.store(page, domain.PageTokenInvalidated, domain.Data{Connection: &domain.Connection{
			ConnectionID: "c", Code: report.Code, Subcode: report.Subcode, Reason: report.Reason,
		}})
	}
	return report, err
}

// answerWith sets Graph's answer for the page.
func (f *fixture) answerWith(page domain.PageID, token meta.TokenReport, o meta.Outcome, err error) {
	f.answer[page] = func() (meta.TokenReport, meta.Outcome, error) { return token, o, err }
}

func (f *fixture) row(page domain.PageID) pages.Page {
	p, err := pages.Get(f.pages, page)
	require.NoError(f.t, err)
	return p
}

// judgeWithoutGraph judges a page without asking Graph.
func (f *fixture) judgeWithoutGraph(page domain.PageID) meta.Judgement {
	sub, err := subscriptions.Get(f.subs, page, "main")
	if err != nil {
		return f.Judging()(f.row(page), nil)
	}
	return f.Judging()(f.row(page), &sub)
}

func TestExamine(t *testing.T) {
	f := newFixture(t)
	for i := range 6 {
		f.connect(domain.PageID(fmt.Sprint(1 + i)))
	}
	f.answerWith("2", valid, meta.Outcome{State: subscriptions.Drifted, Actual: wanted[1:], Missing: wanted[:1]}, nil)
	f.answerWith("3", meta.TokenReport{State: meta.TokenInvalid, Code: 102, Reason: "102/0: Session key invalid"},
		meta.Outcome{State: subscriptions.Failed, Code: 102, Reason: "Session key invalid"}, nil)
	f.answerWith("4", meta.TokenReport{State: meta.TokenUnknown},
		meta.Outcome{State: subscriptions.Failed}, errors.New("connection refused"))
	f.answerWith("5", meta.TokenReport{State: meta.TokenDeselected, Reason: meta.DeselectedPrefix + "not among them"},
		meta.Outcome{State: subscriptions.Failed, Code: 10, Reason: "no permission"}, nil)
	f.answerWith("6", valid, meta.Outcome{State: subscriptions.Drifted, Missing: wanted}, nil)
	f.connect("7")
	f.store("7", domain.PageDisconnected, domain.Data{Connection: &domain.Connection{ConnectionID: "c"}})
	f.message("8")
	f.connect("9")
	f.store("9", domain.PageDisconnected, domain.Data{Connection: &domain.Connection{ConnectionID: "c"}})
	f.now = f.now.Add(2 * meta.DisconnectGrace)
	f.message("9")

	want := map[domain.PageID]meta.State{
		"1": meta.StateHealthy, "2": meta.StateFieldsDrifted, "3": meta.StateTokenDead, "4": meta.StateGraphUnreachable,
		"5": meta.StateDeselected, "6": meta.StateUnsubscribedByOthers, "8": meta.StateNotConnected,
		"9": meta.StateNotConnected,
	}
	r, err := f.Examine(t.Context(), nil)
	require.NoError(t, err)
	assert.True(t, r.Wrong)
	assert.Equal(t, f.now, r.At)
	assert.Empty(t, r.Install)
	assert.Len(t, r.Pages, len(want), "each that is connected, and each that sends without being so")
	for _, p := range r.Pages {
		assert.Equal(t, want[p.Page], p.State, p.Page)
		assert.Equal(t, f.row(p.Page).Name, p.Name)
		if p.State == meta.StateGraphUnreachable {
			continue // it is not recorded
		}
		assert.Equal(t, p.Judgement, f.judgeWithoutGraph(p.Page), "page %s: the record says the same afterwards", p.Page)
	}
	slices.Sort(f.checked)
	assert.Equal(t, []domain.PageID{"1", "2", "3", "4", "5", "6"}, f.checked, "there is nothing to ask about the others")
	for _, m := range []*model{f.pages, f.subs} {
		assert.Equal(t, f.seq, m.waited.Load(), "what was put on record is read before the page is judged")
	}

	// The pages are in the order of the ids.
	r, err = f.Examine(t.Context(), []domain.PageID{"7", "1"})
	require.NoError(t, err)
	assert.False(t, r.Wrong)
	require.Len(t, r.Pages, 2)
	assert.Equal(t, meta.StateDisconnected, r.Pages[0].State)
	assert.Equal(t, domain.PageID("1"), r.Pages[1].Page)

	b, err := json.Marshal(r)
	require.NoError(t, err)
	assert.JSONEq(t, `{"at":"2026-06-01T12:02:00Z","install":[],"wrong":false,"pages":[
		{"page":"7","name":"Page 7","state":"disconnected","severity":"fine","summary":"The page was disconnected.",
			"findings":[{"cause":"disconnected","severity":"fine","summary":"The page was disconnected.",
			"evidence":["since 2026-06-01 12:00 UTC"]}]},
		{"page":"1","name":"Page 1","state":"healthy","severity":"fine","summary":"Nothing is wrong.","findings":[
			{"cause":"healthy","severity":"fine","summary":"Nothing is wrong.",
			"evidence":["all 2 wanted fields are subscribed","the token is valid"]}]}]}`, string(b))
}

func TestUnknownPage(t *testing.T) {
	f := newFixture(t)
	f.connect("1")
	_, err := f.Examine(t.Context(), []domain.PageID{"1", "5"})
	require.ErrorIs(t, err, doctor.ErrUnknownPage)
	require.ErrorContains(t, err, "nothing is known of page 5")
	assert.Empty(t, f.checked)
	for _, ids := range [][]domain.PageID{{}, {""}} {
		_, err = f.Examine(t.Context(), ids)
		require.ErrorIs(t, err, doctor.ErrUnknownPage, "an empty choice is not every page")
	}
	assert.Empty(t, f.checked)

	ctx, cancel := context.WithCancel(t.Context())
	f.answer["1"] = func() (meta.TokenReport, meta.Outcome, error) {
		cancel()
		return meta.TokenReport{}, meta.Outcome{}, ctx.Err()
	}
	_, err = f.Examine(ctx, nil)
	assert.ErrorIs(t, err, context.Canceled, "a caller who has gone gets no report")
}

// Graph is asked about a few pages at a time.
func TestPagesAreAskedInParallel(t *testing.T) {
	f := newFixture(t)
	var at, most atomic.Int64
	for i := range 12 {
		page := domain.PageID(fmt.Sprint(100 + i))
		f.connect(page)
		f.answer[page] = func() (meta.TokenReport, meta.Outcome, error) {
			n := at.Add(1)
			defer at.Add(-1)
			for was := most.Load(); n > was && !most.CompareAndSwap(was, n); was = most.Load() {
			}
			time.Sleep(time.Millisecond)
			return valid, meta.Outcome{State: subscriptions.Confirmed}, nil
		}
	}
	r, err := f.Examine(t.Context(), nil)
	require.NoError(t, err)
	assert.Len(t, r.Pages, 12)
	assert.LessOrEqual(t, most.Load(), int64(4))
}

// Install has what an examination found about the apps for an hour.
func TestAppFactsAreKeptForAnHour(t *testing.T) {
	f := newFixture(t)
	f.base = "http://127.0.0.1:1"
	f.connect("1")
	f.answerWith("1", valid, meta.Outcome{State: subscriptions.Drifted, Missing: wanted}, nil)
	assert.Empty(t, f.Install().Apps)
	r, err := f.Examine(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, r.Install, 1)
	assert.Equal(t, meta.StateEndpointUnreachable, r.Install[0].Cause)
	assert.Equal(t, meta.StateUnsubscribedByMeta, r.Pages[0].State)
	assert.Equal(t, meta.StateEndpointUnreachable, r.Pages[0].Findings[0].Because)
	f.now = f.now.Add(time.Hour - time.Second)
	assert.Equal(t, meta.StateUnsubscribedByMeta, f.judgeWithoutGraph("1").State)
	f.now = f.now.Add(time.Second)
	assert.Equal(t, meta.StateUnsubscribedByOthers, f.judgeWithoutGraph("1").State)

	// The app's own fields are judged, if they are known.
	f.answer, f.base, f.appFields = nil, "", []string{"messages"}
	f.subscription("1", domain.SubscriptionConfirmed, wanted)
	r, err = f.Examine(t.Context(), nil)
	require.NoError(t, err)
	assert.Equal(t, meta.StateAppFieldMissing, r.Pages[0].State)
	assert.Equal(t, r.Pages[0].Judgement, f.judgeWithoutGraph("1"))
	f.appErr = errors.New("no answer")
	r, err = f.Examine(t.Context(), nil)
	require.NoError(t, err)
	assert.NotEqual(t, meta.StateAppFieldMissing, r.Pages[0].State)
}

// TestApps checks what the doctor says of an app: its version of the Graph API by the clock, and the
// subscriptions that it lacks, for Instagram only if a page uses it.
func TestApps(t *testing.T) {
	f := newFixture(t)
	f.connect("1")
	examine := func() (causes []meta.State) {
		t.Helper()
		r, err := f.Examine(t.Context(), nil)
		require.NoError(t, err)
		for _, found := range r.Install {
			causes = append(causes, found.Cause)
		}
		return causes
	}
	end := meta.VersionEnd("v23.0")
	for _, c := range []struct {
		at     time.Time
		causes []meta.State
		wrong  bool
	}{
		{end.Add(-90 * 24 * time.Hour), nil, false},
		{end.Add(-90*24*time.Hour + time.Second), []meta.State{meta.StateGraphVersionEnds}, false},
		{end.Add(-time.Second), []meta.State{meta.StateGraphVersionEnds}, false},
		{end, []meta.State{meta.StateGraphVersionEnds}, true},
	} {
		f.now = c.at
		assert.Equal(t, c.causes, examine(), c.at)
		r, err := f.Examine(t.Context(), nil)
		require.NoError(t, err)
		assert.Equal(t, c.wrong, r.Wrong, c.at)
		for _, found := range r.Install {
			assert.Contains(t, found.Do[0], "graph_version: "+meta.GraphVersion)
		}
	}

	f.now = start
	f.store("1", domain.PageLinked, domain.Data{Connection: &domain.Connection{ConnectionID: "c", App: "main", Instagram: "178"}})
	assert.Empty(t, examine(), "the token may not read Instagram's messages")
	f.store("2", domain.PageConnected, domain.Data{Connection: &domain.Connection{
		ConnectionID: "c2", App: "main", Secret: "ref", Fields: append(slices.Clone(wanted), "feed"), Instagram: "179",
		Scopes: []string{"instagram_manage_messages"},
	}})
	assert.Equal(t, []meta.State{meta.StateAppLacksFields, meta.StateAppNotSubscribed}, examine(), "feed, and Instagram")
	f.appFields = append(f.appFields, "feed")
	assert.Equal(t, []meta.State{meta.StateAppNotSubscribed}, examine())
	f.appSubs = []meta.AppSubscription{{Object: "instagram", Fields: []string{"messages"}, Active: true}}
	assert.Equal(t, []meta.State{meta.StateAppLacksFields}, examine())
}

func TestHandshake(t *testing.T) {
	location := ""
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch q := r.URL.Query(); {
		case location != "":
			w.Header().Set("Location", location+r.URL.RawQuery)
			w.WriteHeader(http.StatusFound)
		case q.Get("hub.mode") == "subscribe" && q.Get("hub.verify_token") == verifyToken:
			fmt.Fprint(w, q.Get("hub.challenge"))
		default:
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	defer srv.Close()
	require.NoError(t, doctor.Handshake(t.Context(), srv.URL, verifyToken))
	for name, c := range map[string]struct{ endpoint, token, location string }{
		"another answers":  {srv.URL, verifyToken + "?", ""},
		"nobody":           {"http://127.0.0.1:1/webhooks/main", verifyToken, ""},
		"not a URL":        {"http://[::1/webhooks/main", verifyToken, ""},
		"bad redirect":     {srv.URL, verifyToken, "http://[::1/?"},
		"redirect to none": {srv.URL, verifyToken, "http://127.0.0.1:1/?"},
	} {
		location = c.location
		err := doctor.Handshake(t.Context(), c.endpoint, c.token)
		require.Error(t, err, name)
		assert.NotContains(t, err.Error(), "let", name)
		assert.Equal(t, name == "another answers", errors.Is(err, doctor.ErrHandshake), name)
	}
	app := doctor.App{Name: "main", VerifyToken: verifyToken}
	assert.NotContains(t, fmt.Sprintf("%v %+v %#v", app, &app, doctor.Options{Apps: []doctor.App{app}}), verifyToken)
}
