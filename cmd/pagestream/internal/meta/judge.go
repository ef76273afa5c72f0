package meta

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

// Judge determines the state of a page. All code that shows or counts the state of
// pages uses it. Without an Answer it judges by the read models. The events that were
// recorded with an Answer lead to the same judgement as the Answer did.
func Judge(in Install, f Facts) Judgement {
	x := &examination{f: f, in: in, install: JudgeInstall(in)}
	if f.Row.State != pages.Connected {
		x.unconnected()
	} else {
		// Causes come before their consequences: a finding may name an earlier one.
		x.token()
		x.graph()
		x.policy()
		x.subscription()
		x.appFields()
		x.leads()
		x.standby()
		x.foreign()
		x.silence()
	}
	x.parked()
	if len(x.out) == 0 {
		x.healthy()
	}
	j := Judgement{State: x.out[0].Cause, Severity: x.out[0].Severity, Summary: x.out[0].Summary, Findings: x.out}
	for _, f := range x.out {
		if f.Severity.worse(j.Severity) {
			j.Severity = f.Severity
		}
	}
	return j
}

// examination collects the findings of one page.
type examination struct {
	f       Facts
	in      Install
	install []Finding
	out     []Finding
}

func (x *examination) find(f Finding) {
	if f.Because == "" {
		f.Remedy = states[f.Cause].remedy
	}
	f.Evidence = slices.DeleteFunc(f.Evidence, func(e string) bool { return e == "" })
	x.out = append(x.out, f)
}

func (x *examination) id() string { return string(x.f.Row.ID) }

// login returns the command for a login to the page's company.
func (x *examination) login() string {
	company := cmp.Or(x.f.Row.Company, "NAME")
	if strings.ContainsFunc(company, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		company = "'" + strings.ReplaceAll(company, "'", `'\''`) + "'"
	}
	return "pagestream pages login --company " + company
}

func (x *examination) unconnected() {
	p := x.f.Row
	f := Finding{Cause: StateNotConnected, Severity: Wrong, Summary: "The page is not connected."}
	switch {
	case p.Test:
		f.Cause, f.Severity = StateTest, Fine
		f.Summary = "It was marked as a test, by pagestream load. The end of the load forgets it, and so does: " +
			"pagestream pages forget --tests"
	case p.State == pages.Disconnected:
		f.Severity, f.Summary = Warning, "The page was disconnected, and deliveries still come for it."
		f.Evidence = []string{strings.TrimSpace("since " + stamp(p.StateSince) + " " + p.StateReason)}
		if !Sending(p) {
			f.Cause, f.Severity, f.Summary = StateDisconnected, Fine, "The page was disconnected."
		}
	case linked(p):
		f.Cause, f.Severity = StateLinked, Fine
		f.Summary = "It is the Instagram account of page " + string(p.LinkedPage) + ", which is connected."
	case Sending(p):
		f.Summary = "Deliveries come for this page, but it was never connected here."
	}
	if f.Severity != Fine {
		f.Do = []string{"pagestream pages connect " + x.id(), x.login()}
	}
	x.find(f)
}

