package console

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"net/url"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Role determines what a session may do.
type Role string

// The roles. [ReadOnly] may read everything that [Admin] may, including message texts,
// but change nothing.
const (
	Admin    Role = "admin"
	ReadOnly Role = "read-only"
)

// SessionLife is how long a session is valid.
const SessionLife = 12 * time.Hour

const (
	// cookieName is the name of the session's cookie, and secureName that over TLS:
	// browsers take a cookie with this prefix only from this host and over TLS, so that
	// no other host of the domain can set it.
	cookieName  = "pagestream_session"
	secureName  = "__Host-" + cookieName
	maxSignIn   = 4 << 10
	maxSignOuts = 10_000
	nonceSize   = 16
)

// sessions creates and checks session cookies. Cookies are signed and not stored: a
// session survives a restart of the process. It ends when it expires, when its token
// changes, or at a sign-out. Sign-outs are kept in memory, so a restart forgets them;
// by that time the browser has deleted its cookie.
type sessions struct {
	now    func() time.Time
	tokens map[Role][]byte // hashes
	keys   map[Role][]byte
	ended  *lru.Cache[[nonceSize]byte, struct{}]
}

func newSessions(key []byte, tokens map[Role]string, now func() time.Time) *sessions {
	ended, _ := lru.New[[nonceSize]byte, struct{}](maxSignOuts) // fails for a size below 1
	s := &sessions{now: now, tokens: map[Role][]byte{}, keys: map[Role][]byte{}, ended: ended}
	for role, token := range tokens {
		hash := sha256.Sum256([]byte(token))
		s.tokens[role] = hash[:]
		s.keys[role] = sign(key, []byte("console session"), []byte(role), hash[:])
	}
	return s
}

func sign(key []byte, parts ...[]byte) []byte {
	m := hmac.New(sha256.New, key)
	for _, p := range parts {
		m.Write(p)
		m.Write([]byte{0})
	}
	return m.Sum(nil)
}

// role returns the role that a token signs in to.
func (s *sessions) role(token string) (Role, bool) {
	hash := sha256.Sum256([]byte(token))
	for role, want := range s.tokens {
		if subtle.ConstantTimeCompare(hash[:], want) == 1 {
			return role, true
		}
	}
	return "", false
}

// begin returns the value of a new session's cookie.
func (s *sessions) begin(role Role) string {
	body := make([]byte, nonceSize, nonceSize+8+sha256.Size)
	_, _ = rand.Read(body) // never fails: crypto/rand
	body = binary.BigEndian.AppendUint64(body, uint64(s.now().Add(SessionLife).Unix()))
	return base64.RawURLEncoding.EncodeToString(append(body, sign(s.keys[role], body)...))
}

// open checks a cookie's value and returns its contents. It returns false if the value
// is not valid, is expired, or was signed out.
func (s *sessions) open(value string) (role Role, nonce [nonceSize]byte, expires time.Time, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil || len(b) != nonceSize+8+sha256.Size {
		return "", nonce, expires, false
	}
	body, mac := b[:nonceSize+8], b[nonceSize+8:]
	copy(nonce[:], body)
	expires = time.Unix(int64(binary.BigEndian.Uint64(body[nonceSize:])), 0)
	for role, key := range s.keys {
		if subtle.ConstantTimeCompare(sign(key, body), mac) == 1 && s.now().Before(expires) {
			return role, nonce, expires, !s.ended.Contains(nonce)
		}
	}
	return "", nonce, expires, false
}

// end invalidates a cookie's value.
func (s *sessions) end(value string) {
	if _, nonce, _, ok := s.open(value); ok {
		s.ended.Add(nonce, struct{}{})
	}
}

// secure reports whether a request came over TLS. Behind a proxy that terminates TLS,
// only its header shows that. A client that forges the header only restricts its own
// cookie.
func secure(r *http.Request) bool {
	return r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https"
}

// sessionCookie returns the name of the cookie that a request has its session in.
func sessionCookie(r *http.Request) string {
	if secure(r) {
		return secureName
	}
	return cookieName
}

// of returns the role of a request's session.
func (s *sessions) of(r *http.Request) (Role, bool) {
	c, err := r.Cookie(sessionCookie(r))
	if err != nil {
		return "", false
	}
	role, _, _, ok := s.open(c.Value)
	return role, ok
}

// Authenticate reports whether a request has a valid session (ok), and whether the
// session may change anything (write). It is for other handlers of the same listener.
func (c *Console) Authenticate(r *http.Request) (write, ok bool) {
	role, ok := c.sessions.of(r)
	return role == Admin, ok
}

type signInView struct {
	Next   string
	Failed bool
}

func (c *Console) showSignIn(w http.ResponseWriter, r *http.Request) {
	next := local(r.URL.Query().Get("next"))
	if _, ok := c.sessions.of(r); ok {
		http.Redirect(w, r, next, http.StatusSeeOther)
		return
	}
	c.show(w, r, http.StatusOK, "sign-in", "Sign in", signInView{Next: next})
}

func (c *Console) signIn(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxSignIn)
	next := local(r.PostFormValue("next"))
	role, ok := c.sessions.role(strings.TrimSpace(r.PostFormValue("token")))
	if !ok {
		c.show(w, r, http.StatusForbidden, "sign-in", "Sign in", signInView{Next: next, Failed: true})
		return
	}
	c.opts.Logger.Info("signed in", "role", role, "remote", r.RemoteAddr)
	c.setCookie(w, r, c.sessions.begin(role), int(SessionLife.Seconds()))
	http.Redirect(w, r, next, http.StatusSeeOther)
}

func (c *Console) signOut(w http.ResponseWriter, r *http.Request) {
	if cookie, err := r.Cookie(sessionCookie(r)); err == nil {
		c.sessions.end(cookie.Value)
	}
	c.setCookie(w, r, "", -1)
	http.Redirect(w, r, "/sign-in", http.StatusSeeOther)
}

func (c *Console) setCookie(w http.ResponseWriter, r *http.Request, value string, maxAge int) {
	// Lax, not Strict: the login at Meta ends with a link back to the console.
	http.SetCookie(w, &http.Cookie{
		Name: sessionCookie(r), Value: value, Path: "/", MaxAge: maxAge,
		HttpOnly: true, Secure: secure(r), SameSite: http.SameSiteLaxMode,
	})
}

// local returns next if it is a path of this server to which a sign-in may redirect,
// and "/" otherwise.
func local(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") ||
		strings.ContainsAny(next, "\\\r\n") || strings.HasPrefix(next, "/sign-") || strings.HasPrefix(next, "/live/") {
		return "/"
	}
	return next
}
