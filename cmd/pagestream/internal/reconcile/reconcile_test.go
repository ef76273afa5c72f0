package reconcile

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

const (
	one = domain.PageID("101")
	two = domain.PageID("102")
)

func newLoop(w *world, change ...func(*Options)) *Reconciler {
	o := Options{Verbs: w, Pages: w.pages, Subscriptions: w.subs, Now: w.clock, Settle: 50 * time.Millisecond}
	for _, f := range change {
		f(&o)
	}
	return New(o)
}

// once lets some time pass and looks at all pages.
func once(t require.TestingT, r *Reconciler, w *world, d time.Duration) Status {
	w.pass(d)
	s, err := r.RunOnce(context.Background())
	require.NoError(t, err)
	return s
}

func state(t require.TestingT, r *Reconciler, page domain.PageID) PageStatus {
	s, ok := r.Page(page)
	require.True(t, ok)
	return s
}

func TestDriftIsHealedAtOnce(t *testing.T) {
	w := newWorld(t)
	a, b := w.connect(one), w.connect(two)
	var log bytes.Buffer
	r := newLoop(w, func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	once(t, r, w, 0)
	assert.Equal(t, meta.LoopConfirmed, state(t, r, one).State)
	assert.Empty(t, log.String(), "nothing is worth a word")

	a.fields, b.subscribed = []string{"messages"}, false
	s := once(t, r, w, 10*time.Minute)
	for _, p := range s.Pages {
		assert.Equal(t, meta.LoopConfirmed, p.State)
		assert.Empty(t, p.Missing)
		assert.Equal(t, w.clock(), p.Checked)
		assert.Zero(t, p.Failures)
	}
	assert.Equal(t, Counters{Checks: 4, Probes: 2, Resubscribed: 2, Healed: 2}, s.Counters)
	sub, err := subscriptions.Get(w.subs, one, "main")
	require.NoError(t, err)
	var to []subscriptions.State
	for _, h := range sub.History[2:] {
		to = append(to, h.To)
	}
	assert.Equal(t, []subscriptions.State{subscriptions.Drifted, subscriptions.Requested, subscriptions.Confirmed}, to)
}

func TestBackoffGrowsAndOutlivesARestart(t *testing.T) {
	w := newWorld(t)
	g := w.connect(one)
	g.fields, g.refusePost = nil, 100
	r := newLoop(w)
	once(t, r, w, 0)
	assert.Equal(t, 1, g.posts)
	for n := 1; n <= 12; n++ {
		s := state(t, r, one)
		assert.Equal(t, n, s.Failures)
		assert.Equal(t, backoff.After(n, minBackoff, maxBackoff), s.NextTry.Sub(w.clock()), n)
		assert.Equal(t, meta.LoopFailed, s.State)
		r = newLoop(w) // a restart
		once(t, r, w, backoff.After(n, minBackoff, maxBackoff)-time.Second)
		assert.Equal(t, n, g.posts, "too early")
		assert.Equal(t, meta.LoopDrifted, state(t, r, one).State)
		once(t, r, w, time.Second)
		assert.Equal(t, n+1, g.posts)
	}
	assert.Equal(t, 6*time.Hour, state(t, r, one).NextTry.Sub(w.clock()))
	g.refusePost = 0
	once(t, r, w, 6*time.Hour)
	assert.Equal(t, meta.LoopConfirmed, state(t, r, one).State)
	g.fields = nil
	posts := g.posts
	once(t, r, w, time.Second)
	assert.Equal(t, posts+1, g.posts, "a confirmation forgives")
}

func TestPermissionsAreNotHammered(t *testing.T) {
	for _, code := range []int{3, 10, 200, 230, 299} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			w := newWorld(t)
			g := w.connect(one)
			g.fields, g.refusePost = nil, code
			r := newLoop(w)
			once(t, r, w, 0)
			s := state(t, r, one)
			assert.Equal(t, []any{meta.LoopFailed, code, time.Hour}, []any{s.State, s.Code, s.NextTry.Sub(w.clock())})
			assert.Equal(t, 1, g.probes, "the token is asked about at once")
			once(t, newLoop(w), w, 59*time.Minute)
			assert.Equal(t, 1, g.posts, "also after a restart")

			g.refuse = code
			r = newLoop(w)
			once(t, r, w, time.Minute)
			checks := g.checks
			once(t, r, w, 59*time.Minute)
			assert.Equal(t, checks, g.checks, "a refused check rests as well")
			once(t, r, w, time.Minute)
			assert.Equal(t, checks+1, g.checks)
		})
	}
}

