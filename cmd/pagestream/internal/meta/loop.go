package meta

import (
	"time"

	"github.com/pagestream/pagestream/projections/pages"
)

// LoopState is the result of the reconcile loop's last check of a page. It is empty
// if no loop checks the page.
type LoopState string

// The states of a page in the loop.
const (
	// LoopUnknown: this process has not checked the page yet.
	LoopUnknown LoopState = "unknown"
	// LoopConfirmed: Graph lists all wanted fields.
	LoopConfirmed LoopState = "confirmed"
	// LoopDrifted: a wanted field is missing on the page or at the app level.
	LoopDrifted LoopState = "drifted"
	// LoopFailed: Graph returned an error to a check or a subscribe call.
	LoopFailed LoopState = "failed"
	// LoopTokenDead: the page's token is not valid, or no longer for this page. Until
	// it is refreshed only probes are made.
	LoopTokenDead LoopState = "token_dead"
	// LoopTokenMissing: the page's stored token is missing or can't be opened.
	LoopTokenMissing LoopState = "token_missing"
	// LoopThrottled: a rate limit was reached; no call is made before NextTry.
	LoopThrottled LoopState = "throttled"
	// LoopUnreachable: Graph did not answer, or the result could not be recorded.
	LoopUnreachable LoopState = "unreachable"
)

// Loop is what the reconcile loop knows about a connected page in addition to the
// read models. A zero time means never.
type Loop struct {
	State LoopState `json:"state"`
	// Reason is why the page is not confirmed: Graph's message if it gave one. Code
	// and Subcode are Graph's, 0 if it returned no error.
	Reason  string `json:"reason,omitempty"`
	Code    int    `json:"code,omitempty"`
	Subcode int    `json:"subcode,omitempty"`
	// Missing are the wanted fields that are not subscribed on the page, AppMissing
	// those that are not subscribed at the app level.
	Missing    []string `json:"missing,omitempty"`
	AppMissing []string `json:"app_missing,omitempty"`
	// Checked is when the page's subscription was last read, Probed when Graph was
	// last asked about the token.
	Checked time.Time `json:"last_check,omitzero"`
	Probed  time.Time `json:"last_probe,omitzero"`
	// NextTry is when the page is tried again before its next regular check, or until
	// when no call is made for it.
	NextTry time.Time `json:"next_try,omitzero"`
	// Failures counts the attempts to subscribe since the last confirmation.
	Failures int `json:"failures,omitempty"`
	// TokenWarning is a text that says what of the token ends soon or is missing; it
	// is empty if there is nothing to warn of.
	TokenWarning string `json:"token_warning,omitempty"`
	// Expires and DataAccessExpires are as Graph reported them at the last probe, zero
	// for never or unknown; MissingScopes are the permissions that the token lacked
	// then.
	Expires           time.Time `json:"token_expires,omitzero"`
	DataAccessExpires time.Time `json:"data_access_expires,omitzero"`
	MissingScopes     []string  `json:"missing_scopes,omitempty"`
	// Silence compares the time without events with the page's usual rhythm.
	Silence pages.Silence `json:"silence"`
}
