package doctor

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

const (
	// MetaTimeout is how long Meta waits for an answer; what takes longer counts as
	// a failure. https://developers.facebook.com/docs/messenger-platform/webhooks
	MetaTimeout = 5 * time.Second
	// SlowAnswer is when an answer is on its way to being too late.
	SlowAnswer = MetaTimeout / 2
	// expiring is how long before its end a token is worth a warning.
	expiring = 14 * 24 * time.Hour
	// standbyRun is how many messages in a row have to come as standby.
	standbyRun = 3
	// quietFor is how long nothing comes before it is worth a word.
	quietFor = 24 * time.Hour
	// unsubscribeAfter is how long everything has to fail for Meta to unsubscribe a
	// page; around twice that a removal is put down to it.
	unsubscribeAfter = time.Hour
)

// Examine says what is the matter.
func Examine(in Install, list []Page) Report {
	r := Report{At: in.Now, Install: diagnoseInstall(in), Pages: []PageReport{}}
	r.Wrong = wrong(r.Install)
	for _, p := range list {
		one := PageReport{Page: p.id(), Name: p.Row.Name, Findings: diagnose(in, r.Install, p)}
		r.Wrong = r.Wrong || wrong(one.Findings)
		r.Pages = append(r.Pages, one)
	}
	return r
}

func wrong(list []Finding) bool {
	return slices.ContainsFunc(list, func(f Finding) bool { return f.Severity == Wrong })
}

// has returns the first of the causes that is among the findings.
func has(list []Finding, causes ...Cause) Cause {
	for _, f := range list {
		if slices.Contains(causes, f.Cause) {
			return f.Cause
		}
	}
	return ""
}

func diagnoseInstall(in Install) []Finding {
	out := []Finding{}
	if len(in.Refused) > 0 || in.NotStored > 0 {
		f := Finding{
			Cause: NotStoring, Severity: Wrong, Summary: "Deliveries are or were answered 503 because they could not be stored.",
			Evidence: slices.Clone(in.Refused), Do: []string{"pagestream status", "see that the disk has room and the log what failed"},
		}
		if in.NotStored > 0 {
			f.Evidence = append(f.Evidence, fmt.Sprintf("%d deliveries were answered 503 in the last hour; Meta sends them again", in.NotStored))
		}
		if len(in.Refused) == 0 { // it is over, and nothing was lost
			f.Severity = Warning
		}
		out = append(out, f)
	}
	if in.BadSignatures > 0 && in.BadSignatures*10 >= in.BadSignatures+in.Accepted {
		out = append(out, Finding{
			Cause: AppSecretWrong, Severity: Wrong,
			Summary:  "Deliveries come that none of the configured app secrets has signed: a secret is wrong or was changed at Meta.",
			Evidence: []string{fmt.Sprintf("%d deliveries were answered 401 in the last hour, %d were accepted", in.BadSignatures, in.Accepted)},
			Do: []string{
				"copy the app secret from the app's dashboard (Settings, Basic) to apps[].secrets, before the old one",
				"pagestream config check", "restart pagestream serve",
			},
		})
	}
	if n := in.Slow; n > 0 && in.P99 >= SlowAnswer {
		f := Finding{
			Cause: EndpointSlow, Severity: Warning, Summary: "Answers to deliveries take long.",
			Evidence: []string{
				fmt.Sprintf("99 of 100 answers of the last hour took up to %s, %d took over %s", in.P99.Round(10*time.Millisecond), n, SlowAnswer),
				fmt.Sprintf("Meta gives up after %s and unsubscribes a page after an hour of that", MetaTimeout),
			},
			Do: []string{"pagestream status", "look at the disk's time to sync, and at what else uses it"},
		}
		if in.P99 >= MetaTimeout {
			f.Severity = Wrong
		}
		out = append(out, f)
	}
	for _, a := range in.Apps {
		switch {
		case a.Endpoint != "" && !a.Reached:
			out = append(out, Finding{
				Cause: EndpointUnreachable, Severity: Wrong, Summary: "The callback URL of app " + a.Name + " can't be reached, or somebody else answers there.",
				Evidence: []string{"a handshake at " + a.Endpoint + " failed: " + a.Trouble},
				Do:       []string{"look at the proxy, TLS certificate and DNS in front of http.public", "pagestream doctor"},
			})
		case a.Known && a.Callback != "" && a.Endpoint != "" && a.Callback != a.Endpoint:
			out = append(out, Finding{
				Cause: CallbackElsewhere, Severity: Warning, Summary: "Meta delivers app " + a.Name + " to another URL than ours.",
				Evidence: []string{"Meta has " + a.Callback, "ours is " + a.Endpoint},
				Do:       []string{"set the callback URL in the app's dashboard (Webhooks), or http.base_url if it is only another name for the same"},
			})
		}
	}
	if in.AllSilent {
		f := Finding{
			Cause: AllSilent, Severity: Wrong, Summary: "Nearly all pages have fallen silent at once: deliveries don't reach us.",
			Evidence: []string{"each page brings far less than its own rhythm says"},
			Do:       []string{"look at the app's dashboard (Webhooks, Alerts)", "https://metastatus.com", "pagestream backfill PAGE --since … once it is over"},
		}
		f.Because = has(out, EndpointUnreachable, AppSecretWrong, NotStoring, EndpointSlow, CallbackElsewhere)
		out = append(out, f)
	}
	return out
}

