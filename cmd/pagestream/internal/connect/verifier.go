package connect

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
)

const (
	// verifyPace is how long the references of the pages are not compared again.
	verifyPace = 100 * time.Millisecond
	// verifyAgain is after how long a secret that could not be read or opened is tried
	// again.
	verifyAgain = missingFor
)

// keyed is the hash of a verify token with the key of a [verifier].
type keyed [sha256.Size]byte

// verifier knows the hashes of the pages' verify tokens. They are keyed with a random key
// of the process, so looking one up in a map reveals nothing of the tokens by its time.
type verifier struct {
	key []byte

	mu     sync.RWMutex
	known  map[domain.PageID]verifiable
	byHash map[keyed][]domain.PageID

	refreshing sync.Mutex // guards the rest
	version    uint64     // of the references that known has
	at, full   time.Time  // of the last refresh, and of the last that tried every unknown secret
}

// verifiable is the verify token of a page's secret.
type verifiable struct {
	ref  string
	has  bool // the secret has a verify token
	hash keyed
}

func newVerifier() *verifier {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // it never fails
	return &verifier{key: key}
}

func (v *verifier) hash(token []byte) (k keyed) {
	h := hmac.New(sha256.New, v.key)
	h.Write(token)
	h.Sum(k[:0])
	return k
}

// find reports whether a page that is connected now has the token, as far as it is known.
func (v *verifier) find(t Tokens, token string) (bool, error) {
	hash := v.hash([]byte(token))
	v.mu.RLock()
	defer v.mu.RUnlock()
	for _, page := range v.byHash[hash] {
		c, err := pages.Credentials(t.pages, page)
		if errors.Is(err, pages.ErrNoCredentials) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("read credentials of page %s: %w", page, err)
		}
		if c.Secret == v.known[page].ref {
			return true, nil
		}
	}
	return false, nil
}

// refresh reads the verify tokens of the secrets that are not known yet. Only one caller
// does so at a time, and the others wait for it.
func (v *verifier) refresh(ctx context.Context, t Tokens) error {
	v.refreshing.Lock()
	defer v.refreshing.Unlock()
	now := time.Now()
	if now.Sub(v.at) < verifyPace {
		return nil
	}
	before := v.version
	if now.Sub(v.full) > verifyAgain {
		before = 0
	}
	refs, version, err := pages.Secrets(t.pages, before)
	if err != nil {
		return err
	}
	v.at = now
	if version == before {
		return nil
	}
	known, byHash := make(map[domain.PageID]verifiable, len(refs)), map[keyed][]domain.PageID{}
	var errs []error
	for page, ref := range refs {
		e, found := v.known[page] // only this function writes it
		if !found || e.ref != ref {
			if e, found, err = v.open(ctx, t, page, ref); err != nil {
				errs = append(errs, err)
			}
		}
		if found {
			known[page] = e
		}
		if found && e.has {
			byHash[e.hash] = append(byHash[e.hash], page)
		}
		if ctx.Err() != nil {
			errs = append(errs, ctx.Err())
			break
		}
	}
	v.mu.Lock()
	v.known, v.byHash = known, byHash
	v.mu.Unlock()
	if err := errors.Join(errs...); err != nil {
		v.version, v.at = 0, time.Time{} // the next call tries again
		return err
	}
	v.version, v.full = version, now
	return nil
}

// open reads a secret and opens its verify token. It returns false if that must be tried
// again: the secret is missing, or sealed with another key.
func (v *verifier) open(ctx context.Context, t Tokens, page domain.PageID, ref string) (verifiable, bool, error) {
	s, err := t.secrets.Get(ctx, page, ref)
	if errors.Is(err, ErrSecretMissing) {
		return verifiable{}, false, nil
	}
	if err != nil {
		return verifiable{}, false, err
	}
	if s.VerifyToken == "" {
		return verifiable{ref: ref}, true, nil
	}
	plain, err := t.sealer.Open(s.VerifyToken, VerifyTokenAAD(page))
	if err != nil {
		return verifiable{}, false, nil //nolint:nilerr // one page's token does not hide the others
	}
	return verifiable{ref: ref, has: true, hash: v.hash(plain)}, true, nil
}
