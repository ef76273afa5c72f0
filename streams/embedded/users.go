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
	// ErrPlain is returned when others could read along.
	ErrPlain = errors.New("an address that others reach needs TLS; set the certificate, or listen on 127.0.0.1")
	// ErrNotListening is returned when nobody can connect.
	ErrNotListening = errors.New("the embedded server does not listen; set nats.listen")
	// ErrPublicKey is returned when a user's key is none.
	ErrPublicKey = errors.New("not the public nkey of a user")
)

const (
	// ownUser is who the process itself connects as.
	ownUser = "pagestream"
	// maxUserConnections bounds the connections of users.
	maxUserConnections = 256
	userPrefix         = "consumer-"
	tlsTimeout         = 5 * time.Second
)

// User is one who may read through one consumer and do nothing else.
type User struct {
	Name string
	// PublicKey is the user's nkey, "U…"; the seed is the user's alone.
	PublicKey string
	// Stream and Consumer are what the user may pull from.
	Stream, Consumer string
}

// users are those who may connect, by public key. Each has an account of its own,
// which has nothing but a way to its consumer: what it sends can get nowhere
// else, not even as the reply address of a request.
type users struct {
	own string // the process's own password

	mu    sync.Mutex
	byKey map[string]registered
}

type registered struct {
	User

	account *server.Account
}

// listen lets users connect, and returns nil if there should be none.
func (o Options) listen(opts *server.Options) (*users, error) {
	if o.Listen == "" {
		return nil, nil //nolint:nilnil // none is what was asked for
	}
	host, p, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(p)
	if err != nil {
		return nil, fmt.Errorf("port %q is no number", p)
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
		return nil, ErrPlain
	}
	// The password is new at each start.
	u := &users{own: rand.Text(), byKey: make(map[string]registered)}
	opts.DontListen, opts.Host, opts.Port = false, host, cmp.Or(port, server.RANDOM_PORT)
	opts.CustomClientAuthentication, opts.AlwaysEnableNonce = u, true
	opts.MaxConn = maxUserConnections
	return u, nil
}

// Check is asked by the server about every connection.
func (u *users) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	if o.Username == ownUser {
		return subtle.ConstantTimeCompare([]byte(o.Password), []byte(u.own)) == 1
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

// subjects are all that the user may send to: asking for the next messages, for
// the consumer's own state, and acknowledging.
func (u User) subjects() []string {
	at := u.Stream + "." + u.Consumer
	return []string{"$JS.API.CONSUMER.MSG.NEXT." + at, "$JS.API.CONSUMER.INFO." + at, "$JS.ACK." + at + ".>"}
}

// SetUser lets a user connect, from now on and until the process ends. It may be
// repeated; another key ends the connections that were made with the old one.
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
		// The stream's account answers these subjects, for this account alone.
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

// RemoveUser ends the user's connections and lets it make no other. It is
// idempotent.
func (s *Server) RemoveUser(name string) {
	if s.users == nil {
		return
	}
	s.users.mu.Lock()
	defer s.users.mu.Unlock()
	s.users.remove(s.ns, name)
}

// remove needs the lock.
func (u *users) remove(ns *server.Server, name string) {
	for key, user := range u.byKey {
		if user.Name != name {
			continue
		}
		delete(u.byKey, key)
		list, err := ns.Connz(&server.ConnzOptions{Username: true, Account: user.account.Name, Limit: maxUserConnections})
		if err != nil {
			continue // there are none
		}
		for _, c := range list.Conns {
			_ = ns.DisconnectClientByID(c.Cid) // it may be gone already
		}
	}
}

// Addr is the address that users connect to, empty while nothing listens.
func (s *Server) Addr() string {
	if s.users == nil {
		return ""
	}
	return s.ns.Addr().String()
}
