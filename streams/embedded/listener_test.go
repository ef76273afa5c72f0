package embedded_test

import (
	"bufio"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/streams/embedded"
)

// listening starts a server with a listener.
func listening(t *testing.T, change ...func(*embedded.Options)) *embedded.Server {
	t.Helper()
	o := embedded.Options{Dir: t.TempDir(), Sync: embedded.SyncInterval, Listen: "127.0.0.1:0"}
	for _, f := range change {
		f(&o)
	}
	return start(t, o)
}

// user is a user of the listener.
type user struct {
	nkeys.KeyPair
	public string
	login  nats.Option
}

// addUser allows a new user to connect, and to read from the consumer of the user's name.
func addUser(t *testing.T, s *embedded.Server, name string) (u user) {
	t.Helper()
	var err error
	u.KeyPair, err = nkeys.CreateUser()
	require.NoError(t, err)
	u.public, err = u.PublicKey()
	require.NoError(t, err)
	u.login = nats.Nkey(u.public, u.Sign)
	require.NoError(t, s.SetUser(embedded.User{Name: name, PublicKey: u.public, Stream: "S", Consumer: name}))
	return u
}

// connectLine is what a client sends to authenticate.
func (u user) connectLine(t *testing.T, nonce string) string {
	t.Helper()
	sig, err := u.Sign([]byte(nonce))
	require.NoError(t, err)
	return fmt.Sprintf(`CONNECT {"nkey":%q,"sig":%q,"verbose":false,"protocol":1}`,
		u.public, base64.RawURLEncoding.EncodeToString(sig))
}

// raw is a connection without a NATS client.
type raw struct {
	net.Conn
	in    *bufio.Reader
	nonce string
}

// dialRaw connects and reads the server's INFO.
func dialRaw(t *testing.T, s *embedded.Server) raw {
	t.Helper()
	c, err := net.DialTimeout("tcp", s.Addr(), limit)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	r := raw{Conn: c, in: bufio.NewReader(c)}
	require.NoError(t, c.SetReadDeadline(time.Now().Add(limit)))
	line, err := r.in.ReadString('\n')
	require.NoError(t, err)
	var info struct {
		Nonce string `json:"nonce"`
	}
	require.NoError(t, json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &info), line)
	r.nonce = info.Nonce
	return r
}

// send writes lines of the NATS protocol.
func (r raw) send(t *testing.T, lines ...string) {
	t.Helper()
	_, err := io.WriteString(r.Conn, strings.Join(lines, "\r\n")+"\r\n")
	require.NoError(t, err)
}

// logIn authenticates as a user.
func (r raw) logIn(t *testing.T, u user) {
	t.Helper()
	r.send(t, u.connectLine(t, r.nonce), "PING")
	line, err := r.in.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "PONG\r\n", line)
}

