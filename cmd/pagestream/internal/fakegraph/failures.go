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

// maxHang bounds an answer that does not come.
const maxHang = 2 * time.Minute

// Failure is an answer that is scripted.
type Failure struct {
	// Status is the HTTP status; 200 with a Code is an error all the same. Without
	// a Code the answer has no body.
	Status        int    `json:"status"`
	Code          int    `json:"code"`
	Subcode       int    `json:"subcode"`
	Message       string `json:"message"`
	IsTransient   bool   `json:"is_transient"`
	Hang          bool   `json:"hang"` // no answer at all
	AfterTheThing bool   `json:"after_the_thing"`
}

// scripted are failures that are still to come.
type scripted struct {
	in   string
	what Failure
	left int
}

// FailNext makes the next n requests whose method and path contain in, such as
// "POST 104/subscribed_apps", fail. With AfterTheThing what they ask for is done first.
func (g *Graph) FailNext(in string, f Failure, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.scripts = append(g.scripts, &scripted{in, f, n})
}

// script is the failure that a request is to have, nil for none.
func (g *Graph) script(q *request) *Failure {
	call := q.method + " " + q.path
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.scripts {
		if s.left > 0 && strings.Contains(call, s.in) {
			s.left--
			return &s.what
		}
	}
	return nil
}

// play answers as scripted.
func (f *Failure) play(w http.ResponseWriter, r *http.Request, trace string) {
	if f.Hang {
		_ = backoff.Sleep(r.Context(), maxHang) // either way there is no answer
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

// limit is how much a page, or the app, has called.
type limit struct {
	calls           int
	set             bool // by SetUsage
	percent, regain int
	refuse, code    int       // so many calls, with this code
	second          time.Time // that inSecond counts the calls of
	inSecond        int
}

// Throttle refuses the next calls for a page with a code: 32, 613, 80001, 80002
// or 80006 for the page, 4 or 17 for the app.
func (g *Graph) Throttle(page string, code, calls int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if l := g.limits[page]; l != nil {
		l.code, l.refuse = code, calls
	}
}

// SetUsage sets what the headers say is used of a page's limit, or of the app's
// where page is empty, and in how many minutes calls are accepted again. Without
// it they say how many calls there were, in hundreds.
func (g *Graph) SetUsage(page string, percent, regainMinutes int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if l := g.limits[page]; l != nil {
		l.set, l.percent, l.regain = true, percent, regainMinutes
	}
}

// meter counts a call, writes the headers, and refuses what is over a limit.
func (g *Graph) meter(q *request, t token) *failure {
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
	words := cmp.Or(map[int]string{
		4: "Application request limit reached", 17: "User request limit reached", 32: "Page request limit reached",
		613: "Calls to this api have exceeded the rate limit.",
	}[code], "There have been too many calls to this Page account. Wait a bit and try again.")
	return oauth(http.StatusBadRequest, code, 0, "(#"+strconv.Itoa(code)+") "+words)
}