// examination is the work on one page.
type examination struct {
	in  Install
	p   Page
	out []Finding
	// missing are wanted fields that the page's list lacks; removed says that the
	// list does not have us at all.
	missing []string
	removed bool
}

func (x *examination) find(f Finding) { x.out = append(x.out, f) }

// diagnose goes from what explains most to what is only a consequence.
func diagnose(in Install, install []Finding, p Page) []Finding {
	if p.Row.State != pages.Connected {
		f := Finding{
			Cause: NotConnected, Severity: Wrong, Summary: "The page is not connected.",
			Do: []string{"pagestream pages connect " + string(p.id()), "pagestream pages login"},
		}
		if p.Row.State == pages.Disconnected {
			f.Severity = Warning
			f.Summary = "The page was disconnected."
			f.Evidence = []string{"since " + stamp(p.Row.StateSince) + " " + p.Row.StateReason}
		} else if p.Row.Traffic.Events > 0 {
			f.Summary = "Deliveries come for this page, but it was never connected here."
		}
		return []Finding{f}
	}
	x := &examination{in: in, p: p}
	x.compare()
	x.token()
	x.graph()
	x.policy()
	x.subscription(install)
	x.appFields()
	x.standby()
	x.silence(install)
	if len(x.out) == 0 {
		x.healthy()
	}
	return x.out
}

// own is our app's entry in the page's list.
func (x *examination) own() (App, bool) {
	i := slices.IndexFunc(x.p.Apps, func(a App) bool { return a.ID == x.p.Own })
	if i < 0 {
		return App{}, false
	}
	return x.p.Apps[i], true
}

func (x *examination) compare() {
	if !x.p.Asked {
		return
	}
	own, there := x.own()
	x.removed = !there
	for _, f := range x.p.Row.Fields {
		if there && !slices.Contains(own.Fields, f) {
			x.missing = append(x.missing, f)
		}
	}
}

// tokenWords say what a subcode of 190 means and what helps.
// https://developers.facebook.com/docs/graph-api/guides/error-handling
var tokenWords = map[int]string{
	458: "its admin has removed the app",
	459: "its admin has to pass a checkpoint at www.facebook.com first",
	460: "its admin has changed the password",
	463: "it has expired",
	464: "its admin's account is not confirmed",
	467: "its admin has logged out of the session",
	490: "its admin has to pass a checkpoint at www.facebook.com first",
	492: "its admin has lost the role on the page",
}

func (x *examination) token() {
	p := x.p
	state, code, sub, words := p.Token, p.TokenCode, p.TokenSubcode, p.TokenWords
	if state == "" && p.Row.Token == pages.TokenInvalid { // Graph did not tell: what is on record
		state, code, sub, words = "invalid", p.Row.TokenCode, p.Row.TokenSubcode, p.Row.TokenReason
		if strings.HasPrefix(words, "deselected") {
			state = "deselected"
		}
	}
	login := []string{"pagestream pages login", "the page's messages are stored meanwhile, as long as Meta delivers them"}
	switch state {
	case "deselected":
		x.find(Finding{
			Cause: Deselected, Severity: Wrong, Summary: "A later login of its admin no longer includes the page.",
			Evidence: []string{"the token is valid, and the page is not among those that it may be used for"},
			Do:       append([]string{"have the admin log in again and keep the page selected:"}, login...),
		})
		return
	case "invalid":
		// What is on record begins with the codes.
		words = strings.TrimPrefix(words, fmt.Sprintf("%d/%d: ", code, sub))
		f := Finding{
			Cause: TokenDead, Severity: Wrong, Summary: "The page's token is dead",
			Evidence: []string{said(Refusal{Code: code, Subcode: sub, Words: words})}, Do: login,
		}
		if sub == 492 {
			f.Cause = RoleLost
			f.Do = append([]string{"have an admin of the page log in, or give the role back first:"}, login...)
		}
		if w := tokenWords[sub]; w != "" {
			f.Summary += ": " + w
		}
		f.Summary += "."
		x.find(f)
		return
	}
	if len(p.MissingScopes) > 0 || state == "" && refusedForPermission(p.Err) {
		f := Finding{
			Cause: PermissionMissing, Severity: Wrong, Summary: "The token lacks a permission.",
			Do: append([]string{"have the admin log in again and allow all that is asked for:"}, login...),
		}
		if len(p.MissingScopes) > 0 {
			f.Evidence = []string{"missing: " + strings.Join(p.MissingScopes, ", ")}
		} else {
			f.Evidence = []string{said(p.Err)}
		}
		x.find(f)
	}
	for _, end := range []struct {
		what string
		at   time.Time
	}{{"token", p.Row.TokenExpires}, {"consent to read data", p.Row.DataAccessExpires}} {
		if !end.at.IsZero() && end.at.Sub(x.in.Now) < expiring {
			x.find(Finding{
				Cause: TokenExpiring, Severity: Warning, Summary: "The " + end.what + " ends soon.",
				Evidence: []string{"on " + stamp(end.at)}, Do: []string{"pagestream pages login"},
			})
		}
	}
}

