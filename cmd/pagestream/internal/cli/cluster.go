package cli

import (
	"fmt"
	"strings"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
)

// ClusterCommand groups the commands for the copies of the streams in a NATS cluster.
type ClusterCommand struct {
	Scale ClusterScaleCommand `cmd:"" help:"Change how many servers keep a copy of each stream."`
}

const clusterPath = "/api/v1/cluster"

// ClusterScaleCommand changes how many copies of each stream a cluster keeps.
type ClusterScaleCommand struct {
	Replicas int  `required:"" env:"PAGESTREAM_CLUSTER_SCALE_REPLICAS" help:"Copies of each stream, 1 to 5; 3 survive the loss of a server."`
	Yes      bool `env:"PAGESTREAM_CLUSTER_SCALE_YES" help:"Confirm it. Without it the command only shows what would change."`
}

// Run changes the copies of each stream and prints how many there were and are. Without --yes it only prints them
// and fails.
func (s ClusterScaleCommand) Run(c *CLI) error {
	var out operate.Scaling
	if !s.Yes {
		now, err := get[operate.Cluster](c, clusterPath, nil)
		if err != nil {
			return err
		}
		for _, stream := range now.Streams {
			out.Streams = append(out.Streams, operate.Scaled{Name: stream.Name, Before: stream.Replicas, After: s.Replicas})
		}
	} else {
		var err error
		out, err = post[operate.Scaling](c, clusterPath+"/scale", nil, api.ScaleRequest{Replicas: s.Replicas})
		if err != nil {
			return err
		}
	}
	err := c.answer(out, nil, func() {
		writeTable(c, "STREAM, BEFORE, AFTER", out.Streams, func(s operate.Scaled) cells {
			return cells{s.Name, s.Before, s.After}
		})
	})
	if err == nil && !s.Yes {
		return fmt.Errorf("%w: nothing is changed yet; add --yes to keep %d copies of each stream", errUsage, s.Replicas)
	}
	return err
}

// printCluster prints where the copies of the streams are.
func printCluster(c *CLI, cluster operate.Cluster) {
	fmt.Fprintf(c.Out, "cluster %s: %s\n", dash(cluster.Name), dash(strings.Join(cluster.Servers, ", ")))
	writeTable(c, "STREAM, LAST SEQUENCE, REPLICAS, LEADER, FOLLOWERS", cluster.Streams,
		func(s operate.ClusterStream) cells {
			var followers []string
			for _, f := range s.Followers {
				state := "current"
				switch {
				case f.Offline:
					state = "OFFLINE"
				case !f.Current:
					state = fmt.Sprintf("behind by %d", f.Lag)
				}
				followers = append(followers, f.Server+" "+state)
			}
			return cells{s.Name, s.LastSeq, s.Replicas, dash(s.Leader), dash(strings.Join(followers, ", "))}
		})
}