func (x *examination) token() {
	t := x.f.token()
	login := []string{
		x.login(),
		"the page's messages are stored meanwhile, as long as Meta delivers them",
	}
	switch {
	case t.State == TokenDeselected:
		x.find(Finding{
			Cause: StateDeselected, Severity: Wrong, Summary: "A later login of its admin no longer includes the page.",
			Evidence: []string{"the token is valid, and the page is not among those that it may be used for"},
			Do:       append([]string{"have the admin log in again and keep the page selected:"}, login...),
		})
		return
	case x.f.Row.Token == pages.TokenNone:
		x.find(Finding{Cause: StateTokenDead, Severity: Wrong, Summary: "There is no page token.", Do: login})
		return
	case t.State == TokenMissing:
		x.find(Finding{
			Cause: StateTokenMissing, Severity: Wrong, Summary: "The page's token is not stored any more, or can't be opened.",
			Evidence: []string{t.Reason}, Do: append([]string{"connect the page again, or restore a backup:"}, login...),
		})
		return
	case t.State == TokenInvalid:
		// The recorded reason begins with the codes.
		words := strings.TrimPrefix(t.Reason, fmt.Sprintf("%d/%d: ", t.Code, t.Subcode))
		f := Finding{
			Cause: StateTokenDead, Severity: Wrong, Summary: "The page's token is dead",
			Evidence: []string{graphEvidence(t.Code, t.Subcode, words)}, Do: login,
		}
		if t.Subcode == RoleLost {
			f.Cause = StateRoleLost
			f.Do = append([]string{"have an admin of the page log in, or give the role back first:"}, login...)
		}
		if _, why := TokenCause(t.Subcode); why != "" {
			f.Summary += ": " + why
		}
		f.Summary += "."
		x.find(f)
		return
	}
	evidence := ""
	if len(t.MissingScopes) > 0 {
		evidence = "missing: " + strings.Join(t.MissingScopes, ", ")
	} else if a := x.f.Answer; a != nil && a.Token == nil {
		if e := a.refusal(); e != nil && e.Class() == Permission {
			evidence = graphEvidence(e.Code, e.Subcode, e.Message)
		}
	}
	if evidence != "" {
		x.find(Finding{
			Cause: StatePermissionMissing, Severity: Wrong, Summary: "The token lacks a permission.",
			Evidence: []string{evidence},
			Do:       append([]string{"have the admin log in again and allow all that is asked for:"}, login...),
		})
	}
	for _, end := range []struct {
		what string
		at   time.Time
	}{{"token", t.Expires}, {"consent to read data", t.DataAccessExpires}} {
		if EndsSoon(end.at, x.f.Now) {
			ends := " ends soon."
			if end.at.Before(x.f.Now) {
				ends = " has ended."
			}
			x.find(Finding{
				Cause: StateTokenExpiring, Severity: Warning, Summary: "The " + end.what + ends,
				Evidence: []string{"on " + stamp(end.at)}, Do: []string{x.login()},
			})
		}
	}
}

// graphEvidence formats an error of Graph as evidence.
func graphEvidence(code, subcode int, words string) string {
	if code == 0 {
		return words
	}
	return fmt.Sprintf("Graph says %d/%d: %s", code, subcode, words)
}

// graphError returns why Graph did not list the page's subscription, nil if it did: an
// error of the Answer if Graph was asked, else of the reconcile loop's last check, unless
// Graph has listed it since, for a command or another node.
func (f Facts) graphError() *Error {
	if f.Answer != nil {
		return f.Answer.refusal()
	}
	if f.listedSince() {
		return nil
	}
	switch f.Loop.State {
	case LoopThrottled:
		return &Error{Status: http.StatusTooManyRequests, Message: f.Loop.Reason, After: f.Loop.NextTry.Sub(f.Now)}
	case LoopUnreachable:
		return &Error{Message: "no answer: " + f.Loop.Reason}
	case LoopFailed:
		if f.subscription().State != subscriptions.Failed { // else that is the finding
			e := &Error{Code: f.Loop.Code, Subcode: f.Loop.Subcode, Message: f.Loop.Reason}
			if e.Code == 0 {
				e.Message = "Graph refused: " + e.Message
			}
			return e
		}
	}
	return nil
}

// graph finds why Graph does not answer about the page.
func (x *examination) graph() {
	e := x.f.graphError()
	if e == nil || x.f.Row.Token == pages.TokenNone || first(x.out, StateTokenMissing) != "" ||
		e.Code != 0 && first(x.out, StateTokenDead, StateRoleLost, StateDeselected, StatePermissionMissing) != "" {
		return
	}
	f := Finding{Evidence: []string{graphEvidence(e.Code, e.Subcode, e.Message)}}
	switch {
	case e.After > 0 || e.Class() == Throttled:
		f.Cause, f.Severity, f.Summary = StateThrottled, Warning, "Graph wants fewer calls for this page."
		wait := max(e.After, time.Minute).Round(time.Minute)
		f.Do = []string{"wait " + wait.String() + ", then: pagestream doctor " + x.id()}
	case e.Class() == Permission:
		f.Cause, f.Severity, f.Summary = StateRoleLost, Wrong, "The admin's role on the page does not allow what is needed."
		f.Do = []string{"have an admin with full control of the page log in:", x.login()}
	default:
		f.Cause, f.Severity = StateGraphUnreachable, Warning
		f.Summary = "Graph did not answer about this page; what follows is from the stored records."
		f.Do = []string{"https://metastatus.com", "pagestream doctor " + x.id()}
	}
	x.find(f)
}

