package api

import (
	"net/http"
	"strconv"
)

// HookRedriven is how many dead letters of an endpoint are sent again.
type HookRedriven struct {
	Count int `json:"count"`
}

// listHooks serves GET /api/v1/hooks.
func (s *Server) listHooks(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, List[any]{Items: s.opts.Actions.Hooks()})
	return nil
}

// listHookDeadLetters serves GET /api/v1/hooks/{name}/deadletters.
func (s *Server) listHookDeadLetters(w http.ResponseWriter, r *http.Request) error {
	limit, err := limit(r, maxPage)
	if err != nil {
		return err
	}
	after, err := number(r, "cursor", 0)
	if err != nil {
		return err
	}
	items, last, err := s.opts.Actions.HookDeadLetters(r.PathValue("name"), after, limit)
	if err != nil {
		return actionFailed("list dead letters", err)
	}
	list := List[any]{Items: items}
	if len(items) == limit {
		list.Next = strconv.FormatUint(last, 10)
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

// redriveHook serves POST /api/v1/hooks/{name}/redrive, of one ?event= or of all.
func (s *Server) redriveHook(w http.ResponseWriter, r *http.Request) error {
	seq, err := number(r, "event", 0)
	if err != nil {
		return err
	}
	n, err := s.opts.Actions.RedriveHook(r.PathValue("name"), seq)
	if err != nil {
		return actionFailed("redrive", err)
	}
	writeJSON(w, http.StatusOK, HookRedriven{n})
	return nil
}

// enableHook serves POST /api/v1/hooks/{name}/enable.
func (s *Server) enableHook(w http.ResponseWriter, r *http.Request) error {
	if err := s.opts.Actions.EnableHook(r.PathValue("name")); err != nil {
		return actionFailed("enable", err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
