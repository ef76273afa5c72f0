package embedded

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	// maxWaiting is how many connections may be open that have not authenticated. One more closes the
	// oldest of them.
	maxWaiting = 256
	// authTimeout is how long a connection may take to authenticate, with the TLS handshake.
	authTimeout = 2 * time.Second
	// writeTimeout is how long a connection may take to accept copySize bytes.
	writeTimeout = 5 * time.Second
	copySize     = 32 << 10
	// acceptPause is the wait after a connection could not be accepted, for example for want of files.
	acceptPause = 50 * time.Millisecond
)

// listener accepts the connections of users and hands them to the server as in-process connections. The
// server would count its own listener's connections and the process's together, so that others could take
// the places of the process. Here connections are bounded without the server: those that have not
// authenticated by maxWaiting, and the others by the limits of the users' accounts.
type listener struct {
	connect func() (net.Conn, error) // to the server
	tcp     net.Listener
	tls     *tls.Config // nil without TLS
	log     *slog.Logger

	wg sync.WaitGroup

	mu     sync.Mutex
	closed bool
	open   map[*conn]struct{}
	// byNonce are the open connections by the nonce that the server sent them.
	byNonce map[string]*conn
	waiting []*conn // those that have not authenticated, oldest first
}

// conn is a connection of a user.
type conn struct {
	outer, inner net.Conn // to the user, and to the server; inner is nil at first
	nonce, user  string
}

// listen starts accepting connections on an address.
func listen(
	connect func() (net.Conn, error), addr string, config *tls.Config, log *slog.Logger,
) (*listener, error) {
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	l := &listener{
		connect: connect, tcp: tcp, tls: config, log: log,
		open: make(map[*conn]struct{}), byNonce: make(map[string]*conn),
	}
	l.wg.Go(l.accept)
	return l, nil
}

// close closes the listener and its connections, and waits until they have ended. It is idempotent.
func (l *listener) close() {
	l.mu.Lock()
	l.closed = true
	_ = l.tcp.Close()
	for c := range l.open {
		c.close()
	}
	l.mu.Unlock()
	l.wg.Wait()
}

func (l *listener) accept() {
	for {
		outer, err := l.tcp.Accept()
		c := &conn{outer: outer}
		l.mu.Lock()
		switch {
		case l.closed:
			l.mu.Unlock()
			if err == nil {
				_ = outer.Close()
			}
			return
		case err != nil:
			l.mu.Unlock()
			l.log.Warn("connection can't be accepted", "err", err)
			time.Sleep(acceptPause)
			continue
		}
		if len(l.waiting) >= maxWaiting {
			l.waiting[0].close()
			l.waiting = l.waiting[1:]
		}
		l.waiting = append(l.waiting, c)
		l.open[c] = struct{}{}
		l.mu.Unlock()
		l.wg.Go(func() {
			err := l.serve(c)
			l.mu.Lock()
			c.close()
			delete(l.open, c)
			delete(l.byNonce, c.nonce)
			l.stopWaiting(c)
			l.mu.Unlock()
			l.log.Debug("connection ended", "from", outer.RemoteAddr(), "err", err)
		})
	}
}

// serve connects a user to the server, until one of them closes the connection.
func (l *listener) serve(c *conn) error {
	inner, err := l.connect()
	if err != nil {
		return fmt.Errorf("connect to server: %w", err)
	}
	in := bufio.NewReaderSize(inner, copySize)
	// The server sends this line first, with a nonce for the user to sign.
	hello, err := in.ReadSlice('\n')
	var info struct {
		Nonce string `json:"nonce"`
	}
	if err == nil {
		err = json.Unmarshal(bytes.TrimPrefix(hello, []byte("INFO ")), &info)
	}
	l.mu.Lock()
	c.inner, c.nonce = inner, info.Nonce
	l.byNonce[c.nonce] = c
	l.mu.Unlock()
	if err != nil {
		return fmt.Errorf("read info of server: %w", err)
	}
	if l.tls != nil {
		hello = bytes.Replace(hello, []byte("{"), []byte(`{"tls_required":true,`), 1)
	}
	if err := c.outer.SetDeadline(time.Now().Add(authTimeout)); err != nil {
		return fmt.Errorf("limit time: %w", err)
	}
	if _, err := c.outer.Write(hello); err != nil {
		return fmt.Errorf("write info: %w", err)
	}
	outer := c.outer
	if l.tls != nil {
		secured := tls.Server(c.outer, l.tls)
		if err := secured.HandshakeContext(context.Background()); err != nil {
			return fmt.Errorf("make TLS handshake: %w", err)
		}
		outer = secured
	}
	if err := c.outer.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("limit time: %w", err)
	}
	l.wg.Go(func() {
		_, _ = io.Copy(inner, outer) // fails when either is closed
		_ = inner.Close()
	})
	return forward(outer, in)
}

// forward copies what the server sends. If the user accepts nothing, it returns, so that the connection
// does not outlive the server's.
func forward(to net.Conn, from io.Reader) error {
	buf := make([]byte, copySize)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			_ = to.SetWriteDeadline(time.Now().Add(writeTimeout))
			if _, err := to.Write(buf[:n]); err != nil {
				return fmt.Errorf("write to user: %w", err)
			}
		}
		if err != nil {
			return fmt.Errorf("read from server: %w", err)
		}
	}
}

// close closes both sides. The caller must hold l.mu.
func (c *conn) close() {
	_ = c.outer.Close()
	if c.inner != nil {
		_ = c.inner.Close()
	}
}

// stopWaiting frees a connection's place among those that have not authenticated. The caller must hold
// l.mu.
func (l *listener) stopWaiting(c *conn) {
	if i := slices.Index(l.waiting, c); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	}
}

// accepted reports whether the connection with the nonce was accepted by the listener.
func (l *listener) accepted(nonce []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byNonce[string(nonce)] != nil
}

// authenticated records the user of a connection.
func (l *listener) authenticated(nonce []byte, user string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.byNonce[string(nonce)]; c != nil {
		c.user = user
		l.stopWaiting(c)
	}
}

// disconnect closes the connections of a user.
func (l *listener) disconnect(user string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		if c.user == user {
			c.close()
		}
	}
}
