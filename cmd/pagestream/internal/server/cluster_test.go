package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/doctor"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// replicas returns the copies of each stream.
func (r *running) replicas(t *testing.T) map[string]int {
	t.Helper()
	code, stdout, stderr := r.command(t, "--json", "status", "--cluster")
	require.Equal(t, cli.ExitOK, code, stderr)
	var cluster operate.Cluster
	require.NoError(t, json.Unmarshal([]byte(stdout), &cluster))
	out := map[string]int{}
	for _, s := range cluster.Streams {
		out[s.Name] = s.Replicas
	}
	return out
}

// makeStreams makes the streams that are made when they are needed.
func (r *running) makeStreams(t *testing.T) {
	t.Helper()
	for _, args := range [][]string{
		{"companies", "add", "acme"},
		{"consumers", "add", "crm", "--all"},
		{"tokens", "add", "ci", "--scope", "metrics"},
	} {
		code, _, stderr := r.command(t, args...)
		require.Equal(t, cli.ExitOK, code, "%v: %s", args, stderr)
	}
}

// TestClusterScale checks that a cluster's copies stay without nats.replicas, and that only the command changes them.
func TestClusterScale(t *testing.T) {
	t.Parallel()
	c := streamstest.RunCluster(t, 3)
	cfg := testConfig(t.TempDir())
	cfg.NATS.URL, cfg.NATS.Replicas, cfg.NATS.AcceptLoss = config.Servers(c.URL()), 3, true
	r := start(t, cfg)
	require.Equal(t, 200, post(t, r.PublicAddr(), message("700", "31", "m_1", "x", 1790000000000)))
	r.makeStreams(t)
	before := r.replicas(t)
	require.Len(t, before, 8, "%v", before)
	r.stop(t)

	cfg.NATS.Replicas = config.Default().NATS.Replicas
	r = start(t, cfg)
	require.Equal(t, before, r.replicas(t), "a start without nats.replicas changed the copies")
	for name, n := range before {
		assert.Equal(t, 3, n, name)
	}

	code, stdout, stderr := r.command(t, "status", "--cluster")
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, stdout, "cluster test: n1, n2, n3\n")
	assert.Regexp(t, `(?m)^PAGESTREAM +1 +3 +n[123] +n[123] current, n[123] current`, stdout)

	code, _, stderr = r.command(t, "cluster", "scale", "--replicas", "5", "--yes")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, operate.ErrReplicas.Error())
	code, stdout, stderr = r.command(t, "cluster", "scale", "--replicas", "1")
	assert.Equal(t, cli.ExitUsage, code)
	assert.Regexp(t, `(?m)^PAGESTREAM +3 +1$`, stdout)
	assert.Contains(t, stderr, "add --yes")
	code, _, stderr = r.command(t, "cluster", "scale", "--replicas", "6", "--yes")
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "from 1 to 5")
	require.Equal(t, before, r.replicas(t), "a refused scale changed the copies")

	code, stdout, stderr = r.command(t, "--json", "cluster", "scale", "--replicas", "1", "--yes")
	require.Equal(t, cli.ExitOK, code, stderr)
	var scaled operate.Scaling
	require.NoError(t, json.Unmarshal([]byte(stdout), &scaled))
	require.Len(t, scaled.Streams, len(before))
	assert.Equal(t, operate.Scaled{Name: streams.Name, Before: 3, After: 1}, scaled.Streams[0])
	for name, n := range r.replicas(t) {
		assert.Equal(t, 1, n, name)
	}
	code, stdout, stderr = r.command(t, "history")
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, stdout, "cluster_scale")
	require.Equal(t, 1, c.Replicas(t, streams.Name))
}

// monitored gives a server a monitoring port.
func monitored(o *natsserver.Options) { o.HTTPHost, o.HTTPPort = "127.0.0.1", natsserver.RANDOM_PORT }

// monitors returns the URLs of the monitoring ports.
func monitors(c *streamstest.Cluster) (urls []string) {
	for _, s := range c.Servers {
		urls = append(urls, "http://"+s.MonitorAddr().String())
	}
	return urls
}

// notReady returns the reasons of /readyz, none if it is ready.
func (r *running) notReady(t *testing.T) string {
	t.Helper()
	resp, err := http.Get(r.base() + "/readyz")
	require.NoError(t, err)
	body := read(t, resp)
	if resp.StatusCode == http.StatusOK {
		return ""
	}
	return body
}

