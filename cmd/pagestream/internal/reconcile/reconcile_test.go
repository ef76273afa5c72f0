package reconcile

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
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

func newLoop(f *fixture, change ...func(*Options)) *Reconciler {
	o := Options{Verbs: f, Pages: f.pages, Subscriptions: f.subs, Now: f.clock, Settle: 50 * time.Millisecond}
	for _, f := range change {
		f(&o)
	}
	return New(o)
}

// runOnce advances the clock by d and checks all pages.
func runOnce(t require.TestingT, r *Reconciler, f *fixture, d time.Duration) Status {
	f.advance(d)
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
	f := newFixture(t)
	a, b := f.connect(one), f.connect(two)
	var log bytes.Buffer
	r := newLoop(f, func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	runOnce(t, r, f, 0)
	assert.Equal(t, meta.LoopConfirmed, state(t, r, one).State)
	assert.Empty(t, log.String(), "nothing is worth a word")

	a.fields, b.subscribed = []string{"messages"}, false
	s := runOnce(t, r, f, 10*time.Minute)
	for _, p := range s.Pages {
		assert.Equal(t, meta.LoopConfirmed, p.State)
		assert.Empty(t, p.Missing)
		assert.Equal(t, f.clock(), p.Checked)
		assert.Zero(t, p.Failures)
	}
	assert.Equal(t, Counters{Checks: 4, Probes: 2, Resubscribed: 2, Healed: 2}, s.Counters)
	sub, err := subscriptions.Get(f.subs, one, "main")
	require.NoError(t, err)
	var to []subscriptions.State
	for _, h := range sub.History[2:] {
		to = append(to, h.To)
	}
	assert.Equal(t, []subscriptions.State{subscriptions.Drifted, subscriptions.Requested, subscriptions.Confirmed}, to)
}

func TestBackoffGrowsAndSurvivesARestart(t *testing.T) {
	f := newFixture(t)
	g := f.connect(one)
	g.fields, g.refusePost = nil, 100
	r := newLoop(f)
	runOnce(t, r, f, 0)
	assert.Equal(t, 1, g.posts)
	for n := 1; n <= 12; n++ {
		s := state(t, r, one)
		assert.Equal(t, n, s.Failures)
		assert.Equal(t, backoff.After(n, minBackoff, maxBackoff), s.NextTry.Sub(f.clock()), n)
		assert.Equal(t, meta.LoopFailed, s.State)
		r = newLoop(f) // a restart
		runOnce(t, r, f, backoff.After(n, minBackoff, maxBackoff)-time.Second)
		assert.Equal(t, n, g.posts, "too early")
		assert.Equal(t, meta.LoopDrifted, state(t, r, one).State)
		runOnce(t, r, f, time.Second)
		assert.Equal(t, n+1, g.posts)
	}
	assert.Equal(t, 6*time.Hour, state(t, r, one).NextTry.Sub(f.clock()))
	g.refusePost = 0
	runOnce(t, r, f, 6*time.Hour)
	assert.Equal(t, meta.LoopConfirmed, state(t, r, one).State)
	g.fields = nil
	posts := g.posts
	runOnce(t, r, f, time.Second)
	assert.Equal(t, posts+1, g.posts, "a confirmation forgives")
}

func TestPermissionErrorsAreRetriedRarely(t *testing.T) {
	for _, code := range []int{3, 10, 200, 230, 299} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			f := newFixture(t)
			g := f.connect(one)
			g.fields, g.refusePost = nil, code
			r := newLoop(f)
			runOnce(t, r, f, 0)
			s := state(t, r, one)
			assert.Equal(t, []any{meta.LoopFailed, code, time.Hour}, []any{s.State, s.Code, s.NextTry.Sub(f.clock())})
			assert.Equal(t, 1, g.probes, "the token is asked about at once")
			runOnce(t, newLoop(f), f, 59*time.Minute)
			assert.Equal(t, 1, g.posts, "also after a restart")

			g.refuse = code
			r = newLoop(f)
			runOnce(t, r, f, time.Minute)
			checks := g.checks
			runOnce(t, r, f, 59*time.Minute)
			assert.Equal(t, checks, g.checks, "a refused check rests as well")
			runOnce(t, r, f, time.Minute)
			assert.Equal(t, checks+1, g.checks)
		})
	}
}

