package meta_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// install returns an installation without problems.
func install() meta.Install {
	return meta.Install{
		Recent: meta.Recent{Accepted: 1000, P99: 50 * time.Millisecond},
		Apps: []meta.AppFacts{{
			Name: "main", At: now, Fields: []string{"messages", "message_reads", "feed"}, Known: true,
			Endpoint: "https://x/webhooks/main", Reached: true,
		}},
	}
}

// record returns the facts of a healthy page without an Answer.
func record() meta.Facts {
	wanted := []string{"messages", "message_reads"}
	return meta.Facts{
		Now: now,
		Row: pages.Page{
			ID: "104", Name: "Bakery", App: "main", State: pages.Connected, Token: pages.TokenValid, Fields: wanted,
			Traffic: pages.Traffic{Events: 500, LastInboundAt: now.Add(-time.Minute)},
		},
		Subscription: &subscriptions.Subscription{
			State: subscriptions.Confirmed, CheckedAt: now.Add(-time.Hour), Wanted: wanted, Actual: wanted,
			History: []subscriptions.Transition{{To: subscriptions.Confirmed, Time: now.Add(-time.Hour)}},
		},
		Loop: meta.Loop{
			State: meta.LoopConfirmed, Checked: now.Add(-time.Minute), Silence: pages.Silence{Enough: true, Expected: 2},
		},
	}
}

// asked returns the facts of a healthy page with an Answer.
func asked() meta.Facts {
	f := record()
	f.Answer = &meta.Answer{Token: &meta.TokenReport{State: meta.TokenValid}, Outcome: meta.Outcome{App: "main"}}
	list(&f, f.Row.Fields...)
	return f
}

// list makes the Answer one that lists these fields for the page; without fields the
// app is not subscribed.
func list(f *meta.Facts, fields ...string) {
	o := meta.Outcome{State: subscriptions.Confirmed, Wanted: f.Row.Fields, Actual: fields}
	o.Others = []string{"901 another"}
	for _, w := range o.Wanted {
		if !slices.Contains(fields, w) {
			o.State, o.Missing = subscriptions.Drifted, append(o.Missing, w)
		}
	}
	f.Answer.Outcome, f.Answer.Err = o, nil
}

// refuse makes the Answer an error of Graph.
func refuse(f *meta.Facts, code, subcode int, words string) {
	f.Answer.Outcome = meta.Outcome{State: subscriptions.Failed, Code: code, Subcode: subcode, Reason: words}
}

// unreachable makes the Answer one of a Graph that did not answer.
func unreachable(f *meta.Facts, words string) {
	*f.Answer = meta.Answer{Outcome: meta.Outcome{State: subscriptions.Failed, Reason: words}, Err: errors.New(words)}
}

