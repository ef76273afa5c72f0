package fakegraph

import (
	"cmp"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/pagestream/pagestream/internal/backoff"
)

// maxHang limits how long a request without an answer is kept open.
const maxHang = 2 * time.Minute

// Failure is a scripted answer; see [Graph.FailNext].
type Failure struct {
	// Status is the HTTP status, default 500. An answer with status 200 and a Code
	// is also an error. Without a Code the answer has no body.
	Status      int    `json:"status"`
	Code        int    `json:"code"`
	Subcode     int    `json:"subcode"`
	Message     string `json:"message"`
	IsTransient bool   `json:"is_transient"`
	Hang        bool   `json:"hang"` // no answer at all
	// ApplyFirst executes the request before the failure is answered.
	ApplyFirst bool `json:"after_the_thing"`
}

// scripted is a failure for the next requests that match.
type scripted struct {
	match   string
	failure Failure
	left    int
}

// FailNext makes the next n requests fail whose method and path contain match, such
// as "POST 104/subscribed_apps".
func (g *Graph) FailNext(match string, f Failure, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.scripts = append(g.scripts, &scripted{match, f, n})
}

// nextFailure returns the scripted failure of a request, nil if it has none.
func (g *Graph) nextFailure(q *request) *Failure {
	call := q.method + " " + q.path
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.scripts {
		if s.left > 0 && strings.Contains(call, s.match) {
			s.left--
			return &s.failure
		}
	}
	return nil
}

// respond writes the scripted answer.
func (f *Failure) respond(w http.ResponseWriter, r *http.Request, trace string) {
	if f.Hang {
		_ = backoff.Sleep(r.Context(), maxHang) // the error does not matter: there is no answer
		return
	}
	status := cmp.Or(f.Status, http.StatusInternalServerError)
	if f.Code == 0 {
		w.WriteHeader(status)
		return
	}
	fail := oauth(status, f.Code, f.Subcode, f.Message)
	fail.transient = f.IsTransient
	fail.write(w, trace)
}

// limit is the rate limit of a page or of the app.
type limit struct {
	calls           int
	set             bool // percent and regain are from SetUsage
	percent, regain int
	refuse, code    int // the next refuse calls fail with code
	second          time.Time
	inSecond        int // calls in that second
}

// Throttle rejects the next calls for a page with a code: 32, 613, 80001, 80002 or
// 80006 for the page, 4 or 17 for the app.
func (g *Graph) Throttle(page string, code, calls int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if l := g.limits[page]; l != nil {
		l.code, l.refuse = code, calls
	}
}

// SetUsage sets the used percentage of a page's limit, or of the app's limit if page
// is empty, and the minutes until calls are accepted again, as the usage headers
// report them. By default they report the number of calls divided by 100.
func (g *Graph) SetUsage(page string, percent, regainMinutes int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if l := g.limits[page]; l != nil {
		l.set, l.percent, l.regain = true, percent, regainMinutes
	}
}

// countCall counts a call, sets the usage headers, and returns an error if the call
// is over a limit.
func (g *Graph) countCall(q *request, t token) *failure {
	page := cmp.Or(g.pages[q.id].ID, t.page)
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.limits[page]
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
		return rateLimited(l.code)
	}
	if q.edge == "conversations" && g.opts.ConversationLimit > 0 {
		if second := g.opts.Now().Truncate(time.Second); l.second != second {
			l.second, l.inSecond = second, 0
		}
		if l.inSecond++; l.inSecond > g.opts.ConversationLimit {
			return rateLimited(613)
		}
	}
	return nil
}

func rateLimited(code int) *failure {
	message := cmp.Or(map[int]string{
		4: "Application request limit reached", 17: "User request limit reached", 32: "Page request limit reached",
		613: "Calls to this api have exceeded the rate limit.",
	}[code], "There have been too many calls to this Page account. Wait a bit and try again.")
	return oauth(http.StatusBadRequest, code, 0, "(#"+strconv.Itoa(code)+") "+message)
}
