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
	// app is the key of the app's own limits, beside those of its pages.
	app = "app"
	// maxGates bounds the table of limits, at twice the pages that one
	// installation is made for.
	maxGates = 10_000
	// maxKinds bounds how many kinds of usage are kept of one page.
	maxKinds = 8
	// maxObjects bounds how many objects of one header are read.
	maxObjects = 64
	// talks is how many calls of the Conversations API a page has in a second.
	// https://developers.facebook.com/docs/graph-api/overview/rate-limiting
	talks = 2
	// fullWait is how long calls are held at 100 % where Graph names no time:
	// the window slides, so that one call may soon look again.
	fullWait = time.Minute
	// firstStrike is the wait after a refusal without a time, doubled with each
	// further one up to maxStrike.
	firstStrike = 2 * time.Second
	maxStrike   = 10 * time.Minute
	// maxRegain bounds what is believed of a header.
	maxRegain = 24 * time.Hour
)

// Usage is how much of a rate limit is used, as Graph last said. The counts are
// percent of it; from 100 on calls are refused.
type Usage struct {
	// Key is a page's id, or "app" for the app's own limits.
	Key string
	// Type is "app", "page" or the business use case: "pages", "messenger",
	// "instagram".
	Type                               string
	CallCount, TotalTime, TotalCPUTime int
	// RegainAt is when calls are accepted again, zero where they are now.
	RegainAt time.Time
	// At is when Graph said so.
	At time.Time
}

// Percent is the fullest of the three counts.
func (u Usage) Percent() int { return max(u.CallCount, u.TotalTime, u.TotalCPUTime) }

// gate holds the calls of one page, or of the app, while its limit is reached.
type gate struct {
	until   time.Time
	strikes int
	usage   map[string]Usage
	talk    *rate.Limiter
}

// gates are those of one client. A page's gate holds that page's calls alone,
// the app's holds all.
type gates struct {
	mu  sync.Mutex
	of  *simplelru.LRU[string, *gate]
	now func() time.Time
}

// get returns the gate of key. Of a full table the one that was not used for the
// longest time falls away; the app's own is used by each call.
func (g *gates) get(key string) *gate {
	t, ok := g.of.Get(key)
	if !ok {
		t = &gate{usage: map[string]Usage{}, talk: rate.NewLimiter(talks, 1)}
		g.of.Add(key, t)
	}
	return t
}

// wait returns how long a call for page has to wait, page being empty for one
// that is the app's own.
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

// talk takes a place among the page's calls of the Conversations API, no later
// than most from now, and returns how long it is until then.
func (g *gates) talk(page string, most time.Duration) (wait time.Duration, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	r := g.get(page).talk.ReserveN(now, 1)
	wait = r.DelayFrom(now)
	if wait > max(most, 0) {
		r.CancelAt(now)
		return wait, false
	}
	return wait, true
}

// note takes in the usage that the headers of an answer tell.
func (g *gates) note(h http.Header, page string) {
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
			// It is the business of the page, by its own id, that is limited.
			g.get(page).hold(until)
		}
	}
}

func (t *gate) hold(until time.Time) {
	if until.After(t.until) {
		t.until = until
	}
}

// refuse takes in a refusal for a rate limit, and returns how long the next
// call has to wait.
func (g *gates) refuse(page string, code int) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	key := page
	if page == "" || code == 4 || code == 17 {
		key = app
	}
	t := g.get(key)
	if !t.until.After(now) { // else a call that was under way when it shut
		t.strikes++
		t.hold(now.Add(backoff.After(t.strikes, firstStrike, maxStrike)))
	}
	return t.until.Sub(now)
}

// accept says that a call for page was not refused for a limit.
func (g *gates) accept(page string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	for _, key := range []string{page, app} {
		if t, ok := g.of.Peek(key); ok && !t.until.After(now) {
			t.strikes = 0
		}
	}
}

// Usage lists what Graph last said of each limit, by key and type. Limits that
// are far from reached may be absent: Graph does not name them.
func (c *Client) Usage() []Usage {
	c.gates.mu.Lock()
	defer c.gates.mu.Unlock()
	list := []Usage{}
	for _, t := range c.gates.of.Values() {
		for _, u := range t.usage {
			list = append(list, u)
		}
	}
	slices.SortFunc(list, func(a, b Usage) int { return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Type, b.Type)) })
	return list
}

// pass waits until the call may be made. It fails at once where that is over
// what is left of MaxWait or of the context, and adds to waited.
func (c *Client) pass(ctx context.Context, k call, waited *time.Duration) error {
	left := func() time.Duration {
		most := c.opts.MaxWait - *waited
		if d, ok := ctx.Deadline(); ok {
			most = min(most, time.Until(d))
		}
		return most
	}
	pause := func(d time.Duration) error {
		*waited += d
		if err := c.opts.Sleep(ctx, d); err != nil {
			return fmt.Errorf("%s %s: wait for rate limit: %w", k.method, k.path, err)
		}
		return nil
	}
	held := func(d time.Duration) error {
		return fmt.Errorf("%s %s: %w", k.method, k.path, &meta.Error{Status: http.StatusTooManyRequests, Held: true, After: d})
	}
	for wait := c.gates.wait(k.page); wait > 0; wait = c.gates.wait(k.page) {
		most := left()
		if wait > most {
			return held(wait)
		}
		// All that wait would come at once, were it not for the jitter.
		if err := pause(min(wait+rand.N(wait/8+1), most)); err != nil {
			return err
		}
	}
	if k.talk {
		wait, ok := c.gates.talk(k.page, left())
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
		Key: key, Type: kind, CallCount: clamp(p.CallCount), TotalTime: clamp(p.TotalTime), TotalCPUTime: clamp(p.TotalCPUTime), At: now,
	}
}

// readUsage reads the usage headers of an answer to a call for page. What is
// not as Graph documents it is left out.
// https://developers.facebook.com/docs/graph-api/overview/rate-limiting
func readUsage(h http.Header, page string, now time.Time) []Usage {
	var list []Usage
	one := func(header, key, kind string) {
		var p percents
		if v := h.Get(header); v != "" && json.Unmarshal([]byte(v), &p) == nil {
			list = append(list, p.usage(key, kind, now))
		}
	}
	one("X-App-Usage", app, "app")
	if page != "" {
		one("X-Page-Usage", page, "page")
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
