package api

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
)

// maxRun bounds the duration of a long verb.
const maxRun = 6 * time.Hour

// line is one line of a long verb's response. There are any number of progress lines,
// then one with the result, the error or both.
type line[P, R any] struct {
	Progress *P       `json:"progress,omitempty"`
	Result   *R       `json:"result,omitempty"`
	Error    *Problem `json:"error,omitempty"`
}

// run runs a long verb and responds with lines of JSON (application/x-ndjson). The
// status is 200 as soon as there is progress; the last line shows whether the verb
// succeeded. The verb is canceled when the client disconnects.
func run[P, R any](w http.ResponseWriter, r *http.Request, doing string,
	do func(ctx context.Context, progress func(P)) (R, error),
) error {
	ctx, cancel := context.WithTimeout(r.Context(), maxRun)
	defer cancel()
	extend(w)
	begun, ended := false, false
	var mu sync.Mutex // progress may be called by any goroutine, even after do returned
	write := func(l line[P, R]) {
		mu.Lock()
		defer mu.Unlock()
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
	p := verbProblem(doing, err)
	mu.Lock()
	unanswered := !begun
	ended = unanswered
	mu.Unlock()
	if unanswered {
		return p
	}
	history.From(r.Context()).Ended(p.Status, p.Code)
	write(line[P, R]{Result: &out, Error: &p})
	return nil
}

// extend moves the write deadline to 10 minutes from now. The server's default is too
// short for long responses.
func extend(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(10 * time.Minute))
}