func TestJudge(t *testing.T) {
	for name, c := range map[string]struct {
		change   func(*meta.Install, *meta.Facts)
		install  []meta.State
		page     []meta.State
		because  meta.State // of the last finding
		evidence string
		wrong    bool
	}{
		"healthy": {func(*meta.Install, *meta.Facts) {}, nil, []meta.State{meta.StateHealthy}, "", "all 2 wanted", false},
		"quiet": {
			func(_ *meta.Install, f *meta.Facts) { f.Row.Traffic.LastInboundAt = now.Add(-48 * time.Hour) },
			nil,
			[]meta.State{meta.StateQuiet},
			"", "its rhythm says about 2.0", false,
		},
		"never anything": {
			func(_ *meta.Install, f *meta.Facts) { f.Row.Traffic, f.Loop.Silence = pages.Traffic{}, pages.Silence{} },
			nil,
			[]meta.State{meta.StateQuiet},
			"", "not enough history", false,
		},
		"silent": {
			func(_ *meta.Install, f *meta.Facts) {
				f.Loop.Silence = pages.Silence{Enough: true, Expected: 60, Silent: true}
			},
			nil,
			[]meta.State{meta.StateSilent},
			"", "about 60 events", true,
		},
		"all silent": {func(in *meta.Install, f *meta.Facts) {
			in.AllSilent = true
			f.Loop.Silence = pages.Silence{Enough: true, Expected: 60, Silent: true}
		}, []meta.State{meta.StateAllSilent}, []meta.State{meta.StateSilent}, meta.StateAllSilent, "", true},
		"deselected": {func(_ *meta.Install, f *meta.Facts) {
			f.Answer.Token = &meta.TokenReport{State: meta.TokenDeselected}
			refuse(f, 10, 0, "no permission")
		}, nil, []meta.State{meta.StateDeselected}, "", "not among those", true},
		"deselected on record": {func(_ *meta.Install, f *meta.Facts) {
			unreachable(f, "no answer")
			f.Row.Token, f.Row.TokenReason = pages.TokenInvalid, "deselected: the page is not …"
		}, nil, []meta.State{meta.StateDeselected, meta.StateGraphUnreachable}, "", "no answer", true},
		"token dead": {func(_ *meta.Install, f *meta.Facts) {
			f.Answer.Token = &meta.TokenReport{
				State: meta.TokenInvalid, Code: 190, Subcode: 460, Reason: "190/460: the password was changed",
			}
			refuse(f, 190, 460, "")
		}, nil, []meta.State{meta.StateTokenDead}, "", "Graph says 190/460: the password was changed", true},
		"role lost": {func(_ *meta.Install, f *meta.Facts) {
			f.Answer.Token = &meta.TokenReport{State: meta.TokenInvalid, Code: 190, Subcode: 492}
			f.Answer.Outcome = meta.Outcome{}
		}, nil, []meta.State{meta.StateRoleLost}, "", "190/492", true},
		"role too small": {
			func(_ *meta.Install, f *meta.Facts) { refuse(f, 200, 0, "not sufficient") },
			nil,
			[]meta.State{meta.StateRoleLost},
			"", "200/0", true,
		},
		"permission": {func(_ *meta.Install, f *meta.Facts) {
			f.Answer.Token.MissingScopes = []string{"pages_messaging"}
			refuse(f, 200, 0, "")
		}, nil, []meta.State{meta.StatePermissionMissing}, "", "pages_messaging", true},
		"permission by the refusal": {func(_ *meta.Install, f *meta.Facts) {
			f.Answer.Token = nil
			refuse(f, 3, 0, "not capable")
		}, nil, []meta.State{meta.StatePermissionMissing}, "", "Graph says 3/0: not capable", true},
		"expiring": {
			func(_ *meta.Install, f *meta.Facts) { f.Answer.Token.DataAccessExpires = now.Add(3 * 24 * time.Hour) },
			nil,
			[]meta.State{meta.StateTokenExpiring},
			"", "2026-06-04", false,
		},
		"throttled": {func(_ *meta.Install, f *meta.Facts) {
			refuse(f, 80006, 0, "")
			f.Answer.Outcome.RetryAfter = 180
		}, nil, []meta.State{meta.StateThrottled}, "", "80006", false},
		"throttled without a code": {func(_ *meta.Install, f *meta.Facts) {
			f.Answer.Outcome, f.Answer.Err = meta.Outcome{}, &meta.Error{Held: true, After: time.Minute}
		}, nil, []meta.State{meta.StateThrottled}, "", "call not made", false},
		"unreachable graph": {
			func(_ *meta.Install, f *meta.Facts) { unreachable(f, "connection refused") },
			nil,
			[]meta.State{meta.StateGraphUnreachable},
			"", "connection refused", false,
		},
		"drifted": {
			func(_ *meta.Install, f *meta.Facts) { list(f, "messages") },
			nil,
			[]meta.State{meta.StateFieldsDrifted},
			"", "message_reads", true,
		},
		"app field": {
			func(in *meta.Install, _ *meta.Facts) { in.Apps[0].Fields = []string{"messages"} },
			nil,
			[]meta.State{meta.StateAppFieldMissing},
			"", "message_reads", true,
		},
		"app without page object": {
			func(in *meta.Install, _ *meta.Facts) { in.Apps[0].Fields = nil },
			nil,
			[]meta.State{meta.StateAppFieldMissing},
			"", "messages, message_reads", true,
		},
		"app not asked": {
			func(in *meta.Install, _ *meta.Facts) { in.Apps[0].Fields, in.Apps[0].Known = nil, false },
			nil,
			[]meta.State{meta.StateHealthy},
			"", "", false,
		},
		"app asked by the check": {
			func(in *meta.Install, f *meta.Facts) {
				in.Apps[0].Known = false
				f.Answer.Outcome.State, f.Answer.Outcome.AppMissing = subscriptions.Drifted, []string{"feed"}
			},
			nil,
			[]meta.State{meta.StateAppFieldMissing},
			"", "missing at the app: feed", true,
		},
		"removed by others": {
			func(_ *meta.Install, f *meta.Facts) { list(f) },
			nil,
			[]meta.State{meta.StateUnsubscribedByOthers},
			"", "app 901 another", true,
		},
		"removed by Meta": {
			func(in *meta.Install, f *meta.Facts) {
				list(f)
				in.Apps[0].Reached, in.Apps[0].Trouble = false, "connection refused"
			},
			[]meta.State{meta.StateEndpointUnreachable},
			[]meta.State{meta.StateUnsubscribedByMeta},
			meta.StateEndpointUnreachable, "", true,
		},
		"never subscribed": {
			func(_ *meta.Install, f *meta.Facts) { list(f); f.Subscription = nil },
			nil,
			[]meta.State{meta.StateSubscribeFailed},
			"", "does not have this app", true,
		},
		"subscribe failed": {func(_ *meta.Install, f *meta.Facts) {
			list(f)
			f.Subscription = &subscriptions.Subscription{
				State: subscriptions.Failed, Reason: "(#200)", Failure: &subscriptions.Failure{Code: 200, Reason: "(#200) no"},
			}
		}, nil, []meta.State{meta.StateSubscribeFailed}, "", "200/0", true},
		"failed once, fine now": {
			func(_ *meta.Install, f *meta.Facts) { f.Subscription.State = subscriptions.Failed },
			nil,
			[]meta.State{meta.StateHealthy},
			"", "", false,
		},
		"connected again, and not subscribed": {
			func(_ *meta.Install, f *meta.Facts) {
				list(f)
				f.Subscription.State = subscriptions.Requested
				f.Subscription.History = append(f.Subscription.History, subscriptions.Transition{To: subscriptions.Removed})
			},
			nil,
			[]meta.State{meta.StateSubscribeFailed},
			"", "does not have this app", true,
		},
		"standby": {
			func(_ *meta.Install, f *meta.Facts) { f.Row.Traffic.StandbyRun = 9 },
			nil,
			[]meta.State{meta.StateStandby},
			"", "last 9", false,
		},
		"blocked": {
			func(_ *meta.Install, f *meta.Facts) { f.Row.Policy = &pages.Policy{Action: "block", Time: now} },
			nil,
			[]meta.State{meta.StateRestricted},
			"", "block", true,
		},
		"unblocked": {
			func(_ *meta.Install, f *meta.Facts) { f.Row.Policy = &pages.Policy{Action: "unblock", Time: now} },
			nil,
			[]meta.State{meta.StateHealthy},
			"", "", false,
		},
		"secret wrong": {
			func(in *meta.Install, _ *meta.Facts) { in.BadSignatures, in.Accepted = 300, 20 },
			[]meta.State{meta.StateAppSecretWrong},
			[]meta.State{meta.StateHealthy},
			"", "", true,
		},
		"somebody knocks": {
			func(in *meta.Install, _ *meta.Facts) { in.BadSignatures = 3 },
			nil,
			[]meta.State{meta.StateHealthy},
			"", "", false,
		},
		"not storing": {
			func(in *meta.Install, _ *meta.Facts) { in.Refused = []string{"disk full"}; in.NotStored = 4 },
			[]meta.State{meta.StateNotStoring},
			[]meta.State{meta.StateHealthy},
			"", "", true,
		},
		"events lost": {
			func(in *meta.Install, _ *meta.Facts) { in.Lost = "60 events, in 56-115" },
			[]meta.State{meta.StateEventsLost},
			[]meta.State{meta.StateHealthy},
			"", "", true,
		},
		"stored again": {
			func(in *meta.Install, _ *meta.Facts) { in.NotStored = 4 },
			[]meta.State{meta.StateNotStoring},
			[]meta.State{meta.StateHealthy},
			"", "", false,
		},
		"slow": {
			func(in *meta.Install, _ *meta.Facts) { in.P99, in.Slow = 5*time.Second, 40 },
			[]meta.State{meta.StateEndpointSlow},
			[]meta.State{meta.StateHealthy},
			"", "", true,
		},
		"callback of another": {
			func(in *meta.Install, _ *meta.Facts) {
				in.Apps[0].Lacks = []meta.AppDifference{{Object: "page", Elsewhere: "https://old/webhooks"}}
			},
			[]meta.State{meta.StateCallbackElsewhere},
			[]meta.State{meta.StateHealthy},
			"", "", false,
		},
		"disconnected": {
			func(_ *meta.Install, f *meta.Facts) { f.Row.State = pages.Disconnected },
			nil,
			[]meta.State{meta.StateNotConnected},
			"", "", false,
		},
		"never connected": {
			func(_ *meta.Install, f *meta.Facts) { f.Row.State = pages.Unknown },
			nil,
			[]meta.State{meta.StateNotConnected},
			"", "", true,
		},
		"missing token": {
			func(_ *meta.Install, f *meta.Facts) { missing(f) },
			nil,
			[]meta.State{meta.StateTokenMissing},
			"", "can't be opened", true,
		},
		"missing token of a page without a subscription": {
			func(_ *meta.Install, f *meta.Facts) {
				missing(f)
				f.Subscription = nil
			},
			nil,
			[]meta.State{meta.StateTokenMissing, meta.StateSubscribeFailed},
			meta.StateTokenMissing, "", true,
		},
		// The first finding explains the others.
		"dead, drifted and silent": {
			func(_ *meta.Install, f *meta.Facts) {
				f.Answer.Token = &meta.TokenReport{State: meta.TokenInvalid, Code: 190, Subcode: 458}
				list(f)
				f.Loop.Silence = pages.Silence{Enough: true, Expected: 60, Silent: true}
			}, nil,
			[]meta.State{meta.StateTokenDead, meta.StateUnsubscribedByOthers, meta.StateSilent},
			meta.StateTokenDead, "", true,
		},
		"drifted at both levels": {func(in *meta.Install, f *meta.Facts) {
			list(f, "messages")
			in.Apps[0].Fields = []string{"messages"}
		}, nil, []meta.State{meta.StateFieldsDrifted, meta.StateAppFieldMissing}, "", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			in, f := install(), asked()
			c.change(&in, &f)
			found, j := meta.JudgeInstall(in), meta.Judge(in, f)
			assert.Equal(t, c.install, causes(found))
			require.Equal(t, c.page, causes(j.Findings))
			last := j.Findings[len(c.page)-1]
			assert.Equal(t, c.because, last.Because)
			isWrong := func(f meta.Finding) bool { return f.Severity == meta.Wrong }
			wrong := slices.ContainsFunc(slices.Concat(found, j.Findings), isWrong)
			assert.Equal(t, c.wrong, wrong)
			if c.evidence != "" {
				assert.Contains(t, strings.Join(last.Evidence, "\n"), c.evidence)
			}
			assert.Empty(t, broken(in, j))
		})
	}
}

