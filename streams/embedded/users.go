package embedded

import (
	"cmp"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
)

// Errors of the listener.
var (
	// ErrNeedsTLS is returned when the server would listen without TLS on an address that is not loopback.
	ErrNeedsTLS = errors.New(
		"an address that other machines can reach needs TLS; set the certificate, or listen on 127.0.0.1")
	// ErrNotListening is returned when a user is set on a server that does not listen.
	ErrNotListening = errors.New("the embedded server does not listen; set nats.listen")
	// ErrPublicKey is returned when a user's key is not the public nkey of a user.
	ErrPublicKey = errors.New("not the public nkey of a user")
)

const (
	// processUser is the user name of the process's own connections.
	processUser = "pagestream"
	// maxUserConnections is the most connections of all users together.
	maxUserConnections = 256
	userPrefix         = "consumer-"
	tlsTimeout         = 5 * time.Second
)

// User is a NATS user who may read from one consumer and do nothing else.
type User struct {
	Name string
	// PublicKey is the user's public nkey, "U…". Only the user has the seed.
	PublicKey string
	// Stream and Consumer are what the user may pull from.
	Stream, Consumer string
}

// users are the users who may connect, by public key. Each has a separate account, which imports only
// the subjects of its consumer. What a user sends can reach no other subject, not even as the reply
// subject of a request.
type users struct {
	password string // of processUser

	mu    sync.Mutex
	byKey map[string]registered
}

type registered struct {
	User

	account *server.Account
}

// listen sets the options of the listener in opts. It returns nil users if the server must not listen.
func (o Options) listen(opts *server.Options) (*users, error) {
	if o.Listen == "" {
		return nil, nil //nolint:nilnil // the server does not listen
	}
	host, p, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(p)
	if err != nil {
		return nil, fmt.Errorf("port %q is not a number", p)
	}
	if o.CertFile != "" || o.KeyFile != "" {
		cert, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("load certificate: %w", err)
		}
		opts.TLS, opts.TLSTimeout = true, tlsTimeout.Seconds()
		opts.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	}
	if ip := net.ParseIP(host); !opts.TLS && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, ErrNeedsTLS
	}
	// The password is new at each start.
	u := &users{password: rand.Text(), byKey: make(map[string]registered)}
	opts.DontListen, opts.Host, opts.Port = false, host, cmp.Or(port, server.RANDOM_PORT)
	opts.CustomClientAuthentication, opts.AlwaysEnableNonce = u, true
	opts.MaxConn = maxUserConnections
	return u, nil
}

// Check authenticates a connection. It is called by the server for every connection.
func (u *users) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	if o.Username == processUser {
		return subtle.ConstantTimeCompare([]byte(o.Password), []byte(u.password)) == 1
	}
	u.mu.Lock()
	user, known := u.byKey[o.Nkey]
	u.mu.Unlock()
	if !known {
		return false
	}
	sig, err := base64.RawURLEncoding.DecodeString(o.Sig)
	if err != nil {
		if sig, err = base64.StdEncoding.DecodeString(o.Sig); err != nil {
			return false
		}
	}
	key, err := nkeys.FromPublicKey(user.PublicKey)
	if err != nil || key.Verify(c.GetNonce(), sig) != nil {
		return false
	}
	allow := user.subjects()
	c.RegisterUser(&server.User{
		Username: user.Name, Account: user.account,
		Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: allow},
			Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
		},
	})
	return true
}

// subjects returns the subjects that the user may publish to: those for requesting messages, for the
// consumer's state, and for acknowledgements. JetStream's API defines them.
func (u User) subjects() []string {
	at := u.Stream + "." + u.Consumer
	return []string{"$JS.API.CONSUMER.MSG.NEXT." + at, "$JS.API.CONSUMER.INFO." + at, "$JS.ACK." + at + ".>"}
}

// SetUser allows a user to connect, from now on until RemoveUser or the end of the process. It is
// idempotent. A new key replaces the old one and closes the connections that were made with it.
// [ErrNotListening] is returned when the server does not listen, [ErrPublicKey] for an invalid key.
func (s *Server) SetUser(u User) error {
	if s.users == nil {
		return ErrNotListening
	}
	if !nkeys.IsValidPublicUserKey(u.PublicKey) {
		return fmt.Errorf("user %s: %w", u.Name, ErrPublicKey)
	}
	s.users.mu.Lock()
	defer s.users.mu.Unlock()
	if old, found := s.users.byKey[u.PublicKey]; found && old.User == u {
		return nil
	}
	account, fresh := s.ns.LookupOrRegisterAccount(userPrefix + u.Name)
	if fresh {
		// The stream's account answers requests on these subjects, from this account only.
		global := s.ns.GlobalAccount()
		for i, subject := range u.subjects() {
			kind := server.Singleton
			if i == 0 {
				kind = server.Streamed // one request, many messages
			}
			if err := global.AddServiceExportWithResponse(subject, kind, []*server.Account{account}); err != nil {
				return fmt.Errorf("export %s: %w", subject, err)
			}
			if err := account.AddServiceImport(global, subject, subject); err != nil {
				return fmt.Errorf("import %s: %w", subject, err)
			}
		}
	}
	s.users.remove(s.ns, u.Name)
	s.users.byKey[u.PublicKey] = registered{User: u, account: account}
	return nil
}

// RemoveUser closes the user's connections and refuses new ones. It is idempotent.
func (s *Server) RemoveUser(name string) {
	if s.users == nil {
		return
	}
	s.users.mu.Lock()
	defer s.users.mu.Unlock()
	s.users.remove(s.ns, name)
}

// remove deletes a user and closes its connections. The caller must hold u.mu.
func (u *users) remove(ns *server.Server, name string) {
	for key, user := range u.byKey {
		if user.Name != name {
			continue
		}
		delete(u.byKey, key)
		list, err := ns.Connz(&server.ConnzOptions{
			Username: true, Account: user.account.Name, Limit: maxUserConnections,
		})
		if err != nil {
			continue // the account has no connections
		}
		for _, c := range list.Conns {
			_ = ns.DisconnectClientByID(c.Cid) // it may already be closed
		}
	}
}

// Addr returns the address that users connect to, empty if the server does not listen.
func (s *Server) Addr() string {
	if s.users == nil {
		return ""
	}
	return s.ns.Addr().String()
}
