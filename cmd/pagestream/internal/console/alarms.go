package console

import (
	"fmt"
	"strings"
	"time"

	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

// level orders pages: what needs somebody first.
type level int

const (
	levelWrong level = iota
	levelWarning
	levelFine
	levelAway // disconnected
)

// String is the level's word and its style.
func (l level) String() string { return [...]string{"wrong", "warning", "fine", "away"}[l] }

// alarm is one thing that a row says of its page.
type alarm struct {
	Level level
	Text  string
}

// soon is how long before its end a token is warned about.
const soon = 7 * 24 * time.Hour

// standbyMany is how many messages in a row another app must have owned.
const standbyMany = 5

// alarmsOf are what is the matter with a page, by what we know without asking Graph.
// The doctor asks.
func alarmsOf(p pages.Page, sub *subscriptions.Subscription, h PageHealth, now time.Time) (out []alarm) {
	add := func(l level, format string, args ...any) { out = append(out, alarm{l, fmt.Sprintf(format, args...)}) }
	switch p.State {
	case pages.Unknown:
		if p.Object == "instagram" && p.LinkedPage != "" {
			return nil // it is its page that is connected
		}
		add(levelWarning, "sends events, but is not connected")
		return out
	case pages.Disconnected:
		if p.Traffic.LastInboundAt.After(p.StateSince.Add(time.Minute)) {
			add(levelWarning, "still sends events after it was disconnected")
		}
		return out
	}
	switch {
	case p.Token == pages.TokenInvalid:
		add(levelWrong, "token refused: %s", words(p.TokenReason, "reconnect the page"))
	case p.Token == pages.TokenNone:
		add(levelWrong, "no token")
	case !p.TokenExpires.IsZero() && p.TokenExpires.Before(now.Add(soon)):
		add(levelWarning, "token ends in %s", ago(p.TokenExpires.Sub(now)))
	case !p.DataAccessExpires.IsZero() && p.DataAccessExpires.Before(now.Add(soon)):
		add(levelWarning, "access to data ends in %s", ago(p.DataAccessExpires.Sub(now)))
	case h.TokenWarning != "":
		add(levelWarning, "%s", h.TokenWarning)
	}
	switch {
	case sub == nil:
		add(levelWrong, "not subscribed")
	case sub.State == subscriptions.Drifted && len(sub.Missing()) > 0:
		add(levelWrong, "fields missing: %s", strings.Join(sub.Missing(), ", "))
	case sub.State != subscriptions.Confirmed:
		add(levelWrong, "subscription %s%s", sub.State, because(sub.Reason))
	}
	if len(h.AppMissing) > 0 {
		add(levelWrong, "the app itself lacks: %s", strings.Join(h.AppMissing, ", "))
	}
	switch {
	case h.Silent:
		add(levelWrong, "silent for %s; %.0f events expected", ago(now.Sub(h.SilentSince)), h.Expected)
	case h.State == "throttled":
		add(levelWarning, "Meta asks for fewer calls")
	case h.State == "unreachable":
		add(levelWarning, "Graph did not answer")
	}
	if p.Policy != nil && p.Policy.Action != "unblock" {
		add(levelWarning, "Meta: %s%s", words(p.Policy.Action, "policy"), because(p.Policy.Reason))
	}
	if p.Traffic.StandbyRun >= standbyMany {
		add(levelWarning, "another app owns the threads")
	}
	return out
}

func words(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

// worst is the level that a page is listed by.
func worst(p pages.Page, alarms []alarm) level {
	l := levelFine
	if p.State == pages.Disconnected {
		l = levelAway
	}
	for _, a := range alarms {
		l = min(l, a.Level)
	}
	return l
}
