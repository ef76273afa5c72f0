package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// from is a listener whose connections seem to have other addresses.
type from struct {
	net.Listener
	addr net.Addr
}

func (f from) Accept() (net.Conn, error) {
	c, err := f.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return fromConn{c, f.addr}, nil
}

type fromConn struct {
	net.Conn
	addr net.Addr
}

func (c fromConn) RemoteAddr() net.Addr { return c.addr }

// limitedServer serves HTTP with limits to connections that seem to come from addr. A request for /wait
// is answered when release is closed; its handler sends on begun.
func limitedServer(t *testing.T, addr string, limit, perAddress int) (l *connections, release, begun chan struct{}) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	require.NoError(t, err)
	l, release, begun = limitConnections(from{ln, tcp}, limit, perAddress), make(chan struct{}), make(chan struct{}, limit)
	s := &http.Server{ReadHeaderTimeout: time.Minute, ConnState: l.state, Handler: http.HandlerFunc(
		func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/wait" {
				begun <- struct{}{}
				<-release
			}
		})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	return l, release, begun
}

// ask sends a request on a new connection, and returns a function that reads the answer.
func ask(t *testing.T, l *connections, path string) (net.Conn, func() error) {
	t.Helper()
	conn, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	again := func() error {
		if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			return err
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
	return conn, again
}

// isIdle waits until the server knows that a connection is idle, which is a moment after its answer was read.
func isIdle(t *testing.T, l *connections) {
	t.Helper()
	require.Eventually(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.idle.Len() > 0
	}, 20*time.Second, time.Millisecond)
}

func TestTheIdleConnectionGivesWay(t *testing.T) {
	t.Parallel()
	l, release, begun := limitedServer(t, "192.0.2.1:1", 2, 0)
	idle, answer := ask(t, l, "/")
	require.NoError(t, answer())
	isIdle(t, l)
	_, waiting := ask(t, l, "/wait")
	_, answer = ask(t, l, "/wait")
	for range 2 { // both are in use, and the idle one was closed
		select {
		case <-begun:
		case <-time.After(20 * time.Second):
			require.Fail(t, "a request does not begin")
		}
	}
	require.NoError(t, idle.SetReadDeadline(time.Now().Add(20*time.Second)))
	_, err := idle.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)

	_, refused := ask(t, l, "/")
	require.Error(t, refused(), "none is idle")
	close(release)
	require.NoError(t, waiting())
	require.NoError(t, answer())
	isIdle(t, l)
	_, answer = ask(t, l, "/")
	require.NoError(t, answer())
}

func TestAnAddressHasItsOwnLimit(t *testing.T) {
	t.Parallel()
	for addr, limited := range map[string]bool{
		"192.0.2.1:1": true, "[2001:db8::1]:1": true, "[::ffff:192.0.2.1]:1": true,
		"127.0.0.1:1": false, "10.1.2.3:1": false, "192.168.1.1:1": false, "[::1]:1": false, "[fd00::1]:1": false,
	} {
		t.Run(addr, func(t *testing.T) {
			l, release, _ := limitedServer(t, addr, 100, 2)
			defer close(release)
			conn, answer := ask(t, l, "/")
			require.NoError(t, answer())
			_, answer = ask(t, l, "/")
			require.NoError(t, answer())
			_, answer = ask(t, l, "/")
			if !limited {
				require.NoError(t, answer())
				return
			}
			require.Error(t, answer())
			conn.Close()
			require.Eventually(t, func() bool {
				_, answer := ask(t, l, "/")
				return answer() == nil
			}, 20*time.Second, time.Millisecond)
		})
	}
}

func TestAnAddressIsCountedByItsNetwork(t *testing.T) {
	t.Parallel()
	of := func(s string) any {
		tcp, err := net.ResolveTCPAddr("tcp", s)
		require.NoError(t, err)
		return limited(tcp)
	}
	require.Equal(t, of("[2001:db8::1]:1"), of("[2001:db8::ffff:2]:2"))
	require.NotEqual(t, of("[2001:db8::1]:1"), of("[2001:db8:0:1::1]:1"))
	require.NotEqual(t, of("192.0.2.1:1"), of("192.0.2.2:1"))
}
