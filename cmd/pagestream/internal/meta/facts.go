package meta

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

// Install is what is known of the installation.
type Install struct {
	Recent
	// Refused says why deliveries are answered 503 now, if they are.
	Refused []string
	Apps    []AppFacts
	// AllSilent says that nearly all pages are silent at once.
	AllSilent bool
}

// Recent is how this process answered deliveries in the last hour.
type Recent struct {
	// Accepted, BadSignatures and NotStored count the answers 200, 401 and 503; Slow
	// those that took longer than [SlowAnswer].
	Accepted, BadSignatures, NotStored, Slow uint64
	// P99 is how long 99 of 100 answers took at most.
	P99 time.Duration
}

// AppFacts is what is known of one configured app.
type AppFacts struct {
	Name string
	// At is when this was found.
	At time.Time
	// Fields are the app's own of object page, Callback the URL that Meta has for
	// it. Known is false where Graph was not asked or did not tell.
	Fields   []string
	Callback string
	Known    bool
	// Endpoint is our own callback URL as the outside sees it, empty if it is not
	// known. Reached says that a handshake there came back; Trouble why not.
	Endpoint string
	Reached  bool
	Trouble  string
}

// Facts is what is known of one page.
type Facts struct {
	Now time.Time
	Row pages.Page
	// Subscription is that of the page's app, nil if no event spoke of it.
	Subscription *subscriptions.Subscription
	Loop         Loop
	// Answer is what Graph has just said, nil where nobody asked.
	Answer *Answer
}

// Answer is what Graph says of a page when it is asked. What it does not tell is
// taken from the record.
type Answer struct {
	// Token is nil where Graph did not tell.
	Token *TokenReport
	// Outcome is of a check, and Err why that failed.
	Outcome Outcome
	Err     error
}

// listed reports whether Graph has listed the page's subscriptions.
func (a *Answer) listed() bool {
	return a != nil && (a.Outcome.State == subscriptions.Confirmed || a.Outcome.State == subscriptions.Drifted)
}

// refusal returns why Graph did not list them, nil where it did or was not asked.
// It has no code where there was no answer.
func (a *Answer) refusal() *Error {
	o := a.Outcome
	e := &Error{Code: o.Code, Subcode: o.Subcode, Message: o.Reason, After: o.Wait()}
	if a.Err != nil && o.Code == 0 {
		e.Code, e.Subcode, e.Message = Explain(a.Err)
		e.After = max(e.After, RetryAfter(a.Err))
	}
	switch {
	case a.listed(), *e == Error{}:
		return nil
	case e.Code == 0:
		e.Message = "no answer: " + e.Message
	}
	return e
}

// Sending reports whether deliveries come for a page that is not connected, so
// that somebody should know.
func Sending(p pages.Page) bool {
	switch p.State {
	case pages.Unknown:
		return p.Traffic.Events > 0 && !linked(p)
	case pages.Disconnected:
		return p.Traffic.LastInboundAt.After(p.StateSince.Add(DisconnectGrace))
	}
	return false
}

// linked reports whether p is an Instagram account whose page is connected.
func linked(p pages.Page) bool { return p.Object == "instagram" && p.LinkedPage != "" }

// DeselectedPrefix begins the reason of a token that is no longer for its page.
const DeselectedPrefix = "deselected: "

// token returns what is known of the page's token, Graph's answer before the
// record.
func (f Facts) token() TokenReport {
	row, a := f.Row, f.Answer
	t := TokenReport{
		State: TokenValid, Code: row.TokenCode, Subcode: row.TokenSubcode, Reason: row.TokenReason,
		Expires: row.TokenExpires, DataAccessExpires: row.DataAccessExpires, MissingScopes: f.Loop.MissingScopes,
	}
	if f.Loop.Probed.After(row.TokenSince) { // the newer word
		t.Expires, t.DataAccessExpires = f.Loop.Expires, f.Loop.DataAccessExpires
	}
	switch {
	case a != nil && a.Token != nil:
		t = *a.Token
	case row.Token == pages.TokenInvalid && strings.HasPrefix(row.TokenReason, strings.TrimSpace(DeselectedPrefix)):
		t.State = TokenDeselected
	case row.Token == pages.TokenInvalid:
		t.State = TokenInvalid
	}
	if t.State == TokenValid && a != nil && a.Outcome.Class() == TokenDead {
		t.State, t.Code, t.Subcode, t.Reason = TokenInvalid, a.Outcome.Code, a.Outcome.Subcode, a.Outcome.Reason
	}
	return t
}

// subscription returns the subscription on record, the zero one if there is none.
func (f Facts) subscription() subscriptions.Subscription {
	if f.Subscription == nil {
		return subscriptions.Subscription{State: subscriptions.None}
	}
	return *f.Subscription
}

// missing returns the wanted fields that the page's list lacks. Gone says that the
// list does not have the app at all.
func (f Facts) missing() (missing []string, gone bool) {
	s := f.subscription()
	switch {
	case f.Answer.listed():
		o := f.Answer.Outcome
		return o.Missing, o.State == subscriptions.Drifted && len(o.Actual) == 0
	case s.State == subscriptions.Drifted:
		return s.Missing(), len(s.Actual) == 0
	}
	return nil, s.State == subscriptions.None || s.State == subscriptions.Removed
}

// wanted returns the fields that are wanted of the page.
func (f Facts) wanted() []string {
	if len(f.Row.Fields) > 0 {
		return f.Row.Fields
	}
	return f.subscription().Wanted
}

// appLacks says which wanted fields the app itself lacks, or nothing. What was
// found last counts.
func (f Facts) appLacks(in Install) (evidence string) {
	s := f.subscription()
	state, reason, fields := s.State, s.Reason, f.Loop.AppMissing
	app := slices.IndexFunc(in.Apps, func(a AppFacts) bool {
		newest := f.Answer != nil || !a.At.Before(f.Loop.Checked) && !a.At.Before(s.CheckedAt)
		return a.Name == f.Row.App && a.Known && newest
	})
	switch {
	case app >= 0:
		state, fields = subscriptions.None, Lack(f.wanted(), in.Apps[app].Fields)
	case f.Answer.listed():
		state, reason, fields = f.Answer.Outcome.State, f.Answer.Outcome.Reason, f.Answer.Outcome.AppMissing
	case state == subscriptions.Confirmed && s.CheckedAt.After(f.Loop.Checked):
		fields = nil
	}
	missing, gone := f.missing()
	switch {
	case len(fields) > 0:
		return "missing at the app: " + strings.Join(fields, ", ")
	case state == subscriptions.Drifted && !gone && len(missing) == 0: // what else has drifted
		return cmp.Or(reason, "the page itself lacks nothing")
	}
	return ""
}

// Lack returns what is wanted and not there.
func Lack(wanted, there []string) (out []string) {
	for _, f := range wanted {
		if !slices.Contains(there, f) {
			out = append(out, f)
		}
	}
	return out
}

// lastConfirmed returns when Graph's list was last what is wanted, zero if it was
// not since the page was connected.
func lastConfirmed(s subscriptions.Subscription) (at time.Time) {
	for _, t := range s.History {
		switch t.To {
		case subscriptions.Confirmed:
			at = t.Time
		case subscriptions.Removed:
			at = time.Time{}
		}
	}
	if s.State == subscriptions.Confirmed {
		at = s.CheckedAt
	}
	return at
}
