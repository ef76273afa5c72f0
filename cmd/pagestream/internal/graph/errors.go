package graph

import (
	"errors"
	"regexp"
	"strings"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
)

// Errors when a [Client] is made or called wrongly; nothing was sent.
var (
	// ErrOptions is returned when the client can't work with its options.
	ErrOptions = errors.New("graph client is not set up")
	// ErrPageID is returned when the id of a page, person or app is not 1 to 32
	// decimal digits.
	ErrPageID = errors.New("an id of a page, person or app is a number of up to 32 digits")
	// ErrConversation is returned when a conversation's id is not one.
	ErrConversation = errors.New("a conversation id is letters and digits, like t_1234567890")
	// ErrMessage is returned when what is to be sent has no recipient, or not
	// either one of a message and an action.
	ErrMessage = errors.New("sending needs a recipient and either a message or an action")
	// ErrNoToken is returned when a call is made without a token.
	ErrNoToken = errors.New("no access token given")
	// ErrNoFields is returned when a subscription is asked for without fields.
	ErrNoFields = errors.New("no subscription fields given")
)

// Errors when an answer did not come, or is not one of Graph's.
var (
	// ErrUnreachable is returned when no answer came. Whether Graph did what was
	// asked is unknown.
	ErrUnreachable = errors.New("graph did not answer")
	// ErrAnswer is returned when an answer is not the JSON that Graph documents.
	ErrAnswer = errors.New("answer is not readable as one of graph's")
	// ErrOtherPage is returned when Graph answered about another page than was
	// asked.
	ErrOtherPage = errors.New("graph answered about another page")
)

// notGranted reports whether a call may have failed for one field that is not
// granted, which fails all of it.
func notGranted(err error) bool {
	class := meta.ClassOf(err)
	return class == meta.Permission || class == meta.Parameter
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
