package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/streams"
)

// errNoServer is returned when the account can use JetStream on no server.
var errNoServer = errors.New("nats.url: no server lets pagestream use JetStream")

// Reached is what a server of nats.url says to the user of the configuration.
type Reached struct {
	// URL has no user info.
	URL string `json:"url"`
	// Error is why it can't be used, and the rest is empty then.
	Error   string `json:"error,omitempty"`
	Server  string `json:"server,omitempty"`
	Version string `json:"version,omitempty"`
	Cluster string `json:"cluster,omitempty"`
	// Servers is how many servers of the cluster the server names to its clients, at least 1.
	Servers    int   `json:"servers,omitempty"`
	MaxPayload int64 `json:"max_payload,omitempty"`
	// Limits are those of the account, by their tier; its name is "" if there are no tiers.
	Limits map[string]AccountLimits `json:"limits,omitempty"`
	// Replicas is how many copies the stream of events has, 0 if there is no such stream yet.
	Replicas int `json:"replicas,omitempty"`
}

// AccountLimits are what an account uses of what it may use in JetStream; -1 is no limit.
type AccountLimits struct {
	Store        uint64 `json:"store"`
	MaxStore     int64  `json:"max_store"`
	Streams      int    `json:"streams"`
	MaxStreams   int    `json:"max_streams"`
	Consumers    int    `json:"consumers"`
	MaxConsumers int    `json:"max_consumers"`
}

