package api

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// maxRun bounds a long verb.
const maxRun = 6 * time.Hour

// line is one line of a long verb's answer: progress as it comes, then the result
// or what went wrong.
type line[P, R any] struct {
	Progress *P       `json:"progress,omitempty"`
	Result   *R       `json:"result,omitempty"`
	Error    *Problem `json:"error,omitempty"`
}

// run answers a long verb in lines of JSON (application/x-ndjson). The status is 200
// as soon as there is progress; whether it came to its end is in the last line. The
// verb ends when the client goes.
func run[P, R any](w http.ResponseWriter, r *http.Request, doing string, do func(ctx context.Context, progress func(P)) (R, error)) error {
	ctx, cancel := context.WithTimeout(r.Context(), maxRun)
	defer cancel()
	extend(w)
	begun, ended := false, false
	var one sync.Mutex // progress may come from any goroutine, and late
	write := func(l line[P, R]) {
		one.Lock()
		defer one.Unlock()
		if ended {
			return
		}
		ended = l.Progress == nil
		if !begun {
			w.Header().Set("Content-Type", "application/x-ndjson")
			w.WriteHeader(http.StatusOK)
			begun = true
		}
		extend(w)
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		if enc.Encode(l) != nil || http.NewResponseController(w).Flush() != nil {
			cancel()
		}
	}
	out, err := do(ctx, func(p P) { write(line[P, R]{Progress: &p}) })
	if err == nil {
		write(line[P, R]{Result: &out})
		return nil
	}
	p := verbFailed(doing, err)
	one.Lock()
	refused := !begun
	ended = refused
	one.Unlock()
	if refused {
		return p
	}
	write(line[P, R]{Result: &out, Error: &p})
	return nil
}

// extend gives a long answer more time than the server gives the others.
func extend(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(10 * time.Minute))
}