// missing makes the Answer that of a page whose stored token is missing.
func missing(f *meta.Facts) {
	f.Answer = &meta.Answer{Err: fmt.Errorf("page 104: %w", meta.ErrToken)}
}

// broken returns the invariant of all judgements that j violates, empty if none.
func broken(in meta.Install, j meta.Judgement) string {
	if len(j.Findings) == 0 {
		return "there is no finding"
	}
	if j.Findings[0].Cause != j.State || j.Findings[0].Summary != j.Summary {
		return "state or summary are not those of the first finding"
	}
	all := append(meta.JudgeInstall(in), j.Findings...)
	worst := meta.Fine
	for i, f := range all {
		switch {
		case f.Summary == "", slices.Contains(f.Evidence, ""):
			return string(f.Cause) + ": empty summary or evidence"
		case (f.Severity == meta.Fine) != (len(f.Do) == 0):
			return string(f.Cause) + ": steps for a fine finding, or none for another"
		case f.Because != "" && !slices.Contains(causes(all), f.Because):
			return string(f.Cause) + ": the finding that explains it is missing"
		case f.Because != "" && f.Remedy != "":
			return string(f.Cause) + ": a remedy for an explained finding"
		}
		if i >= len(all)-len(j.Findings) && (f.Severity == meta.Wrong || worst == meta.Fine) {
			worst = f.Severity
		}
	}
	if j.Severity != worst {
		return "severity is not that of the worst finding"
	}
	return ""
}

