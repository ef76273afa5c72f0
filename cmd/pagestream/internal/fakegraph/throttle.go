package fakegraph

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// usage is what the limit headers say of a page, or of the app.
type usage struct{ percent, regain int }

// throttle refuses the next calls for a page.
type throttle struct{ code, calls int }

// Throttle refuses the next calls for a page with a code: 32, 613, 80001, 80002
// or 80006 for the page, 4 or 17 for the app.
func (g *Graph) Throttle(page string, code, calls int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.throttles[page] = throttle{code, calls}
}

// SetUsage sets what the headers say is used of a page's limit, or of the app's
// where page is empty, and in how many minutes calls are accepted again. Without
// it they say how many calls there were, in hundreds.
func (g *Graph) SetUsage(page string, percent, regainMinutes int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.usages[page] = usage{percent, regainMinutes}
}

// meter counts a call, writes the headers, and refuses what is over a limit.
func (g *Graph) meter(q *request, t token) *failure {
	page := t.page
	if _, ok := g.pages[q.path[0]]; ok {
		page = q.path[0]
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls[page]++
	u, ok := g.usages[page]
	if !ok {
		u.percent = min(99, g.calls[page]/100)
	}
	if page == "" {
		b, _ := json.Marshal(map[string]int{"call_count": u.percent, "total_time": u.percent, "total_cputime": u.percent})
		q.w.Header().Set("X-App-Usage", string(b))
	} else {
		b, _ := json.Marshal(map[string]any{page: []any{map[string]any{
			"type": "messenger", "call_count": u.percent, "total_cputime": u.percent, "total_time": u.percent,
			"estimated_time_to_regain_access": u.regain,
		}}})
		q.w.Header().Set("X-Business-Use-Case-Usage", string(b))
	}
	if th := g.throttles[page]; th.calls > 0 {
		th.calls--
		g.throttles[page] = th
		return tooMany(th.code)
	}
	if len(q.path) == 2 && q.path[1] == "conversations" && g.opts.ConversationLimit > 0 {
		second := g.opts.Now().Truncate(time.Second)
		if g.second != second {
			g.second = second
			clear(g.inSecond)
		}
		if g.inSecond[page]++; g.inSecond[page] > g.opts.ConversationLimit {
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
