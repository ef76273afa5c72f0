package api

import (
	"io"
	"net/http"
)

// Health answers 200 while the process serves HTTP at all. It says nothing of
// whether deliveries can be stored: that is /readyz.
func Health(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, "ok\n")
}

// readiness is the answer of /readyz.
type readiness struct {
	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons,omitempty"`
}

// ready answers 200 when deliveries can be stored and every read model is
// alive and near the head, else 503 with each reason.
func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	answer := readiness{Ready: true}
	for _, err := range s.opts.Ready(r.Context()) {
		answer.Ready = false
		answer.Reasons = append(answer.Reasons, err.Error())
	}
	status := http.StatusOK
	if !answer.Ready {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, answer)
}