func TestDeadTokenIsOnlyProbed(t *testing.T) {
	for _, subcode := range []int{458, 459, 460, 463, 464, 467, 490, 492} {
		f := newFixture(t)
		g := f.connect(one)
		r := newLoop(f)
		runOnce(t, r, f, 0)
		g.dead, g.fields = subcode, nil
		runOnce(t, r, f, 10*time.Minute)
		s := state(t, r, one)
		assert.Equal(t, []any{meta.LoopTokenDead, 190, subcode}, []any{s.State, s.Code, s.Subcode})
		assert.Equal(t, []int{2, 0, 2}, []int{g.checks, g.posts, g.probes})
		for range 12 {
			runOnce(t, r, f, 10*time.Minute)
		}
		assert.Equal(t, []int{2, 0, 2}, []int{g.checks, g.posts, g.probes})
		g.dead = 0 // the token is valid again
		runOnce(t, r, f, 6*time.Hour)
		assert.Equal(t, 3, g.probes)
		assert.Equal(t, meta.LoopConfirmed, state(t, r, one).State)
		assert.Equal(t, 1, g.posts)
	}
}

func TestDeselectedPageIsDetected(t *testing.T) {
	f := newFixture(t)
	f.connect(one).deselected = true
	r := newLoop(f)
	runOnce(t, r, f, 0)
	s := state(t, r, one)
	assert.Equal(t, meta.LoopTokenDead, s.State)
	assert.Contains(t, s.Reason, "deselected:")
}

func TestThrottledPageIsOnHold(t *testing.T) {
	f := newFixture(t)
	g, other := f.connect(one), f.connect(two)
	g.throttled = 25 * time.Minute
	r := newLoop(f)
	runOnce(t, r, f, 0)
	s := state(t, r, one)
	assert.Equal(t, meta.LoopThrottled, s.State)
	assert.Equal(t, start.Add(25*time.Minute), s.NextTry)
	runOnce(t, r, f, 24*time.Minute)
	assert.Equal(t, []int{1, 2}, []int{g.checks, other.checks})
	runOnce(t, r, f, time.Minute)
	assert.Equal(t, 2, g.checks)
	assert.Equal(t, meta.LoopConfirmed, state(t, r, one).State)

	g.refuse = 32 // without a retry time
	runOnce(t, r, f, 10*time.Minute)
	assert.Equal(t, throttledBackoff, state(t, r, one).NextTry.Sub(f.clock()))
}

func TestUnreachableGraphIsRetried(t *testing.T) {
	f := newFixture(t)
	g := f.connect(one)
	g.down = 2
	r := newLoop(f)
	runOnce(t, r, f, 0)
	s := state(t, r, one)
	assert.Equal(t, []any{meta.LoopUnreachable, start.Add(time.Minute), 0}, []any{s.State, s.NextTry, g.probes})
	runOnce(t, r, f, time.Minute)
	assert.Equal(t, f.clock().Add(2*time.Minute), state(t, r, one).NextTry)
	assert.Equal(t, uint64(2), runOnce(t, r, f, 2*time.Minute).Counters.Errors)
	assert.Equal(t, meta.LoopConfirmed, state(t, r, one).State)
}

func TestMissingAppFieldsAreNotResubscribed(t *testing.T) {
	f := newFixture(t)
	g := f.connect(one)
	f.appMissing = []string{"message_edits"}
	r := newLoop(f)
	runOnce(t, r, f, 0)
	s := state(t, r, one)
	assert.Equal(t, []any{meta.LoopDrifted, 0}, []any{s.State, g.posts})
	assert.Equal(t, f.appMissing, s.AppMissing)
	g.subscribed = false
	runOnce(t, r, f, 10*time.Minute)
	assert.Equal(t, 1, g.posts, "what the page lacks still is")
	assert.Equal(t, meta.LoopDrifted, state(t, r, one).State)
}

