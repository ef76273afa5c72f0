package meta

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Errors of whoever needs a page's token.
var (
	// ErrNotConnected is returned when a page has no connection.
	ErrNotConnected = errors.New("page is not connected; type: pagestream pages connect PAGE")
	// ErrTokenDead is returned when a page's token is on record as invalid. An
	// [Error] of class [TokenDead] is one as well.
	ErrTokenDead = errors.New("page token is not valid; type: pagestream pages login")
)

// Error is an error that Graph itself answered with. Message is Graph's own words
// with tokens taken out; nothing is decided by it.
type Error struct {
	// Status is the HTTP status; 200 is possible.
	Status  int
	Code    int
	Subcode int
	Type    string
	Message string
	// FBTrace is Meta's id of the call, for its support.
	FBTrace string
	// Transient is Graph's own is_transient.
	Transient bool
	// Held says that Graph was not called, since a rate limit is known to be
	// reached: what was to be done is not done.
	Held bool
	// After is how long to wait before the next call, 0 where no rate limit was
	// reached.
	After time.Duration
}

// RetryAfter returns After.
func (e *Error) RetryAfter() time.Duration { return e.After }

// Class returns what the refusal means, by its code and subcode; where it has none,
// by the HTTP status.
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

// Temporary reports whether the same call may be accepted later: Graph failed for
// a moment, or a rate limit was reached.
func (e *Error) Temporary() bool {
	c := e.Class()
	return e.Transient || c == Transient || c == Throttled
}

// Is makes a refusal of a dead token an [ErrTokenDead].
func (e *Error) Is(target error) bool { return target == ErrTokenDead && e.Class() == TokenDead } //nolint:errorlint // a sentinel

// Error has the codes, Graph's words and its trace id.
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

// Words returns Graph's own message, or all that there is to say where it has
// none.
func (e *Error) Words() string {
	return cmp.Or(e.Message, e.Error())
}

// Refused returns the refusal by Graph in err, nil where Graph did not answer.
func Refused(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return nil
}

// ClassOf returns the class of the refusal in err, [Unclassified] where Graph did
// not answer.
func ClassOf(err error) Class {
	if e := Refused(err); e != nil {
		return e.Class()
	}
	return Unclassified
}

// RetryAfter returns how long err wants Graph to be left alone, 0 if it does not
// say.
func RetryAfter(err error) time.Duration {
	var wait interface{ RetryAfter() time.Duration }
	if errors.As(err, &wait) {
		return wait.RetryAfter()
	}
	return 0
}

// Explain returns the codes and words of Graph's refusal, or the error's own words
// where Graph did not answer.
func Explain(err error) (code, subcode int, words string) {
	if e := Refused(err); e != nil {
		return e.Code, e.Subcode, e.Words()
	}
	return 0, 0, err.Error()
}
