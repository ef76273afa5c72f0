package api

import (
	"net/http"

	"github.com/pagestream/pagestream/domain"
)

// ConsumerRequest asks for a consumer of chosen pages and types.
type ConsumerRequest struct {
	Name    string          `json:"name"`
	Pages   []domain.PageID `json:"pages,omitempty"`
	Company string          `json:"company,omitempty"`
	Types   []domain.Type   `json:"types,omitempty"`
	FromNow bool            `json:"from_now,omitempty"`
}

// listConsumers serves GET /api/v1/consumers.
func (s *Server) listConsumers(w http.ResponseWriter, r *http.Request) error {
	list, err := s.opts.Actions.Consumers(r.Context())
	if err != nil {
		return actionFailed("list consumers", err)
	}
	writeJSON(w, http.StatusOK, List[any]{Items: list})
	return nil
}

// addConsumer serves POST /api/v1/consumers. The answer has the user's secret,
// this once.
func (s *Server) addConsumer(w http.ResponseWriter, r *http.Request) error {
	var in ConsumerRequest
	if err := decode(w, r, &in, `{"name": "…"} and optionally pages, company, types, from_now`); err != nil {
		return err
	}
	out, err := s.opts.Actions.AddConsumer(r.Context(), in)
	if err != nil {
		return actionFailed("add consumer", err)
	}
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusCreated, out)
	return nil
}

// removeConsumer serves DELETE /api/v1/consumers/{name}.
func (s *Server) removeConsumer(w http.ResponseWriter, r *http.Request) error {
	if err := s.opts.Actions.RemoveConsumer(r.Context(), r.PathValue("name")); err != nil {
		return actionFailed("remove consumer", err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