func refusedForPermission(r Refusal) bool { return r.Code == 10 || r.Code >= 200 && r.Code <= 299 }

func said(r Refusal) string { return fmt.Sprintf("Graph says %d/%d: %s", r.Code, r.Subcode, r.Words) }

// graph says why Graph could not be asked.
func (x *examination) graph() {
	e := x.p.Err
	switch {
	case x.p.Asked, e == (Refusal{}), e.Code != 0 && has(x.out, TokenDead, RoleLost, Deselected, PermissionMissing) != "":
	case e.Throttled:
		x.find(Finding{
			Cause: Throttled, Severity: Warning, Summary: "Graph wants fewer calls for this page.",
			Evidence: []string{said(e)}, Do: []string{"wait " + max(e.RetryAfter, time.Minute).Round(time.Minute).String() + ", then: pagestream doctor " + string(x.p.id())},
		})
	case refusedForPermission(e):
		x.find(Finding{
			Cause: RoleLost, Severity: Wrong, Summary: "The admin's role on the page does not allow what is needed.",
			Evidence: []string{said(e)},
			Do:       []string{"have an admin with full control of the page log in:", "pagestream pages login"},
		})
	default:
		f := Finding{
			Cause: GraphUnreachable, Severity: Warning, Summary: "Graph did not tell about this page; what follows is from our own records.",
			Do: []string{"https://metastatus.com", "pagestream doctor " + string(x.p.id())},
		}
		if f.Evidence = []string{"no answer: " + e.Words}; e.Code != 0 {
			f.Evidence = []string{said(e)}
		}
		x.find(f)
	}
}

func (x *examination) policy() {
	if p := x.p.Row.Policy; p != nil && p.Action != "" && p.Action != "unblock" {
		f := Finding{
			Cause: Restricted, Severity: Warning, Summary: "Meta has warned the page.",
			Evidence: []string{stamp(p.Time) + ": " + p.Action + " " + p.Reason}, Do: []string{"look at the page's Support Inbox"},
		}
		if p.Action == "block" {
			f.Severity, f.Summary = Wrong, "Meta has blocked the page from messaging."
		}
		x.find(f)
	}
}

func (x *examination) subscription(install []Finding) {
	again := []string{"pagestream pages resubscribe " + string(x.p.id())}
	sub := x.p.Subscription
	because := has(x.out, TokenDead, RoleLost, Deselected, PermissionMissing, Restricted)
	switch {
	case x.removed && everConfirmed(sub):
		f := Finding{
			Cause: UnsubscribedByOthers, Severity: Wrong, Do: again, Because: because,
			Summary:  "The page's subscription is gone: another product that uses this app or an admin of the page has removed it, or Meta has after failures that this process did not see.",
			Evidence: []string{"Graph's list of the page does not have this app", "it was confirmed at " + stamp(lastConfirmed(sub))},
		}
		if why := has(install, EndpointUnreachable, NotStoring, EndpointSlow, AppSecretWrong); why != "" && because == "" {
			f.Cause, f.Because = UnsubscribedByMeta, why
			f.Summary = fmt.Sprintf("The page's subscription is gone: Meta removes it after %s in which nothing was answered 200.", unsubscribeAfter)
			f.Do = append([]string{"set right what " + string(why) + " says, then:"}, again...)
		}
		for _, a := range x.p.Apps {
			f.Evidence = append(f.Evidence, "still subscribed: app "+a.ID+" "+a.Name)
		}
		x.find(f)
	case sub != nil && sub.State == subscriptions.Failed && !(x.p.Asked && !x.removed && len(x.missing) == 0):
		evidence := "Graph said: " + sub.Reason
		if sub.Failure != nil {
			evidence = fmt.Sprintf("Graph said %d/%d at %s: %s", sub.Failure.Code, sub.Failure.Subcode, stamp(sub.Failure.Time), sub.Failure.Reason)
		}
		x.find(Finding{
			Cause: SubscribeFailed, Severity: Wrong, Summary: "Subscribing the page has failed.",
			Evidence: []string{evidence}, Do: again, Because: because,
		})
	case x.removed:
		x.find(Finding{
			Cause: SubscribeFailed, Severity: Wrong, Summary: "The page has never been subscribed.",
			Evidence: []string{"Graph's list of the page does not have this app"}, Do: again, Because: because,
		})
	case len(x.missing) > 0:
		x.find(Finding{
			Cause: FieldsDrifted, Severity: Wrong, Summary: "The page is subscribed, but not to everything that is wanted.",
			Evidence: []string{"missing: " + strings.Join(x.missing, ", ")}, Do: again, Because: because,
		})
	}
}

