// Package streamstest runs a real server in process, for tests of pagestream
// and of programs that consume its events.
package streamstest

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
)

// Limit bounds what a helper of this package waits for.
const Limit = 30 * time.Second

// Server is a running server with one connection.
type Server struct {
	*embedded.Server
	Conn *nats.Conn
	JS   jetstream.JetStream
	Dir  string
}

// Run starts a server in a directory that goes with the test, and stops it at
// its end. Change, if given, changes the options first.
func Run(t testing.TB, change ...func(*embedded.Options)) *Server {
	t.Helper()
	o := embedded.Options{Dir: t.TempDir()}
	for _, f := range change {
		f(&o)
	}
	ctx, cancel := context.WithTimeout(context.Background(), Limit)
	defer cancel()
	es, err := embedded.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Server: es, Dir: o.Dir}
	t.Cleanup(func() { s.Stop(t) })
	s.Conn = s.Connection(t)
	if s.JS, err = jetstream.New(s.Conn); err != nil {
		t.Fatal(err)
	}
	return s
}

// Stop closes the connection and stops the server before the test's end.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	if s.Conn != nil {
		s.Conn.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), Limit)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

// Connection returns a further connection, closed at the test's end.
func (s *Server) Connection(t testing.TB) *nats.Conn {
	t.Helper()
	nc, err := s.Connect(t.Name())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Stream makes sure of the stream and returns its identity.
func (s *Server) Stream(t testing.TB, spec streams.Spec) streams.Identity {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Limit)
	defer cancel()
	id, err := streams.Ensure(ctx, s.JS, spec)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Eventually polls check until it returns nil, and fails the test with its last
// error after the limit.
func Eventually(t testing.TB, limit time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s: %v", limit, err)
		}
		<-tick.C
	}
}
