package meta

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

// Install is what is known about the installation.
type Install struct {
	Recent
	// Refused has the reasons why deliveries are answered 503 now; it is empty if
	// they are not.
	Refused []string
	// Lost says which events the stream has lost; it is empty if there are none.
	Lost string
	// Behind is why the read models have not applied the last events, empty if they have.
	Behind string
	// Durability is what an external NATS says of how it stores the stream, nil with the embedded one.
	Durability *Durability
	// Space is how full the stream and the disks are.
	Space []Space
	// MaxBody is the largest body of a delivery that is accepted, and Storable the largest that can be
	// stored whatever it contains, in bytes; 0 if that is not known.
	MaxBody, Storable int64
	Apps              []AppFacts
	// AllSilent reports that nearly all pages are silent at once.
	AllSilent bool
	// RetrievesLeads reports that the answers of leads are read from Graph.
	RetrievesLeads bool
}

// Recent is how this process answered deliveries in the last hour.
type Recent struct {
	// Accepted, BadSignatures and NotStored count the answers 200, 401 and 503; Slow
	// counts those that took longer than [SlowAnswer].
	Accepted, BadSignatures, NotStored, Slow uint64
	// P99 is the 99th percentile of the answer times.
	P99 time.Duration
}

// AppFacts is what is known about one configured app.
type AppFacts struct {
	Name string
	// At is when the facts were collected.
	At time.Time
	// Fields are those that Meta delivers of the object page. Lacks is what the app lacks of its
	// wanted subscriptions, one element for each object in use. Known is false if Graph was not asked
	// or did not answer; the other two are empty then.
	Fields []string
	Lacks  []AppDifference
	Known  bool
	// Version is the version of the Graph API that the app uses, empty if it can't call Graph.
	Version string
	// Endpoint is our own callback URL as seen from outside, empty if it is not
	// known. Reached reports that a handshake there succeeded; Trouble is the reason
	// if it did not.
	Endpoint string
	Reached  bool
	Trouble  string
}

// Facts is what is known about one page.
type Facts struct {
	Now time.Time
	Row pages.Page
	// Subscription is the page's subscription to its app, nil if there is no event
	// about it.
	Subscription *subscriptions.Subscription
	Loop         Loop
	// Parked is the number of the page's conversations that stand still: a read model or a reactor could not
	// apply an event of them.
	Parked int
	// Answer is what Graph has just answered, nil if it was not asked.
	Answer *Answer
}

// Answer is what Graph answers about a page. What is missing in it is taken from
// the read models.
type Answer struct {
	// Token is nil if Graph did not report on the token.
	Token *TokenReport
	// Outcome is the result of a check, Err the reason if the check failed.
	Outcome Outcome
	Err     error
}

// listed reports whether Graph has listed the page's subscriptions.
func (a *Answer) listed() bool {
	return a != nil && (a.Outcome.State == subscriptions.Confirmed || a.Outcome.State == subscriptions.Drifted)
}

// refusal returns why Graph did not list the page's subscriptions, nil if it did or
// was not asked. Its code is 0 if there was no answer.
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

// Sending reports whether deliveries arrive for a page that is not connected, which
// an operator should know.
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

// DeselectedPrefix begins the reason of a token that may no longer be used for its
// page.
const DeselectedPrefix = "deselected: "

// token returns what is known about the page's token. Graph's answer takes
// precedence over the read models.
func (f Facts) token() TokenReport {
	row, a := f.Row, f.Answer
	t := TokenReport{
		State: TokenValid, Code: row.TokenCode, Subcode: row.TokenSubcode, Reason: row.TokenReason,
		Expires: row.TokenExpires, DataAccessExpires: row.DataAccessExpires, MissingScopes: f.Loop.MissingScopes,
	}
	if f.Loop.Probed.After(row.TokenSince) { // the loop's data are newer
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
	switch {
	case t.State != TokenValid || row.Token != pages.TokenValid:
	case a != nil && errors.Is(a.Err, ErrToken):
		t.State, t.Reason = TokenMissing, a.Err.Error()
	case a == nil && f.Loop.State == LoopTokenMissing && !f.Loop.Checked.Before(row.TokenSince):
		t.State, t.Reason = TokenMissing, f.Loop.Reason
	}
	return t
}

// subscription returns the recorded subscription, one of state None if there is
// none.
func (f Facts) subscription() subscriptions.Subscription {
	if f.Subscription == nil {
		return subscriptions.Subscription{State: subscriptions.None}
	}
	return *f.Subscription
}

// listedSince reports whether Graph has listed the page's fields after the reconcile loop's last check: for a command, or
// for another node.
func (f Facts) listedSince() bool {
	return !f.Loop.Checked.IsZero() && f.subscription().CheckedAt.After(f.Loop.Checked)
}

// missing returns the wanted fields that the page is not subscribed to. Gone reports
// that the app is not subscribed to the page at all.
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

// wanted returns the fields that the page must be subscribed to.
func (f Facts) wanted() []string {
	if len(f.Row.Fields) > 0 {
		return f.Row.Fields
	}
	return f.subscription().Wanted
}

// appLacks returns as evidence which wanted fields are missing at the app level,
// empty if none are. The newest source of this fact is used.
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
	case state == subscriptions.Confirmed && f.listedSince():
		fields = nil
	}
	missing, gone := f.missing()
	switch {
	case len(fields) > 0:
		return "missing at the app: " + strings.Join(fields, ", ")
	case state == subscriptions.Drifted && !gone && len(missing) == 0: // so the app level has drifted
		return cmp.Or(reason, "the page itself lacks nothing")
	}
	return ""
}

// Lack returns the elements of wanted that present does not contain, in the order of
// wanted.
func Lack(wanted, present []string) (out []string) {
	for _, f := range wanted {
		if !slices.Contains(present, f) {
			out = append(out, f)
		}
	}
	return out
}

// lastConfirmed returns when the subscription was last confirmed, zero if it was not
// since the page was connected.
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