func causes(list []meta.Finding) (out []meta.State) {
	for _, f := range list {
		out = append(out, f.Cause)
	}
	return out
}

// Lists of pages are judged without asking Graph.
func TestJudgeWithoutAnAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		change   func(*meta.Facts)
		severity meta.Severity
		page     []meta.State
		text     string // of the first finding
		remedy   meta.Remedy
	}{
		"fine": {func(*meta.Facts) {}, meta.Fine, []meta.State{meta.StateHealthy}, "Nothing is wrong", ""},
		"dead token": {
			func(f *meta.Facts) { f.Row.Token = pages.TokenInvalid },
			meta.Wrong,
			[]meta.State{meta.StateTokenDead},
			"token is dead", meta.RemedyConnect,
		},
		"no token": {
			func(f *meta.Facts) { f.Row.Token = pages.TokenNone },
			meta.Wrong,
			[]meta.State{meta.StateTokenDead},
			"There is no page token.", meta.RemedyConnect,
		},
		"missing token": {
			func(f *meta.Facts) { f.Loop.State, f.Loop.Reason = meta.LoopTokenMissing, "not among the secrets" },
			meta.Wrong,
			[]meta.State{meta.StateTokenMissing},
			"not among the secrets", meta.RemedyConnect,
		},
		"connected again since": {
			func(f *meta.Facts) {
				f.Loop.State, f.Loop.Reason = meta.LoopTokenMissing, "not among the secrets"
				f.Row.TokenSince = f.Loop.Checked.Add(time.Second)
			},
			meta.Fine,
			[]meta.State{meta.StateHealthy},
			"Nothing is wrong", "",
		},
		"lost role": {
			func(f *meta.Facts) {
				f.Row.Token, f.Row.TokenCode, f.Row.TokenSubcode = pages.TokenInvalid, 190, meta.RoleLost
				f.Loop.State = meta.LoopTokenDead
			},
			meta.Wrong,
			[]meta.State{meta.StateRoleLost},
			"lost the role", meta.RemedyConnect,
		},
		"ending token": {
			func(f *meta.Facts) { f.Row.TokenExpires = now.Add(50 * time.Hour) },
			meta.Warning,
			[]meta.State{meta.StateTokenExpiring},
			"2026-06-03 14:00", meta.RemedyConnect,
		},
		"token ends in 13 days": {
			func(f *meta.Facts) { f.Row.TokenExpires = now.Add(13 * 24 * time.Hour) },
			meta.Warning,
			[]meta.State{meta.StateTokenExpiring},
			"ends soon", meta.RemedyConnect,
		},
		"ending access": {
			func(f *meta.Facts) { f.Row.DataAccessExpires = now.Add(50 * time.Hour) },
			meta.Warning,
			[]meta.State{meta.StateTokenExpiring},
			"consent to read data", meta.RemedyConnect,
		},
		"access has ended": {
			func(f *meta.Facts) { f.Row.DataAccessExpires = now.Add(-time.Hour) },
			meta.Warning,
			[]meta.State{meta.StateTokenExpiring},
			"consent to read data has ended", meta.RemedyConnect,
		},
		"token ends in 15 days": {
			func(f *meta.Facts) { f.Row.TokenExpires = now.Add(15 * 24 * time.Hour) },
			meta.Fine,
			[]meta.State{meta.StateHealthy},
			"", "",
		},
		"scopes missing": {
			func(f *meta.Facts) { f.Loop.MissingScopes = []string{"pages_messaging"} },
			meta.Wrong,
			[]meta.State{meta.StatePermissionMissing},
			"missing: pages_messaging", meta.RemedyConnect,
		},
		"no subscription": {
			func(f *meta.Facts) { f.Subscription = nil },
			meta.Wrong,
			[]meta.State{meta.StateSubscribeFailed},
			"not subscribed", meta.RemedyResubscribe,
		},
		"fields missing": {
			func(f *meta.Facts) {
				f.Subscription.State, f.Subscription.Actual = subscriptions.Drifted, []string{"messages"}
				f.Loop.State = meta.LoopDrifted
			},
			meta.Wrong,
			[]meta.State{meta.StateFieldsDrifted},
			"missing: message_reads", meta.RemedyResubscribe,
		},
		"refused": {
			func(f *meta.Facts) {
				f.Subscription.State, f.Subscription.Reason = subscriptions.Failed, "no"
				f.Loop.State, f.Loop.Reason = meta.LoopFailed, "no"
			},
			meta.Wrong,
			[]meta.State{meta.StateSubscribeFailed},
			"Graph said: no", meta.RemedyResubscribe,
		},
		"requested": {
			func(f *meta.Facts) { f.Subscription.State, f.Subscription.Since = subscriptions.Requested, now },
			meta.Warning,
			[]meta.State{meta.StateSubscribing},
			"since 2026-06-01 12:00", meta.RemedyCheck,
		},
		"gone": {
			func(f *meta.Facts) { f.Subscription.State, f.Subscription.Actual = subscriptions.Drifted, nil },
			meta.Wrong,
			[]meta.State{meta.StateUnsubscribedByOthers},
			"confirmed at 2026-06-01 11:00", meta.RemedyResubscribe,
		},
		"removed": {
			func(f *meta.Facts) {
				f.Subscription.State, f.Subscription.Actual = subscriptions.Removed, nil
				f.Subscription.History = append(f.Subscription.History, subscriptions.Transition{To: subscriptions.Removed})
			},
			meta.Wrong,
			[]meta.State{meta.StateSubscribeFailed},
			"no subscription is on record", meta.RemedyResubscribe,
		},
		"app lacks": {
			func(f *meta.Facts) { f.Loop.AppMissing, f.Loop.Checked = []string{"feed"}, now.Add(time.Second) },
			meta.Wrong,
			[]meta.State{meta.StateAppFieldMissing},
			"missing at the app: feed", "",
		},
		"app lacks, says an older look": {
			func(f *meta.Facts) { f.Loop.AppMissing = []string{"feed"} },
			meta.Fine,
			[]meta.State{meta.StateHealthy},
			"", "",
		},
		"app lacks, says the record": {
			func(f *meta.Facts) {
				f.Subscription.State, f.Subscription.Reason = subscriptions.Drifted, "the app itself lacks fields: feed"
				f.Subscription.CheckedAt, f.Loop = now.Add(time.Second), meta.Loop{}
			},
			meta.Wrong,
			[]meta.State{meta.StateAppFieldMissing},
			"lacks fields: feed", "",
		},
		"silent": {
			func(f *meta.Facts) {
				f.Loop.Silence = pages.Silence{Enough: true, Silent: true, Since: now.Add(-3 * time.Hour), Expected: 21.4}
			},
			meta.Wrong,
			[]meta.State{meta.StateSilent},
			"nothing since 2026-06-01 09:00 UTC, where its rhythm says about 21 events", meta.RemedyCheck,
		},
		"throttled": {
			func(f *meta.Facts) { f.Loop.State, f.Loop.NextTry = meta.LoopThrottled, now.Add(5*time.Minute) },
			meta.Warning,
			[]meta.State{meta.StateThrottled},
			"fewer calls", meta.RemedyCheck,
		},
		"unreachable": {
			func(f *meta.Facts) { f.Loop.State, f.Loop.Reason = meta.LoopUnreachable, "connection refused" },
			meta.Warning,
			[]meta.State{meta.StateGraphUnreachable},
			"no answer: connection refused", meta.RemedyCheck,
		},
		"unreachable, and asked again since": {
			func(f *meta.Facts) {
				f.Loop.State, f.Loop.Reason = meta.LoopUnreachable, "connection refused"
				f.Loop.Checked = f.Subscription.CheckedAt.Add(-time.Second)
			},
			meta.Fine,
			[]meta.State{meta.StateHealthy},
			"", "",
		},
		"unreachable since it was asked": {
			func(f *meta.Facts) {
				f.Loop.State, f.Loop.Reason = meta.LoopUnreachable, "connection refused"
				f.Loop.Checked = f.Subscription.CheckedAt.Add(time.Second)
			},
			meta.Warning,
			[]meta.State{meta.StateGraphUnreachable},
			"no answer: connection refused", meta.RemedyCheck,
		},
		"Graph refuses to tell": {
			func(f *meta.Facts) { f.Loop.State, f.Loop.Reason = meta.LoopFailed, "(#200) no" },
			meta.Warning,
			[]meta.State{meta.StateGraphUnreachable},
			"Graph refused: (#200) no", meta.RemedyCheck,
		},
		"restricted": {
			func(f *meta.Facts) { f.Row.Policy = &pages.Policy{Action: "block", Reason: "spam"} },
			meta.Wrong,
			[]meta.State{meta.StateRestricted},
			"block spam", "",
		},
		"warned": {
			func(f *meta.Facts) { f.Row.Policy = &pages.Policy{Action: "warning", Reason: "spam"} },
			meta.Warning,
			[]meta.State{meta.StateRestricted},
			"warning spam", "",
		},
		"standby": {
			func(f *meta.Facts) { f.Row.Traffic.StandbyRun = 9 },
			meta.Warning,
			[]meta.State{meta.StateStandby},
			"Another app", "",
		},
		"standby begins": {
			func(f *meta.Facts) { f.Row.Traffic.StandbyRun = meta.StandbyRun },
			meta.Warning,
			[]meta.State{meta.StateStandby},
			"Another app", "",
		},
		"never ours": {
			func(f *meta.Facts) { f.Row.State = pages.Unknown },
			meta.Wrong,
			[]meta.State{meta.StateNotConnected},
			"never connected", meta.RemedyConnect,
		},
		"still coming": {
			func(f *meta.Facts) {
				f.Row.State, f.Row.StateSince = pages.Disconnected, now.Add(-time.Hour)
				f.Row.Traffic.LastInboundAt = now
			},
			meta.Warning,
			[]meta.State{meta.StateNotConnected},
			"still come", meta.RemedyConnect,
		},
		"disconnected": {
			func(f *meta.Facts) { f.Row.State, f.Row.StateSince = pages.Disconnected, now },
			meta.Fine,
			[]meta.State{meta.StateDisconnected},
			"was disconnected", "",
		},
		"linked account": {
			func(f *meta.Facts) { f.Row.State, f.Row.Object, f.Row.LinkedPage = pages.Unknown, "instagram", "103" },
			meta.Fine,
			[]meta.State{meta.StateLinked},
			"of page 103", "",
		},
		"account of nobody": {
			func(f *meta.Facts) { f.Row.State, f.Row.Object = pages.Unknown, "instagram" },
			meta.Wrong,
			[]meta.State{meta.StateNotConnected},
			"never connected", meta.RemedyConnect,
		},
	} {
		t.Run(name, func(t *testing.T) {
			in, f := install(), record()
			c.change(&f)
			j := meta.Judge(in, f)
			require.Equal(t, c.page, causes(j.Findings))
			assert.Equal(t, c.severity, j.Severity)
			assert.Equal(t, c.page[0], j.State)
			assert.Contains(t, j.Summary+"\n"+strings.Join(j.Findings[0].Evidence, "\n"), c.text)
			assert.Equal(t, c.remedy, j.Findings[0].Remedy)
			assert.Empty(t, broken(in, j))
		})
	}
}

