package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/internal/backoff"
)

// errMayLose is returned while deliveries are refused because the NATS servers may lose what they acknowledge.
var errMayLose = errors.New("the NATS servers may lose acknowledged events, and nats.accept_loss is not set")

// Bounds of asking the monitoring ports.
const (
	monitorEvery   = 10 * time.Second
	monitorTimeout = 2 * time.Second
	maxVarz        = 1 << 20
)

// durability knows how an external NATS stores the stream. It is not used with the embedded server, whose sync is a
// setting of pagestream.
//
// JetStream's API says how many copies the stream has and on which servers. How a server syncs is not in it; the
// monitoring port shows that. What it has shown counts until it shows something else, because a server that is down
// can't be asked, and the others are to go on.
type durability struct {
	p    *Program
	now  atomic.Pointer[meta.Durability] // nil: not known yet
	wake chan struct{}

	mu      sync.Mutex
	shown   map[string]varz // by the name of the server
	size    int
	doubted string
}

// varz is the part of a server's /varz that is used.
type varz struct {
	Name      string `json:"server_name"`
	JetStream struct {
		Config *struct {
			SyncAlways   bool          `json:"sync_always"`
			SyncInterval time.Duration `json:"sync_interval"`
		} `json:"config"`
		Meta *struct {
			Size int `json:"cluster_size"`
		} `json:"meta"`
	} `json:"jetstream"`
}

// watch asks the monitoring ports, once before it returns and then until the context ends.
func (d *durability) watch(ctx context.Context, background *sync.WaitGroup) {
	d.wake, d.shown = make(chan struct{}, 1), map[string]varz{}
	if len(d.p.cfg.NATS.MonitorURLs) == 0 || d.p.server != nil {
		return
	}
	d.ask(ctx)
	background.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-d.wake:
				if backoff.Sleep(ctx, healthInterval/2) != nil { // it may be starting
					return
				}
			case <-time.After(monitorEvery):
			}
			d.ask(ctx)
		}
	})
}

// ask asks all monitoring ports. A server that does not answer is left as it was.
func (d *durability) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, monitorTimeout)
	defer cancel()
	var asking sync.WaitGroup
	for _, url := range d.p.cfg.NATS.MonitorURLs {
		asking.Go(func() {
			v, err := readVarz(ctx, url)
			if err != nil {
				d.p.log.Debug("a NATS server's monitoring port does not answer", "url", url, "err", err)
				return
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			d.shown[v.Name] = v
			if v.JetStream.Meta != nil {
				d.size = v.JetStream.Meta.Size
			}
		})
	}
	asking.Wait()
}

// readVarz reads what a monitoring port shows of its server.
func readVarz(ctx context.Context, base string) (v varz, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(base, "/")+"/varz", http.NoBody)
	if err != nil {
		return v, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return v, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return v, fmt.Errorf("it answered %s", resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxVarz)).Decode(&v); err != nil {
		return v, fmt.Errorf("decode: %w", err)
	}
	return v, nil
}

// saw takes account of the stream's info, and logs when the doubts change. Only the health watch calls it.
func (d *durability) saw(info *jetstream.StreamInfo) {
	if d.p.server != nil {
		return
	}
	now := meta.Durability{
		Replicas: info.Config.Replicas, MaxPayload: d.p.conn.MaxPayload(), Accepted: d.p.cfg.NATS.AcceptLoss,
		Servers: []meta.CopyServer{},
	}
	d.mu.Lock()
	now.ClusterSize = d.size
	add := func(name string, offline bool) {
		s := meta.CopyServer{Name: name, Offline: offline}
		if c := d.shown[name].JetStream.Config; c != nil {
			s.Known, s.SyncAlways, s.SyncInterval = true, c.SyncAlways, c.SyncInterval
		}
		now.Servers = append(now.Servers, s)
	}
	if c := info.Cluster; c != nil && c.Leader != "" {
		add(c.Leader, false)
		for _, r := range c.Replicas {
			add(r.Name, r.Offline)
		}
	} else {
		add(d.p.conn.ConnectedServerName(), false)
	}
	d.mu.Unlock()
	slices.SortFunc(now.Servers, func(a, b meta.CopyServer) int { return strings.Compare(a.Name, b.Name) })
	d.now.Store(&now)
	doubts := strings.Join(now.Doubts(), "; ")
	if doubts == d.doubted {
		return
	}
	d.doubted = doubts
	select {
	case d.wake <- struct{}{}: // a new server is asked soon
	default:
	}
	switch doubts {
	case "":
		d.p.log.Info("the NATS servers keep what they acknowledge", "replicas", now.Replicas)
	default:
		d.p.log.Warn("the NATS servers may lose acknowledged events", "doubts", doubts, "nats.accept_loss", now.Accepted)
	}
}

// state returns what is known, nil with the embedded server.
func (d *durability) state() *meta.Durability {
	if d.p.server != nil {
		return nil
	}
	if now := d.now.Load(); now != nil {
		return now
	}
	return &meta.Durability{Servers: []meta.CopyServer{}, Accepted: d.p.cfg.NATS.AcceptLoss}
}

// refusal returns why deliveries are refused, or nil.
func (d *durability) refusal() error {
	now := d.state()
	if now == nil || now.Accepted {
		return nil
	}
	if doubts := now.Doubts(); len(doubts) > 0 {
		return fmt.Errorf("%w: %s; run: pagestream doctor", errMayLose, strings.Join(doubts, "; "))
	}
	return nil
}