// examined returns what the doctor says of the installation, by its cause.
func (r *running) examined(t *testing.T) map[meta.State]meta.Finding {
	t.Helper()
	_, stdout, stderr := r.command(t, "--json", "doctor")
	var report doctor.Report
	require.NoError(t, json.Unmarshal([]byte(stdout), &report), stderr)
	out := map[meta.State]meta.Finding{}
	for _, f := range report.Install {
		out[f.Cause] = f
	}
	return out
}

// TestDeliveriesNeedSafeCopies checks that deliveries are taken only while the cluster proves that it keeps what it
// acknowledges, or if the configuration accepts that it does not, which status and doctor then say.
func TestDeliveriesNeedSafeCopies(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		servers, replicas int
		sync, monitor     bool
		doubts            []string // all of them
	}{
		"three copies, synced":    {3, 3, true, true, nil},
		"three copies, not shown": {3, 3, true, false, []string{"these servers sync what they acknowledge: n1, n2, n3"}},
		"three copies, late sync": {3, 3, false, true, []string{"later: n1 (every 2m0s), n2 (every 2m0s), n3 (every 2m0s)"}},
		"two copies":              {3, 2, true, true, []string{"the stream has 2 of the 3 copies"}},
		"one copy":                {3, 1, true, true, []string{"the stream has 1 of the 3 copies"}},
		"one server":              {1, 1, true, true, []string{"the stream has 1 of the 3 copies"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := streamstest.RunCluster(t, c.servers, monitored, func(o *natsserver.Options) { o.SyncAlways = c.sync })
			cfg := testConfig(t.TempDir())
			cfg.NATS.URL, cfg.NATS.Replicas = config.Servers(cluster.URL()), c.replicas
			if c.monitor {
				cfg.NATS.MonitorURLs = monitors(cluster)
			}
			body := message("700", "31", "m_1", "x", 1790000000000)
			r := start(t, cfg)
			if c.doubts == nil {
				streamstest.Eventually(t, streamstest.Limit, func() error {
					if why := r.notReady(t); why != "" {
						return fmt.Errorf("not ready: %s", why)
					}
					return nil
				})
				require.Equal(t, 200, post(t, r.PublicAddr(), body))
				require.NotContains(t, r.examined(t), meta.StateMayLoseEvents)
				s := status(t, r)
				require.NotNil(t, s.Durability)
				assert.Empty(t, s.Durability.Doubts)
				assert.Equal(t, c.servers, s.Durability.ClusterSize)
				assert.Equal(t, int64(32<<20), s.Durability.MaxPayload)
				return
			}
			require.Equal(t, 503, post(t, r.PublicAddr(), body))
			reasons := r.notReady(t)
			found := r.examined(t)
			require.Equal(t, meta.Wrong, found[meta.StateMayLoseEvents].Severity)
			assert.Equal(t, meta.StateMayLoseEvents, found[meta.StateNotStoring].Because)
			require.Len(t, found[meta.StateMayLoseEvents].Evidence, len(c.doubts))
			for _, doubt := range c.doubts {
				assert.Contains(t, reasons, doubt)
				assert.Contains(t, strings.Join(found[meta.StateMayLoseEvents].Evidence, "\n"), doubt)
			}
			assert.Contains(t, reasons, "nats.accept_loss is not set")
			require.Zero(t, status(t, r).Stream.Events)
			r.stop(t)

			cfg.NATS.AcceptLoss = true
			r = start(t, cfg)
			require.Equal(t, 200, post(t, r.PublicAddr(), body))
			require.Empty(t, r.notReady(t))
			found = r.examined(t)
			require.Equal(t, meta.Warning, found[meta.StateMayLoseEvents].Severity)
			code, stdout, stderr := r.command(t, "status")
			require.Equal(t, cli.ExitOK, code, stderr)
			for _, doubt := range c.doubts {
				assert.Contains(t, stdout, doubt)
			}
			assert.Contains(t, r.log.String(), "the NATS servers may lose acknowledged events")
		})
	}
}

