package console

import (
	"crypto/rand"
	"crypto/sha256"
	"net/url"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/tokens"
)

// CodeLife is how long a sign-in code is valid.
const CodeLife = 10 * time.Minute

// maxCodes is the maximum number of sign-in codes that wait for their use. A further one
// replaces the oldest.
const maxCodes = 16

// codeHash is the hash of a sign-in code, under which it is kept: its text is not stored.
type codeHash [sha256.Size]byte

// signInCode is what a sign-in code that was not used yet is good for.
type signInCode struct {
	holder  tokens.Holder
	proof   tokens.Proof
	expires time.Time
}

// SignInPath returns a path of the console that signs in with a token, without having it:
// it has a random code that works once, within [CodeLife] and in this process. A GET request
// is enough, so that the path can be a link; whoever has the link can sign in. It fails with
// [tokens.ErrInvalid] if the token can't sign in, and with [tokens.ErrUnavailable].
func (c *Console) SignInPath(token string) (string, error) {
	code, err := c.sessions.newCode(token)
	if err != nil {
		return "", err
	}
	return "/sign-in?" + url.Values{"code": {code}}.Encode(), nil
}

func (s *sessions) newCode(token string) (string, error) {
	h, err := s.find(token)
	if err != nil {
		return "", err
	}
	code := rand.Text()
	s.codes.Add(sha256.Sum256([]byte(code)), signInCode{h, tokens.ProofOf(token), s.now().Add(CodeLife)})
	return code, nil
}

// redeem uses a sign-in code up and returns a new session's cookie for the holder. It fails
// with [tokens.ErrInvalid] if the code is unknown, used or expired, or if its token is not
// valid any more, and with [tokens.ErrUnavailable].
func (s *sessions) redeem(code string) (h tokens.Holder, cookie string, err error) {
	hash := codeHash(sha256.Sum256([]byte(code)))
	known, ok := s.codes.Get(hash)
	// Of several requests at once, one removes it.
	if !ok || !s.codes.Remove(hash) || !s.now().Before(known.expires) {
		return h, "", tokens.ErrInvalid
	}
	cookie = s.begin(known.holder, known.proof)
	h, _, _, err = s.open(cookie) // checks that the token is still valid
	return h, cookie, err
}
