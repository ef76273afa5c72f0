package api

import (
	"context"
	"net/http"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
)

// KeyOperator lists and rotates the keys that seal page tokens.
type KeyOperator interface {
	// KeyIDs lists the ids of the keys, the newest first: it is the one in use.
	KeyIDs() []string
	RotateKey(ctx context.Context, progress func(operate.KeyRotation)) (operate.KeyRotation, error)
}

func (s *Server) keyRoutes() routes {
	return routes{
		"GET /api/v1/keys":         {serve: s.listKeys},
		"POST /api/v1/keys/rotate": {serve: s.rotateKey},
	}
}

func (s *Server) listKeys(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, List[string]{Items: s.opts.Operator.KeyIDs()})
}

func (s *Server) rotateKey(w http.ResponseWriter, r *http.Request) error {
	return run(w, r, "rotate the key", s.opts.Operator.RotateKey)
}
