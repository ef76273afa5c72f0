package api

import (
	"context"
	"net/http"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
)

// KeyOperator lists, rotates and retires the keys that seal page tokens.
type KeyOperator interface {
	ListKeys(ctx context.Context) (operate.Keys, error)
	RotateKey(ctx context.Context, progress func(operate.KeyRotation)) (operate.KeyRotation, error)
	RetireKey(ctx context.Context, id string, progress func(operate.KeyRetirement)) (operate.KeyRetirement, error)
}

func (s *Server) keyRoutes() routes {
	return routes{
		"GET /api/v1/keys":              {serve: s.listKeys, allow: toReaders},
		"POST /api/v1/keys/rotate":      {serve: s.rotateKey, verb: "keys_rotate"},
		"POST /api/v1/keys/{id}/retire": {serve: s.retireKey, verb: "keys_retire", on: "key"},
	}
}

func (s *Server) listKeys(w http.ResponseWriter, r *http.Request) error {
	keys, err := s.opts.Operator.ListKeys(r.Context())
	if err != nil {
		return verbProblem("list the keys", err)
	}
	return writeJSON(w, http.StatusOK, keys)
}

func (s *Server) rotateKey(w http.ResponseWriter, r *http.Request) error {
	return run(w, r, "rotate the key", s.opts.Operator.RotateKey)
}

func (s *Server) retireKey(w http.ResponseWriter, r *http.Request) error {
	return run(w, r, "retire the key", func(ctx context.Context, progress func(operate.KeyRetirement)) (
		operate.KeyRetirement, error,
	) {
		return s.opts.Operator.RetireKey(ctx, r.PathValue("id"), progress)
	})
}
