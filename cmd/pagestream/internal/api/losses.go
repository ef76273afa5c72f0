package api

import (
	"context"
	"net/http"
	"strconv"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/streams"
)

// LossOperator shows and accepts what the stream has lost.
type LossOperator interface {
	Losses(ctx context.Context, after uint64) (operate.Loss, error)
	AcceptLoss(ctx context.Context, by string) (streams.Losses, error)
}

func (s *Server) lossRoutes() routes {
	return routes{
		"GET /api/v1/losses":         {serve: s.getLosses, params: params{"after"}, allow: toReaders},
		"POST /api/v1/losses/accept": {serve: s.acceptLoss, verb: "losses_accept"},
	}
}

// getLosses responds with the lost events, and the messages of them that are held after a sequence.
func (s *Server) getLosses(w http.ResponseWriter, r *http.Request) error {
	var after uint64
	if text := r.URL.Query().Get("after"); text != "" {
		var err error
		if after, err = strconv.ParseUint(text, 10, 64); err != nil {
			return problem(http.StatusBadRequest, "after is the sequence of an event")
		}
	}
	out, err := s.opts.Operator.Losses(r.Context(), after)
	return writeResult(w, "look for lost events", http.StatusOK, out, err)
}

func (s *Server) acceptLoss(w http.ResponseWriter, r *http.Request) error {
	out, err := s.opts.Operator.AcceptLoss(r.Context(), holder(r).Name)
	if err == nil && out.Events > 0 {
		history.From(r.Context()).OnText("lost", out.String()) // the acceptance itself has all ranges
	}
	return writeResult(w, "accept the loss", http.StatusOK, out, err)
}