func (x *examination) policy() {
	p := x.f.Row.Policy
	if p == nil || p.Action == "" || p.Action == "unblock" {
		return
	}
	f := Finding{
		Cause: StateRestricted, Severity: Warning, Summary: "Meta has warned the page.",
		Evidence: []string{strings.TrimSpace(stamp(p.Time) + ": " + p.Action + " " + p.Reason)},
		Do:       []string{"look at the page's Support Inbox"},
	}
	if p.Action == "block" {
		f.Severity, f.Summary = Wrong, "Meta has blocked the page from messaging."
	}
	x.find(f)
}

func (x *examination) subscription() {
	s := x.f.subscription()
	missing, gone := x.f.missing()
	listed := x.f.Answer.listed()
	confirmed := lastConfirmed(s)
	f := Finding{
		Cause: StateSubscribeFailed, Severity: Wrong, Do: []string{"pagestream pages resubscribe " + x.id()},
		Because: first(x.out, StateTokenDead, StateTokenMissing, StateRoleLost, StateDeselected, StatePermissionMissing,
			StateRestricted),
	}
	switch {
	case gone && !confirmed.IsZero():
		f.Cause = StateUnsubscribedByOthers
		f.Summary = "The page's subscription is gone: another product that uses this app or an admin of the page " +
			"has removed it, or Meta has after failures that this process did not see."
		f.Evidence = []string{"Graph's list of the page does not have this app", "it was confirmed at " + stamp(confirmed)}
		why := first(x.install, StateEndpointUnreachable, StateNotStoring, StateEndpointSlow, StateAppSecretWrong)
		if why != "" && f.Because == "" {
			f.Cause, f.Because = StateUnsubscribedByMeta, why
			f.Summary = fmt.Sprintf("The page's subscription is gone: "+
				"Meta removes it after %s in which nothing was answered 200.", UnsubscribeAfter)
			f.Do = append([]string{"set right what " + string(why) + " says, then:"}, f.Do...)
		}
		if listed {
			for _, other := range x.f.Answer.Outcome.Others {
				f.Evidence = append(f.Evidence, "still subscribed: app "+other)
			}
		}
	case gone && s.Failure != nil, !listed && s.State == subscriptions.Failed:
		f.Summary, f.Evidence = "Subscribing the page has failed.", []string{"Graph said: " + s.Reason}
		if e := s.Failure; e != nil {
			f.Evidence = []string{fmt.Sprintf("Graph said %d/%d at %s: %s", e.Code, e.Subcode, stamp(e.Time), e.Reason)}
		}
	case gone:
		f.Summary = "The page was not subscribed since it was connected."
		f.Evidence = []string{"no subscription is on record"}
		if listed || s.State == subscriptions.Drifted {
			f.Evidence = []string{"Graph's list of the page does not have this app"}
		}
	case len(missing) > 0:
		f.Cause, f.Summary = StateFieldsDrifted, "The page is subscribed, but not to everything that is wanted."
		f.Evidence = []string{"missing: " + strings.Join(missing, ", ")}
	case !listed && s.State == subscriptions.Requested:
		f.Cause, f.Severity = StateSubscribing, Warning
		f.Summary = "The page's subscription was asked for, and has no answer yet."
		f.Evidence, f.Do = []string{"since " + stamp(s.Since)}, []string{"pagestream pages check " + x.id()}
	default:
		return
	}
	x.find(f)
}

func (x *examination) appFields() {
	if lacks := x.f.appLacks(x.in); lacks != "" {
		x.find(Finding{
			Cause: StateAppFieldMissing, Severity: Wrong,
			Summary: "The app itself is not subscribed to fields that the page wants, " +
				"so they are not delivered for any page.",
			Evidence: []string{lacks},
			Do:       []string{SetupCommand(x.f.Row.App), "pagestream pages check " + x.id()},
		})
	}
}

// leads finds that the page's leads arrive but can't be read. It knows only pages whose
// permissions are on record.
func (x *examination) leads() {
	scopes := x.f.Row.Scopes
	if !x.in.RetrievesLeads || len(scopes) == 0 || slices.Contains(scopes, LeadsScope) ||
		!slices.Contains(x.f.wanted(), "leadgen") ||
		first(x.out, StateTokenDead, StateRoleLost, StateDeselected) != "" {
		return
	}
	x.find(Finding{
		Cause: StateLeadsUnreadable, Severity: Warning,
		Summary:  "The page's leads are delivered, but their answers can't be read: the token lacks a permission.",
		Evidence: []string{"missing: " + LeadsScope},
		Do: []string{
			"add " + LeadsScope + " to login_scopes of the app, and have the admin log in again and allow it:",
			"pagestream pages login",
		},
	})
}