func TestDeadTokenIsOnlyProbed(t *testing.T) {
	for _, subcode := range []int{458, 459, 460, 463, 464, 467, 490, 492} {
		w := newWorld(t)
		g := w.connect(one)
		r := newLoop(w)
		once(t, r, w, 0)
		g.dead, g.fields = subcode, nil
		once(t, r, w, 10*time.Minute)
		s := state(t, r, one)
		assert.Equal(t, []any{meta.LoopTokenDead, 190, subcode}, []any{s.State, s.Code, s.Subcode})
		assert.Equal(t, []int{2, 0, 2}, []int{g.checks, g.posts, g.probes})
		for range 12 {
			once(t, r, w, 10*time.Minute)
		}
		assert.Equal(t, []int{2, 0, 2}, []int{g.checks, g.posts, g.probes})
		g.dead = 0 // the person undid it
		once(t, r, w, 6*time.Hour)
		assert.Equal(t, 3, g.probes)
		assert.Equal(t, meta.LoopConfirmed, state(t, r, one).State)
		assert.Equal(t, 1, g.posts)
	}
}

func TestDeselectedPageIsFound(t *testing.T) {
	w := newWorld(t)
	w.connect(one).deselected = true
	r := newLoop(w)
	once(t, r, w, 0)
	s := state(t, r, one)
	assert.Equal(t, meta.LoopTokenDead, s.State)
	assert.Contains(t, s.Reason, "deselected:")
}

func TestThrottledPageWaits(t *testing.T) {
	w := newWorld(t)
	g, other := w.connect(one), w.connect(two)
	g.throttled = 25 * time.Minute
	r := newLoop(w)
	once(t, r, w, 0)
	s := state(t, r, one)
	assert.Equal(t, meta.LoopThrottled, s.State)
	assert.Equal(t, start.Add(25*time.Minute), s.NextTry)
	once(t, r, w, 24*time.Minute)
	assert.Equal(t, []int{1, 2}, []int{g.checks, other.checks})
	once(t, r, w, time.Minute)
	assert.Equal(t, 2, g.checks)
	assert.Equal(t, meta.LoopConfirmed, state(t, r, one).State)

	g.refuse = 32 // without a word on how long
	once(t, r, w, 10*time.Minute)
	assert.Equal(t, throttledBackoff, state(t, r, one).NextTry.Sub(w.clock()))
}

func TestAnswerlessGraphIsTriedAgain(t *testing.T) {
	w := newWorld(t)
	g := w.connect(one)
	g.down = 2
	r := newLoop(w)
	once(t, r, w, 0)
	s := state(t, r, one)
	assert.Equal(t, []any{meta.LoopUnreachable, start.Add(time.Minute), 0}, []any{s.State, s.NextTry, g.probes})
	once(t, r, w, time.Minute)
	assert.Equal(t, w.clock().Add(2*time.Minute), state(t, r, one).NextTry)
	assert.Equal(t, uint64(2), once(t, r, w, 2*time.Minute).Counters.Errors)
	assert.Equal(t, meta.LoopConfirmed, state(t, r, one).State)
}

func TestWhatTheAppLacksIsNotSubscribedAgain(t *testing.T) {
	w := newWorld(t)
	g := w.connect(one)
	w.appMissing = []string{"message_edits"}
	r := newLoop(w)
	once(t, r, w, 0)
	s := state(t, r, one)
	assert.Equal(t, []any{meta.LoopDrifted, 0}, []any{s.State, g.posts})
	assert.Equal(t, w.appMissing, s.AppMissing)
	g.subscribed = false
	once(t, r, w, 10*time.Minute)
	assert.Equal(t, 1, g.posts, "what the page lacks still is")
	assert.Equal(t, meta.LoopDrifted, state(t, r, one).State)
}

