package meta

import "slices"

// Class is what a refusal means for the caller. It follows from Graph's code and
// subcode, never from the text.
type Class string

// The classes.
const (
	// Unclassified is a code that the table does not have.
	Unclassified Class = ""
	// TokenDead: the token is not valid any more; the subcode has the cause. Only
	// another login helps.
	TokenDead Class = "token_dead"
	// Permission: a permission or a role is missing. Only a person can change it.
	Permission Class = "permission"
	// Throttled: a rate limit of the app or the page is reached. The same call is
	// accepted later.
	Throttled Class = "throttled"
	// Gone: the object is not there, or not visible to the token.
	Gone Class = "gone"
	// Transient: Graph failed for a moment; the same call may be accepted.
	Transient Class = "transient"
	// Parameter: a parameter is wrong.
	Parameter Class = "parameter"
	// WindowClosed: the time in which the person may be answered is over.
	WindowClosed Class = "window_closed"
	// PersonUnreachable: the person can't be reached, for good.
	PersonUnreachable Class = "person_unreachable"
	// NoProfile: the person has no profile to show.
	NoProfile Class = "no_profile"
	// Restricted: Meta has restricted the page or the user.
	Restricted Class = "restricted"
)

// classes is the one table of Graph's codes. The first row that matches counts:
// a subcode is more specific than its code. A code of 0 matches any.
//
// https://developers.facebook.com/docs/graph-api/guides/error-handling
// https://developers.facebook.com/docs/messenger-platform/error-codes
var classes = []struct {
	from, to int
	subcodes []int // empty: whatever it is
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

// Classify returns the class of a code and subcode, as an event or an [Error] has
// them.
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

// tokenCauses say why a token is dead, by the subcode of 190.
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

// TokenCause returns why a token is dead by the subcode of the refusal: a stable
// word, "invalid" for a subcode that is not known, and what a person may be told,
// empty then.
func TokenCause(subcode int) (word, sentence string) {
	if c, ok := tokenCauses[subcode]; ok {
		return c.word, c.sentence
	}
	return "invalid", ""
}

// RoleLost is the subcode of a token whose person has lost their role on the page.
const RoleLost = 492
