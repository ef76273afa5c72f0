package fakegraph

import (
	"net/http"
	"slices"
	"strings"
	"time"
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
	call := q.method + " " + strings.Join(q.path, "/")
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.scripts {
		if s.left > 0 && strings.Contains(call, s.in) {
			s.left--
			f := s.what
			g.scripts = slices.DeleteFunc(g.scripts, func(s *scripted) bool { return s.left == 0 })
			return &f
		}
	}
	return nil
}

// play answers as scripted.
func (f *Failure) play(w http.ResponseWriter, r *http.Request, trace string) {
	if f.Hang {
		select {
		case <-r.Context().Done():
		case <-time.After(maxHang):
		}
		return
	}
	status := f.Status
	if status == 0 {
		status = http.StatusInternalServerError
	}
	if f.Code == 0 {
		w.WriteHeader(status)
		return
	}
	body := map[string]any{"message": f.Message, "type": "OAuthException", "code": f.Code, "fbtrace_id": trace}
	if f.Subcode != 0 {
		body["error_subcode"] = f.Subcode
	}
	if f.IsTransient {
		body["is_transient"] = true
	}
	w.Header().Set("Content-Type", "text/javascript; charset=UTF-8")
	w.WriteHeader(status)
	_, _ = w.Write(marshal(map[string]any{"error": body}))
}
