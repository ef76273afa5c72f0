package graph

import (
	"errors"
	"regexp"
	"strings"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
)

// Errors of wrong options or arguments; nothing was sent.
var (
	// ErrOptions is returned when the options of a client are missing or invalid.
	ErrOptions = errors.New("graph client is not set up")
	// ErrPageID is returned when the id of a page, person or app is not 1 to 32
	// decimal digits.
	ErrPageID = errors.New("an id of a page, person or app is a number of up to 32 digits")
	// ErrConversation is returned when a conversation's id has characters that are not
	// allowed or is not 3 to 512 characters long.
	ErrConversation = errors.New("a conversation id is letters and digits, like t_1234567890")
	// ErrMessage is returned when an [Outgoing] has no recipient, or does not have
	// exactly one of a message and an action.
	ErrMessage = errors.New("sending needs a recipient and either a message or an action")
	// ErrNoToken is returned when a call is made without a token.
	ErrNoToken = errors.New("no access token given")
	// ErrNoFields is returned when a subscription is requested without fields.
	ErrNoFields = errors.New("no subscription fields given")
)

// Errors of missing or unexpected answers.
var (
	// ErrUnreachable is returned when no answer was received. It is unknown whether
	// Graph carried out the call.
	ErrUnreachable = errors.New("graph did not answer")
	// ErrAnswer is returned when an answer is not the JSON that Graph documents.
	ErrAnswer = errors.New("answer does not have graph's documented format")
	// ErrOtherPage is returned when Graph answered about a page that was not requested.
	ErrOtherPage = errors.New("graph answered about another page")
)

// notGranted reports whether a call may have failed because one of its fields is not
// granted. Graph then refuses the whole call.
func notGranted(err error) bool {
	class := meta.ClassOf(err)
	return class == meta.Permission || class == meta.Parameter
}

// userToken matches Meta's user and page tokens.
var userToken = regexp.MustCompile(`EAA[A-Za-z0-9]{16,}`)

// minSecret is the length of the shortest secret that is searched in a text: Meta's
// have 32 characters and more, and a few letters would match in every word.
const minSecret = 8

// scrub replaces secrets and tokens in a text from Graph or the network.
func scrub(text string, secrets ...string) string {
	for _, s := range secrets {
		if len(s) >= minSecret {
			text = strings.ReplaceAll(text, s, "[token]")
		}
	}
	return userToken.ReplaceAllString(text, "[token]")
}