func TestTokenWarnings(t *testing.T) {
	w := newWorld(t)
	g := w.connect(one)
	for want, report := range map[string]meta.TokenReport{
		"":                                      {State: meta.TokenValid, Expires: start.AddDate(0, 0, 30), DataAccessExpires: start.AddDate(0, 0, 90)},
		"the token ends on 2026-06-09":          {State: meta.TokenValid, Expires: start.AddDate(0, 0, 8)},
		"access to data ends on 2026-06-03":     {State: meta.TokenValid, DataAccessExpires: start.AddDate(0, 0, 2)},
		"permissions are missing: pages_manage": {State: meta.TokenValid, MissingScopes: []string{"pages_manage"}},
	} {
		g.report = report
		r := newLoop(w)
		once(t, r, w, 0)
		assert.Equal(t, want, state(t, r, one).TokenWarning)
		assert.Equal(t, report.MissingScopes, state(t, r, one).MissingScopes)
	}
}

func TestRefusalsAreJudgedByTheirClass(t *testing.T) {
	w := newWorld(t)
	g := w.connect(one)
	judged := func(code int) PageStatus {
		g.refuse, g.probes = code, 0
		r := newLoop(w)
		once(t, r, w, 0)
		return state(t, r, one)
	}
	for _, code := range []int{190, 102, 104} {
		s := judged(code)
		assert.Equal(t, []any{meta.LoopTokenDead, code, 1}, []any{s.State, s.Code, g.probes})
		assert.Zero(t, s.NextTry)
	}
	for code := 80000; code <= 80014; code++ {
		s := judged(code)
		assert.Equal(t, []any{meta.LoopThrottled, throttledBackoff, 0}, []any{s.State, s.NextTry.Sub(w.clock()), g.probes}, code)
	}
	assert.Equal(t, meta.LoopFailed, judged(80015).State)
	assert.Equal(t, throttledBackoff, retryWait(meta.Outcome{}, fmt.Errorf("read: %w", &meta.Error{Code: 4})))
	assert.Equal(t, 90*time.Second, retryWait(meta.Outcome{Code: 4, RetryAfter: 90}, nil))
	assert.Zero(t, retryWait(meta.Outcome{Code: 10}, nil))
}

func TestAJudgementIsGivenWhatIsKnown(t *testing.T) {
	s := PageStatus{Loop: meta.Loop{
		State: meta.LoopDrifted, Reason: "no", Missing: []string{"messages"}, AppMissing: []string{"feed"},
		MissingScopes: []string{"pages_messaging"}, Checked: start, NextTry: start.Add(time.Hour),
		Silence: pages.Silence{Expected: 30, Silent: true, Enough: true},
	}}
	assert.Equal(t, meta.Loop{
		State: meta.LoopDrifted, Reason: "no", Missing: []string{"messages"}, AppMissing: []string{"feed"},
		MissingScopes: []string{"pages_messaging"}, Checked: start, NextTry: start.Add(time.Hour),
		Silence: pages.Silence{Expected: 30, Silent: true, Enough: true},
	}, s.Loop)
	b, err := json.Marshal(s)
	require.NoError(t, err)
	assert.Contains(t, string(b), `"state":"drifted"`)
	assert.Contains(t, string(b), `"missing_scopes":["pages_messaging"]`)
}

func TestTokenIsProbedByItsInterval(t *testing.T) {
	w := newWorld(t)
	g := w.connect(one)
	r := newLoop(w)
	for range 1 + 2*36 { // half a day
		once(t, r, w, 10*time.Minute)
	}
	assert.Equal(t, 3, g.probes)
}

// come lets n messages of a page come each hour.
func (w *world) come(hours, n int, list ...domain.PageID) {
	for range hours {
		for _, p := range list {
			for range n {
				w.say(p, domain.MessageReceived, domain.Data{Source: "webhook"})
			}
		}
		w.pass(time.Hour)
	}
}