func (x *examination) standby() {
	if n := x.f.Row.Traffic.StandbyRun; n >= StandbyRun {
		x.find(Finding{
			Cause: StateStandby, Severity: Warning,
			Summary:  "Another app owns the page's threads; messages only come as standby.",
			Evidence: []string{fmt.Sprintf("the last %d messages came as standby", n)},
			Do: []string{
				"make this app the default of the page's conversation routing (Page settings, Advanced messaging)",
				"pagestream events tail --page " + x.id(),
			},
		})
	}
}

func (x *examination) foreign() {
	t := x.f.Row.Traffic
	if t.ForeignAt.IsZero() || x.f.Now.Sub(t.ForeignAt) > ForeignRecent {
		return
	}
	n := t.Types[domain.ForeignReceived]
	x.find(Finding{
		Cause: StateForeign, Severity: Warning,
		Summary: "Another app delivers events for the page; they are stored, and are in no conversation.",
		Evidence: []string{
			fmt.Sprintf("%d in all, the last at %s from app %s", n, stamp(t.ForeignAt), t.ForeignApp),
			"the page is connected through app " + cmp.Or(x.f.Row.AppID, x.f.Row.App),
		},
		Do: []string{
			"pagestream events list --type foreign.received --page " + x.id(),
			"unsubscribe the page in the other app; or, if that is its right app, connect it through it",
			"if the events belong to the page: pagestream events adopt " + x.id(),
		},
	})
}

func (x *examination) parked() {
	if x.f.Parked == 0 {
		return
	}
	x.find(Finding{
		Cause: StateParked, Severity: Warning,
		Summary:  "Events of the page could not be applied; later ones of their conversations wait behind them.",
		Evidence: []string{fmt.Sprintf("%d conversations stand still", x.f.Parked)},
		Do: []string{
			"pagestream deadletters list", "mend what the reason names: pagestream deadletters redrive --page " + x.id(),
		},
	})
}

func (x *examination) silence() {
	s := x.f.Loop.Silence
	if !s.Silent {
		return
	}
	x.find(Finding{
		Cause: StateSilent, Severity: Wrong, Summary: "The page is silent compared with its own rhythm.",
		Evidence: []string{
			fmt.Sprintf("nothing since %s, where its rhythm says about %.0f events", stamp(s.Since), s.Expected),
		},
		Do: []string{
			"write to the page and see whether it comes: pagestream events tail --page " + x.id(),
			"pagestream backfill " + x.id() + " --since …",
		},
		Because: first(slices.Concat(x.out, x.install),
			StateTokenDead, StateTokenMissing, StateRoleLost, StateDeselected, StatePermissionMissing, StateRestricted,
			StateSubscribeFailed, StateSubscribing, StateUnsubscribedByMeta, StateUnsubscribedByOthers, StateFieldsDrifted,
			StateAppFieldMissing, StateNotStoring, StateEndpointUnreachable, StateAppSecretWrong, StateEndpointSlow,
			StateAppNotSubscribed, StateCallbackElsewhere, StateAllSilent),
	})
}

// healthy distinguishes a page with recent events from one that is only quiet.
func (x *examination) healthy() {
	f := Finding{Cause: StateHealthy, Severity: Fine, Summary: "Nothing is wrong."}
	if last := x.f.Row.Traffic.LastInboundAt; x.f.Now.Sub(last) > QuietFor {
		f.Cause, f.Summary = StateQuiet, "Nothing is wrong; nobody has written."
		f.Evidence = []string{"nothing has come yet", "there is not enough history yet to say what would be usual"}
		if !last.IsZero() {
			f.Evidence[0] = "the last event came at " + stamp(last)
		}
		if s := x.f.Loop.Silence; s.Enough {
			f.Evidence[1] = fmt.Sprintf("its rhythm says about %.1f events since", s.Expected)
		}
	}
	f.Evidence = append(f.Evidence, fmt.Sprintf("all %d wanted fields are subscribed", len(x.f.wanted())))
	if x.f.token().State == TokenValid {
		f.Evidence = append(f.Evidence, "the token is valid")
	}
	x.find(f)
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