// rest reads until the server closes the connection, and fails if it does not.
func (r raw) rest(t *testing.T) string {
	t.Helper()
	out, err := io.ReadAll(r.in)
	require.False(t, isTimeout(err), "the connection stays open")
	return string(out)
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// TestOneSeedTakesFewPlaces checks that a user who opens hundreds of connections takes neither the
// places of the process nor those of other users.
func TestOneSeedTakesFewPlaces(t *testing.T) {
	s := listening(t)
	url, greedy, other := "nats://"+s.Addr(), addUser(t, s, "greedy"), addUser(t, s, "other")
	var mu sync.Mutex
	var held []*nats.Conn
	refused := map[string]int{}
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			for range 10 {
				nc, err := nats.Connect(url, greedy.login, nats.NoReconnect(), nats.Timeout(limit))
				mu.Lock()
				if err != nil {
					refused[err.Error()]++
				} else {
					held = append(held, nc)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Cleanup(func() {
		for _, nc := range held {
			nc.Close()
		}
	})
	assert.Equal(t, map[string]int{nats.ErrMaxAccountConnectionsExceeded.Error(): 292}, refused)
	assert.Len(t, held, 8)
	for range 20 {
		nc, err := s.Connect("process")
		require.NoError(t, err, "the process has no place left")
		t.Cleanup(nc.Close)
		require.NoError(t, nc.FlushTimeout(limit))
	}
	for range 8 {
		nc, err := nats.Connect(url, other.login)
		require.NoError(t, err, "another user has no place left")
		t.Cleanup(nc.Close)
	}
	held[0].Close()
	require.EventuallyWithT(t, func(t *assert.CollectT) {
		nc, err := nats.Connect(url, greedy.login)
		if assert.NoError(t, err, "the place of a closed connection is not free") {
			nc.Close()
		}
	}, limit, 10*time.Millisecond)
}

// TestSilentConnections checks that connections which never authenticate are closed within seconds, that
// only few of them are open at a time, and that users and the process still connect meanwhile.
func TestSilentConnections(t *testing.T) {
	s := listening(t)
	u, url := addUser(t, s, "u"), "nats://"+s.Addr()
	var begin time.Time
	var silent []net.Conn
	var others []*nats.Conn // of the process, and the last of a user
	flood := func() {
		begin = time.Now()
		for range 600 {
			c, err := net.DialTimeout("tcp", s.Addr(), limit)
			require.NoError(t, err)
			t.Cleanup(func() { c.Close() })
			silent = append(silent, c)
		}
		for range 20 {
			nc, err := s.Connect("process")
			require.NoError(t, err, "the process has no place left")
			t.Cleanup(nc.Close)
			others = append(others, nc)
		}
		nc, err := nats.Connect(url, u.login)
		require.NoError(t, err, "a user has no place left")
		t.Cleanup(nc.Close)
		others = append(others, nc)
	}
	flood()
	for start := begin; time.Since(begin) > time.Second && time.Since(start) < limit; { // the machine is busy: it takes too long
		for _, c := range silent {
			c.Close()
		}
		for _, nc := range others {
			nc.Close()
		}
		silent, others = nil, nil
		flood()
	}
	nc := others[len(others)-1]
	require.Less(t, time.Since(begin), 2*time.Second, "the flood was over before the others connected")
	var early int
	for _, c := range silent {
		require.NoError(t, c.SetReadDeadline(begin.Add(limit)))
		_, err := io.Copy(io.Discard, c)
		require.False(t, isTimeout(err), "a silent connection stays open")
		if time.Since(begin) < 1500*time.Millisecond {
			early++
		}
	}
	assert.GreaterOrEqual(t, early, 600-256, "so many silent connections were open at once")
	require.NoError(t, nc.FlushTimeout(limit), "an authenticated connection was closed")
}

// TestUnansweredPings checks that an authenticated connection is closed when it does not answer pings, so
// that connections of a program that is gone don't count any more.
func TestUnansweredPings(t *testing.T) {
	s := listening(t, func(o *embedded.Options) { o.PingInterval = 100 * time.Millisecond })
	u, url := addUser(t, s, "u"), "nats://"+s.Addr()
	c := dialRaw(t, s)
	c.logIn(t, u)
	live, err := nats.Connect(url, u.login)
	require.NoError(t, err)
	defer live.Close()
	begin := time.Now()
	assert.Contains(t, c.rest(t), "Stale Connection")
	assert.Less(t, time.Since(begin), limit)
	require.NoError(t, live.FlushTimeout(limit))
	assert.Zero(t, live.Stats().Reconnects, "a connection that answers was closed")
}

// TestUserLimits checks that a user can't fill the memory of the process with subscriptions or large
// messages.
func TestUserLimits(t *testing.T) {
	s := listening(t)
	u, url := addUser(t, s, "u"), "nats://"+s.Addr()
	problems := make(chan error, 1000)
	nc, err := nats.Connect(url, u.login,
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { problems <- err }))
	require.NoError(t, err)
	defer nc.Close()
	for i := range 300 {
		_, err := nc.SubscribeSync(fmt.Sprintf("_INBOX.%d", i))
		require.NoError(t, err)
	}
	require.NoError(t, nc.FlushTimeout(limit))
	select {
	case err := <-problems:
		require.ErrorIs(t, err, nats.ErrMaxSubscriptionsExceeded)
	case <-time.After(limit):
		require.Fail(t, "300 subscriptions were accepted")
	}
	err = nc.Publish("$JS.ACK.S.u.1.1.1.1.0", make([]byte, 64<<10))
	require.ErrorIs(t, err, nats.ErrMaxPayload)

	c := dialRaw(t, s)
	c.logIn(t, u)
	c.send(t, "PUB $JS.ACK.S.u.1.1.1.1.0 1048576")
	require.Contains(t, c.rest(t), "Maximum Payload Violation")
}

// TestNobodyPosesAsTheProcess checks that the process's own user can't connect through the listener, and
// that a connection has no access before it has authenticated.
func TestNobodyPosesAsTheProcess(t *testing.T) {
	s := listening(t)
	_, js := open(t, s)
	_, err := js.CreateStream(deadline(t), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	require.NoError(t, err)
	u := addUser(t, s, "u")
	for name, first := range map[string]func(nonce string) string{
		"the process":       func(string) string { return `CONNECT {"user":"pagestream","pass":""}` },
		"before connecting": func(string) string { return "PING" },
		"another nonce":     func(string) string { return u.connectLine(t, "another") },
		"an account": func(nonce string) string {
			return strings.Replace(u.connectLine(t, nonce), "{", `{"account":"$G",`, 1)
		},
	} {
		c := dialRaw(t, s)
		c.send(t, first(c.nonce), "PUB s.x 1", "x", "PING")
		assert.NotContains(t, c.rest(t), "PONG", name)
	}
	st, err := js.Stream(deadline(t), "S")
	require.NoError(t, err)
	assert.Zero(t, st.CachedInfo().State.LastSeq)
}

// TestReaderThatDoesNotRead checks that a connection which takes nothing from its socket is closed,
// although what it asked for still waits to be sent.
func TestReaderThatDoesNotRead(t *testing.T) {
	t.Parallel()
	s := listening(t, func(o *embedded.Options) { o.PingInterval = 100 * time.Millisecond })
	_, js := open(t, s)
	_, err := js.CreateStream(deadline(t), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	require.NoError(t, err)
	for range 60 {
		_, err := js.Publish(deadline(t), "s.x", make([]byte, 512<<10))
		require.NoError(t, err)
	}
	_, err = js.CreateConsumer(deadline(t), "S", jetstream.ConsumerConfig{
		Durable: "u", AckPolicy: jetstream.AckExplicitPolicy,
	})
	require.NoError(t, err)
	u := addUser(t, s, "u")
	c := dialRaw(t, s)
	require.NoError(t, c.Conn.(*net.TCPConn).SetReadBuffer(4096))
	c.logIn(t, u)
	c.send(t, "SUB _INBOX.x 1", `PUB $JS.API.CONSUMER.MSG.NEXT.S.u _INBOX.x 12`, `{"batch":60}`)
	require.EventuallyWithT(t, func(t *assert.CollectT) {
		_, err := io.WriteString(c.Conn, "PONG\r\n")
		assert.Error(t, err, "the connection stays open")
	}, limit, 50*time.Millisecond)
}

// TestListenerWithTLS checks that the listener accepts nothing without TLS, also from a client that was not
// told to use it, and that a connection which does not finish the handshake is closed within seconds.
func TestListenerWithTLS(t *testing.T) {
	web := httptest.NewTLSServer(nil)
	defer web.Close()
	certFile, keyFile := filepath.Join(t.TempDir(), "cert"), filepath.Join(t.TempDir(), "key")
	key, err := x509.MarshalPKCS8PrivateKey(web.TLS.Certificates[0].PrivateKey)
	require.NoError(t, err)
	for path, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: web.Certificate().Raw}, keyFile: {Type: "PRIVATE KEY", Bytes: key},
	} {
		require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(block), 0o600))
	}
	s := listening(t, func(o *embedded.Options) { o.CertFile, o.KeyFile = certFile, keyFile })
	u := addUser(t, s, "u")
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())
	silent, plain := dialRaw(t, s), dialRaw(t, s)
	begin := time.Now()
	plain.send(t, u.connectLine(t, plain.nonce), "PING")
	assert.NotContains(t, plain.rest(t), "PONG")
	for _, scheme := range []string{"tls://", "nats://"} {
		_, err := nats.Connect(scheme+s.Addr(), u.login)
		require.Error(t, err, "the client accepted an unknown certificate: it did not use TLS")
		nc, err := nats.Connect(scheme+s.Addr(), u.login, nats.ClientTLSConfig(nil, func() (*x509.CertPool, error) {
			return roots, nil
		}))
		require.NoError(t, err)
		t.Cleanup(nc.Close)
		require.NoError(t, nc.FlushTimeout(limit))
		state, err := nc.TLSConnectionState()
		require.NoError(t, err)
		assert.True(t, state.HandshakeComplete)
	}
	assert.Empty(t, silent.rest(t))
	assert.Greater(t, time.Since(begin), time.Second)
	nc, err := s.Connect("process")
	require.NoError(t, err)
	nc.Close()
}
