package meta

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Errors of callers that need a page's token.
var (
	// ErrNotConnected is returned when a page has no connection.
	ErrNotConnected = errors.New("page is not connected; type: pagestream pages connect PAGE")
	// ErrToken is returned when a page's stored token is missing or can't be opened.
	ErrToken = errors.New("stored page token can't be opened; connect the page again, or restore the key file")
	// ErrTokenDead is returned when a page's token is recorded as invalid. An
	// [Error] of class [TokenDead] matches it as well.
	ErrTokenDead = errors.New("page token is not valid; type: pagestream pages login --company NAME")
)

// Error is an error that Graph returned. Message is Graph's own text with tokens
// removed; no decision is based on it.
type Error struct {
	// Status is the HTTP status, which may be 200.
	Status  int
	Code    int
	Subcode int
	Type    string
	Message string
	// FBTrace is Meta's id of the call, for its support.
	FBTrace string
	// Transient is Graph's is_transient.
	Transient bool
	// Held reports that Graph was not called because a rate limit is known to be
	// reached; nothing was done.
	Held bool
	// After is how long to wait before the next call, 0 if no rate limit was reached.
	After time.Duration
}

// RetryAfter returns After.
func (e *Error) RetryAfter() time.Duration { return e.After }

// Class returns the class of the code and subcode. If they have none, it is derived
// from the HTTP status.
func (e *Error) Class() Class {
	c := Classify(e.Code, e.Subcode)
	switch {
	case c != Unclassified:
		return c
	case e.Code == 0 && e.Status == http.StatusTooManyRequests:
		return Throttled
	case e.Status >= http.StatusInternalServerError:
		return Transient
	}
	return Unclassified
}

// Temporary reports whether the same call may succeed later: Graph failed
// temporarily, or a rate limit was reached.
func (e *Error) Temporary() bool {
	c := e.Class()
	return e.Transient || c == Transient || c == Throttled
}

// Is makes an error of class [TokenDead] match [ErrTokenDead].
func (e *Error) Is(target error) bool {
	return target == ErrTokenDead && e.Class() == TokenDead //nolint:errorlint // a sentinel
}

// Error returns the codes, Graph's message and its trace id.
func (e *Error) Error() string {
	if e.Held {
		return fmt.Sprintf("call not made: rate limit reached for %s more", e.After.Round(time.Second))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "graph refused (status %d", e.Status)
	if e.Code != 0 {
		fmt.Fprintf(&b, ", code %d", e.Code)
	}
	if e.Subcode != 0 {
		fmt.Fprintf(&b, "/%d", e.Subcode)
	}
	b.WriteString(")")
	if e.Message != "" {
		b.WriteString(": " + e.Message)
	}
	if e.FBTrace != "" {
		b.WriteString(" [fbtrace " + e.FBTrace + "]")
	}
	return b.String()
}

// Words returns Graph's own message, or the whole text of the error if Graph gave
// none.
func (e *Error) Words() string {
	return cmp.Or(e.Message, e.Error())
}

// Refused returns the [Error] in the chain of err, nil if there is none: Graph did
// not answer.
func Refused(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return nil
}

// ClassOf returns the class of the [Error] in the chain of err, [Unclassified] if
// there is none.
func ClassOf(err error) Class {
	if e := Refused(err); e != nil {
		return e.Class()
	}
	return Unclassified
}

// RetryAfter returns how long to wait before Graph is called again, as an error in
// the chain of err gives it; 0 if none does.
func RetryAfter(err error) time.Duration {
	var wait interface{ RetryAfter() time.Duration }
	if errors.As(err, &wait) {
		return wait.RetryAfter()
	}
	return 0
}

// Explain returns the codes and message of the [Error] in the chain of err. If there
// is none, the codes are 0 and words is the text of err.
func Explain(err error) (code, subcode int, words string) {
	if e := Refused(err); e != nil {
		return e.Code, e.Subcode, e.Words()
	}
	return 0, 0, err.Error()
}
