package graph_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
)

const other = "77"

// ask makes a call for a page and returns its rate limit error, if any.
func ask(t *testing.T, c *graph.Client, page string) *meta.Error {
	t.Helper()
	err := c.Unsubscribe(t.Context(), page, token)
	if err == nil {
		return nil
	}
	require.Equal(t, meta.Throttled, meta.ClassOf(err), err)
	return meta.Refused(err)
}

func buc(page string, percent, regain int) string {
	return fmt.Sprintf(
		`Business-Use-Case-Usage: {%q:[{"type":"messenger","call_count":%d,"total_cputime":1,"total_time":2,"estimated_time_to_regain_access":%d}]}`,
		page, percent, regain,
	)
}

func TestUsageIsRead(t *testing.T) {
	s := start(t, success.usage(
		`App-Usage: {"call_count":28,"total_time":25,"total_cputime":26}`,
		`Page-Usage: {"call_count":1,"total_time":2,"total_cputime":3}`,
		`Business-Use-Case-Usage: {"`+page+`":[{"type":"pages","call_count":10,"total_cputime":11,"total_time":12,"estimated_time_to_regain_access":0},`+
			`{"type":"messenger","call_count":"99","total_cputime":0,"total_time":-5,"estimated_time_to_regain_access":3}],"me":[{"type":"pages"}]}`,
	))
	c := s.client()
	require.Nil(t, ask(t, c, page))
	assert.Equal(t, []graph.Usage{
		{Key: page, Type: "messenger", CallCount: 99, RegainAt: s.now.Add(3 * time.Minute), At: s.now},
		{Key: page, Type: "page", CallCount: 1, TotalTime: 2, TotalCPUTime: 3, At: s.now},
		{Key: page, Type: "pages", CallCount: 10, TotalCPUTime: 11, TotalTime: 12, At: s.now},
		{Key: "app", Type: "app", CallCount: 28, TotalTime: 25, TotalCPUTime: 26, At: s.now},
	}, c.Usage())
	assert.Equal(t, 28, c.Usage()[3].Percent())

	// Headers that do not have the documented form are ignored.
	s = start(t, success.usage("App-Usage: 5", "Page-Usage: {", `Business-Use-Case-Usage: {"1":{}}`))
	c = s.client()
	require.Nil(t, ask(t, c, page))
	assert.Empty(t, c.Usage())
}