// The judgement with an Answer is the same as one by the read models after the events
// of that Answer were recorded.
func TestJudgementsByAnswerAndByRecordAgree(t *testing.T) {
	drift := func(s *subscriptions.Subscription, actual ...string) {
		s.State, s.Actual, s.CheckedAt, s.Reason = subscriptions.Drifted, actual, now, "some are not subscribed"
		s.History = append(s.History, subscriptions.Transition{To: subscriptions.Drifted, Time: now})
	}
	for name, c := range map[string]struct {
		state  meta.State
		answer func(*meta.Facts)
		record func(*meta.Facts)
	}{
		"healthy": {meta.StateHealthy, func(*meta.Facts) {}, func(*meta.Facts) {}},
		"dead token": {
			meta.StateTokenDead,
			func(f *meta.Facts) {
				refuse(f, 102, 0, "Session key invalid")
				f.Answer.Token = nil
			},
			func(f *meta.Facts) {
				f.Row.Token, f.Row.TokenCode, f.Row.TokenReason = pages.TokenInvalid, 102, "102/0: Session key invalid"
			},
		},
		"drifted": {
			meta.StateFieldsDrifted,
			func(f *meta.Facts) { list(f, "messages") },
			func(f *meta.Facts) { drift(f.Subscription, "messages") },
		},
		"unsubscribed": {
			meta.StateUnsubscribedByOthers,
			func(f *meta.Facts) { list(f); f.Answer.Outcome.Others = nil },
			func(f *meta.Facts) { drift(f.Subscription) },
		},
		"app lacks": {
			meta.StateAppFieldMissing,
			func(f *meta.Facts) {
				f.Answer.Outcome.State, f.Answer.Outcome.Reason = subscriptions.Drifted, "the app itself lacks fields: feed"
			},
			func(f *meta.Facts) {
				drift(f.Subscription, f.Row.Fields...)
				f.Subscription.Reason = "the app itself lacks fields: feed"
			},
		},
		"deselected": {
			meta.StateDeselected,
			func(f *meta.Facts) {
				refuse(f, 10, 0, "no permission")
				f.Answer.Token = &meta.TokenReport{State: meta.TokenDeselected, Reason: meta.DeselectedPrefix + "not among them"}
			},
			func(f *meta.Facts) {
				f.Row.Token, f.Row.TokenReason = pages.TokenInvalid, meta.DeselectedPrefix+"not among them"
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := install()
			in.Apps[0].Known = false // so that the check and the read models are used
			answer, onRecord, both := asked(), record(), asked()
			c.answer(&answer)
			c.record(&onRecord)
			c.answer(&both)
			c.record(&both)
			judged := meta.Judge(in, answer)
			assert.Equal(t, c.state, judged.State)
			assert.Equal(t, judged, meta.Judge(in, onRecord))
			assert.Equal(t, judged, meta.Judge(in, both))
		})
	}
}

