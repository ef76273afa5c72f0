package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/projections"
)

// DeadLetterOperator lists the events that read models and reactors could not handle,
// and redrives or discards them.
type DeadLetterOperator interface {
	DeadLetters(projection string, after projections.DeadLetter, limit int) ([]projections.DeadLetter, error)
	Decide(ctx context.Context, d operate.Decision) (operate.DecisionResult, error)
}

func (s *Server) deadLetterRoutes() routes {
	return routes{
		"GET /api/v1/deadletters": {
			serve: s.listDeadLetters, params: params{"cursor", "limit", "projection"}, allow: toReaders,
		},
		"POST /api/v1/deadletters": {serve: s.decideDeadLetters, body: true, verb: "deadletters_decide"},
	}
}

func (s *Server) listDeadLetters(w http.ResponseWriter, r *http.Request) error {
	limit, err := limit(r)
	if err != nil {
		return err
	}
	var after projections.DeadLetter
	if c := r.URL.Query().Get("cursor"); c != "" {
		b, err := projections.DecodeCursor(c)
		if err != nil || json.Unmarshal(b, &after) != nil || after.Seq == 0 {
			return errCursor
		}
	}
	items, err := s.opts.Operator.DeadLetters(r.URL.Query().Get("projection"), after, limit)
	list := List[projections.DeadLetter]{Items: items}
	if err == nil && len(items) == limit {
		last := items[limit-1]
		last.Error = ""
		b, err := json.Marshal(last)
		if err != nil {
			return err
		}
		list.Next = projections.EncodeCursor(b)
	}
	return writeResult(w, "list dead letters", http.StatusOK, list, err)
}

func (s *Server) decideDeadLetters(w http.ResponseWriter, r *http.Request) error {
	var in operate.Decision
	const usage = `{"action": "redrive" or "discard", and one of "event": 7, "page": "…", "all": true}`
	if err := decode(w, r, &in, usage); err != nil {
		return err
	}
	if err := in.Check(); err != nil {
		return problem(http.StatusBadRequest, err.Error())
	}
	in.Record(history.From(r.Context()))
	extend(w)
	out, err := s.opts.Operator.Decide(r.Context(), in)
	if errors.Is(err, projections.ErrNoDeadLetter) {
		return problem(http.StatusNotFound, "there is no such dead letter")
	}
	return writeResult(w, "decide about dead letters", http.StatusOK, out, err)
}