func TestSilence(t *testing.T) {
	w := newWorld(t)
	var log bytes.Buffer
	r := newLoop(w, func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	list := []domain.PageID{one, two, "103"}
	for _, p := range list {
		w.connect(p)
	}
	w.connect("104") // hardly ever says anything
	w.come(72, 5, list...)
	w.come(1, 3, "104")
	w.come(8, 5, two, "103")
	s := once(t, r, w, 0)
	assert.False(t, s.AllSilent)
	var silent []bool
	for _, p := range s.Pages {
		silent = append(silent, p.Silence.Silent)
	}
	assert.Equal(t, []bool{true, false, false, false}, silent)
	require.NoError(t, r.plan(w.clock()))
	assert.Equal(t, slot{one, w.clock()}, r.slots[0], "the silent page comes first")
	assert.Equal(t, 1, strings.Count(log.String(), "silent against"), "said once")

	s = once(t, r, w, 8*time.Hour)
	assert.True(t, s.AllSilent)
	once(t, r, w, 10*time.Minute)
	assert.Equal(t, 1, strings.Count(log.String(), "all pages are silent"))
	assert.Equal(t, 1, strings.Count(log.String(), "silent against"), "one finding instead of many")

	w.come(1, 5, list...)
	assert.False(t, once(t, r, w, 0).AllSilent)
	assert.Contains(t, log.String(), "not all pages are silent any more")

	// A new process has not listened yet.
	r = newLoop(w)
	assert.False(t, once(t, r, w, 0).AllSilent)
}

func TestDisconnectedPageIsLetGo(t *testing.T) {
	w := newWorld(t)
	g := w.connect(one)
	r := newLoop(w)
	once(t, r, w, 0)
	w.say(one, domain.PageDisconnected, domain.Data{Connection: &domain.Connection{}})
	r.visit(context.Background(), one)
	assert.Equal(t, 1, g.checks)
	assert.Empty(t, once(t, r, w, time.Minute).Pages)
	_, ok := r.Page(one)
	assert.False(t, ok)
}

func TestRunOnceEndsWithItsContext(t *testing.T) {
	w := newWorld(t)
	for i := range 20 {
		w.connect(domain.PageID(fmt.Sprint(100 + i)))
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s, err := newLoop(w).RunOnce(ctx)
	require.ErrorIs(t, err, context.Canceled)
	assert.Len(t, s.Pages, 20)
	assert.Zero(t, s.Counters)
}

func TestRefreshIsFollowedByASubscription(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	g := w.connect(one)
	r := newLoop(w)
	g.dead = 463
	once(t, r, w, 0)
	assert.Equal(t, meta.LoopTokenDead, state(t, r, one).State)
	require.NoError(t, r.refreshed(ctx, w.refresh(one)))
	assert.Equal(t, 1, g.posts)
	assert.Equal(t, meta.LoopConfirmed, state(t, r, one).State)

	// Whoever refreshed it did it already, or does so soon, or tried.
	e := w.refresh(one)
	w.mu.Lock()
	w.subscription(one, domain.SubscriptionRequested, 0)
	w.mu.Unlock()
	time.AfterFunc(20*time.Millisecond, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.subscription(one, domain.SubscriptionConfirmed, 0)
	})
	require.NoError(t, newLoop(w, func(o *Options) { o.Settle = time.Minute }).refreshed(ctx, e))
	require.NoError(t, r.refreshed(ctx, e))
	e = w.refresh(one)
	w.mu.Lock()
	w.subscription(one, domain.SubscriptionRequested, 0)
	w.subscription(one, domain.SubscriptionFailed, 2)
	w.mu.Unlock()
	require.NoError(t, r.refreshed(ctx, e))
	assert.Equal(t, 1, g.posts)

	// It was cut off in the middle.
	e = w.refresh(one)
	w.mu.Lock()
	w.subscription(one, domain.SubscriptionRequested, 0)
	w.mu.Unlock()
	require.NoError(t, r.refreshed(ctx, e))
	assert.Equal(t, 2, g.posts)

	// Another key is no refresh, and a page that is gone needs none.
	e = w.refresh(one)
	e.Data.Connection.Resealed = true
	require.NoError(t, r.refreshed(ctx, e))
	e = w.refresh(one)
	w.say(one, domain.PageDisconnected, domain.Data{Connection: &domain.Connection{}})
	require.NoError(t, r.refreshed(ctx, e))
	assert.Equal(t, 2, g.posts)
}

func TestRefreshThatCantBeFollowedComesAgain(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	g := w.connect(one)
	r := newLoop(w)
	e := w.refresh(one)
	v, ok := r.begin(one, false)
	require.True(t, ok)
	require.ErrorIs(t, r.refreshed(ctx, e), errBusy)
	v.end()
	g.throttled = time.Hour
	require.Error(t, r.refreshed(ctx, e))
	assert.Equal(t, meta.LoopThrottled, state(t, r, one).State)
	once(t, r, w, time.Minute)
	assert.Zero(t, g.checks)
}

func TestAttempts(t *testing.T) {
	at := func(n int) time.Time { return start.Add(time.Duration(n) * time.Minute) }
	move := func(from, to subscriptions.State, n, code int) subscriptions.Transition {
		return subscriptions.Transition{From: from, To: to, Time: at(n), Code: code}
	}
	const req, conf, fail, drift, none = subscriptions.Requested, subscriptions.Confirmed, subscriptions.Failed, subscriptions.Drifted, subscriptions.None
	for name, c := range map[string]struct {
		history []subscriptions.Transition
		n, at   int
		class   meta.Class
	}{
		"drift alone is no attempt":   {[]subscriptions.Transition{move(conf, drift, 1, 0), move(drift, drift, 2, 0)}, 0, -1, meta.Unclassified},
		"refused twice":               {[]subscriptions.Transition{move(none, req, 1, 0), move(req, fail, 2, 100), move(fail, req, 3, 0), move(req, fail, 4, 10)}, 2, 4, meta.Permission},
		"read back without them":      {[]subscriptions.Transition{move(conf, req, 1, 0), move(req, drift, 2, 0)}, 1, 2, meta.Unclassified},
		"cut off":                     {[]subscriptions.Transition{move(drift, req, 5, 0)}, 1, 5, meta.Unclassified},
		"confirmed and drifted since": {[]subscriptions.Transition{move(req, fail, 1, 200), move(fail, conf, 2, 0), move(conf, drift, 3, 0)}, 0, -1, meta.Unclassified},
	} {
		n, last, class := attempts(c.history)
		assert.Equal(t, []any{c.n, c.class}, []any{n, class}, name)
		if c.at < 0 {
			assert.True(t, last.IsZero(), name)
		} else {
			assert.Equal(t, at(c.at), last, name)
		}
	}
}

// Whatever happens to the pages, when it is over they all end up confirmed
// within the longest pause and one probe.
func TestAnyTroubleEndsConfirmed(t *testing.T) {
	base := newWorld(t)
	rapid.Check(t, func(t *rapid.T) {
		w := base.reset()
		list := []domain.PageID{"101", "102", "103"}
		for _, p := range list {
			w.connect(p)
		}
		r := newLoop(w)
		t.Repeat(map[string]func(*rapid.T){
			"drift":  func(t *rapid.T) { w.page(rapid.SampledFrom(list).Draw(t, "page")).fields = []string{"messages"} },
			"remove": func(t *rapid.T) { w.page(rapid.SampledFrom(list).Draw(t, "page")).subscribed = false },
			"kill":   func(t *rapid.T) { w.page(rapid.SampledFrom(list).Draw(t, "page")).dead = 463 },
			"down": func(t *rapid.T) {
				w.page(rapid.SampledFrom(list).Draw(t, "page")).down = rapid.IntRange(0, 5).Draw(t, "calls")
			},
			"throttle": func(t *rapid.T) {
				w.page(rapid.SampledFrom(list).Draw(t, "page")).throttled = time.Duration(rapid.IntRange(0, 120).Draw(t, "minutes")) * time.Minute
			},
			"refuse": func(t *rapid.T) {
				w.page(rapid.SampledFrom(list).Draw(t, "page")).refusePost = rapid.SampledFrom([]int{0, 1, 10, 32, 100, 200}).Draw(t, "code")
			},
			"refresh": func(t *rapid.T) {
				e := w.refresh(rapid.SampledFrom(list).Draw(t, "page"))
				w.pass(time.Second)
				_ = r.refreshed(context.Background(), e) // may be refused: the loop goes on
			},
			"restart": func(*rapid.T) { r = newLoop(w) },
			"round":   func(t *rapid.T) { once(t, r, w, 10*time.Minute) },
			"":        func(*rapid.T) {},
		})
		for _, g := range w.graph {
			g.dead, g.down, g.throttled, g.refusePost = 0, 0, 0, 0
		}
		for round := 0; ; round++ {
			calm := true
			for _, p := range once(t, r, w, 10*time.Minute).Pages {
				calm = calm && p.State == meta.LoopConfirmed && len(w.page(p.Page).missing()) == 0
			}
			if calm {
				return
			}
			if round > 2*36+2 {
				t.Fatalf("not confirmed after %d rounds: %+v", round, r.Status())
			}
		}
	})
}
