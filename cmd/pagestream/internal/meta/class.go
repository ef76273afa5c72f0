package meta

import "slices"

// Class is what an error of Graph means for the caller. It is derived from the
// code and subcode, never from the text.
type Class string

// The classes.
const (
	// Unclassified: the code is not in the table.
	Unclassified Class = ""
	// TokenDead: the token is no longer valid; the subcode is the cause. Only a new
	// login helps.
	TokenDead Class = "token_dead"
	// Permission: a permission or a role is missing. Only a person can change it.
	Permission Class = "permission"
	// Throttled: a rate limit of the app or the page is reached. The same call is
	// accepted later.
	Throttled Class = "throttled"
	// Gone: the object does not exist, or is not visible to the token.
	Gone Class = "gone"
	// Transient: a temporary failure of Graph; the same call may succeed later.
	Transient Class = "transient"
	// Parameter: a parameter is wrong.
	Parameter Class = "parameter"
	// WindowClosed: the time in which the person may be answered has ended.
	WindowClosed Class = "window_closed"
	// PersonUnreachable: the person can't be reached, permanently.
	PersonUnreachable Class = "person_unreachable"
	// NoProfile: the person has no profile to show.
	NoProfile Class = "no_profile"
	// Restricted: Meta has restricted the page or the user.
	Restricted Class = "restricted"
)

// classes is the table of Graph's codes. The first row that matches is used, so
// rows with subcodes come before the row of their code. A from of 0 matches every
// code.
//
// https://developers.facebook.com/docs/graph-api/guides/error-handling
// https://developers.facebook.com/docs/messenger-platform/error-codes
var classes = []struct {
	from, to int
	subcodes []int // empty matches every subcode
	class    Class
}{
	{190, 190, nil, TokenDead},
	{102, 102, nil, TokenDead}, // session key invalid
	{104, 104, nil, TokenDead}, // signature of the token invalid
	{2018218, 2018218, nil, NoProfile},
	{0, 0, []int{2018218}, NoProfile}, // an account by phone number
	{10, 10, []int{2018278, 2534022}, WindowClosed},
	{10, 10, []int{1893063}, Restricted},
	{368, 368, nil, Restricted},
	{551, 551, nil, PersonUnreachable},
	{230, 230, nil, PersonUnreachable},
	{100, 100, []int{2018001}, PersonUnreachable},
	{200, 200, []int{1545041}, PersonUnreachable},
	{10, 10, []int{2018108}, PersonUnreachable},
	{4, 4, nil, Throttled},   // the app
	{17, 17, nil, Throttled}, // the user
	{32, 32, nil, Throttled}, // the page
	{613, 613, nil, Throttled},
	{80000, 80014, nil, Throttled}, // business use cases
	{3, 3, nil, Permission},
	{10, 10, nil, Permission},
	{200, 299, nil, Permission},
	{100, 100, []int{33}, Gone},
	{803, 803, nil, Gone},
	{100, 100, nil, Parameter},
	{1, 2, nil, Transient},
}

// Classify returns the class of Graph's code and subcode, and [Unclassified] if
// they are not in the table.
func Classify(code, subcode int) Class {
	if code == 0 && subcode == 0 {
		return Unclassified
	}
	for _, row := range classes {
		any := row.from == 0
		if !any && (code < row.from || code > row.to) {
			continue
		}
		if len(row.subcodes) == 0 || slices.Contains(row.subcodes, subcode) {
			return row.class
		}
	}
	return Unclassified
}

// tokenCauses has the reasons why a token is dead, by the subcode of code 190.
// https://developers.facebook.com/docs/facebook-login/guides/access-tokens/debugging
var tokenCauses = map[int]struct{ word, sentence string }{
	458: {"app_removed", "its admin has removed the app"},
	459: {"checkpoint", "its admin has to pass a checkpoint at www.facebook.com first"},
	460: {"password_changed", "its admin has changed the password"},
	463: {"expired", "it has expired"},
	464: {"unconfirmed_user", "its admin's account is not confirmed"},
	467: {"logged_out", "its admin has logged out of the session"},
	490: {"checkpoint", "its admin has to pass a checkpoint at www.facebook.com first"},
	492: {"role_lost", "its admin has lost the role on the page"},
}

// TokenCause returns why a token is dead, by the subcode of Graph's error: a stable
// word and a sentence to show to a person. For an unknown subcode the word is
// "invalid" and the sentence is empty.
func TokenCause(subcode int) (word, sentence string) {
	if c, ok := tokenCauses[subcode]; ok {
		return c.word, c.sentence
	}
	return "invalid", ""
}

// RoleLost is the subcode of a token whose owner has lost their role on the page.
const RoleLost = 492
