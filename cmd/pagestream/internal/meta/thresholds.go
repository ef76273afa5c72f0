package meta

import "time"

// The thresholds by which pages and the installation are judged.
const (
	// Timeout is how long Meta waits for an answer to a delivery; what takes longer
	// counts as a failure.
	// https://developers.facebook.com/docs/messenger-platform/webhooks
	Timeout = 5 * time.Second
	// SlowAnswer is when an answer is on its way to being too late.
	SlowAnswer = Timeout / 2
	// UnsubscribeAfter is how long every delivery has to fail for Meta to
	// unsubscribe the app from a page.
	// https://developers.facebook.com/docs/messenger-platform/webhooks
	UnsubscribeAfter = time.Hour
	// TokenEndsSoon is how long before its end a token, or the access to data, is
	// warned about.
	TokenEndsSoon = 14 * 24 * time.Hour
	// StandbyRun is how many messages in a row have to come as standby to say that
	// another app owns the threads.
	StandbyRun = 3
	// QuietFor is how long nothing comes before a healthy page is called quiet.
	QuietFor = 24 * time.Hour
	// SilentEvents is how many events have to be missing, by the page's own rhythm,
	// to call it silent.
	SilentEvents = 20
	// When at least AllSilentShare of the pages with a rhythm, and AllSilentPages at
	// least, are silent at once, no single page is to blame.
	AllSilentShare = 0.8
	AllSilentPages = 2
	// DisconnectGrace is how long after it was disconnected a page may still send:
	// what was on its way.
	DisconnectGrace = time.Minute
)

// EndsSoon reports whether end is set and nearer than [TokenEndsSoon].
func EndsSoon(end, now time.Time) bool { return !end.IsZero() && end.Sub(now) < TokenEndsSoon }

// NeededScopes are the permissions that a page token must have: without the first
// there are no messages, without the second no subscription.
func NeededScopes() []string { return []string{"pages_messaging", "pages_manage_metadata"} }
