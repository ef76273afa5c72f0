package api

import (
	"context"
	"net/http"
	"strconv"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
)

// ClusterOperator shows and changes the copies of the streams in a NATS cluster.
type ClusterOperator interface {
	Cluster(ctx context.Context) (operate.Cluster, error)
	ScaleCluster(ctx context.Context, replicas int) (operate.Scaling, error)
}

// ScaleRequest is the body of POST /api/v1/cluster/scale.
type ScaleRequest struct {
	// Replicas is how many copies of each stream the cluster is to keep, 1 to 5.
	Replicas int `json:"replicas"`
}

func (s *Server) clusterRoutes() routes {
	return routes{
		"GET /api/v1/cluster":        {serve: s.getCluster, allow: toReaders},
		"POST /api/v1/cluster/scale": {serve: s.scaleCluster, body: true, verb: "cluster_scale"},
	}
}

func (s *Server) getCluster(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), maxWait)
	defer cancel()
	out, err := s.opts.Operator.Cluster(ctx)
	return writeResult(w, "look at the cluster", http.StatusOK, out, err)
}

func (s *Server) scaleCluster(w http.ResponseWriter, r *http.Request) error {
	var in ScaleRequest
	if err := decode(w, r, &in, `{"replicas": 3}`); err != nil {
		return err
	}
	history.From(r.Context()).OnText("replicas", strconv.Itoa(in.Replicas))
	out, err := s.opts.Operator.ScaleCluster(r.Context(), in.Replicas)
	return writeResult(w, "scale the cluster", http.StatusOK, out, err)
}
