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
	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
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

// world is a Graph, the verbs on pages and the read models in little. The verbs put
// on record what package connect would.
type world struct {
	t           *testing.T
	pages, subs *model

	mu  sync.Mutex
	now time.Time
	seq uint64
	// answer is what Graph says of a page, healthy where there is none.
	answer    map[domain.PageID]answer
	checked   []domain.PageID
	appFields []string
	appErr    error
	base      string
	*doctor.Doctor
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, now: start, appFields: wanted, answer: map[domain.PageID]answer{}}
	open := func(p projections.Projection) *model {
		st, err := store.Open(filepath.Join(t.TempDir(), p.Name()+".db"), store.Options{NoSync: true})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, st.Close()) })
		return &model{Store: st, Projection: p}
	}
	w.pages, w.subs = open(pages.New()), open(subscriptions.New())
	w.Doctor = doctor.New(doctor.Options{
		Pages: w.pages, Subscriptions: w.subs, Verbs: w,
		Head: func(context.Context) (uint64, error) { return w.seq, nil },
		Loop: func(domain.PageID) (meta.Loop, bool) { return meta.Loop{}, false }, AllSilent: func() bool { return false },
		Recent: func(time.Time) meta.Recent { return meta.Recent{} }, Refused: func() []string { return nil },
		Apps: []doctor.App{{Name: "main", VerifyToken: verifyToken}},
		AppSubscriptions: func(context.Context, string) ([]graph.AppSubscription, bool, error) {
			return []graph.AppSubscription{{Object: "instagram"}, {Object: "page", Fields: w.appFields}}, true, w.appErr
		},
		BaseURL: func() string { return w.base }, Now: func() time.Time { return w.now },
	})
	return w
}

// say stores an event.
func (w *world) say(page domain.PageID, t domain.Type, d domain.Data) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seq++
	d.App = "main"
	e := domain.Event{ID: fmt.Sprintf("%s-%d", page, w.seq), Type: t, Page: page, Time: w.now, Data: d}
	for _, m := range []*model{w.pages, w.subs} {
		require.NoError(w.t, m.Update(func(tx *store.Tx) error {
			return m.Apply(tx, streams.Stored{Event: e, Seq: w.seq, At: w.now})
		}))
	}
	return w.seq
}

func (w *world) message(page domain.PageID) {
	w.say(page, domain.MessageReceived, domain.Data{})
}

// connect connects and subscribes a page, which then brings a message.
func (w *world) connect(page domain.PageID) {
	w.say(page, domain.PageConnected, domain.Data{Connection: &domain.Connection{
		ConnectionID: "c", Name: "Page " + string(page), App: "main", SealedToken: "sealed", Fields: wanted,
	}})
	w.subscription(page, domain.SubscriptionConfirmed, wanted)
	w.message(page)
}

func (w *world) subscription(page domain.PageID, t domain.Type, actual []string) uint64 {
	return w.say(page, t, domain.Data{Subscription: &domain.Subscription{App: "main", Wanted: wanted, Actual: actual}})
}

// ask returns what Graph says of the page.
func (w *world) ask(page domain.PageID) (meta.TokenReport, meta.Outcome, error) {
	w.mu.Lock()
	answer := w.answer[page]
	w.mu.Unlock()
	if answer == nil {
		return valid, meta.Outcome{State: subscriptions.Confirmed, Wanted: wanted, Actual: wanted}, nil
	}
	return answer()
}