// TestJudgeLeads checks that leads which can't be read are one warning, and only where they are wanted.
func TestJudgeLeads(t *testing.T) {
	judge := func(change func(*meta.Install, *meta.Facts)) meta.Judgement {
		in, f := install(), record()
		in.RetrievesLeads = true
		in.Apps[0].Fields = append(in.Apps[0].Fields, "leadgen")
		f.Row.Fields = append(slices.Clone(f.Row.Fields), "leadgen")
		f.Row.Scopes = meta.NeededScopes()
		change(&in, &f)
		return meta.Judge(in, f)
	}
	j := judge(func(*meta.Install, *meta.Facts) {})
	require.Len(t, j.Findings, 1)
	assert.Equal(t, meta.StateLeadsUnreadable, j.State)
	assert.Equal(t, "leads unreadable", j.State.Words())
	assert.Equal(t, meta.Warning, j.Severity)
	assert.Equal(t, []string{"missing: leads_retrieval"}, j.Findings[0].Evidence)
	assert.Equal(t, meta.RemedyConnect, j.Findings[0].Remedy)
	for name, change := range map[string]func(*meta.Install, *meta.Facts){
		"off":      func(in *meta.Install, _ *meta.Facts) { in.RetrievesLeads = false },
		"unwanted": func(_ *meta.Install, f *meta.Facts) { f.Row.Fields = f.Row.Fields[:2] },
		"granted":  func(_ *meta.Install, f *meta.Facts) { f.Row.Scopes = append(f.Row.Scopes, meta.LeadsScope) },
		"unknown":  func(_ *meta.Install, f *meta.Facts) { f.Row.Scopes = nil },
	} {
		assert.Equal(t, meta.StateHealthy, judge(change).State, name)
	}
	j = judge(func(_ *meta.Install, f *meta.Facts) { f.Row.Token = pages.TokenInvalid })
	require.Len(t, j.Findings, 1)
	assert.Equal(t, meta.StateTokenDead, j.State, "the token must be replaced anyway")
}

