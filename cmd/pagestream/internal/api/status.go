package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/deliveries"
)

// Status is what GET /api/v1/status answers.
type Status struct {
	Version string       `json:"version"`
	Started time.Time    `json:"started"`
	Ready   bool         `json:"ready"`
	Reasons []string     `json:"reasons,omitempty"`
	Stream  StreamStatus `json:"stream"`
	// Projections say how far each read model is.
	Projections []projections.Status `json:"projections"`
	// Stored is the fold of the stream; Received is what this node counted at
	// its door, and may miss the last second before a crash.
	Stored   deliveries.Summary `json:"stored"`
	Received deliveries.Counts  `json:"received"`
}

// StreamStatus is the state of the stream.
type StreamStatus struct {
	Name     string `json:"name"`
	FirstSeq uint64 `json:"first_seq"`
	LastSeq  uint64 `json:"last_seq"`
	Events   uint64 `json:"events"`
	Bytes    uint64 `json:"bytes"`
}

func (s *Server) models() []Model {
	return []Model{s.opts.Deliveries, s.opts.Pages, s.opts.Subscriptions, s.opts.Conversations}
}

// Statuses returns where each read model stands.
func (s *Server) Statuses() []projections.Status {
	var out []projections.Status
	for _, m := range s.models() {
		out = append(out, m.Status())
	}
	return out
}

// statusEvery is how often a stream of statuses has one.
const statusEvery = time.Second

// listProjections serves GET /api/v1/projections: where each read model stands,
// once, or each second as server-sent events.
func (s *Server) listProjections(w http.ResponseWriter, r *http.Request) error {
	if strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		return s.feedStatuses(w, r)
	}
	writeJSON(w, http.StatusOK, List[projections.Status]{Items: s.Statuses()})
	return nil
}

func (s *Server) feedStatuses(w http.ResponseWriter, r *http.Request) error {
	select {
	case s.feeds <- struct{}{}:
		defer func() { <-s.feeds }()
	default:
		return problem(http.StatusServiceUnavailable, fmt.Sprintf("%d feeds are open already", maxFeeds))
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := http.NewResponseController(w)
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	for {
		b, err := json.Marshal(List[projections.Status]{Items: s.Statuses()})
		if err != nil {
			return fmt.Errorf("encode statuses: %w", err)
		}
		_ = out.SetWriteDeadline(time.Now().Add(10 * statusEvery))
		if _, err := fmt.Fprintf(w, "event: projections\ndata: %s\n\n", b); err != nil || out.Flush() != nil {
			return nil //nolint:nilerr // the client is gone
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return nil
		case <-s.closing.Done():
			return nil
		}
	}
}

func (s *Server) getStatus(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), maxWait)
	defer cancel()
	stream, err := s.opts.JS.Stream(ctx, s.opts.Stream)
	if err != nil {
		return fmt.Errorf("ask the stream: %w", err)
	}
	state := stream.CachedInfo().State
	stored, err := deliveries.Read(s.opts.Deliveries)
	if err != nil {
		return fmt.Errorf("read ledger: %w", err)
	}
	out := Status{
		Version: s.opts.Version,
		Started: s.opts.Started,
		Ready:   true,
		Stream: StreamStatus{
			Name: s.opts.Stream, FirstSeq: state.FirstSeq, LastSeq: state.LastSeq, Events: state.Msgs, Bytes: state.Bytes,
		},
		Projections: s.Statuses(),
		Stored:      stored,
		Received:    s.opts.Ledger.Counts(),
	}
	for _, err := range s.opts.Ready(ctx) {
		out.Ready = false
		out.Reasons = append(out.Reasons, err.Error())
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}
