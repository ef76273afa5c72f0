package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/audit"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/backup"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
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
	require.Len(t, before, 11, "%v", before)
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

// consumers returns the consumers.
func (r *running) consumers(t *testing.T) []consumers.Consumer {
	t.Helper()
	var list api.List[consumers.Consumer]
	require.NoError(t, r.do(t.Context(), http.MethodGet, "/api/v1/consumers", nil, nil, &list))
	return list.Items
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

// TestRestoreIntoACluster checks that the streams of a backup of the embedded server get as many copies as the
// cluster is to keep, and that consumers go on where they were.
func TestRestoreIntoACluster(t *testing.T) {
	t.Parallel()
	old := start(t, testConfig(t.TempDir()))
	old.makeStreams(t)
	fillConversations(t, old)
	dir := filepath.Join(t.TempDir(), "backup")
	code, _, stderr := old.command(t, "backup", dir)
	require.Equal(t, cli.ExitOK, code, stderr)

	c := streamstest.RunCluster(t, 3)
	cfg := testConfig(t.TempDir())
	cfg.NATS.URL, cfg.NATS.Replicas, cfg.NATS.AcceptLoss = config.Servers(c.URL()), 3, true
	code, out, stderr := offline(t, cfg, "restore", dir, "--erasures", "none")
	require.Equal(t, cli.ExitOK, code, out+stderr)
	r := start(t, cfg)
	for name, n := range r.replicas(t) {
		assert.Equal(t, 3, n, name)
	}
	require.Equal(t, old.digests(t), r.digests(t))
	streamstest.Eventually(t, streamstest.Limit, func() error {
		was, is := old.consumers(t), r.consumers(t)
		require.Len(t, was, 1)
		require.Len(t, is, 1)
		if is[0].Pending != was[0].Pending || is[0].Filled != was[0].Filled || is[0].PublicKey != was[0].PublicKey {
			return fmt.Errorf("consumer was %+v, is %+v", was[0], is[0])
		}
		return nil
	})

	// And back: a server that is alone keeps one copy.
	code, _, stderr = r.command(t, "backup", dir+"3")
	require.Equal(t, cli.ExitOK, code, stderr)
	single := testConfig(t.TempDir())
	code, out, stderr = offline(t, single, "restore", dir+"3", "--erasures", "none")
	require.Equal(t, cli.ExitOK, code, out+stderr)
	require.Equal(t, old.digests(t), start(t, single).digests(t))
}

// TestAuditOfACluster checks that an audit on any node knows what all nodes have stored, also those that are gone, and
// that the loss of what only another node has acknowledged is found.
func TestAuditOfACluster(t *testing.T) {
	t.Parallel()
	c := streamstest.RunCluster(t, 1)
	var nodes []*running
	for range 2 {
		cfg := testConfig(t.TempDir())
		cfg.NATS.URL, cfg.NATS.AcceptLoss = config.Servers(c.URL()), true
		nodes = append(nodes, start(t, cfg))
	}
	n := 0
	deliver := func(r *running, count int) {
		t.Helper()
		for range count {
			n++
			body := message("700", "31", fmt.Sprint("m_", n), "x", 1790000000000+int64(n))
			require.Equal(t, 200, post(t, r.PublicAddr(), body))
		}
	}
	audited := func(r *running, want int) (audit.Report, string) {
		t.Helper()
		code, out, stderr := r.command(t, "--json", "audit")
		var report audit.Report
		require.NoError(t, json.Unmarshal([]byte(out), &report), stderr)
		require.Equal(t, want, code, "%+v", report.Problems)
		_, out, _ = r.command(t, "audit")
		return report, out
	}
	deliver(nodes[0], 5)
	dir := filepath.Join(t.TempDir(), "older")
	_, err := backup.Take(t.Context(), backup.Options{Conn: c.JS.Conn(), Streams: []string{streams.Name}, Dir: dir})
	require.NoError(t, err)
	deliver(nodes[1], 3)
	for i, r := range nodes {
		streamstest.Eventually(t, streamstest.Limit, func() error { // the other one publishes within seconds
			report, out := audited(r, cli.ExitOK)
			if len(report.Others) != 1 || report.Intake.Uncounted > 0 {
				return fmt.Errorf("node %d: %s", i, out)
			}
			require.Equal(t, uint64(8), report.Intake.Stored+report.Others[0].Stored)
			require.Contains(t, out, "Of 8 webhook events, 0 were not counted by any of 2 webhook endpoints.")
			return nil
		})
	}
	deliver(nodes[1], 2)
	nodes[1].stop(t) // publishes the last ones
	report, _ := audited(nodes[0], cli.ExitOK)
	require.Zero(t, report.Intake.Uncounted)
	require.Equal(t, uint64(5), report.Others[0].Stored)

	// An older copy of the stream has all that the first node has stored, and not what the other one has.
	nodes[0].stop(t)
	require.NoError(t, c.JS.DeleteStream(t.Context(), streams.Name))
	_, err = backup.Restore(t.Context(), backup.RestoreOptions{Conn: c.JS.Conn(), Dir: dir})
	require.NoError(t, err)
	r := start(t, nodes[0].cfg)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if why := r.notReady(t); why != "" {
			return fmt.Errorf("not ready: %s", why)
		}
		return nil
	})
	_, out := audited(r, cli.ExitFailed)
	require.Regexp(t, `PROBLEM: 10 items were stored since .*, the stream has 5: an older stream was restored`, out)
	require.Regexp(t, `PROBLEM: event 10 was acknowledged by .*, the stream ends at 5`, out)
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
		streamstest.Eventually(t, streamstest.Limit, func() error {
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
	streamstest.Eventually(t, streamstest.Slower*10*time.Second, func() error { // there are no deliveries
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
