package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/domain"
)

// ConsumerOperator manages the consumers of external programs that read over NATS.
type ConsumerOperator interface {
	ListConsumers(ctx context.Context) ([]consumers.Consumer, error)
	AddConsumer(ctx context.Context, s consumers.Spec) (consumers.Added, error)
	RewindConsumer(ctx context.Context, name string, to consumers.Target) (consumers.Consumer, error)
	RemoveConsumer(ctx context.Context, name string) error
}

func (s *Server) consumerRoutes() routes {
	return routes{
		"GET /api/v1/consumers":  {serve: s.listConsumers, allow: toReaders},
		"POST /api/v1/consumers": {serve: s.addConsumer, body: true, verb: "consumers_add"},
		"POST /api/v1/consumers/{name}/rewind": {
			serve: s.rewindConsumer, body: true, verb: "consumers_rewind", on: "consumer",
		},
		"DELETE /api/v1/consumers/{name}": {serve: s.removeConsumer, verb: "consumers_remove", on: "consumer"},
	}
}

// ConsumerRequest is a request for a consumer of chosen pages and types. It has Pages,
// Company or both, or it has All; see [consumers.Spec].
type ConsumerRequest struct {
	Name    string          `json:"name"`
	Pages   []domain.PageID `json:"pages,omitempty"`
	Company string          `json:"company,omitempty"`
	All     bool            `json:"all,omitempty"`
	Types   []domain.Type   `json:"types,omitempty"`
	FromNow bool            `json:"from_now,omitempty"`
}

func (s *Server) listConsumers(w http.ResponseWriter, r *http.Request) error {
	list, err := s.opts.Operator.ListConsumers(r.Context())
	if list == nil {
		list = []consumers.Consumer{}
	}
	return writeResult(w, "list consumers", http.StatusOK, List[consumers.Consumer]{Items: list}, err)
}

// addConsumer responds with the user's secret, which can't be read again.
func (s *Server) addConsumer(w http.ResponseWriter, r *http.Request) error {
	var in ConsumerRequest
	if err := decode(w, r, &in, `{"name": "…"} with pages, company or "all": true, and optionally types, from_now`); err != nil {
		return err
	}
	action := history.From(r.Context())
	action.On("consumer", in.Name)
	action.OnText("company", in.Company)
	out, err := s.opts.Operator.AddConsumer(r.Context(), consumers.Spec{
		Name: in.Name, Pages: in.Pages, Company: in.Company, All: in.All, Types: in.Types, FromNow: in.FromNow,
	})
	w.Header().Set("Cache-Control", "no-store")
	return writeResult(w, "add consumer", http.StatusCreated, out, err)
}

// RewindRequest is a request to rewind a consumer. To is the sequence of an event, or a
// time (RFC 3339): the first event that was stored then or later.
type RewindRequest struct {
	To string `json:"to"`
}

func (s *Server) rewindConsumer(w http.ResponseWriter, r *http.Request) error {
	var in RewindRequest
	if err := decode(w, r, &in, `{"to": "…"}: the sequence of an event, or a time`); err != nil {
		return err
	}
	var to consumers.Target
	var err error
	if to.Seq, err = strconv.ParseUint(in.To, 10, 64); err != nil {
		to.At, err = time.Parse(time.RFC3339, in.To)
	}
	if err != nil || to == (consumers.Target{}) {
		return problem(http.StatusBadRequest, "to is the sequence of an event, from 1, or a time such as 2026-11-23T10:00:00Z")
	}
	out, err := s.opts.Operator.RewindConsumer(r.Context(), r.PathValue("name"), to)
	return writeResult(w, "rewind consumer", http.StatusOK, out, err)
}

func (s *Server) removeConsumer(w http.ResponseWriter, r *http.Request) error {
	if err := s.opts.Operator.RemoveConsumer(r.Context(), r.PathValue("name")); err != nil {
		return verbProblem("remove consumer", err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
