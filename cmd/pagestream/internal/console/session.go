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

	"github.com/pagestream/pagestream/cmd/pagestream/internal/tokens"
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
	// headSize is the size of the nonce and the time before the name of the token.
	headSize     = nonceSize + 8
	maxTokenName = 64
)

// purpose separates the keys of sessions from others of the same secret.
const purpose = "console session"

// sessions creates and checks session cookies. A cookie has the name of the token that
// signed in, and is signed with a key of that token. Cookies are not stored: a session
// survives a restart of the process. It ends when it expires, when its token is changed,
// revoked or expires, or at a sign-out. Sign-outs are kept in memory, so a restart forgets
// them; by that time the browser has deleted its cookie.
type sessions struct {
	now    func() time.Time
	secret []byte
	tokens *tokens.Tokens
	ended  *lru.Cache[[nonceSize]byte, struct{}]
}

func newSessions(secret []byte, known *tokens.Tokens, now func() time.Time) *sessions {
	ended, _ := lru.New[[nonceSize]byte, struct{}](maxSignOuts) // fails for a size below 1
	return &sessions{now: now, secret: secret, tokens: known, ended: ended}
}

func sign(key, body []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(body)
	return m.Sum(nil)
}

// roleOf returns the role of the holder of a token, empty if it has none: the tokens of
// companies and those for metrics are for the API.
func roleOf(h tokens.Holder) Role {
	switch h.Scope {
	case tokens.Admin:
		return Admin
	case tokens.Reader:
		return ReadOnly
	case tokens.Company, tokens.Metrics:
	}
	return ""
}

// find returns the holder of a token that can sign in. It fails with [tokens.ErrInvalid] or
// [tokens.ErrUnavailable].
func (s *sessions) find(text string) (tokens.Holder, error) {
	h, err := s.tokens.Find(text)
	if err == nil && roleOf(h) == "" {
		err = tokens.ErrInvalid
	}
	return h, err
}

// begin returns the value of a new session's cookie: a nonce, when it expires, the token's
// name, and the signature of these.
func (s *sessions) begin(h tokens.Holder) string {
	body := make([]byte, nonceSize, headSize+len(h.Name)+sha256.Size)
	_, _ = rand.Read(body) // never fails: crypto/rand
	body = binary.BigEndian.AppendUint64(body, uint64(s.now().Add(SessionLife).Unix()))
	body = append(body, h.Name...)
	return base64.RawURLEncoding.EncodeToString(append(body, sign(h.Key(s.secret, purpose), body)...))
}

// open checks a cookie's value and returns its contents. It fails with [tokens.ErrInvalid]
// if the value is not valid, is expired, or was signed out, or if its token is not valid any
// more, and with [tokens.ErrUnavailable].
func (s *sessions) open(value string) (h tokens.Holder, nonce [nonceSize]byte, expires time.Time, err error) {
	b, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil || len(b) <= headSize+sha256.Size || len(b) > headSize+maxTokenName+sha256.Size {
		return h, nonce, expires, tokens.ErrInvalid
	}
	body, mac := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	copy(nonce[:], body)
	expires = time.Unix(int64(binary.BigEndian.Uint64(body[nonceSize:])), 0)
	holder, err := s.tokens.Named(string(body[headSize:]))
	if err != nil {
		return h, nonce, expires, err
	}
	if subtle.ConstantTimeCompare(sign(holder.Key(s.secret, purpose), body), mac) != 1 ||
		!s.now().Before(expires) || s.ended.Contains(nonce) || roleOf(holder) == "" {
		return h, nonce, expires, tokens.ErrInvalid
	}
	return holder, nonce, expires, nil
}

// end invalidates a cookie's value.
func (s *sessions) end(value string) {
	if _, nonce, _, err := s.open(value); err == nil {
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

// of returns who has a request's session.
func (s *sessions) of(r *http.Request) (tokens.Holder, error) {
	c, err := r.Cookie(sessionCookie(r))
	if err != nil {
		return tokens.Holder{}, tokens.ErrInvalid
	}
	h, _, _, err := s.open(c.Value)
	return h, err
}

// Authenticate returns who has the session of a request. It is for other handlers of the
// same listener. It fails with [tokens.ErrInvalid] or [tokens.ErrUnavailable].
func (c *Console) Authenticate(r *http.Request) (tokens.Holder, error) { return c.sessions.of(r) }

type signInView struct {
	Next   string
	Failed bool
}

func (c *Console) showSignIn(w http.ResponseWriter, r *http.Request) {
	next := local(r.URL.Query().Get("next"))
	if _, err := c.sessions.of(r); err == nil {
		http.Redirect(w, r, next, http.StatusSeeOther)
		return
	}
	c.show(w, r, http.StatusOK, "sign-in", "Sign in", signInView{Next: next})
}

func (c *Console) signIn(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxSignIn)
	next := local(r.PostFormValue("next"))
	h, err := c.sessions.find(strings.TrimSpace(r.PostFormValue("token")))
	if err != nil {
		c.show(w, r, http.StatusForbidden, "sign-in", "Sign in", signInView{Next: next, Failed: true})
		return
	}
	action := c.opts.History.Begin(r, h.Name, string(h.Scope), "console_sign_in")
	action.Done()
	action.End()
	c.opts.Logger.Info("signed in", "token", h.Name, "role", roleOf(h), "remote", r.RemoteAddr)
	c.setCookie(w, r, c.sessions.begin(h), int(SessionLife.Seconds()))
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
