package api

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
)

// StatusOperator reports the state of the server.
type StatusOperator interface {
	Status(ctx context.Context) (operate.Status, error)
	// NotReady returns every reason why the process should get no traffic.
	NotReady() []error
}

func (s *Server) statusRoutes() routes {
	return routes{"GET /api/v1/status": {serve: s.getStatus, allow: toReaders}}
}

func (s *Server) getStatus(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), maxWait)
	defer cancel()
	out, err := s.opts.Operator.Status(ctx)
	if err != nil {
		return fmt.Errorf("get status: %w", err)
	}
	return writeJSON(w, http.StatusOK, out)
}

// Health answers 200 while the process serves HTTP. It does not check whether
// deliveries can be stored: /readyz does.
func Health(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, "ok\n")
}

// readiness is the response of /readyz.
type readiness struct {
	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons,omitempty"`
}

// ready answers 200 if deliveries can be stored and every read model is running and
// near the head, and otherwise 503 with all reasons.
func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	answer, status := readiness{Ready: true}, http.StatusOK
	for _, err := range s.opts.Operator.NotReady() {
		answer.Ready, status = false, http.StatusServiceUnavailable
		answer.Reasons = append(answer.Reasons, err.Error())
	}
	_ = writeJSON(w, status, answer) // encoding it never fails
}
