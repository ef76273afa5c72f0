package server

import (
	"container/list"
	"net"
	"net/http"
	"net/netip"
	"sync"
)

// connections is a listener with a bounded number of connections. Beyond the limit the connection that
// has been idle longest is closed for a new one; if none is idle, the new one is closed. So idle
// connections don't keep others out. State must be the server's ConnState.
type connections struct {
	net.Listener
	// limit is the most connections, perAddress the most of one public address; 0 is none.
	limit, perAddress int

	mu        sync.Mutex
	open      int
	byAddress map[netip.Addr]int
	idle      list.List // of *connection, the one that has been idle longest first
}

// limitConnections returns a listener that limits the connections of ln.
func limitConnections(ln net.Listener, limit, perAddress int) *connections {
	return &connections{Listener: ln, limit: limit, perAddress: perAddress, byAddress: map[netip.Addr]int{}}
}

// connection is an accepted connection.
type connection struct {
	net.Conn
	of     *connections
	from   netip.Addr    // counted in byAddress; invalid if the address has no limit
	idle   *list.Element // in of.idle, nil while the connection is in use
	closed bool
}

// Accept waits for a connection within the limits. Those beyond are closed without an answer.
func (l *connections) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := l.admit(conn); c != nil {
			return c, nil
		}
		_ = conn.Close()
	}
}

// admit counts a connection. It returns nil if the connection is beyond a limit.
func (l *connections) admit(conn net.Conn) *connection {
	c := &connection{Conn: conn, of: l, from: limited(conn.RemoteAddr())}
	l.mu.Lock()
	if l.perAddress > 0 && c.from.IsValid() && l.byAddress[c.from] >= l.perAddress {
		l.mu.Unlock()
		return nil
	}
	var victim *connection
	if l.limit > 0 && l.open >= l.limit {
		oldest := l.idle.Front()
		if oldest == nil {
			l.mu.Unlock()
			return nil
		}
		victim, _ = oldest.Value.(*connection)
		l.forget(victim)
	}
	l.open++
	if c.from.IsValid() {
		l.byAddress[c.from]++
	}
	l.mu.Unlock()
	if victim != nil {
		_ = victim.Conn.Close()
	}
	return c
}

// limited returns the address by which a connection is counted: a /64 of IPv6. It is invalid for
// addresses without a limit: many callers share that of a proxy or of a network of one's own.
func limited(addr net.Addr) netip.Addr {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	a := tcp.AddrPort().Addr().Unmap()
	if a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() {
		return netip.Addr{}
	}
	if a.Is6() {
		p, err := a.WithZone("").Prefix(64)
		if err != nil {
			return netip.Addr{}
		}
		return p.Addr()
	}
	return a
}

// forget counts a connection as closed. The caller holds the lock.
func (l *connections) forget(c *connection) {
	if c.closed {
		return
	}
	c.closed = true
	l.open--
	if c.from.IsValid() {
		if l.byAddress[c.from]--; l.byAddress[c.from] == 0 {
			delete(l.byAddress, c.from)
		}
	}
	l.use(c)
}

// use takes a connection from the idle ones. The caller holds the lock.
func (l *connections) use(c *connection) {
	if c.idle != nil {
		l.idle.Remove(c.idle)
		c.idle = nil
	}
}

// state follows the state of a connection.
func (l *connections) state(conn net.Conn, s http.ConnState) {
	c, ok := conn.(*connection)
	if !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.use(c)
	if (s == http.StateNew || s == http.StateIdle) && !c.closed {
		c.idle = l.idle.PushBack(c)
	}
}

// Close closes the connection.
func (c *connection) Close() error {
	c.of.mu.Lock()
	c.of.forget(c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}
