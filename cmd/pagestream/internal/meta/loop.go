package meta

import (
	"time"

	"github.com/pagestream/pagestream/projections/pages"
)

// LoopState is what the last look of the reconcile loop at a page found. It is
// empty where no loop looks after the page.
type LoopState string

// The states of a page in the loop.
const (
	// LoopUnknown: this process has not looked at the page yet.
	LoopUnknown LoopState = "unknown"
	// LoopConfirmed: Graph's own list has what is wanted.
	LoopConfirmed LoopState = "confirmed"
	// LoopDrifted: Graph's list, or the app's own, lacks something.
	LoopDrifted LoopState = "drifted"
	// LoopFailed: Graph refused to tell or to do what it was asked.
	LoopFailed LoopState = "failed"
	// LoopTokenDead: the page's token is not valid, or not for this page any more.
	// There is no call but a probe until it is refreshed.
	LoopTokenDead LoopState = "token_dead"
	// LoopThrottled: Graph wants fewer calls; none is made before NextTry.
	LoopThrottled LoopState = "throttled"
	// LoopUnreachable: there was no answer, or it could not be recorded.
	LoopUnreachable LoopState = "unreachable"
)

// Loop is what the reconcile loop knows of a connected page beside the read
// models. A zero time means never.
type Loop struct {
	State LoopState `json:"state"`
	// Reason says why the page is not confirmed, in Graph's own words where it has
	// any. Code and Subcode are Graph's, where it refused.
	Reason  string `json:"reason,omitempty"`
	Code    int    `json:"code,omitempty"`
	Subcode int    `json:"subcode,omitempty"`
	// Missing is what is wanted and not subscribed on the page, AppMissing on the
	// app.
	Missing    []string `json:"missing,omitempty"`
	AppMissing []string `json:"app_missing,omitempty"`
	// Checked is when the page's subscription was last read, Probed when Graph was
	// last asked about the token.
	Checked time.Time `json:"last_check,omitzero"`
	Probed  time.Time `json:"last_probe,omitzero"`
	// NextTry is when the page is tried again before its next regular turn, or
	// until when it is left alone.
	NextTry time.Time `json:"next_try,omitzero"`
	// Failures counts the attempts to subscribe since the last confirmation.
	Failures int `json:"failures,omitempty"`
	// TokenWarning says that the token, or what it was granted, ends soon.
	TokenWarning string `json:"token_warning,omitempty"`
	// Expires and DataAccessExpires are what Graph said of the token when it was
	// last asked, zero for never or unknown; MissingScopes are the permissions that
	// it lacked then.
	Expires           time.Time `json:"token_expires,omitzero"`
	DataAccessExpires time.Time `json:"data_access_expires,omitzero"`
	MissingScopes     []string  `json:"missing_scopes,omitempty"`
	// Silence holds the page's silence against its rhythm.
	Silence pages.Silence `json:"silence"`
}