func TestTokenWarnings(t *testing.T) {
	f := newFixture(t)
	g := f.connect(one)
	for want, report := range map[string]meta.TokenReport{
		"": {
			State: meta.TokenValid, Expires: start.AddDate(0, 0, 30), DataAccessExpires: start.AddDate(0, 0, 90),
		},
		"the token ends on 2026-06-09":          {State: meta.TokenValid, Expires: start.AddDate(0, 0, 8)},
		"access to data ends on 2026-06-03":     {State: meta.TokenValid, DataAccessExpires: start.AddDate(0, 0, 2)},
		"permissions are missing: pages_manage": {State: meta.TokenValid, MissingScopes: []string{"pages_manage"}},
	} {
		g.report = report
		r := newLoop(f)
		runOnce(t, r, f, 0)
		assert.Equal(t, want, state(t, r, one).TokenWarning)
		assert.Equal(t, report.MissingScopes, state(t, r, one).MissingScopes)
	}
}

func TestErrorsAreHandledByClass(t *testing.T) {
	f := newFixture(t)
	g := f.connect(one)
	judged := func(code int) PageStatus {
		g.refuse, g.probes = code, 0
		r := newLoop(f)
		runOnce(t, r, f, 0)
		return state(t, r, one)
	}
	for _, code := range []int{190, 102, 104} {
		s := judged(code)
		assert.Equal(t, []any{meta.LoopTokenDead, code, 1}, []any{s.State, s.Code, g.probes})
		assert.Zero(t, s.NextTry)
	}
	for code := 80000; code <= 80014; code++ {
		s := judged(code)
		assert.Equal(
			t, []any{meta.LoopThrottled, throttledBackoff, 0}, []any{s.State, s.NextTry.Sub(f.clock()), g.probes}, code,
		)
	}
	assert.Equal(t, meta.LoopFailed, judged(80015).State)
	assert.Equal(t, throttledBackoff, retryWait(meta.Outcome{}, fmt.Errorf("read: %w", &meta.Error{Code: 4})))
	assert.Equal(t, 90*time.Second, retryWait(meta.Outcome{Code: 4, RetryAfter: 90}, nil))
	assert.Zero(t, retryWait(meta.Outcome{Code: 10}, nil))
}

// A page whose stored token is missing is tried once in each interval, and recovers when
// it is connected again.
func TestMissingToken(t *testing.T) {
	f := newFixture(t)
	g := f.connect(one)
	g.lost = true
	r := newLoop(f)
	runOnce(t, r, f, 0)
	s := state(t, r, one)
	assert.Equal(t, meta.LoopTokenMissing, s.State)
	assert.Contains(t, s.Reason, "connect the page again")
	assert.Zero(t, s.NextTry)
	assert.Equal(t, []int{1, 0}, []int{g.checks, g.probes})
	g.lost = false
	runOnce(t, r, f, 10*time.Minute)
	assert.Equal(t, meta.LoopConfirmed, state(t, r, one).State)
}

func TestStatusHasWhatAJudgementNeeds(t *testing.T) {
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
	f := newFixture(t)
	g := f.connect(one)
	r := newLoop(f)
	for range 1 + 2*36 { // half a day
		runOnce(t, r, f, 10*time.Minute)
	}
	assert.Equal(t, 3, g.probes)
}

// receive stores n messages of each page in each hour.
func (f *fixture) receive(hours, n int, list ...domain.PageID) {
	for range hours {
		for _, p := range list {
			for range n {
				f.store(p, domain.MessageReceived, domain.Data{Source: "webhook"})
			}
		}
		f.advance(time.Hour)
	}
}

