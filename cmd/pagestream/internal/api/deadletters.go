package api

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/streams"
)

// DecisionRequest says what is to become of which dead letters: of one Event, of
// a Page, or of All; of one projection, or of every one.
type DecisionRequest struct {
	Action     streams.DecisionAction `json:"action"`
	Projection string                 `json:"projection,omitempty"`
	Event      uint64                 `json:"event,omitempty"`
	Page       domain.PageID          `json:"page,omitempty"`
	All        bool                   `json:"all,omitempty"`
	// Reason is needed to discard.
	Reason string `json:"reason,omitempty"`
	// DryRun only says what it would be about.
	DryRun bool `json:"dry_run,omitempty"`
}

// DecisionResult is what became of dead letters.
type DecisionResult struct {
	// Count is how many it was about, DeadLetters the first hundred of them.
	Count       int                      `json:"count"`
	DeadLetters []projections.DeadLetter `json:"dead_letters"`
	// Outcomes are by projection; empty for a dry run.
	Outcomes map[string]projections.Redriven `json:"outcomes,omitempty"`
}

// maxReason bounds an operator's words.
const maxReason = 1000

// listDeadLetters serves GET /api/v1/deadletters.
func (s *Server) listDeadLetters(w http.ResponseWriter, r *http.Request) error {
	limit, err := limit(r, maxPage)
	if err != nil {
		return err
	}
	var after projections.DeadLetter
	if c := r.URL.Query().Get("cursor"); c != "" {
		b, err := base64.RawURLEncoding.DecodeString(c)
		if err != nil || json.Unmarshal(b, &after) != nil || after.Seq == 0 {
			return problem(http.StatusBadRequest, "cursor is not one that this listing gave; start without")
		}
	}
	items, err := s.opts.Actions.DeadLetters(r.URL.Query().Get("projection"), after, limit)
	if err != nil {
		return actionFailed("list dead letters", err)
	}
	list := List[projections.DeadLetter]{Items: items}
	if len(items) == limit {
		last := items[limit-1]
		last.Error = ""
		b, err := json.Marshal(last)
		if err != nil {
			return err
		}
		list.Next = base64.RawURLEncoding.EncodeToString(b)
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

// decideDeadLetters serves POST /api/v1/deadletters.
func (s *Server) decideDeadLetters(w http.ResponseWriter, r *http.Request) error {
	var in DecisionRequest
	if err := decode(w, r, &in, `{"action": "redrive" or "discard", and one of "event": 7, "page": "…", "all": true}`); err != nil {
		return err
	}
	which := 0
	for _, given := range []bool{in.Event > 0, in.Page != "", in.All} {
		if given {
			which++
		}
	}
	switch {
	case in.Action != streams.Redrive && in.Action != streams.Discard:
		return problem(http.StatusBadRequest, `action is "redrive" or "discard"`)
	case which != 1:
		return problem(http.StatusBadRequest, "say which: one of event, page, all")
	case in.Action == streams.Discard && !in.DryRun && in.Reason == "":
		return problem(http.StatusBadRequest, "reason is needed to discard")
	case len(in.Reason) > maxReason:
		return problem(http.StatusBadRequest, "reason is too long")
	}
	extend(w)
	out, err := s.opts.Actions.Decide(r.Context(), in)
	if errors.Is(err, projections.ErrNoDeadLetter) {
		return problem(http.StatusNotFound, "there is no such dead letter")
	}
	if err != nil {
		return actionFailed("decide about dead letters", err)
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}
