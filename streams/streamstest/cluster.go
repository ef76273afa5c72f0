package streamstest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// Cluster is a running NATS cluster with JetStream, in this process.
type Cluster struct {
	Servers []*natsserver.Server
	// JS is connected to all servers.
	JS jetstream.JetStream

	options []*natsserver.Options // of Servers
}

// RunCluster starts a cluster of n servers, or a single server that is in no cluster, on free ports of 127.0.0.1, and
// waits until the cluster has elected a leader. change may set further options of each server. It stops with the test.
func RunCluster(t testing.TB, n int, change ...func(*natsserver.Options)) *Cluster {
	t.Helper()
	var routes []*url.URL
	for range n { // each server needs the routes of all at its start
		routes = append(routes, &url.URL{Scheme: "nats", Host: FreeAddr(t)})
	}
	c, dir := &Cluster{}, t.TempDir()
	for i, route := range routes {
		_, port, err := net.SplitHostPort(route.Host)
		require.NoError(t, err)
		o := &natsserver.Options{
			ServerName: fmt.Sprint("n", i+1), Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, NoSigs: true, NoLog: true,
			JetStream: true, StoreDir: filepath.Join(dir, fmt.Sprint("n", i+1)), MaxPayload: 32 << 20,
		}
		if n > 1 {
			o.Routes = routes
			o.Cluster = natsserver.ClusterOpts{Name: "test", Host: "127.0.0.1", PoolSize: -1}
			_, err = fmt.Sscan(port, &o.Cluster.Port)
			require.NoError(t, err)
		}
		for _, f := range change {
			f(o)
		}
		s, err := natsserver.NewServer(o)
		require.NoError(t, err)
		s.Start()
		c.Servers, c.options = append(c.Servers, s), append(c.options, o)
	}
	t.Cleanup(func() {
		for _, s := range c.Servers {
			s.Shutdown()
		}
		for _, s := range c.Servers {
			s.WaitForShutdown()
		}
	})
	for _, s := range c.Servers {
		require.True(t, s.ReadyForConnections(Limit))
	}
	Eventually(t, 3*Limit, func() error {
		for _, s := range c.Servers {
			if n == 1 || s.JetStreamIsLeader() && len(s.JetStreamClusterPeers()) == n {
				return nil
			}
		}
		return fmt.Errorf("no leader of %d servers", n)
	})
	nc, err := nats.Connect(c.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	c.JS, err = jetstream.New(nc, jetstream.WithDefaultTimeout(Limit))
	require.NoError(t, err)
	Eventually(t, Limit, func() error {
		_, err := c.JS.AccountInfo(t.Context())
		return err
	})
	return c
}

// URL returns the URLs of all servers, separated by commas.
func (c *Cluster) URL() string {
	var urls []string
	for _, s := range c.Servers {
		urls = append(urls, s.ClientURL())
	}
	return strings.Join(urls, ",")
}

// Replicas returns how many copies of a stream the cluster keeps.
func (c *Cluster) Replicas(t testing.TB, stream string) int {
	t.Helper()
	st, err := c.JS.Stream(t.Context(), stream)
	require.NoError(t, err)
	return st.CachedInfo().Config.Replicas
}

// Leader returns the name of the server that leads a stream.
func (c *Cluster) Leader(t testing.TB, stream string) string {
	t.Helper()
	st, err := c.JS.Stream(t.Context(), stream)
	require.NoError(t, err)
	require.NotNil(t, st.CachedInfo().Cluster)
	return st.CachedInfo().Cluster.Leader
}

// Leads returns the index of the server that leads a stream.
func (c *Cluster) Leads(t testing.TB, stream string) int {
	t.Helper()
	leader := c.Leader(t, stream)
	return slices.IndexFunc(c.Servers, func(s *natsserver.Server) bool { return s.Name() == leader })
}

// Follower returns the index of a server that does not lead a stream.
func (c *Cluster) Follower(t testing.TB, stream string) int {
	t.Helper()
	leader := c.Leader(t, stream)
	return slices.IndexFunc(c.Servers, func(s *natsserver.Server) bool { return s.Name() != leader })
}

// Halt stops a server, and Restart starts it again on its files, with the address that it had.
func (c *Cluster) Halt(i int) {
	o, s := c.options[i], c.Servers[i]
	if addr, ok := s.Addr().(*net.TCPAddr); ok {
		o.Port = addr.Port
	}
	s.Shutdown()
	s.WaitForShutdown()
}

// Restart is described at [Cluster.Halt]. It does not wait until the server has what the others have.
func (c *Cluster) Restart(t testing.TB, i int) {
	t.Helper()
	s, err := natsserver.NewServer(c.options[i])
	require.NoError(t, err)
	s.Start()
	c.Servers[i] = s
	require.True(t, s.ReadyForConnections(Limit))
}

// given has the addresses that FreeAddr has returned.
var given sync.Map

// FreeAddr returns an address of 127.0.0.1 that nothing listened on a moment ago. It is for a server whose address others
// must know before it starts, or that is started again: where it is possible, use port 0.
func FreeAddr(t testing.TB) string {
	t.Helper()
	for range 100 {
		// The system gives nobody a port of this range by itself, so that none is taken between two uses.
		addr := fmt.Sprint("127.0.0.1:", 20_000+rand.IntN(12_000))
		if _, twice := given.LoadOrStore(addr, true); twice {
			continue
		}
		if ln, err := net.Listen("tcp", addr); err == nil {
			require.NoError(t, ln.Close())
			return addr
		}
	}
	require.Fail(t, "no port is free")
	return ""
}