func TestSilence(t *testing.T) {
	f := newFixture(t)
	var log bytes.Buffer
	r := newLoop(f, func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	list := []domain.PageID{one, two, "103"}
	for _, p := range list {
		f.connect(p)
	}
	f.connect("104") // has very few events
	f.receive(72, 5, list...)
	f.receive(1, 3, "104")
	f.receive(8, 5, two, "103")
	s := runOnce(t, r, f, 0)
	assert.False(t, s.AllSilent)
	var silent []bool
	for _, p := range s.Pages {
		silent = append(silent, p.Silence.Silent)
	}
	assert.Equal(t, []bool{true, false, false, false}, silent)
	require.NoError(t, r.plan(f.clock()))
	assert.Equal(t, slot{one, f.clock()}, r.slots[0], "the silent page comes first")
	assert.Equal(t, 1, strings.Count(log.String(), "silent compared"), "said once")

	s = runOnce(t, r, f, 8*time.Hour)
	assert.True(t, s.AllSilent)
	runOnce(t, r, f, 10*time.Minute)
	assert.Equal(t, 1, strings.Count(log.String(), "all pages are silent"))
	assert.Equal(t, 1, strings.Count(log.String(), "silent compared"), "one finding instead of many")

	f.receive(1, 5, list...)
	assert.False(t, runOnce(t, r, f, 0).AllSilent)
	assert.Contains(t, log.String(), "pages are no longer silent all at once")

	// A new process has no silence yet.
	r = newLoop(f)
	assert.False(t, runOnce(t, r, f, 0).AllSilent)
}

// TestEachPageHasItsTimeInTheInterval checks that all pages are due in the first half of an interval, spread over it, and
// in each interval at the same time, so that the time between two checks of a page is the interval.
func TestEachPageHasItsTimeInTheInterval(t *testing.T) {
	f := newFixture(t)
	list := numbered(200)
	for _, p := range list {
		f.connect(p)
	}
	r := newLoop(f)
	require.Equal(t, 10*time.Minute, r.opts.Interval)
	begins := start.Truncate(r.opts.Interval)
	var before []slot
	for range 3 {
		require.NoError(t, r.plan(begins))
		require.Len(t, r.slots, len(list))
		assert.False(t, r.slots[0].at.Before(begins))
		assert.Less(t, r.slots[len(list)-1].at.Sub(begins), r.opts.Interval/2)
		assert.Greater(t, r.slots[len(list)-1].at.Sub(r.slots[0].at), r.opts.Interval/4, "not all at once")
		for i, s := range before {
			assert.Equal(t, slot{s.page, s.at.Add(r.opts.Interval)}, r.slots[i])
		}
		before, begins = slices.Clone(r.slots), begins.Add(r.opts.Interval)
	}
}

// TestSilenceWhenTheClockIsSet checks that a page is as silent as it was when the clock is set forward or back.
func TestSilenceWhenTheClockIsSet(t *testing.T) {
	f := newFixture(t)
	r := newLoop(f, func(o *Options) { o.Elapsed = f.elapsed })
	list := []domain.PageID{one, two, "103"}
	for _, p := range list {
		f.connect(p)
	}
	silent := func() (out []domain.PageID) {
		s := runOnce(t, r, f, 10*time.Minute)
		for _, p := range s.Pages {
			if p.Silence.Silent {
				out = append(out, p.Page)
			}
		}
		require.False(t, s.AllSilent)
		return out
	}
	receive := func(hours int, list ...domain.PageID) (out []domain.PageID) {
		for range hours {
			f.receive(1, 5, list...)
			out = silent()
		}
		return out
	}
	assert.Empty(t, receive(72, list...))
	f.setClock(24 * time.Hour)
	assert.Empty(t, silent(), "set forward")
	f.receive(1, 5, list...)
	f.setClock(24 * time.Hour) // at the same time as an event
	assert.Empty(t, silent(), "set forward")
	assert.Equal(t, []domain.PageID{one}, receive(8, two, "103"))
	f.setClock(-49 * time.Hour) // the times of all events are in the future
	assert.Equal(t, []domain.PageID{one}, silent(), "set back")
	assert.Equal(t, []domain.PageID{"103"}, receive(8, one, two))
}

func TestDisconnectedPageIsRemoved(t *testing.T) {
	f := newFixture(t)
	g := f.connect(one)
	r := newLoop(f)
	runOnce(t, r, f, 0)
	f.store(one, domain.PageDisconnected, domain.Data{Connection: &domain.Connection{}})
	r.visit(context.Background(), one)
	assert.Equal(t, 1, g.checks)
	assert.Empty(t, runOnce(t, r, f, time.Minute).Pages)
	_, ok := r.Page(one)
	assert.False(t, ok)
}

func TestRunOnceEndsWithItsContext(t *testing.T) {
	f := newFixture(t)
	for i := range 20 {
		f.connect(domain.PageID(fmt.Sprint(100 + i)))
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s, err := newLoop(f).RunOnce(ctx)
	require.ErrorIs(t, err, context.Canceled)
	assert.Len(t, s.Pages, 20)
	assert.Zero(t, s.Counters)
}

func TestRefreshedTokenResubscribes(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t)
	g := f.connect(one)
	r := newLoop(f)
	g.dead = 463
	runOnce(t, r, f, 0)
	assert.Equal(t, meta.LoopTokenDead, state(t, r, one).State)
	require.NoError(t, r.refreshed(ctx, f.refresh(one)))
	assert.Equal(t, 1, g.posts)
	assert.Equal(t, meta.LoopConfirmed, state(t, r, one).State)

	// The connector has subscribed the page already, does so soon, or has tried.
	e := f.refresh(one)
	f.mu.Lock()
	f.subscription(one, domain.SubscriptionRequested, 0)
	f.mu.Unlock()
	time.AfterFunc(20*time.Millisecond, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.subscription(one, domain.SubscriptionConfirmed, 0)
	})
	require.NoError(t, newLoop(f, func(o *Options) { o.Settle = time.Minute }).refreshed(ctx, e))
	require.NoError(t, r.refreshed(ctx, e))
	e = f.refresh(one)
	f.mu.Lock()
	f.subscription(one, domain.SubscriptionRequested, 0)
	f.subscription(one, domain.SubscriptionFailed, 2)
	f.mu.Unlock()
	require.NoError(t, r.refreshed(ctx, e))
	assert.Equal(t, 1, g.posts)

	// The connector was interrupted after the request.
	e = f.refresh(one)
	f.mu.Lock()
	f.subscription(one, domain.SubscriptionRequested, 0)
	f.mu.Unlock()
	require.NoError(t, r.refreshed(ctx, e))
	assert.Equal(t, 2, g.posts)

	// Resealed tokens are not refreshed, and a disconnected page is skipped.
	e = f.refresh(one)
	e.Data.Connection.Resealed = true
	require.NoError(t, r.refreshed(ctx, e))
	e = f.refresh(one)
	f.store(one, domain.PageDisconnected, domain.Data{Connection: &domain.Connection{}})
	require.NoError(t, r.refreshed(ctx, e))
	assert.Equal(t, 2, g.posts)
}

