package meta

import (
	"context"
	"errors"
	"fmt"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/pagestream/pagestream/domain"
)

// How long a [Gate] assumes that a page has no valid token.
const (
	// DeadTokenWait is the time after Graph has refused the token, which may be
	// refreshed meanwhile.
	DeadTokenWait = time.Minute
	// NoTokenWait is the time after no token was found; the page may be connected
	// meanwhile.
	NoTokenWait = 5 * time.Second
)

// maxGatePages is how many pages a [Gate] remembers.
const maxGatePages = 10_000

// ThrottledError is returned when Graph can't be called for the page now because of a
// rate limit.
type ThrottledError struct {
	Page domain.PageID
	// After is how long to wait.
	After time.Duration
}

// Error returns a text with the page and the wait.
func (e *ThrottledError) Error() string {
	return fmt.Sprintf("graph can't be called for page %s for %s: rate limit reached",
		e.Page, e.After.Round(time.Second))
}

// RetryAfter returns After.
func (e *ThrottledError) RetryAfter() time.Duration { return e.After }

// Gate gives access to pages to code that calls Graph for many events. It remembers for
// which pages Graph can't be called now, because of a rate limit or without a valid
// token, so that their next events cost no call. It is safe for concurrent use. Create
// it with [NewGate].
type Gate struct {
	tokens Tokens
	now    func() time.Time
	pages  *lru.Cache[domain.PageID, closed]
}

// closed is until when Graph is not called for a page, and why; the error is nil for a
// rate limit.
type closed struct {
	until time.Time
	err   error
}

// NewGate returns a gate that has seen no error yet.
func NewGate(tokens Tokens, now func() time.Time) *Gate {
	pages, _ := lru.New[domain.PageID, closed](maxGatePages) // fails only for a size of 0
	return &Gate{tokens, now, pages}
}

// Access returns the access to a page. A [ThrottledError] is returned because of a rate
// limit, and an error for which [NoToken] is true if the page has no valid token.
func (g *Gate) Access(ctx context.Context, page domain.PageID) (Access, error) {
	if c, ok := g.pages.Peek(page); ok && g.now().Before(c.until) {
		if c.err != nil {
			return Access{}, c.err
		}
		return Access{}, &ThrottledError{page, c.until.Sub(g.now())}
	}
	access, err := g.tokens.Access(ctx, page)
	switch {
	case NoToken(err):
		g.pages.Add(page, closed{g.now().Add(NoTokenWait), err})
		return Access{}, err
	case err != nil:
		return Access{}, fmt.Errorf("get page token: %w", err)
	}
	return access, nil
}

// Refused records the error of a call for the page, and returns it: as a
// [ThrottledError] if a rate limit was reached, else unchanged.
func (g *Gate) Refused(page domain.PageID, err error) error {
	if wait := RetryAfter(err); wait > 0 {
		g.pages.Add(page, closed{until: g.now().Add(wait)})
		return &ThrottledError{page, wait}
	}
	if NoToken(err) { // the connector and the reconcile loop look after tokens
		g.pages.Add(page, closed{g.now().Add(DeadTokenWait), err})
	}
	return err
}

// NoToken reports whether an error means that a page has no valid token: it is not
// connected, its app is not configured any more, or its token is dead, missing or can't
// be opened.
func NoToken(err error) bool {
	return errors.Is(err, ErrNotConnected) || errors.Is(err, ErrTokenDead) || errors.Is(err, ErrToken)
}

// Temporary reports whether the call that failed may succeed when it is repeated: Graph
// did not answer, failed temporarily, or reached a rate limit.
func Temporary(err error) bool {
	refusal := Refused(err)
	return err != nil && (refusal == nil || refusal.Temporary())
}