// TestJudgeEveryCombination checks the invariants for all combinations of facts.
func TestJudgeEveryCombination(t *testing.T) {
	type change = func(*meta.Facts)
	rows := []change{
		func(*meta.Facts) {},
		func(f *meta.Facts) { f.Row.State = pages.Unknown },
		func(f *meta.Facts) { f.Row = pages.Page{ID: "104", State: pages.Unknown} },
		func(f *meta.Facts) { f.Row.State, f.Row.Object, f.Row.LinkedPage = pages.Unknown, "instagram", "103" },
		func(f *meta.Facts) { f.Row.State = pages.Disconnected },
		func(f *meta.Facts) { f.Row.State, f.Row.StateSince = pages.Disconnected, now },
		func(f *meta.Facts) { f.Row = pages.Page{} },
		func(f *meta.Facts) { f.Row.Traffic = pages.Traffic{StandbyRun: 4} },
		func(f *meta.Facts) { f.Row.Traffic = pages.Traffic{} },
		func(f *meta.Facts) { f.Row.Policy = &pages.Policy{Action: "block"} },
	}
	tokens := []change{
		func(*meta.Facts) {},
		func(f *meta.Facts) { f.Row.Token = pages.TokenNone },
		func(f *meta.Facts) { f.Row.Token = pages.TokenInvalid },
		func(f *meta.Facts) { f.Row.Token, f.Row.TokenReason = pages.TokenInvalid, "deselected: no" },
		func(f *meta.Facts) { f.Row.TokenExpires, f.Row.DataAccessExpires = now, now.Add(-time.Hour) },
	}
	subs := []change{func(*meta.Facts) {}, func(f *meta.Facts) { f.Subscription = nil }}
	for _, s := range []subscriptions.State{
		subscriptions.None, subscriptions.Requested, subscriptions.Failed, subscriptions.Drifted, subscriptions.Removed,
	} {
		subs = append(subs,
			func(f *meta.Facts) { f.Subscription.State = s },
			func(f *meta.Facts) { f.Subscription = &subscriptions.Subscription{State: s} })
	}
	answers := []change{
		func(f *meta.Facts) { f.Answer = nil },
		func(*meta.Facts) {},
		func(f *meta.Facts) { *f.Answer = meta.Answer{} },
		func(f *meta.Facts) { list(f, "messages") },
		func(f *meta.Facts) { list(f) },
		func(f *meta.Facts) { unreachable(f, "gone") },
		missing,
		func(f *meta.Facts) { refuse(f, 190, 460, "changed") },
		func(f *meta.Facts) { refuse(f, 200, 0, "no") },
		func(f *meta.Facts) { refuse(f, 200, 0, "no"); f.Answer.Token = nil },
		func(f *meta.Facts) { refuse(f, 4, 0, "slow down") },
		func(f *meta.Facts) { f.Answer.Token = &meta.TokenReport{State: meta.TokenInvalid} },
	}
	loops := []change{func(f *meta.Facts) { f.Loop = meta.Loop{} }}
	for _, s := range []meta.LoopState{
		meta.LoopUnknown, meta.LoopConfirmed, meta.LoopDrifted, meta.LoopFailed, meta.LoopTokenDead, meta.LoopThrottled,
		meta.LoopUnreachable, meta.LoopTokenMissing,
	} {
		loops = append(loops, func(f *meta.Facts) {
			f.Loop.State, f.Loop.AppMissing, f.Loop.Silence.Silent = s, []string{"feed"}, true
		})
	}
	well, ill := install(), meta.Install{
		Recent: meta.Recent{BadSignatures: 9, NotStored: 1, Slow: 9, P99: meta.Timeout}, AllSilent: true,
		Apps: []meta.AppFacts{{Name: "main", Endpoint: "https://x"}},
	}
	seen := map[meta.State]bool{}
	for _, row := range rows {
		for _, token := range tokens {
			for _, sub := range subs {
				for _, loop := range loops {
					for _, answer := range answers {
						for _, in := range []meta.Install{well, ill} {
							f := asked()
							for _, c := range []change{row, token, sub, loop, answer} {
								c(&f)
							}
							j := meta.Judge(in, f)
							if b := broken(in, j); b != "" {
								require.Fail(t, b, "%+v", j)
							}
							seen[j.State] = true
						}
					}
				}
			}
		}
	}
	assert.Len(t, seen, 22, "some state of a page comes never")
}

