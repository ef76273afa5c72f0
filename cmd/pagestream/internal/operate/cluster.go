package operate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/streams"
)

// Cluster is what the NATS servers say of the streams of pagestream.
type Cluster struct {
	// Name is the cluster's name, empty if there is a single server.
	Name string `json:"name,omitempty"`
	// Servers are the servers that have a copy of a stream, by name. Others are not known to an account.
	Servers []string `json:"servers"`
	// Streams has the stream of events first, and then the others by name.
	Streams []ClusterStream `json:"streams"`
}

// ClusterStream is one stream and its copies.
type ClusterStream struct {
	Name string `json:"name"`
	// Replicas is how many copies it has, 0 while that is not known.
	Replicas int    `json:"replicas"`
	LastSeq  uint64 `json:"last_seq"`
	// Leader is the server that stores what is published, empty while there is none.
	Leader string `json:"leader,omitempty"`
	// Followers are the servers with the other copies.
	Followers []ClusterFollower `json:"followers"`
}

// ClusterFollower is a copy of a stream on a server that is not its leader.
type ClusterFollower struct {
	Server string `json:"server"`
	// Current is false while the copy is being caught up; Offline is true while its server can't be reached.
	Current bool `json:"current"`
	Offline bool `json:"offline,omitempty"`
	// Lag is how many operations it is behind. Active is the time in seconds since it was heard of.
	Lag    uint64  `json:"lag"`
	Active float64 `json:"active"`
}

// Scaling is the result of [Operator.ScaleCluster].
type Scaling struct {
	Streams []Scaled `json:"streams"`
}

// Scaled is how many copies of a stream there were and are. New copies are filled afterwards.
type Scaled struct {
	Name   string `json:"name"`
	Before int    `json:"before"`
	After  int    `json:"after"`
}

// infoTimeout bounds one request for the info of a stream, and scaleTimeout a whole change of the copies.
const (
	infoTimeout  = 2 * time.Second
	scaleTimeout = time.Minute
)

// Cluster returns the state of each stream's copies. Of a stream that has no leader only the name is known. It fails
// if the servers don't answer at all.
func (o *Operator) Cluster(ctx context.Context) (Cluster, error) {
	names, err := streams.Names(ctx, o.JS, o.Stream)
	if err != nil {
		return Cluster{}, err
	}
	out := Cluster{Servers: []string{}, Streams: []ClusterStream{}}
	for _, name := range names {
		try, cancel := context.WithTimeout(ctx, infoTimeout)
		info, err := streams.AwaitInfo(try, o.JS, name)
		cancel()
		switch {
		case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil: // it has no leader
			out.Streams = append(out.Streams, ClusterStream{Name: name, Followers: []ClusterFollower{}})
			continue
		case errors.Is(err, jetstream.ErrStreamNotFound) && name != o.Stream: // it is being made or removed
			continue
		case err != nil:
			return Cluster{}, err
		}
		s := ClusterStream{
			Name: info.Config.Name, Replicas: info.Config.Replicas, LastSeq: info.State.LastSeq,
			Followers: []ClusterFollower{},
		}
		if c := info.Cluster; c != nil {
			out.Name, s.Leader = c.Name, c.Leader
			out.Servers = append(out.Servers, c.Leader)
			for _, r := range c.Replicas {
				s.Followers = append(s.Followers, ClusterFollower{
					Server: r.Name, Current: r.Current, Offline: r.Offline, Lag: r.Lag,
					Active: r.Active.Round(time.Millisecond).Seconds(),
				})
				out.Servers = append(out.Servers, r.Name)
			}
		}
		out.Streams = append(out.Streams, s)
	}
	slices.Sort(out.Servers)
	out.Servers = slices.DeleteFunc(slices.Compact(out.Servers), func(name string) bool { return name == "" })
	return out, nil
}

// maxReplicas is the most copies that JetStream keeps of a stream.
const maxReplicas = 5

// ScaleCluster changes how many copies of each stream of pagestream the cluster keeps. The stream of events comes
// first: [ErrReplicas] is returned if there can't be that many, and then nothing is changed. If another stream can't
// be changed, the error names it and those before it are changed. It may be repeated.
func (o *Operator) ScaleCluster(ctx context.Context, replicas int) (Scaling, error) {
	if replicas < 1 || replicas > maxReplicas {
		return Scaling{}, fmt.Errorf("%w: replicas is a number from 1 to %d", ErrRequest, maxReplicas)
	}
	ctx, cancel := context.WithTimeout(ctx, scaleTimeout)
	defer cancel()
	names, err := streams.Names(ctx, o.JS, o.Stream)
	if err != nil {
		return Scaling{}, err
	}
	out := Scaling{Streams: []Scaled{}}
	for _, name := range names {
		info, err := streams.AwaitInfo(ctx, o.JS, name)
		if err != nil {
			return out, fmt.Errorf("%d of %d streams were changed: %w", len(out.Streams), len(names), err)
		}
		config := info.Config
		before := config.Replicas
		if config.Replicas = replicas; before != replicas {
			config.AllowDirect = config.AllowDirect && replicas == 1 // as streams.Ensure has it
			if _, err := o.JS.UpdateStream(ctx, config); err != nil {
				return out, fmt.Errorf("stream %s: %d of %d streams were changed: %w",
					config.Name, len(out.Streams), len(names), refusedReplicas(err))
			}
		}
		out.Streams = append(out.Streams, Scaled{config.Name, before, replicas})
	}
	return out, nil
}

// Error codes of a server that can't place the copies of a stream.
var unplaceable = []jetstream.ErrorCode{
	10005, // no suitable peers
	10023, // insufficient resources
	10074, // replicas need a cluster
}

// refusedReplicas adds [ErrReplicas] to an error of the server that says that it can't place the copies.
func refusedReplicas(err error) error {
	var api *jetstream.APIError
	if errors.As(err, &api) && slices.Contains(unplaceable, api.ErrorCode) {
		return fmt.Errorf("%w (%w)", ErrReplicas, err)
	}
	return err
}