func TestFailedRefreshIsRetried(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t)
	g := f.connect(one)
	r := newLoop(f)
	e := f.refresh(one)
	v, ok := r.begin(one, false)
	require.True(t, ok)
	require.ErrorIs(t, r.refreshed(ctx, e), errBusy)
	v.end()
	g.throttled = time.Hour
	require.Error(t, r.refreshed(ctx, e))
	assert.Equal(t, meta.LoopThrottled, state(t, r, one).State)
	runOnce(t, r, f, time.Minute)
	assert.Zero(t, g.checks)
}

func TestAttempts(t *testing.T) {
	at := func(n int) time.Time { return start.Add(time.Duration(n) * time.Minute) }
	move := func(from, to subscriptions.State, n, code int) subscriptions.Transition {
		return subscriptions.Transition{From: from, To: to, Time: at(n), Code: code}
	}
	const (
		req, conf, fail = subscriptions.Requested, subscriptions.Confirmed, subscriptions.Failed
		drift, none     = subscriptions.Drifted, subscriptions.None
	)
	for name, c := range map[string]struct {
		history []subscriptions.Transition
		n, at   int
		class   meta.Class
	}{
		"drift alone is no attempt": {[]subscriptions.Transition{
			move(conf, drift, 1, 0), move(drift, drift, 2, 0),
		}, 0, -1, meta.Unclassified},
		"refused twice": {[]subscriptions.Transition{
			move(none, req, 1, 0), move(req, fail, 2, 100), move(fail, req, 3, 0), move(req, fail, 4, 10),
		}, 2, 4, meta.Permission},
		"read back without them": {[]subscriptions.Transition{
			move(conf, req, 1, 0), move(req, drift, 2, 0),
		}, 1, 2, meta.Unclassified},
		"cut off": {[]subscriptions.Transition{move(drift, req, 5, 0)}, 1, 5, meta.Unclassified},
		"confirmed and drifted since": {[]subscriptions.Transition{
			move(req, fail, 1, 200), move(fail, conf, 2, 0), move(conf, drift, 3, 0),
		}, 0, -1, meta.Unclassified},
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

// After any failures, all pages are confirmed again within the longest pause and one
// probe interval.
func TestPagesRecoverFromAnyFailure(t *testing.T) {
	base := newFixture(t)
	rapid.Check(t, func(t *rapid.T) {
		f := base.reset()
		list := []domain.PageID{"101", "102", "103"}
		for _, p := range list {
			f.connect(p)
		}
		r := newLoop(f)
		t.Repeat(map[string]func(*rapid.T){
			"drift":  func(t *rapid.T) { f.page(rapid.SampledFrom(list).Draw(t, "page")).fields = []string{"messages"} },
			"remove": func(t *rapid.T) { f.page(rapid.SampledFrom(list).Draw(t, "page")).subscribed = false },
			"kill":   func(t *rapid.T) { f.page(rapid.SampledFrom(list).Draw(t, "page")).dead = 463 },
			"down": func(t *rapid.T) {
				f.page(rapid.SampledFrom(list).Draw(t, "page")).down = rapid.IntRange(0, 5).Draw(t, "calls")
			},
			"throttle": func(t *rapid.T) {
				g := f.page(rapid.SampledFrom(list).Draw(t, "page"))
				g.throttled = time.Duration(rapid.IntRange(0, 120).Draw(t, "minutes")) * time.Minute
			},
			"refuse": func(t *rapid.T) {
				g := f.page(rapid.SampledFrom(list).Draw(t, "page"))
				g.refusePost = rapid.SampledFrom([]int{0, 1, 10, 32, 100, 200}).Draw(t, "code")
			},
			"refresh": func(t *rapid.T) {
				e := f.refresh(rapid.SampledFrom(list).Draw(t, "page"))
				f.advance(time.Second)
				_ = r.refreshed(context.Background(), e) // it may fail; the loop continues
			},
			"restart": func(*rapid.T) { r = newLoop(f) },
			"round":   func(t *rapid.T) { runOnce(t, r, f, 10*time.Minute) },
			"":        func(*rapid.T) {},
		})
		for _, g := range f.graph {
			g.dead, g.down, g.throttled, g.refusePost = 0, 0, 0, 0
		}
		for round := 0; ; round++ {
			calm := true
			for _, p := range runOnce(t, r, f, 10*time.Minute).Pages {
				calm = calm && p.State == meta.LoopConfirmed && len(f.page(p.Page).missing()) == 0
			}
			if calm {
				return
			}
			if round > 2*36+2 {
				require.Fail(t, "a page is not confirmed", "after %d rounds: %+v", round, r.Status())
			}
		}
	})
}