func (w *world) Check(_ context.Context, page domain.PageID) (meta.Outcome, error) {
	_, o, err := w.ask(page)
	if o.State == subscriptions.Drifted {
		o.Seq = w.subscription(page, domain.SubscriptionDrifted, o.Actual)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.checked = append(w.checked, page)
	return o, err
}

func (w *world) Probe(_ context.Context, page domain.PageID) (meta.TokenReport, error) {
	report, _, err := w.ask(page)
	if report.State == meta.TokenInvalid || report.State == meta.TokenDeselected {
		report.Seq = w.say(page, domain.PageTokenInvalidated, domain.Data{Connection: &domain.Connection{
			ConnectionID: "c", Code: report.Code, Subcode: report.Subcode, Reason: report.Reason,
		}})
	}
	return report, err
}

// says lets Graph give one answer.
func (w *world) says(page domain.PageID, token meta.TokenReport, o meta.Outcome, err error) {
	w.answer[page] = func() (meta.TokenReport, meta.Outcome, error) { return token, o, err }
}

func (w *world) row(page domain.PageID) pages.Page {
	p, err := pages.Get(w.pages, page)
	require.NoError(w.t, err)
	return p
}

// onRecord judges a page without asking Graph.
func (w *world) onRecord(page domain.PageID) meta.Judgement {
	sub, err := subscriptions.Get(w.subs, page, "main")
	if err != nil {
		return w.Judging()(w.row(page), nil)
	}
	return w.Judging()(w.row(page), &sub)
}

func TestExamine(t *testing.T) {
	w := newWorld(t)
	for i := range 6 {
		w.connect(domain.PageID(fmt.Sprint(1 + i)))
	}
	w.says("2", valid, meta.Outcome{State: subscriptions.Drifted, Actual: wanted[1:], Missing: wanted[:1]}, nil)
	w.says("3", meta.TokenReport{State: meta.TokenInvalid, Code: 102, Reason: "102/0: Session key invalid"},
		meta.Outcome{State: subscriptions.Failed, Code: 102, Reason: "Session key invalid"}, nil)
	w.says("4", meta.TokenReport{State: meta.TokenUnknown},
		meta.Outcome{State: subscriptions.Failed}, errors.New("connection refused"))
	w.says("5", meta.TokenReport{State: meta.TokenDeselected, Reason: meta.DeselectedPrefix + "not among them"},
		meta.Outcome{State: subscriptions.Failed, Code: 10, Reason: "no permission"}, nil)
	w.says("6", valid, meta.Outcome{State: subscriptions.Drifted, Missing: wanted}, nil)
	w.connect("7")
	w.say("7", domain.PageDisconnected, domain.Data{Connection: &domain.Connection{ConnectionID: "c"}})
	w.message("8")
	w.connect("9")
	w.say("9", domain.PageDisconnected, domain.Data{Connection: &domain.Connection{ConnectionID: "c"}})
	w.now = w.now.Add(2 * meta.DisconnectGrace)
	w.message("9")

	want := map[domain.PageID]meta.State{
		"1": meta.StateHealthy, "2": meta.StateFieldsDrifted, "3": meta.StateTokenDead, "4": meta.StateGraphUnreachable,
		"5": meta.StateDeselected, "6": meta.StateUnsubscribedByOthers, "8": meta.StateNotConnected,
		"9": meta.StateNotConnected,
	}
	r, err := w.Examine(t.Context(), nil)
	require.NoError(t, err)
	assert.True(t, r.Wrong)
	assert.Equal(t, w.now, r.At)
	assert.Empty(t, r.Install)
	assert.Len(t, r.Pages, len(want), "each that is connected, and each that sends without being so")
	for _, p := range r.Pages {
		assert.Equal(t, want[p.Page], p.State, p.Page)
		assert.Equal(t, w.row(p.Page).Name, p.Name)
		if p.State == meta.StateGraphUnreachable {
			continue // it is on no record
		}
		assert.Equal(t, p.Judgement, w.onRecord(p.Page), "page %s: the record says the same afterwards", p.Page)
	}
	slices.Sort(w.checked)
	assert.Equal(t, []domain.PageID{"1", "2", "3", "4", "5", "6"}, w.checked, "there is nothing to ask about the others")
	for _, m := range []*model{w.pages, w.subs} {
		assert.Equal(t, w.seq, m.waited.Load(), "what was put on record is read before the page is judged")
	}

	// In the order that was asked for.
	r, err = w.Examine(t.Context(), []domain.PageID{"7", "1"})
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
	w := newWorld(t)
	w.connect("1")
	_, err := w.Examine(t.Context(), []domain.PageID{"1", "5"})
	require.ErrorIs(t, err, doctor.ErrUnknownPage)
	assert.ErrorContains(t, err, "nothing is known of page 5")
	assert.Empty(t, w.checked)

	ctx, cancel := context.WithCancel(t.Context())
	w.answer["1"] = func() (meta.TokenReport, meta.Outcome, error) {
		cancel()
		return meta.TokenReport{}, meta.Outcome{}, ctx.Err()
	}
	_, err = w.Examine(ctx, nil)
	assert.ErrorIs(t, err, context.Canceled, "a caller who has gone gets no report")
}

// TestPagesAtOnce: Graph is asked about a few pages at a time.
func TestPagesAtOnce(t *testing.T) {
	w := newWorld(t)
	var at, most atomic.Int64
	for i := range 12 {
		page := domain.PageID(fmt.Sprint(100 + i))
		w.connect(page)
		w.answer[page] = func() (meta.TokenReport, meta.Outcome, error) {
			n := at.Add(1)
			defer at.Add(-1)
			for was := most.Load(); n > was && !most.CompareAndSwap(was, n); was = most.Load() {
			}
			time.Sleep(time.Millisecond)
			return valid, meta.Outcome{State: subscriptions.Confirmed}, nil
		}
	}
	r, err := w.Examine(t.Context(), nil)
	require.NoError(t, err)
	assert.Len(t, r.Pages, 12)
	assert.LessOrEqual(t, most.Load(), int64(4))
}

// TestAppsAreRemembered: for an hour all know what an examination found of the apps.
func TestAppsAreRemembered(t *testing.T) {
	w := newWorld(t)
	w.base = "http://127.0.0.1:1"
	w.connect("1")
	w.says("1", valid, meta.Outcome{State: subscriptions.Drifted, Missing: wanted}, nil)
	assert.Empty(t, w.Install().Apps)
	r, err := w.Examine(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, r.Install, 1)
	assert.Equal(t, meta.StateEndpointUnreachable, r.Install[0].Cause)
	assert.Equal(t, meta.StateUnsubscribedByMeta, r.Pages[0].State)
	assert.Equal(t, meta.StateEndpointUnreachable, r.Pages[0].Findings[0].Because)
	w.now = w.now.Add(time.Hour - time.Second)
	assert.Equal(t, meta.StateUnsubscribedByMeta, w.onRecord("1").State)
	w.now = w.now.Add(time.Second)
	assert.Equal(t, meta.StateUnsubscribedByOthers, w.onRecord("1").State)

	// What the app itself lacks, or why that is not known.
	w.answer, w.base, w.appFields = nil, "", []string{"messages"}
	w.subscription("1", domain.SubscriptionConfirmed, wanted)
	r, err = w.Examine(t.Context(), nil)
	require.NoError(t, err)
	assert.Equal(t, meta.StateAppFieldMissing, r.Pages[0].State)
	assert.Equal(t, r.Pages[0].Judgement, w.onRecord("1"))
	w.appErr = errors.New("no answer")
	r, err = w.Examine(t.Context(), nil)
	require.NoError(t, err)
	assert.NotEqual(t, meta.StateAppFieldMissing, r.Pages[0].State)
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
