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
	State LoopState
	// Reason says why the page is not confirmed, in Graph's own words where it has
	// any.
	Reason string
	// Code and Subcode are Graph's, where it refused.
	Code, Subcode int
	// Missing is what is wanted and not subscribed on the page, AppMissing on the
	// app.
	Missing, AppMissing []string
	// MissingScopes are the permissions that the page's token lacks.
	MissingScopes []string
	// Probed is when Graph was last asked about the token, Expires and
	// DataAccessExpires what it said: zero for never or unknown.
	Probed, Expires, DataAccessExpires time.Time
	// Checked is when the page's subscription was last read.
	Checked time.Time
	// NextTry is when the page is tried again before its next regular turn, or
	// until when it is left alone.
	NextTry time.Time
	// Silence holds the page's silence against its rhythm.
	Silence pages.Silence
}
