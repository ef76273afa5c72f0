package graph

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Errors when a [Client] is made or called wrongly; nothing was sent.
var (
	// ErrOptions says that the client can't work with its options.
	ErrOptions = errors.New("graph client is not set up")
	// ErrPageID says that the id of a page, person or app is not 1 to 32 decimal
	// digits.
	ErrPageID = errors.New("an id of a page, person or app is a number of up to 32 digits")
	// ErrConversation says that a conversation's id is not one.
	ErrConversation = errors.New("a conversation id is letters and digits, like t_1234567890")
	// ErrMessage says that what was to be sent has no recipient, or not either
	// one of a message and an action.
	ErrMessage = errors.New("sending needs a recipient and either a message or an action")
	// ErrObject says that no webhook object was named.
	ErrObject = errors.New("no webhook object given")
	// ErrNoToken says that a call was made without a token.
	ErrNoToken = errors.New("no access token given")
	// ErrNoFields says that a subscription was asked for without fields.
	ErrNoFields = errors.New("no subscription fields given")
)

// Errors when an answer did not come, or is not one of Graph's.
var (
	// ErrUnreachable says that no answer came. Whether Graph did what was asked
	// is unknown.
	ErrUnreachable = errors.New("graph did not answer")
	// ErrAnswer says that an answer is not the JSON that Graph documents.
	ErrAnswer = errors.New("answer is not readable as one of graph's")
	// ErrOtherPage says that Graph answered about another page than was asked.
	ErrOtherPage = errors.New("graph answered about another page")
)

// Kinds of refusal, for errors.Is on an [Error]. They follow from codes and
// subcodes, never from the text.
// https://developers.facebook.com/docs/graph-api/guides/error-handling
var (
	// ErrTokenInvalid says that the token is dead (190, 102); [Error.Subcode]
	// has the cause.
	ErrTokenInvalid = errors.New("token is not valid")
	// ErrPermission says that a permission or role is missing (3, 10, 200-299).
	ErrPermission = errors.New("permission is missing")
	// ErrThrottled says that a rate limit was reached, for this app or page.
	ErrThrottled = errors.New("rate limit reached")
	// ErrNotFound says that the object is not there or not visible (100/33, 803).
	ErrNotFound = errors.New("object is not there or not visible")
	// ErrTransient says that it may work in a moment (1, 2, status 5xx).
	ErrTransient = errors.New("temporary failure at graph")
	// ErrParameter says that a parameter is wrong (100).
	ErrParameter = errors.New("parameter is wrong")
	// ErrWindow says that the time to answer the person is over.
	ErrWindow = errors.New("outside the allowed window")
	// ErrPerson says that the person can't be reached, for good.
	ErrPerson = errors.New("person can't be reached")
	// ErrNoProfile says that the person has no profile to show.
	ErrNoProfile = errors.New("person has no profile")
	// ErrRestricted says that Meta has restricted the page or the user.
	ErrRestricted = errors.New("restricted by meta")
)

// Error is a refusal by Graph. Message is Graph's own words with tokens taken
// out; don't decide by it.
type Error struct {
	// Status is the HTTP status; 200 is possible.
	Status  int
	Code    int
	Subcode int
	Type    string
	Message string
	// FBTrace is Meta's id of the call, for support.
	FBTrace string
	// Transient is Graph's own is_transient.
	Transient bool
	// Held says that Graph was not asked, since a rate limit is known to be
	// reached: what was to be done is not done.
	Held bool

	after time.Duration
}

// RetryAfter is how long to wait before the next call, 0 where no rate limit
// was reached.
func (e *Error) RetryAfter() time.Duration { return e.after }

// Error has the codes, Graph's words and its trace id.
func (e *Error) Error() string {
	if e.Held {
		return fmt.Sprintf("call not made: rate limit reached for %s more", e.after.Round(time.Second))
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

// Codes returns the code and the subcode, 0 where there is none.
func (e *Error) Codes() (code, subcode int) { return e.Code, e.Subcode }

// Words returns Graph's own message.
func (e *Error) Words() string { return e.Message }

// Temporary reports whether the same call may be accepted later: a passing
// failure or a rate limit.
func (e *Error) Temporary() bool { return e.Is(ErrTransient) || e.Is(ErrThrottled) }

// Is reports whether the refusal is of the kind of target.
func (e *Error) Is(target error) bool {
	if target == ErrTransient { //nolint:errorlint // the kinds are values, not chains
		return e.Transient || e.retryable()
	}
	return target != nil && e.kind() == target //nolint:errorlint // as above
}

// retryable reports whether the same call may be made again: codes 1 and 2,
// and a 5xx that says nothing more definite.
func (e *Error) retryable() bool {
	return e.Code == 1 || e.Code == 2 || e.Status >= http.StatusInternalServerError && e.kind() == nil
}

// TokenCause is a stable word for why a token is dead, by its subcode; empty for
// other refusals.
// https://developers.facebook.com/docs/facebook-login/guides/access-tokens/debugging
func (e *Error) TokenCause() string {
	if e.kind() != ErrTokenInvalid { //nolint:errorlint // the kinds are values, not chains
		return ""
	}
	switch e.Subcode {
	case 458:
		return "app_removed"
	case 459, 490:
		return "checkpoint"
	case 460:
		return "password_changed"
	case 463:
		return "expired"
	case 464:
		return "unconfirmed_user"
	case 467:
		return "logged_out"
	case 492:
		return "role_lost"
	}
	return "invalid"
}

func (e *Error) kind() error {
	sub := func(s ...int) bool { return slices.Contains(s, e.Subcode) }
	switch c := e.Code; {
	case c == 190, c == 102, c == 104:
		return ErrTokenInvalid
	case c == 2018218, sub(2018218):
		return ErrNoProfile
	case c == 10 && sub(2018278, 2534022):
		return ErrWindow
	case c == 10 && sub(1893063), c == 368:
		return ErrRestricted
	case c == 551, c == 230, c == 100 && sub(2018001), c == 200 && sub(1545041), c == 10 && sub(2018108):
		return ErrPerson
	case c == 4, c == 17, c == 32, c == 613, c >= 80000 && c <= 80014:
		return ErrThrottled
	case c == 3, c == 10, c >= 200 && c <= 299:
		return ErrPermission
	case c == 100 && sub(33), c == 803:
		return ErrNotFound
	case c == 100:
		return ErrParameter
	case c == 0 && e.Status == http.StatusTooManyRequests:
		return ErrThrottled
	}
	return nil
}

// userToken is how Meta's user and page tokens look.
var userToken = regexp.MustCompile(`EAA[A-Za-z0-9]{16,}`)

// minSecret is the shortest secret that is looked for in a text: Meta's have 32
// characters and more, and a few letters would be found in every word.
const minSecret = 8

// scrub takes secrets out of text that is not ours.
func scrub(text string, secrets ...string) string {
	for _, s := range secrets {
		if len(s) >= minSecret {
			text = strings.ReplaceAll(text, s, "[token]")
		}
	}
	return userToken.ReplaceAllString(text, "[token]")
}
