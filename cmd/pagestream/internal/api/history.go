package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
)

// HistoryOperator lists what operators did.
type HistoryOperator interface {
	ListHistory(ctx context.Context, q history.Query) (list []history.Entry, next uint64, err error)
}

func (s *Server) historyRoutes() routes {
	return routes{"GET /api/v1/history": {
		serve: s.listHistory, params: params{"cursor", "limit", "on", "since", "verb", "who"}, allow: toAdmins,
	}}
}

// listHistory serves GET /api/v1/history: what operators did, the newest first.
func (s *Server) listHistory(w http.ResponseWriter, r *http.Request) error {
	v := r.URL.Query()
	q := history.Query{Who: v.Get("who"), Verb: v.Get("verb"), On: v.Get("on")}
	var err error
	if q.Limit, err = limit(r); err != nil {
		return err
	}
	if q.Before, err = number(r, "cursor", 0); err != nil {
		return err
	}
	if given := v.Get("since"); given != "" {
		if q.Since, err = time.Parse(time.RFC3339Nano, given); err != nil {
			return problem(http.StatusBadRequest, "since is a time, as in 2026-11-23T10:00:00Z")
		}
	}
	items, next, err := s.opts.Operator.ListHistory(r.Context(), q)
	list := List[history.Entry]{Items: items}
	if next > 0 {
		list.Next = strconv.FormatUint(next, 10)
	}
	return writeResult(w, "list history", http.StatusOK, list, err)
}