func everConfirmed(s *subscriptions.Subscription) bool { return !lastConfirmed(s).IsZero() }

// lastConfirmed is when Graph's list was last what is wanted.
func lastConfirmed(s *subscriptions.Subscription) (at time.Time) {
	if s == nil {
		return at
	}
	for _, t := range s.History {
		if t.To == subscriptions.Confirmed {
			at = t.Time
		}
	}
	if s.State == subscriptions.Confirmed {
		at = s.CheckedAt
	}
	return at
}

func (x *examination) appFields() {
	for _, a := range x.in.Apps {
		if a.Name != x.p.Row.App || !a.Known {
			continue
		}
		var missing []string
		for _, f := range x.p.Row.Fields {
			if !slices.Contains(a.Fields, f) {
				missing = append(missing, f)
			}
		}
		if len(missing) > 0 {
			x.find(Finding{
				Cause: AppFieldMissing, Severity: Wrong,
				Summary:  "The app itself is not subscribed to fields that the page wants, so they are not delivered for any page.",
				Evidence: []string{"missing at the app: " + strings.Join(missing, ", ")},
				Do:       []string{"subscribe them in the app's dashboard (Webhooks, Page)", "pagestream pages check " + string(x.p.id())},
			})
		}
	}
}

func (x *examination) standby() {
	if n := x.p.Row.Traffic.StandbyRun; n >= standbyRun {
		x.find(Finding{
			Cause: Standby, Severity: Warning, Summary: "Another app owns the page's threads; messages only come as standby.",
			Evidence: []string{fmt.Sprintf("the last %d messages came as standby", n)},
			Do:       []string{"make this app the default of the page's conversation routing (Page settings, Advanced messaging)", "pagestream events tail --page " + string(x.p.id())},
		})
	}
}

func (x *examination) silence(install []Finding) {
	if !x.p.Silence.Silent {
		return
	}
	evidence := []string{fmt.Sprintf("nothing since %s, where its rhythm says about %.0f events", stamp(x.p.Silence.Since), x.p.Silence.Expected)}
	because := has(x.out, TokenDead, RoleLost, Deselected, PermissionMissing, Restricted, UnsubscribedByMeta, UnsubscribedByOthers, SubscribeFailed, FieldsDrifted, AppFieldMissing)
	if because == "" {
		because = has(install, NotStoring, EndpointUnreachable, AppSecretWrong, EndpointSlow, CallbackElsewhere, AllSilent)
	}
	x.find(Finding{
		Cause: Silent, Severity: Wrong, Summary: "The page has fallen silent against its own rhythm.", Evidence: evidence, Because: because,
		Do: []string{"write to the page and see whether it comes: pagestream events tail --page " + string(x.p.id()), "pagestream backfill " + string(x.p.id()) + " --since …"},
	})
}

// healthy tells a page that brings something from one that is just quiet.
func (x *examination) healthy() {
	last := x.p.Row.Traffic.LastInboundAt
	f := Finding{Cause: Healthy, Severity: Fine, Summary: "Nothing is wrong."}
	if last.IsZero() || x.in.Now.Sub(last) > quietFor {
		f.Cause, f.Summary = Quiet, "Nothing is wrong; nobody has written."
		if last.IsZero() {
			f.Evidence = append(f.Evidence, "nothing has come yet")
		} else {
			f.Evidence = append(f.Evidence, "the last event came at "+stamp(last))
		}
		if x.p.Silence.Enough {
			f.Evidence = append(f.Evidence, fmt.Sprintf("its rhythm says about %.1f events since", x.p.Silence.Expected))
		} else {
			f.Evidence = append(f.Evidence, "there is not enough history yet to say what would be usual")
		}
	}
	if x.p.Asked {
		f.Evidence = append(f.Evidence, fmt.Sprintf("Graph lists all %d wanted fields", len(x.p.Row.Fields)))
	}
	if x.p.Token == "valid" {
		f.Evidence = append(f.Evidence, "the token is valid")
	}
	x.find(f)
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