// String returns it as a line for people.
func (r Reached) String() string {
	if r.Error != "" {
		return r.URL + ": " + r.Error
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: server %s %s", r.URL, r.Server, r.Version)
	if r.Cluster != "" {
		fmt.Fprintf(&b, " of cluster %s with %d known servers", r.Cluster, r.Servers)
	}
	fmt.Fprintf(&b, "; messages up to %s", humanize.IBytes(uint64(r.MaxPayload)))
	for _, tier := range slices.Sorted(maps.Keys(r.Limits)) {
		l := r.Limits[tier]
		fmt.Fprintf(&b, "; JetStream %s: %s of %s, %d of %s streams, %d of %s consumers", strings.TrimSpace("limits "+tier),
			humanize.IBytes(l.Store), limit(l.MaxStore, func(n int64) string { return humanize.IBytes(uint64(n)) }),
			l.Streams, limit(int64(l.MaxStreams), humanize.Comma), l.Consumers, limit(int64(l.MaxConsumers), humanize.Comma))
	}
	if r.Replicas > 0 {
		fmt.Fprintf(&b, "; the stream has %d replicas", r.Replicas)
	}
	return b.String()
}

// limit formats a limit of JetStream.
func limit(n int64, format func(int64) string) string {
	if n < 0 {
		return "unlimited"
	}
	return format(n)
}

// Connect connects to each server of nats.url as serve does, and returns what it says, and warnings. It fails if the
// user can use JetStream on none of them, or there is no nats.url. It changes nothing there.
func Connect(ctx context.Context, cfg config.Config) (out []Reached, warnings []string, err error) {
	list := cfg.NATS.URL.List()
	if len(list) == 0 {
		return nil, nil, errors.New("nats.url: empty: there is no server to connect to, the embedded one is used")
	}
	var errs []error
	for _, address := range list {
		r, err := reach(ctx, cfg, address)
		if r.URL = config.Servers(address).String(); err != nil {
			r = Reached{URL: r.URL, Error: err.Error()}
			errs = append(errs, fmt.Errorf("%s: %w", r.URL, err))
		} else {
			warnings = append(warnings, r.warnings(cfg)...)
		}
		out = append(out, r)
	}
	if len(errs) == len(list) {
		return out, warnings, fmt.Errorf("%w: %w", errNoServer, errors.Join(errs...))
	}
	for _, err := range errs {
		warnings = append(warnings, fmt.Sprintf("nats.url: %v", err))
	}
	return out, append(warnings, unproved(ctx, cfg.NATS)...), nil
}

// unproved returns what keeps the monitoring ports from proving that the servers sync what they acknowledge.
func unproved(ctx context.Context, n config.NATS) (out []string) {
	if len(n.MonitorURLs) == 0 {
		out = append(out, "nats.monitor_urls: empty: it is not proved that the servers sync what they acknowledge")
	}
	for _, url := range n.MonitorURLs {
		try, cancel := context.WithTimeout(ctx, monitorTimeout)
		v, err := readVarz(try, url)
		cancel()
		switch c := v.JetStream.Config; {
		case err != nil:
			out = append(out, fmt.Sprintf("nats.monitor_urls: %s: %v", url, err))
		case c == nil:
			out = append(out, fmt.Sprintf("nats.monitor_urls: %s: server %s has no JetStream", url, v.Name))
		case !c.SyncAlways:
			out = append(out, fmt.Sprintf("nats.monitor_urls: %s: server %s syncs every %s: a power cut loses acknowledged "+
				"events; set sync_interval: always in its jetstream block", url, v.Name, c.SyncInterval))
		}
	}
	return out
}

// warnings returns what will not work with a server.
func (r Reached) warnings(cfg config.Config) (out []string) {
	if largest := streams.LargestBody(r.MaxPayload); int64(cfg.Webhook.MaxBody) > largest {
		out = append(out, fmt.Sprintf("nats.url: %s takes messages of %d bytes, which is too little for webhook.max_body, "+
			"%s: raise its max_payload to %d, or lower webhook.max_body to %d", r.URL, r.MaxPayload, cfg.Webhook.MaxBody,
			streams.LargestEvent(int64(cfg.Webhook.MaxBody)), largest))
	}
	if r.Replicas == 0 && cfg.NATS.Replicas > 1 && r.Servers < cfg.NATS.Replicas {
		out = append(out, fmt.Sprintf("nats.replicas: %d copies need as many servers, and %s knows of %d",
			cfg.NATS.Replicas, r.URL, r.Servers))
	}
	if r.Replicas > 0 && r.Replicas < cfg.NATS.Replicas {
		out = append(out, fmt.Sprintf("nats.replicas: %d, but the stream has %d copies and keeps them; "+
			"to change that, run: pagestream cluster scale --replicas N", cfg.NATS.Replicas, r.Replicas))
	}
	return out
}

// reach connects to one server.
func reach(ctx context.Context, cfg config.Config, address string) (r Reached, err error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	opts, err := natsOptions(cfg.NATS, "config check")
	if err != nil {
		return r, err
	}
	nc, err := nats.Connect(address, append(opts, nats.NoReconnect())...)
	if err != nil {
		return r, err
	}
	defer nc.Close()
	r = Reached{
		Server: nc.ConnectedServerName(), Version: nc.ConnectedServerVersion(), Cluster: nc.ConnectedClusterName(),
		Servers: len(nc.Servers()), MaxPayload: nc.MaxPayload(), Limits: map[string]AccountLimits{},
	}
	js, err := streams.Open(nc, cfg.NATS.Domain)
	if err != nil {
		return r, err
	}
	account, err := js.AccountInfo(ctx)
	if err != nil {
		return r, fmt.Errorf("JetStream: %w", err)
	}
	tiers := account.Tiers
	if len(tiers) == 0 {
		tiers = map[string]jetstream.Tier{"": account.Tier}
	}
	for name, t := range tiers {
		r.Limits[name] = AccountLimits{
			Store: t.Store, MaxStore: t.Limits.MaxStore, Streams: t.Streams, MaxStreams: t.Limits.MaxStreams,
			Consumers: t.Consumers, MaxConsumers: t.Limits.MaxConsumers,
		}
	}
	st, err := js.Stream(ctx, streams.Name)
	switch {
	case err == nil:
		r.Replicas = st.CachedInfo().Config.Replicas
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return r, fmt.Errorf("read stream info: %w", err)
	}
	return r, nil
}