// TestDeliveriesFollowTheCopies checks that a change of the copies counts while the program runs, and that a server
// that is down does not make the others unproved.
func TestDeliveriesFollowTheCopies(t *testing.T) {
	t.Parallel()
	cluster := streamstest.RunCluster(t, 3, monitored, func(o *natsserver.Options) { o.SyncAlways = true })
	cfg := testConfig(t.TempDir())
	cfg.NATS.URL, cfg.NATS.MonitorURLs = config.Servers(cluster.URL()), monitors(cluster)
	r := start(t, cfg)
	n := 0
	answers := func(want int) {
		t.Helper()
		streamstest.Eventually(t, 3*streamstest.Limit, func() error {
			n++
			body := message("700", "31", fmt.Sprint("m_", n), "x", 1790000000000+int64(n))
			if got := post(t, r.PublicAddr(), body); got != want {
				return fmt.Errorf("answered %d", got)
			}
			return nil
		})
	}
	answers(503)
	code, _, stderr := r.command(t, "cluster", "scale", "--replicas", "3", "--yes")
	require.Equal(t, cli.ExitOK, code, stderr)
	answers(200)
	code, _, stderr = r.command(t, "cluster", "scale", "--replicas", "1", "--yes")
	require.Equal(t, cli.ExitOK, code, stderr)
	answers(503)
	code, _, stderr = r.command(t, "cluster", "scale", "--replicas", "3", "--yes")
	require.Equal(t, cli.ExitOK, code, stderr)
	answers(200)

	var follower *natsserver.Server
	for _, s := range cluster.Servers {
		if leader := cluster.Leader(t, streams.Name); s.Name() != leader {
			follower = s
		}
	}
	follower.Shutdown()
	follower.WaitForShutdown()
	answers(200)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); { // it is seen to be offline meanwhile
		require.Empty(t, status(t, r).Durability.Doubts)
	}
	streamstest.Eventually(t, streamstest.Limit, func() error {
		code, stdout, stderr := r.command(t, "status", "--cluster")
		require.Equal(t, cli.ExitOK, code, stderr)
		if !strings.Contains(stdout, follower.Name()+" OFFLINE") {
			return fmt.Errorf("%s is not offline in:\n%s", follower.Name(), stdout)
		}
		return nil
	})
}

// TestReadinessFollowsTheCluster checks that readiness and answers follow a leader that hands over, a leader that dies,
// and a quorum that is lost and comes back, also without deliveries.
func TestReadinessFollowsTheCluster(t *testing.T) {
	t.Parallel()
	cluster := streamstest.RunCluster(t, 3)
	cfg := testConfig(t.TempDir())
	cfg.NATS.URL, cfg.NATS.Replicas, cfg.NATS.AcceptLoss = config.Servers(cluster.URL()), 3, true
	r := start(t, cfg)
	n := 0
	stored := func(within time.Duration) {
		t.Helper()
		streamstest.Eventually(t, within, func() error {
			n++
			body := message("700", "31", fmt.Sprint("m_", n), "x", 1790000000000+int64(n))
			if got := post(t, r.PublicAddr(), body); got != 200 {
				return fmt.Errorf("answered %d", got)
			}
			return nil
		})
		streamstest.Eventually(t, time.Second, func() error {
			if why := r.notReady(t); why != "" {
				return fmt.Errorf("not ready: %s", why)
			}
			return nil
		})
	}
	stored(streamstest.Limit)

	_, err := cluster.JS.Conn().Request("$JS.API.STREAM.LEADER.STEPDOWN."+streams.Name, nil, streamstest.Limit)
	require.NoError(t, err)
	stored(5 * time.Second)

	leader := cluster.Leads(t, streams.Name)
	cluster.Halt(leader)
	stored(streamstest.Limit)

	other := cluster.Follower(t, streams.Name)
	if other == leader {
		other = cluster.Leads(t, streams.Name)
	}
	cluster.Halt(other)
	streamstest.Eventually(t, 10*time.Second, func() error { // there are no deliveries
		if why := r.notReady(t); !strings.Contains(why, "no NATS server can store events") {
			return fmt.Errorf("without a quorum readyz says %q", why)
		}
		return nil
	})
	n++
	require.Equal(t, 503, post(t, r.PublicAddr(), message("700", "31", fmt.Sprint("m_", n), "x", 1790000000000)))
	cluster.Restart(t, other)
	stored(2 * streamstest.Limit)
}
