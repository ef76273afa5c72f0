// Package streamstest runs a real NATS server in the process, for tests of pagestream and of programs
// that consume its events.
package streamstest

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
)

// Limit is the longest time that a function of this package waits. The race detector makes everything slower.
const Limit = Slower * 30 * time.Second

// Server is a running server with one connection, which reconnects after a restart of the server.
type Server struct {
	Conn *nats.Conn
	JS   jetstream.JetStream // on Conn
	Dir  string              // of the server's files

	opts embedded.Options

	mu      sync.Mutex
	running *embedded.Server
}

// Run starts a server in a temporary directory, and stops it at the end of the test. The change
// functions, if any, change the options first.
func Run(t testing.TB, change ...func(*embedded.Options)) *Server {
	t.Helper()
	o := embedded.Options{Dir: t.TempDir()}
	for _, f := range change {
		f(&o)
	}
	s := &Server{Dir: o.Dir, opts: o}
	s.Start(t)
	t.Cleanup(func() { s.Stop(t) })
	s.Conn = s.Connection(t)
	var err error
	s.JS, err = jetstream.New(s.Conn, jetstream.WithDefaultTimeout(Limit))
	require.NoError(t, err)
	return s
}

// DeleteStream deletes a stream, so that it can be made again at once. With the last stream of an account, nats-server
// deletes the account's directory some time after its answer, which fails the stream that is made meanwhile. So another
// stream is there first.
func (s *Server) DeleteStream(t testing.TB, name string) {
	t.Helper()
	_, err := s.JS.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "stays", Subjects: []string{"stays"}})
	require.NoError(t, err)
	require.NoError(t, s.JS.DeleteStream(t.Context(), name))
}

// Start starts the server again after Halt, on the same directory. When it returns, Conn is connected again: a request that
// is sent as a connection breaks is never answered.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Limit)
	defer cancel()
	es, err := embedded.Start(ctx, s.opts)
	require.NoError(t, err)
	s.mu.Lock()
	s.running = es
	s.mu.Unlock()
	if s.Conn == nil || s.Conn.IsClosed() {
		return
	}
	Eventually(t, Limit, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := s.JS.AccountInfo(ctx)
		return err
	})
}

// Halt stops the server as an unexpected restart does: connections are lost, not closed, and reconnect
// after Start.
func (s *Server) Halt(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Limit)
	defer cancel()
	assert.NoError(t, s.Embedded().Shutdown(ctx))
}

// Stop closes the connection and stops the server. Run calls it at the end of the test.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	if s.Conn != nil {
		s.Conn.Close()
	}
	s.Halt(t)
}

// Embedded returns the server that runs now, or the one that ran last.
func (s *Server) Embedded() *embedded.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running
}

// InProcessConn connects to the server that runs now. It implements [nats.InProcessConnProvider].
func (s *Server) InProcessConn() (net.Conn, error) { return s.Embedded().InProcessConn() }

// Connection returns a new connection, which is closed at the end of the test.
func (s *Server) Connection(t testing.TB) *nats.Conn {
	t.Helper()
	nc, err := s.Embedded().Connect(t.Name(), nats.InProcessServer(s), nats.ReconnectWait(10*time.Millisecond))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	return nc
}

// Stream creates or updates the stream with [streams.Ensure] and returns its identity.
func (s *Server) Stream(t testing.TB, spec streams.Spec) streams.Identity {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Limit)
	defer cancel()
	id, err := streams.Ensure(ctx, s.JS, spec)
	require.NoError(t, err)
	return id
}

// Eventually calls check every few milliseconds until it returns nil. If it still fails after the limit,
// the test fails with its last error. It rests as long as a check took, so that the checks leave at least half of the
// time to what they wait for, but never for longer than 250 ms.
func Eventually(t testing.TB, limit time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		began := time.Now()
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			require.NoError(t, err, "after %s", limit)
		}
		<-time.After(min(max(time.Since(began), 5*time.Millisecond), 250*time.Millisecond))
	}
}
