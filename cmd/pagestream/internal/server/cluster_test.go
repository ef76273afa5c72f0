package server_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
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
	cfg.NATS.URL, cfg.NATS.Replicas = config.Servers(c.URL()), 3
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
