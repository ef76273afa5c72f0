package graph

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/internal/backoff"
)

const (
	// app is the key of the app's own limits in the table; pages have their ids.
	app = "app"
	// maxGates is the size of the table of limits: twice the number of pages that one
	// installation is designed for.
	maxGates = 10_000
	// maxKinds is how many kinds of usage are kept for one page.
	maxKinds = 8
	// maxObjects is how many objects of one header are read.
	maxObjects = 64
	// conversationsPerSecond is Graph's limit of calls of the Conversations API for one
	// page.
	// https://developers.facebook.com/docs/graph-api/overview/rate-limiting
	conversationsPerSecond = 2
	// fullWait is how long calls are held at 100 % if Graph gives no time. The limit is
	// a sliding window, so a call may soon be accepted again.
	fullWait = time.Minute
	// firstStrike is the wait after a rate limit error without a time. It is doubled
	// with each further one up to maxStrike.
	firstStrike = 2 * time.Second
	maxStrike   = 10 * time.Minute
	// maxRegain is the longest wait that is accepted from a header.
	maxRegain = 24 * time.Hour
)

// Usage is how much of a rate limit is used, as Graph last reported it. The counts
// are percentages; from 100 on Graph refuses calls.
type Usage struct {
	// Key is a page's id, or "app" for the app's own limits.
	Key string
	// Type is "app", "page" or the business use case: "pages", "messenger",
	// "instagram".
	Type                               string
	CallCount, TotalTime, TotalCPUTime int
	// RegainAt is when calls are accepted again, zero if they are accepted now.
	RegainAt time.Time
	// At is when Graph reported the usage.
	At time.Time
}

// Percent returns the highest of the three counts.
func (u Usage) Percent() int { return max(u.CallCount, u.TotalTime, u.TotalCPUTime) }

// gate holds the calls of one page, or of the app, while its limit is reached.
type gate struct {
	until         time.Time
	strikes       int // rate limit errors in a row
	usage         map[string]Usage
	conversations *rate.Limiter
}

// gates are the gates of one client. A page's gate holds only that page's calls,
// the app's gate holds all calls.
type gates struct {
	mu    sync.Mutex
	table *simplelru.LRU[string, *gate]
	now   func() time.Time
}

// get returns the gate of key and adds it if there is none. A full table drops the
// least recently used gate; the app's gate is used by each call, so it stays.
func (g *gates) get(key string) *gate {
	t, ok := g.table.Get(key)
	if !ok {
		t = &gate{usage: map[string]Usage{}, conversations: rate.NewLimiter(conversationsPerSecond, 1)}
		g.table.Add(key, t)
	}
	return t
}

// wait returns how long a call for page must wait. Page is empty for a call that is
// not about a page.
func (g *gates) wait(page string) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	wait := g.get(app).until.Sub(now)
	if page != "" {
		wait = max(wait, g.get(page).until.Sub(now))
	}
	return max(wait, 0)
}

// reserveConversations reserves a call of the Conversations API for the page and
// returns how long to wait before it may be made. If that is longer than limit,
// nothing is reserved and ok is false.
func (g *gates) reserveConversations(page string, limit time.Duration) (wait time.Duration, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	r := g.get(page).conversations.ReserveN(now, 1)
	wait = r.DelayFrom(now)
	if wait > max(limit, 0) {
		r.CancelAt(now)
		return wait, false
	}
	return wait, true
}

// record stores the usage that the headers of an answer report.
func (g *gates) record(h http.Header, page string) {
	now := g.now()
	usage := readUsage(h, page, now)
	if len(usage) == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	named := slices.ContainsFunc(usage, func(u Usage) bool { return u.Key == page && u.Type != "page" })
	for _, u := range usage {
		t := g.get(u.Key)
		if _, known := t.usage[u.Type]; known || len(t.usage) < maxKinds {
			t.usage[u.Type] = u
		}
		until := u.RegainAt
		if until.IsZero() && u.Percent() >= 100 {
			until = now.Add(fullWait)
		}
		t.hold(until)
		if page != "" && !named && u.Key != app {
			// The limited object is the page's business, which has an id of its own.
			g.get(page).hold(until)
		}
	}
}

func (t *gate) hold(until time.Time) {
	if until.After(t.until) {
		t.until = until
	}
}

// refuse records a rate limit error and returns how long the next call must wait.
func (g *gates) refuse(page string, code int) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	key := page
	if page == "" || code == 4 || code == 17 {
		key = app
	}
	t := g.get(key)
	if !t.until.After(now) { // otherwise the call was under way when the gate closed
		t.strikes++
		t.hold(now.Add(backoff.After(t.strikes, firstStrike, maxStrike)))
	}
	return t.until.Sub(now)
}

