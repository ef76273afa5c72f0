package api

import (
	"net/http"
	"strconv"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
)

// HookOperator manages the endpoints that webhooks are sent to.
type HookOperator interface {
	ListHooks() []hooks.Status
	HookDeadLetters(name string, after uint64, limit int) ([]hooks.DeadLetter, error)
	RedriveHook(name string, event uint64) (int, error)
	EnableHook(name string) error
}

func (s *Server) hookRoutes() routes {
	return routes{
		"GET /api/v1/hooks": {serve: s.listHooks, allow: toReaders},
		"GET /api/v1/hooks/{name}/deadletters": {
			serve: s.listHookDeadLetters, params: params{"cursor", "limit"}, allow: toReaders,
		},
		"POST /api/v1/hooks/{name}/redrive": {
			serve: s.redriveHook, params: params{"all", "event"}, verb: "hooks_redrive", on: "hook",
		},
		"POST /api/v1/hooks/{name}/enable": {serve: s.enableHook, verb: "hooks_enable", on: "hook"},
	}
}

// HookRedriven is the number of dead letters of an endpoint that are sent again.
type HookRedriven struct {
	Count int `json:"count"`
}

func (s *Server) listHooks(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, List[hooks.Status]{Items: s.opts.Operator.ListHooks()})
}

func (s *Server) listHookDeadLetters(w http.ResponseWriter, r *http.Request) error {
	limit, err := limit(r)
	if err != nil {
		return err
	}
	after, err := number(r, "cursor", 0)
	if err != nil {
		return err
	}
	items, err := s.opts.Operator.HookDeadLetters(r.PathValue("name"), after, limit)
	if items == nil {
		items = []hooks.DeadLetter{}
	}
	list := List[hooks.DeadLetter]{Items: items}
	if len(items) == limit {
		list.Next = strconv.FormatUint(items[limit-1].Seq, 10)
	}
	return writeResult(w, "list dead letters", http.StatusOK, list, err)
}

// redriveHook sends the dead letter ?event= again, or all of them with ?all=true.
func (s *Server) redriveHook(w http.ResponseWriter, r *http.Request) error {
	seq, err := number(r, "event", 0)
	if err != nil {
		return err
	}
	all, err := boolean(r, "all")
	if err != nil {
		return err
	}
	if (seq == 0) != all {
		return problem(http.StatusBadRequest, "say which dead letters: one with event=SEQUENCE, or all=true")
	}
	history.From(r.Context()).On("event", r.URL.Query().Get("event"))
	n, err := s.opts.Operator.RedriveHook(r.PathValue("name"), seq)
	return writeResult(w, "redrive", http.StatusOK, HookRedriven{n}, err)
}

func (s *Server) enableHook(w http.ResponseWriter, r *http.Request) error {
	if err := s.opts.Operator.EnableHook(r.PathValue("name")); err != nil {
		return verbProblem("enable", err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