func TestSending(t *testing.T) {
	p := pages.Page{State: pages.Unknown}
	assert.False(t, meta.Sending(p))
	p.Traffic.Events = 1
	assert.True(t, meta.Sending(p))
	p.Object, p.LinkedPage = "instagram", "103"
	assert.False(t, meta.Sending(p), "it comes by its page's connection")
	p = pages.Page{State: pages.Disconnected, StateSince: now}
	p.Traffic = pages.Traffic{Events: 9, LastInboundAt: now.Add(meta.DisconnectGrace)}
	assert.False(t, meta.Sending(p), "it was on its way")
	p.Traffic.LastInboundAt = now.Add(2 * meta.DisconnectGrace)
	assert.True(t, meta.Sending(p))
	p.State = pages.Connected
	assert.False(t, meta.Sending(p))
}

// TestParked checks that a page with parked events has a warning with its remedy, connected or not, and that
// it takes no other finding's place.
func TestParked(t *testing.T) {
	f := record()
	f.Parked = 2
	j := meta.Judge(meta.Install{}, f)
	assert.Equal(t, meta.StateParked, j.State)
	assert.Equal(t, meta.Warning, j.Severity)
	require.Len(t, j.Findings, 1)
	assert.Equal(t, meta.RemedyRedrive, j.Findings[0].Remedy)
	assert.Contains(t, j.Findings[0].Evidence[0], "2 conversations")
	f.Row.State, f.Row.StateSince = pages.Disconnected, f.Now
	j = meta.Judge(meta.Install{}, f)
	assert.Equal(t, meta.StateDisconnected, j.State)
	assert.Equal(t, meta.StateParked, j.Findings[1].Cause)
}

func TestWords(t *testing.T) {
	for s, want := range map[meta.State]string{
		meta.StateTokenDead: "token dead", meta.StateFieldsDrifted: "fields missing",
		meta.StateTokenExpiring: "token ends soon",
		meta.StateNotConnected:  "not connected but sending", meta.StateUnsubscribedByOthers: "unsubscribed elsewhere",
		meta.StateHealthy: "healthy", meta.StateEndpointSlow: "endpoint slow",
	} {
		assert.Equal(t, want, s.Words())
	}
}
