package embedded

import (
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"

	"github.com/nats-io/jwt/v2"
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
	userPrefix  = "consumer-"
	// nobodyPrefix starts subjects that no stream has and nobody listens to.
	nobodyPrefix = "_nobody."
)

// Limits of one user. A program needs one connection and a few subscriptions; what it sends are requests
// and acknowledgements.
const (
	MaxUserConnections = 8
	// MaxUserSubscriptions are those of each connection.
	MaxUserSubscriptions = 256
	MaxUserPayload       = 16 << 10
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
	password string      // of processUser
	tls      *tls.Config // nil without TLS

	mu       sync.Mutex
	byKey    map[string]registered
	listener *listener
}

type registered struct {
	User

	account *server.Account
}

// newUsers returns the users of the listener, or nil if the server must not listen.
func (o Options) newUsers() (*users, error) {
	if o.Listen == "" {
		return nil, nil //nolint:nilnil // the server does not listen
	}
	host, port, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return nil, err
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return nil, fmt.Errorf("port %q is not a number", port)
	}
	// The password is new at each start.
	u := &users{password: rand.Text(), byKey: make(map[string]registered)}
	if o.CertFile != "" || o.KeyFile != "" {
		cert, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("load certificate: %w", err)
		}
		u.tls = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	}
	if ip := net.ParseIP(host); u.tls == nil && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, ErrNeedsTLS
	}
	return u, nil
}

// listen starts the listener, which hands connections to those that connect makes.
func (u *users) listen(connect func() (net.Conn, error), addr string, log *slog.Logger) (err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.listener, err = listen(connect, addr, u.tls, log)
	return err
}

// Check authenticates a connection. It is called by the server for every connection.
func (u *users) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.listener == nil || !u.listener.accepted(c.GetNonce()) {
		return o.Username == processUser && subtle.ConstantTimeCompare([]byte(o.Password), []byte(u.password)) == 1
	}
	user, known := u.byKey[o.Nkey]
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
	u.listener.authenticated(c.GetNonce(), user.Name)
	// If the account has no place left, RegisterUser tells the client so and closes the connection.
	full := user.account.MaxTotalConnectionsReached()
	allow := user.subjects()
	c.RegisterUser(&server.User{
		Username: user.Name, Account: user.account,
		Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: allow},
			Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
		},
	})
	return !full
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
	account, err := u.register(s.ns.Load())
	if err != nil {
		return err
	}
	s.users.remove(u.Name)
	s.users.byKey[u.PublicKey] = registered{User: u, account: account}
	return nil
}

// register returns the user's account on a server, and makes it if there is none.
func (u User) register(ns *server.Server) (*server.Account, error) {
	account, fresh := ns.LookupOrRegisterAccount(userPrefix + u.Name)
	if !fresh {
		return account, nil
	}
	return account, connectAccount(ns, account, u.subjects())
}

// connectAccount sets the limits of a user's account and lets it make requests to the stream's account,
// which answers them on these subjects from this account only.
func connectAccount(ns *server.Server, account *server.Account, subjects []string) error {
	global := ns.GlobalAccount()
	only := []*server.Account{account}
	// An account without an import of JetStream's info gets all of JetStream's API, which answers that the
	// account has no JetStream. So it has one, of a subject that nobody answers.
	nobody := nobodyPrefix + account.Name
	if err := global.AddServiceExport(nobody, only); err != nil {
		return fmt.Errorf("export %s: %w", nobody, err)
	}
	claims := jwt.NewAccountClaims(account.Name)
	claims.Imports.Add(&jwt.Import{
		Account: global.Name, Type: jwt.Service, Subject: jwt.Subject(nobody), LocalSubject: server.JSApiAccountInfo,
	})
	claims.Limits.Conn, claims.Limits.LeafNodeConn = MaxUserConnections, 0
	claims.Limits.Subs, claims.Limits.Payload = MaxUserSubscriptions, MaxUserPayload
	ns.UpdateAccountClaims(account, claims) // before the other imports, which it would remove
	for i, subject := range subjects {
		kind := server.Singleton
		if i == 0 {
			kind = server.Streamed // one request, many messages
		}
		if err := global.AddServiceExportWithResponse(subject, kind, only); err != nil {
			return fmt.Errorf("export %s: %w", subject, err)
		}
		if err := account.AddServiceImport(global, subject, subject); err != nil {
			return fmt.Errorf("import %s: %w", subject, err)
		}
	}
	return nil
}

// RemoveUser closes the user's connections and refuses new ones. It is idempotent.
func (s *Server) RemoveUser(name string) {
	if s.users == nil {
		return
	}
	s.users.mu.Lock()
	defer s.users.mu.Unlock()
	s.users.remove(name)
}

// remove deletes a user and closes its connections. The caller must hold u.mu.
func (u *users) remove(name string) {
	for key, user := range u.byKey {
		if user.Name == name {
			delete(u.byKey, key)
			u.listener.disconnect(name)
		}
	}
}

// Addr returns the address that users connect to, empty if the server does not listen.
func (s *Server) Addr() string {
	if s.users == nil {
		return ""
	}
	return s.users.listener.tcp.Addr().String()
}