// accept records that a call for page was not refused because of a rate limit.
func (g *gates) accept(page string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	for _, key := range []string{page, app} {
		if t, ok := g.table.Peek(key); ok && !t.until.After(now) {
			t.strikes = 0
		}
	}
}

// Usage lists the last reported usage of each limit, sorted by key and type. Graph
// may not report limits that are far from reached; they are absent.
func (c *Client) Usage() []Usage {
	c.gates.mu.Lock()
	defer c.gates.mu.Unlock()
	list := []Usage{}
	for _, t := range c.gates.table.Values() {
		for _, u := range t.usage {
			list = append(list, u)
		}
	}
	slices.SortFunc(list, func(a, b Usage) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Type, b.Type))
	})
	return list
}

// waitForLimits waits until the rate limits allow the call and adds the time to
// waited. It fails at once, with an error of class [meta.Throttled], if the wait
// exceeds what is left of MaxWait or of the context's deadline.
func (c *Client) waitForLimits(ctx context.Context, k call, waited *time.Duration) error {
	left := func() time.Duration {
		rest := c.opts.MaxWait - *waited
		if d, ok := ctx.Deadline(); ok {
			rest = min(rest, time.Until(d))
		}
		return rest
	}
	pause := func(d time.Duration) error {
		*waited += d
		if err := c.opts.Sleep(ctx, d); err != nil {
			return fmt.Errorf("%s %s: wait for rate limit: %w", k.method, k.path, err)
		}
		return nil
	}
	held := func(d time.Duration) error {
		refusal := &meta.Error{Status: http.StatusTooManyRequests, Held: true, After: d}
		return fmt.Errorf("%s %s: %w", k.method, k.path, refusal)
	}
	for wait := c.gates.wait(k.page); wait > 0; wait = c.gates.wait(k.page) {
		limit := left()
		if wait > limit {
			return held(wait)
		}
		// The jitter keeps the waiting calls from being made all at once.
		if err := pause(min(wait+rand.N(wait/8+1), limit)); err != nil {
			return err
		}
	}
	if k.conversationsAPI {
		wait, ok := c.gates.reserveConversations(k.page, left())
		if !ok {
			return held(wait)
		}
		if wait > 0 {
			return pause(wait)
		}
	}
	return nil
}

// percents are Graph's three counts of a limit.
type percents struct {
	CallCount    number `json:"call_count"`
	TotalTime    number `json:"total_time"`
	TotalCPUTime number `json:"total_cputime"`
}

func (p percents) usage(key, kind string, now time.Time) Usage {
	clamp := func(n number) int { return int(min(max(n, 0), 1_000_000)) }
	return Usage{
		Key: key, Type: kind, CallCount: clamp(p.CallCount), TotalTime: clamp(p.TotalTime),
		TotalCPUTime: clamp(p.TotalCPUTime), At: now,
	}
}

// readUsage parses the usage headers of an answer to a call for page. What does not
// have the documented form is left out.
// https://developers.facebook.com/docs/graph-api/overview/rate-limiting
func readUsage(h http.Header, page string, now time.Time) []Usage {
	var list []Usage
	add := func(header, key, kind string) {
		var p percents
		if v := h.Get(header); v != "" && json.Unmarshal([]byte(v), &p) == nil {
			list = append(list, p.usage(key, kind, now))
		}
	}
	add("X-App-Usage", app, "app")
	if page != "" {
		add("X-Page-Usage", page, "page")
	}
	var cases map[string][]struct {
		percents
		Type   string `json:"type"`
		Regain number `json:"estimated_time_to_regain_access"` // minutes
	}
	if v := h.Get("X-Business-Use-Case-Usage"); v == "" || json.Unmarshal([]byte(v), &cases) != nil {
		return list
	}
	objects := 0
	for key, of := range cases {
		if !isID(key) {
			continue
		}
		if objects++; objects > maxObjects {
			break
		}
		for _, c := range of[:min(len(of), maxKinds)] {
			u := c.usage(key, strings.ToValidUTF8(c.Type[:min(len(c.Type), 32)], ""), now)
			if c.Regain > 0 {
				u.RegainAt = now.Add(min(time.Duration(min(c.Regain, 1<<20))*time.Minute, maxRegain))
			}
			list = append(list, u)
		}
	}
	return list
}
