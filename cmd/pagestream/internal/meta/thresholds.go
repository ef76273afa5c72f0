package meta

import "time"

// The thresholds by which pages and the installation are judged.
const (
	// Timeout is how long Meta waits for the answer to a delivery; an answer that
	// takes longer counts as a failure.
	// https://developers.facebook.com/docs/messenger-platform/webhooks
	Timeout = 5 * time.Second
	// SlowAnswer is the answer time from which an answer counts as slow.
	SlowAnswer = Timeout / 2
	// UnsubscribeAfter is how long every delivery must fail before Meta unsubscribes
	// the app from a page.
	// https://developers.facebook.com/docs/messenger-platform/webhooks
	UnsubscribeAfter = time.Hour
	// TokenEndsSoon is how long before the expiry of a token, or of the access to
	// data, a warning is given.
	TokenEndsSoon = 14 * 24 * time.Hour
	// StandbyRun is how many consecutive standby messages show that another app owns
	// the threads.
	StandbyRun = 3
	// QuietFor is how long a healthy page has no events before it is called quiet.
	QuietFor = 24 * time.Hour
	// SilentEvents is how many events must be missing, compared with the page's own
	// rhythm, before it is called silent.
	SilentEvents = 20
	// AllSilentShare and AllSilentPages are the share and the number of pages with a
	// known rhythm that must be silent at once before the cause is taken to be common
	// to all pages. Both must be reached.
	AllSilentShare = 0.8
	AllSilentPages = 2
	// ForeignRecent is for how long after an event of another app the judgement of the
	// page reports it.
	ForeignRecent = 24 * time.Hour
	// DisconnectGrace is how long after a disconnect deliveries that were under way
	// may still arrive.
	DisconnectGrace = time.Minute
)

// EndsSoon reports whether end is set and less than [TokenEndsSoon] after now, or
// past.
func EndsSoon(end, now time.Time) bool { return !end.IsZero() && end.Sub(now) < TokenEndsSoon }

// LeadsScope is the permission that reading the answers of a lead needs.
const LeadsScope = "leads_retrieval"

// NeededScopes are the permissions that a page token must have: without the first
// there are no messages, without the second no subscription.
func NeededScopes() []string { return []string{"pages_messaging", "pages_manage_metadata"} }
