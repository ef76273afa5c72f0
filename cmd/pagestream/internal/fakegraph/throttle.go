package fakegraph

import (
	"cmp"
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// limit is how much a page, or the app, has called.
type limit struct {
	calls           int
	set             bool // by SetUsage
	percent, regain int
	refuse, code    int       // so many calls, with this code
	second          time.Time // that inSecond counts the calls of
	inSecond        int
}

// limit returns the limit of a page; the lock is held.
func (g *Graph) limit(page string) *limit {
	if g.limits[page] == nil {
		g.limits[page] = &limit{}
	}
	return g.limits[page]
}

// Throttle refuses the next calls for a page with a code: 32, 613, 80001, 80002
// or 80006 for the page, 4 or 17 for the app.
func (g *Graph) Throttle(page string, code, calls int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.limit(page)
	l.code, l.refuse = code, calls
}

// SetUsage sets what the headers say is used of a page's limit, or of the app's
// where page is empty, and in how many minutes calls are accepted again. Without
// it they say how many calls there were, in hundreds.
func (g *Graph) SetUsage(page string, percent, regainMinutes int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.limit(page)
	l.set, l.percent, l.regain = true, percent, regainMinutes
}

// meter counts a call, writes the headers, and refuses what is over a limit.
func (g *Graph) meter(q *request, t token) *failure {
	page := cmp.Or(g.pages[q.id].ID, t.page)
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.limit(page)
	l.calls++
	if !l.set {
		l.percent = min(99, l.calls/100)
	}
	header, usage := "X-App-Usage", map[string]any{
		"call_count": l.percent, "total_time": l.percent, "total_cputime": l.percent,
	}
	if page != "" {
		header = "X-Business-Use-Case-Usage"
		usage["type"], usage["estimated_time_to_regain_access"] = "messenger", l.regain
		usage = map[string]any{page: []any{usage}}
	}
	b, _ := json.Marshal(usage)
	q.w.Header().Set(header, string(b))
	if l.refuse > 0 {
		l.refuse--
		return tooMany(l.code)
	}
	if q.edge == "conversations" && g.opts.ConversationLimit > 0 {
		if second := g.opts.Now().Truncate(time.Second); l.second != second {
			l.second, l.inSecond = second, 0
		}
		if l.inSecond++; l.inSecond > g.opts.ConversationLimit {
			return tooMany(613)
		}
	}
	return nil
}

func tooMany(code int) *failure {
	words := map[int]string{
		4: "Application request limit reached", 17: "User request limit reached", 32: "Page request limit reached",
		613: "Calls to this api have exceeded the rate limit.",
	}[code]
	if words == "" {
		words = "There have been too many calls to this Page account. Wait a bit and try again."
	}
	return oauth(http.StatusBadRequest, code, 0, "(#"+strconv.Itoa(code)+") "+words)
}