func TestUsageIsObeyedPerPage(t *testing.T) {
	s := start(t, success.usage(buc(page, 40, 5)), success)
	c := s.client()
	require.Nil(t, ask(t, c, page))
	held := ask(t, c, page)
	require.NotNil(t, held, "Graph said to wait")
	assert.True(t, held.Held)
	assert.True(t, held.Temporary())
	assert.Equal(t, 5*time.Minute, held.RetryAfter())
	assert.Contains(t, held.Error(), "5m0s")
	require.Nil(t, ask(t, c, other), "another page's limit was obeyed")
	require.NoError(t, calls["AppSubscriptions"](t.Context(), c))
	assert.Len(t, s.requests, 3)
	assert.Empty(t, s.slept)

	// The remaining wait is short enough.
	s.now = s.now.Add(5*time.Minute - 8*time.Second)
	require.Nil(t, ask(t, c, page))
	require.Len(t, s.slept, 1)
	assert.True(t, s.slept[0] >= 8*time.Second && s.slept[0] <= 9*time.Second+time.Millisecond, s.slept[0])
	require.Nil(t, ask(t, c, page))
	assert.Len(t, s.slept, 1)

	// It is too long for a call with an earlier deadline.
	s = start(t, success.usage(buc(page, 100, 0)), success)
	c = s.client()
	require.Nil(t, ask(t, c, page))
	held = ask(t, c, page)
	require.NotNil(t, held, "at 100 %% without a time")
	assert.Equal(t, time.Minute, held.RetryAfter())
	s.now = s.now.Add(50 * time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	assert.Equal(t, meta.Throttled, meta.ClassOf(c.Unsubscribe(ctx, page, token)))
	assert.Empty(t, s.slept)
	require.Nil(t, ask(t, c, page))

	// A client with a negative MaxWait does not wait.
	s = start(t, success.usage(buc(page, 100, 0)), success)
	c = s.client(func(o *graph.Options) { o.MaxWait = -1 })
	require.Nil(t, ask(t, c, page))
	s.now = s.now.Add(time.Minute - 1)
	require.NotNil(t, ask(t, c, page))
	s.now = s.now.Add(1)
	require.Nil(t, ask(t, c, page))
	require.NoError(t, calls["Conversations"](t.Context(), c))
	assert.Empty(t, s.slept)

	// A wait ends with the context.
	s = start(t, success.usage(buc(page, 100, 0)), success)
	stop := errors.New("stopped")
	c = s.client(func(o *graph.Options) {
		o.MaxWait, o.Sleep = time.Hour, func(context.Context, time.Duration) error { return stop }
	})
	require.Nil(t, ask(t, c, page))
	require.ErrorIs(t, c.Unsubscribe(t.Context(), page, token), stop)
	assert.Len(t, s.requests, 1)
}

func TestUsageOfABusinessAndOfTheApp(t *testing.T) {
	// The usage is reported for the id of the page's business.
	s := start(t, success.usage(buc("123", 100, 2)), success)
	c := s.client()
	require.Nil(t, ask(t, c, page))
	require.NotNil(t, ask(t, c, page))
	require.Nil(t, ask(t, c, other))

	// The usage of another page is reported as well.
	s = start(
		t,
		success.usage(
			`Business-Use-Case-Usage: {"`+page+`":[{"type":"pages","call_count":1}],"`+other+`":[{"type":"pages","call_count":100}]}`,
		),
		success,
	)
	c = s.client()
	require.Nil(t, ask(t, c, page))
	require.Nil(t, ask(t, c, page))
	require.NotNil(t, ask(t, c, other))

	// The app's own limit applies to every page.
	s = start(t, success.usage(`App-Usage: {"call_count":5,"total_time":101,"total_cputime":5}`), success)
	c = s.client()
	require.Nil(t, ask(t, c, page))
	require.NotNil(t, ask(t, c, page))
	require.NotNil(t, ask(t, c, other))
	assert.Equal(t, meta.Throttled, meta.ClassOf(calls["Accounts"](t.Context(), c)))
	assert.Len(t, s.requests, 1)
}

func TestThrottleCodes(t *testing.T) {
	for _, c := range []struct {
		code int
		all  bool
	}{
		{4, true},
		{17, true},
		{32, false},
		{613, false},
		{80001, false},
		{80002, false},
		{80006, false},
	} {
		t.Run(fmt.Sprint(c.code), func(t *testing.T) {
			no := answer{400, fmt.Sprintf(`{"error":{"code":%d}}`, c.code)}
			s := start(t, no, success)
			client := s.client(func(o *graph.Options) { o.MaxWait = time.Second })
			refusal := ask(t, client, page)
			require.NotNil(t, refusal)
			assert.Equal(t, c.code, refusal.Code)
			assert.False(t, refusal.Held)
			assert.Equal(t, 2*time.Second, refusal.RetryAfter())
			require.True(t, ask(t, client, page).Held)
			if c.all {
				require.NotNil(t, ask(t, client, other))
			} else {
				require.Nil(t, ask(t, client, other))
			}
			s.now = s.now.Add(2 * time.Second)
			require.Nil(t, ask(t, client, page))

			// A call that may wait is repeated, with growing waits.
			s = start(t, no, no, no, success)
			require.Nil(t, ask(t, s.client(), page))
			require.Len(t, s.slept, 3)
			for i, d := range s.slept {
				full := 2 * time.Second << i
				assert.True(t, d >= full && d <= full+full/8+1, "wait %d is %s", i, d)
			}
			// The sum of the waits does not exceed MaxWait.
			s = start(t, no)
			require.NotNil(t, ask(t, s.client(func(o *graph.Options) { o.MaxWait, o.Retries = 16*time.Second, 100 }), page))
			assert.Len(t, s.slept, 3)
		})
	}
	// The wait is the time that Graph gives.
	s := start(t, answer{400, `{"error":{"code":80006}}`}.usage(buc(page, 100, 7)), success)
	c := s.client()
	assert.Equal(t, 7*time.Minute, ask(t, c, page).RetryAfter())
	assert.Equal(t, 7*time.Minute, ask(t, c, page).RetryAfter())
	assert.Len(t, s.requests, 1)
}

func TestWaitsGrowWithRefusalsInARow(t *testing.T) {
	no := answer{400, `{"error":{"code":613}}`}
	s := start(t, no, no, success, no)
	c := s.client(func(o *graph.Options) { o.MaxWait = -1 })
	for _, want := range []time.Duration{2 * time.Second, 4 * time.Second, 0, 2 * time.Second} {
		refusal := ask(t, c, page)
		if want == 0 {
			require.Nil(t, refusal)
			continue
		}
		require.Equal(t, want, refusal.RetryAfter())
		s.now = s.now.Add(want)
	}

	// Refusals of calls that were under way at once count as one.
	var both sync.WaitGroup
	both.Add(2)
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		both.Done()
		both.Wait()
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(no.body))
	})
	c = s.client(func(o *graph.Options) { o.MaxWait = -1 })
	var calls sync.WaitGroup
	for range 2 {
		calls.Go(func() { assert.Equal(t, meta.Throttled, meta.ClassOf(c.Unsubscribe(t.Context(), page, token))) })
	}
	calls.Wait()
	s.now = s.now.Add(2 * time.Second)
	both.Add(1)
	refusal := ask(t, c, page)
	assert.False(t, refusal.Held)
	assert.Equal(t, 4*time.Second, refusal.RetryAfter())
}

// The table has a limit: an installation has thousands of pages, and a header may
// have ids of any other objects.
func TestUsageIsBounded(t *testing.T) {
	s := start(t)
	n := 0
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		list := ""
		for range 64 {
			n++
			list += fmt.Sprintf(`,"%d":[{"type":"pages","call_count":1}]`, n)
		}
		w.Header().Set("X-Business-Use-Case-Usage", "{"+list[1:]+"}")
		_, _ = w.Write([]byte(success.body))
	})
	c := s.client()
	for range 200 {
		require.Nil(t, ask(t, c, page))
	}
	assert.Equal(t, 12800, n)
	assert.InDelta(t, 10_000, len(c.Usage()), 10)
}

func TestConcurrentCalls(t *testing.T) {
	s := start(t)
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-App-Usage", `{"call_count":28}`)
		_, _ = w.Write([]byte(success.body))
	})
	c := s.client(func(o *graph.Options) { o.Now, o.Sleep = nil, nil })
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for range 10 {
				if !assert.NoError(t, c.Unsubscribe(t.Context(), fmt.Sprint(i%4+1), token)) {
					return
				}
				assert.NotNil(t, c.Usage())
			}
		})
	}
	all.Wait()
	assert.Len(t, c.Usage(), 1)
}
