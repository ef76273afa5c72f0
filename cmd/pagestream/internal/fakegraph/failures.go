package fakegraph

import (
	"cmp"
	"net/http"
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
		select {
		case <-r.Context().Done():
		case <-time.After(maxHang):
		}
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
