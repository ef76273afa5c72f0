package console

import (
	"crypto/aes"
	"crypto/cipher"
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
	// keySize is the size of the key of sessions.
	keySize = 32
	// nonceSize is the size of the random bytes that a cookie begins with, tagSize that of
	// what authenticates it at its end.
	nonceSize = 12
	tagSize   = 16
	// headSize is the size of the time and the proof before the name of the token.
	headSize     = 8 + len(tokens.Proof{})
	maxTokenName = 64
)

// encoding is strict, so that a cookie has one value.
var encoding = base64.RawURLEncoding.Strict()

// sessions creates and checks session cookies. A cookie has the name of the token that
// signed in and the proof that its text was known then, and is encrypted and authenticated
// with a key of the process. So neither the key together with all that is stored of tokens
// is enough to make one, nor a token's text without the key. Cookies are not stored: a session
// survives a restart of the process. It ends when it expires, when its token is changed,
// revoked or expires, or at a sign-out. Sign-outs are kept in memory, so a restart forgets
// them; by that time the browser has deleted its cookie.
type sessions struct {
	now    func() time.Time
	aead   cipher.AEAD
	tokens *tokens.Tokens
	ended  *lru.Cache[[nonceSize]byte, struct{}]
	codes  *lru.Cache[codeHash, signInCode]
}

// newSessions returns the sessions with a key of [keySize] bytes.
func newSessions(key []byte, known *tokens.Tokens, now func() time.Time) *sessions {
	block, _ := aes.NewCipher(key)                              // fails for another size
	aead, _ := cipher.NewGCMWithRandomNonce(block)              // fails for another cipher
	ended, _ := lru.New[[nonceSize]byte, struct{}](maxSignOuts) // fails for a size below 1
	codes, _ := lru.New[codeHash, signInCode](maxCodes)
	return &sessions{now: now, aead: aead, tokens: known, ended: ended, codes: codes}
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

// begin returns the value of a new session's cookie for a holder with the proof of the
// token's text.
func (s *sessions) begin(h tokens.Holder, proof tokens.Proof) string {
	body := binary.BigEndian.AppendUint64(nil, uint64(s.now().Add(SessionLife).Unix()))
	body = append(append(body, proof[:]...), h.Name...)
	return encoding.EncodeToString(s.aead.Seal(nil, nil, body, nil))
}

// open checks a cookie's value and returns its contents. It fails with [tokens.ErrInvalid]
// if the value is not valid, is expired, or was signed out, or if its token is not valid any
// more, and with [tokens.ErrUnavailable].
func (s *sessions) open(value string) (h tokens.Holder, nonce [nonceSize]byte, expires time.Time, err error) {
	b, err := encoding.DecodeString(value)
	const rest = nonceSize + headSize + tagSize
	// The decoder skips line ends.
	if err != nil || len(b) <= rest || len(b) > rest+maxTokenName || strings.ContainsAny(value, "\r\n") {
		return h, nonce, expires, tokens.ErrInvalid
	}
	copy(nonce[:], b)
	body, err := s.aead.Open(nil, nil, b, nil)
	if err != nil {
		return h, nonce, expires, tokens.ErrInvalid
	}
	expires = time.Unix(int64(binary.BigEndian.Uint64(body)), 0)
	holder, err := s.tokens.Named(string(body[headSize:]))
	if err != nil {
		return h, nonce, expires, err
	}
	if !holder.Proves(tokens.Proof(body[8:headSize])) || !s.now().Before(expires) || s.ended.Contains(nonce) ||
		roleOf(holder) == "" {
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
	Next string
	// Failed is set after a wrong token, CodeFailed after a sign-in code that is not valid.
	Failed, CodeFailed bool
}

func (c *Console) showSignIn(w http.ResponseWriter, r *http.Request) {
	next := local(r.URL.Query().Get("next"))
	if _, err := c.sessions.of(r); err == nil {
		http.Redirect(w, r, next, http.StatusSeeOther)
		return
	}
	code := r.URL.Query().Get("code")
	if code == "" || r.Method != http.MethodGet { // a HEAD request does not use a code up
		c.show(w, r, http.StatusOK, "sign-in", "Sign in", signInView{Next: next})
		return
	}
	h, cookie, err := c.sessions.redeem(code)
	if err != nil {
		c.show(w, r, http.StatusForbidden, "sign-in", "Sign in", signInView{Next: next, CodeFailed: true})
		return
	}
	c.signedIn(w, r, h, cookie, next)
}

func (c *Console) signIn(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxSignIn)
	next := local(r.PostFormValue("next"))
	text := strings.TrimSpace(r.PostFormValue("token"))
	h, err := c.sessions.find(text)
	if err != nil {
		c.show(w, r, http.StatusForbidden, "sign-in", "Sign in", signInView{Next: next, Failed: true})
		return
	}
	c.signedIn(w, r, h, c.sessions.begin(h, tokens.ProofOf(text)), next)
}

// signedIn records a sign-in and responds with the session's cookie and a redirect to next.
func (c *Console) signedIn(w http.ResponseWriter, r *http.Request, h tokens.Holder, cookie, next string) {
	action := c.opts.History.Begin(r, h.Name, string(h.Scope), "console_sign_in")
	action.Done()
	action.End()
	c.opts.Logger.Info("signed in", "token", h.Name, "role", roleOf(h), "remote", r.RemoteAddr)
	c.setCookie(w, r, cookie, int(SessionLife.Seconds()))
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
