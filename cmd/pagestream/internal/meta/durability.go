package meta

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// SafeReplicas is the fewest copies of the stream with which an external NATS keeps what it has acknowledged when a
// server is lost.
const SafeReplicas = 3

// Durability is what an external NATS says of how it stores the stream.
type Durability struct {
	// Replicas is how many copies the stream has, 0 if that is not known yet.
	Replicas int `json:"replicas"`
	// ClusterSize is how many servers with JetStream the cluster has, 0 if no monitoring URL tells.
	ClusterSize int `json:"cluster_size,omitempty"`
	// MaxPayload is the largest message in bytes that the servers take.
	MaxPayload int64 `json:"max_payload"`
	// Servers are those that have a copy of the stream, by name.
	Servers []CopyServer `json:"servers"`
	// Accepted reports that deliveries are taken in spite of doubts: nats.accept_loss.
	Accepted bool `json:"accepted"`
}

// CopyServer is a server that has a copy of the stream.
type CopyServer struct {
	Name string `json:"name"`
	// Offline is true while the server can't be reached. It takes no part in what is acknowledged then.
	Offline bool `json:"offline,omitempty"`
	// Known reports that a monitoring URL has shown how the server syncs. SyncAlways is true if it does so before it
	// acknowledges, otherwise it does every SyncInterval.
	Known        bool          `json:"known"`
	SyncAlways   bool          `json:"sync_always"`
	SyncInterval time.Duration `json:"-"`
}

// Doubts returns the reasons why events that were acknowledged may be lost, none if there is no reason.
func (d Durability) Doubts() (out []string) {
	if d.Replicas == 0 {
		return []string{"it is not known yet how many copies of the stream the NATS servers keep"}
	}
	if d.Replicas < SafeReplicas {
		out = append(out, fmt.Sprintf("the stream has %d of the %d copies that survive the loss of a server",
			d.Replicas, SafeReplicas))
	}
	var late, unknown []string
	for _, s := range d.Servers {
		switch {
		case s.Offline, s.SyncAlways:
		case s.Known:
			late = append(late, fmt.Sprintf("%s (every %s)", s.Name, s.SyncInterval))
		default:
			unknown = append(unknown, s.Name)
		}
	}
	if len(late) > 0 {
		out = append(out, "a power cut loses acknowledged events, because these servers sync later: "+
			strings.Join(late, ", "))
	}
	if len(unknown) > 0 {
		out = append(out, "it is not proved that these servers sync what they acknowledge: "+strings.Join(unknown, ", "))
	}
	return out
}

// remedies returns what to do about the doubts.
func (d Durability) remedies() []string {
	out := []string{}
	if d.Replicas < SafeReplicas {
		out = append(out, fmt.Sprintf("pagestream cluster scale --replicas %d", SafeReplicas))
	}
	if slices.ContainsFunc(d.Servers, func(s CopyServer) bool { return !s.SyncAlways && !s.Offline }) {
		out = append(out, "set sync_interval: always in the jetstream block of each server's configuration, and "+
			"nats.monitor_urls to the servers' monitoring ports, which show it")
	}
	if !d.Accepted {
		out = append(out, "or accept that acknowledged events may be lost: nats.accept_loss: true")
	}
	return out
}

// judgeDurability returns a finding if acknowledged events may be lost.
func judgeDurability(d *Durability) []Finding {
	if d == nil || len(d.Doubts()) == 0 {
		return nil
	}
	f := Finding{
		Cause: StateMayLoseEvents, Severity: Wrong,
		Summary:  "The NATS servers may lose events that they have acknowledged, so deliveries are answered 503.",
		Evidence: d.Doubts(), Do: d.remedies(),
	}
	if d.Accepted {
		f.Severity = Warning
		f.Summary = "The NATS servers may lose events that they have acknowledged, which nats.accept_loss accepts."
	}
	return []Finding{f}
}
