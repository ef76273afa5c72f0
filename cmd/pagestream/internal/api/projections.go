package api

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/audit"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/sse"
	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/projections"
)

// ModelOperator rebuilds, verifies and explains read models, and audits the stream.
type ModelOperator interface {
	Statuses() []projections.Status
	Rebuild(ctx context.Context, name string, progress func(projections.Rebuilding)) (projections.Rebuilt, error)
	Verify(ctx context.Context, name string, progress func(projections.Rebuilding)) (projections.Verified, error)
	Explain(ctx context.Context, name, bucket string, key []byte, progress func(projections.Rebuilding)) (
		projections.Trace, error)
	Audit(ctx context.Context, full bool, progress func(audit.Progress)) (audit.Report, error)
}

func (s *Server) projectionRoutes() routes {
	return routes{
		"GET /api/v1/projections": {serve: s.listProjections, allow: toReaders},
		"POST /api/v1/projections/{name}/rebuild": {
			serve: s.rebuild, verb: "projections_rebuild", on: "projection",
		},
		"POST /api/v1/projections/{name}/verify": {
			serve: s.verify, verb: "projections_verify", on: "projection",
		},
		"POST /api/v1/projections/{name}/explain": {
			serve: s.explain, body: true, verb: "projections_explain", on: "projection",
		},
		"POST /api/v1/audit": {serve: s.audit, params: params{"full"}, verb: "audit"},
	}
}

// statusEvery is the interval of statuses in a feed.
const statusEvery = time.Second

// listProjections serves GET /api/v1/projections: the status of each read model, once
// or, as server-sent events, every second.
func (s *Server) listProjections(w http.ResponseWriter, r *http.Request) error {
	if wantsFeed(r) {
		return s.feedStatuses(w, r)
	}
	return writeJSON(w, http.StatusOK, List[projections.Status]{Items: s.opts.Operator.Statuses()})
}

func (s *Server) feedStatuses(w http.ResponseWriter, r *http.Request) error {
	o := sse.Options{WriteLimit: 10 * statusEvery}
	err := s.feeds.Serve(w, r, o, func(ctx context.Context, send func(sse.Event) error) error {
		for {
			b, err := json.Marshal(List[projections.Status]{Items: s.opts.Operator.Statuses()})
			if err != nil {
				return fmt.Errorf("encode statuses: %w", err)
			}
			if err := send(sse.Event{Type: "projections", Data: b}); err != nil {
				return err
			}
			if err := backoff.Sleep(ctx, statusEvery); err != nil {
				return err
			}
		}
	})
	return s.feedEnded(err, fmt.Sprintf("%d feeds are open already", maxFeeds))
}

// rebuildProgress is called with the progress of a rebuild or a replay.
type rebuildProgress = func(projections.Rebuilding)

func (s *Server) rebuild(w http.ResponseWriter, r *http.Request) error {
	return run(w, r, "rebuild", func(ctx context.Context, progress rebuildProgress) (projections.Rebuilt, error) {
		return s.opts.Operator.Rebuild(ctx, r.PathValue("name"), progress)
	})
}

func (s *Server) verify(w http.ResponseWriter, r *http.Request) error {
	return run(w, r, "verify", func(ctx context.Context, progress rebuildProgress) (projections.Verified, error) {
		return s.opts.Operator.Verify(ctx, r.PathValue("name"), progress)
	})
}

func (s *Server) explain(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Bucket string `json:"bucket"`
		Key    string `json:"key"` // in hex
	}
	const usage = `{"bucket": "messages", "key": "…"} with the key in hex, as verify names a row`
	if err := decode(w, r, &in, usage); err != nil {
		return err
	}
	key, err := hex.DecodeString(in.Key)
	if err != nil || len(key) == 0 || in.Bucket == "" {
		return problem(http.StatusBadRequest, "bucket and key are needed, the key in hex")
	}
	return run(w, r, "explain", func(ctx context.Context, progress rebuildProgress) (projections.Trace, error) {
		return s.opts.Operator.Explain(ctx, r.PathValue("name"), in.Bucket, key, progress)
	})
}

func (s *Server) audit(w http.ResponseWriter, r *http.Request) error {
	full, err := boolean(r, "full")
	if err != nil {
		return err
	}
	return run(w, r, "audit", func(ctx context.Context, progress func(audit.Progress)) (audit.Report, error) {
		return s.opts.Operator.Audit(ctx, full, progress)
	})
}
