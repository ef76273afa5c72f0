package doctor_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/doctor"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// install is one that is all right, page likewise.
func install() doctor.Install {
	return doctor.Install{
		Now: now, Accepted: 1000, P99: 50 * time.Millisecond,
		Apps: []doctor.AppFacts{{
			Name: "main", Fields: []string{"messages", "message_reads", "feed"}, Known: true, Callback: "https://x/webhooks/main",
			Endpoint: "https://x/webhooks/main", Reached: true,
		}},
	}
}

func page() doctor.Page {
	wanted := []string{"messages", "message_reads"}
	return doctor.Page{
		Row: pages.Page{
			ID: "104", Name: "Bakery", App: "main", State: pages.Connected, Token: pages.TokenValid, Fields: wanted,
			Traffic: pages.Traffic{Events: 500, LastInboundAt: now.Add(-time.Minute)},
		},
		Subscription: &subscriptions.Subscription{
			State: subscriptions.Confirmed, CheckedAt: now.Add(-time.Hour), Wanted: wanted, Actual: wanted,
			History: []subscriptions.Transition{{To: subscriptions.Confirmed, Time: now.Add(-time.Hour)}},
		},
		Asked: true, Own: "900", Apps: []doctor.App{{ID: "900", Name: "us", Fields: wanted}, {ID: "901", Name: "another"}},
		Token: "valid", Silence: pages.Silence{Enough: true, Expected: 2},
	}
}

func TestCauses(t *testing.T) {
	for name, c := range map[string]struct {
		change   func(*doctor.Install, *doctor.Page)
		install  []doctor.Cause
		page     []doctor.Cause
		because  doctor.Cause // of the last finding
		evidence string
		wrong    bool
	}{
		"healthy": {func(*doctor.Install, *doctor.Page) {}, nil, []doctor.Cause{doctor.Healthy}, "", "all 2 wanted", false},
		"quiet": {
			func(_ *doctor.Install, p *doctor.Page) { p.Row.Traffic.LastInboundAt = now.Add(-48 * time.Hour) },
			nil,
			[]doctor.Cause{doctor.Quiet},
			"", "its rhythm says about 2.0", false,
		},
		"never anything": {
			func(_ *doctor.Install, p *doctor.Page) { p.Row.Traffic = pages.Traffic{}; p.Silence = pages.Silence{} },
			nil,
			[]doctor.Cause{doctor.Quiet},
			"", "not enough history", false,
		},
		"silent": {
			func(_ *doctor.Install, p *doctor.Page) {
				p.Silence = pages.Silence{Enough: true, Expected: 60, Silent: true}
			},
			nil,
			[]doctor.Cause{doctor.Silent},
			"", "about 60 events", true,
		},
		"all silent": {func(in *doctor.Install, p *doctor.Page) {
			in.AllSilent = true
			p.Silence = pages.Silence{Enough: true, Expected: 60, Silent: true}
		}, []doctor.Cause{doctor.AllSilent}, []doctor.Cause{doctor.Silent}, doctor.AllSilent, "", true},
		"deselected": {func(_ *doctor.Install, p *doctor.Page) {
			p.Token, p.Asked, p.Apps, p.Err = "deselected", false, nil, doctor.Refusal{Code: 10, Words: "no permission"}
		}, nil, []doctor.Cause{doctor.Deselected}, "", "not among those", true},
		"deselected on record": {func(_ *doctor.Install, p *doctor.Page) {
			p.Token, p.Asked, p.Apps, p.Err = "", false, nil, doctor.Refusal{Words: "no answer"}
			p.Row.Token, p.Row.TokenReason = pages.TokenInvalid, "deselected: the page is not …"
		}, nil, []doctor.Cause{doctor.Deselected, doctor.GraphUnreachable}, "", "no answer", true},
		"token dead": {func(_ *doctor.Install, p *doctor.Page) {
			p.Token, p.TokenCode, p.TokenSubcode, p.Asked, p.Apps = "invalid", 190, 460, false, nil
			p.TokenWords = "190/460: the password was changed"
			p.Err = doctor.Refusal{Code: 190, Subcode: 460}
		}, nil, []doctor.Cause{doctor.TokenDead}, "", "Graph says 190/460: the password was changed", true},
		"role lost": {func(_ *doctor.Install, p *doctor.Page) {
			p.Token, p.TokenCode, p.TokenSubcode, p.Asked, p.Apps = "invalid", 190, 492, false, nil
		}, nil, []doctor.Cause{doctor.RoleLost}, "", "190/492", true},
		"role too small": {func(_ *doctor.Install, p *doctor.Page) {
			p.Asked, p.Apps, p.Err = false, nil, doctor.Refusal{Code: 200, Words: "not sufficient"}
		}, nil, []doctor.Cause{doctor.RoleLost}, "", "200/0", true},
		"permission": {func(_ *doctor.Install, p *doctor.Page) {
			p.MissingScopes, p.Asked, p.Apps, p.Err = []string{"pages_messaging"}, false, nil, doctor.Refusal{Code: 200}
		}, nil, []doctor.Cause{doctor.PermissionMissing}, "", "pages_messaging", true},
		"expiring": {
			func(_ *doctor.Install, p *doctor.Page) { p.Row.DataAccessExpires = now.Add(3 * 24 * time.Hour) },
			nil,
			[]doctor.Cause{doctor.TokenExpiring},
			"", "2026-06-04", false,
		},
		"throttled": {func(_ *doctor.Install, p *doctor.Page) {
			p.Asked, p.Apps, p.Err = false, nil, doctor.Refusal{Code: 80006, Throttled: true, RetryAfter: 3 * time.Minute}
		}, nil, []doctor.Cause{doctor.Throttled}, "", "80006", false},
		"unreachable graph": {func(_ *doctor.Install, p *doctor.Page) {
			p.Token, p.Asked, p.Apps, p.Err = "", false, nil, doctor.Refusal{Words: "connection refused"}
		}, nil, []doctor.Cause{doctor.GraphUnreachable}, "", "connection refused", false},
		"drifted": {
			func(_ *doctor.Install, p *doctor.Page) { p.Apps[0].Fields = []string{"messages"} },
			nil,
			[]doctor.Cause{doctor.FieldsDrifted},
			"", "message_reads", true,
		},
		"app field": {
			func(in *doctor.Install, p *doctor.Page) { in.Apps[0].Fields = []string{"messages"} },
			nil,
			[]doctor.Cause{doctor.AppFieldMissing},
			"", "message_reads", true,
		},
		"app without page object": {
			func(in *doctor.Install, p *doctor.Page) { in.Apps[0].Fields = nil },
			nil,
			[]doctor.Cause{doctor.AppFieldMissing},
			"", "messages, message_reads", true,
		},
		"app not asked": {
			func(in *doctor.Install, p *doctor.Page) { in.Apps[0].Fields, in.Apps[0].Known = nil, false },
			nil,
			[]doctor.Cause{doctor.Healthy},
			"", "", false,
		},
		"removed by others": {
			func(_ *doctor.Install, p *doctor.Page) { p.Apps = p.Apps[1:] },
			nil,
			[]doctor.Cause{doctor.UnsubscribedByOthers},
			"", "app 901 another", true,
		},
		"removed by Meta": {func(in *doctor.Install, p *doctor.Page) {
			p.Apps = p.Apps[1:]
			in.Apps[0].Reached, in.Apps[0].Trouble = false, "connection refused"
		}, []doctor.Cause{doctor.EndpointUnreachable}, []doctor.Cause{doctor.UnsubscribedByMeta}, doctor.EndpointUnreachable, "", true},
		"never subscribed": {
			func(_ *doctor.Install, p *doctor.Page) { p.Apps, p.Subscription = nil, nil },
			nil,
			[]doctor.Cause{doctor.SubscribeFailed},
			"", "does not have this app", true,
		},
		"subscribe failed": {func(_ *doctor.Install, p *doctor.Page) {
			p.Apps = nil
			p.Subscription = &subscriptions.Subscription{State: subscriptions.Failed, Reason: "(#200)", Failure: &subscriptions.Failure{Code: 200, Reason: "(#200) no"}}
		}, nil, []doctor.Cause{doctor.SubscribeFailed}, "", "200/0", true},
		"failed once, fine now": {
			func(_ *doctor.Install, p *doctor.Page) { p.Subscription.State = subscriptions.Failed },
			nil,
			[]doctor.Cause{doctor.Healthy},
			"", "", false,
		},
		"standby": {
			func(_ *doctor.Install, p *doctor.Page) { p.Row.Traffic.StandbyRun = 9 },
			nil,
			[]doctor.Cause{doctor.Standby},
			"", "last 9", false,
		},
		"blocked": {
			func(_ *doctor.Install, p *doctor.Page) { p.Row.Policy = &pages.Policy{Action: "block", Time: now} },
			nil,
			[]doctor.Cause{doctor.Restricted},
			"", "block", true,
		},
		"unblocked": {
			func(_ *doctor.Install, p *doctor.Page) { p.Row.Policy = &pages.Policy{Action: "unblock", Time: now} },
			nil,
			[]doctor.Cause{doctor.Healthy},
			"", "", false,
		},
		"secret wrong": {
			func(in *doctor.Install, _ *doctor.Page) { in.BadSignatures, in.Accepted = 300, 20 },
			[]doctor.Cause{doctor.AppSecretWrong},
			[]doctor.Cause{doctor.Healthy},
			"", "", true,
		},
		"somebody knocks": {
			func(in *doctor.Install, _ *doctor.Page) { in.BadSignatures = 3 },
			nil,
			[]doctor.Cause{doctor.Healthy},
			"", "", false,
		},
		"not storing": {
			func(in *doctor.Install, _ *doctor.Page) { in.Refused = []string{"disk full"}; in.NotStored = 4 },
			[]doctor.Cause{doctor.NotStoring},
			[]doctor.Cause{doctor.Healthy},
			"", "", true,
		},
		"stored again": {
			func(in *doctor.Install, _ *doctor.Page) { in.NotStored = 4 },
			[]doctor.Cause{doctor.NotStoring},
			[]doctor.Cause{doctor.Healthy},
			"", "", false,
		},
		"slow": {
			func(in *doctor.Install, _ *doctor.Page) { in.P99, in.Slow = 5*time.Second, 40 },
			[]doctor.Cause{doctor.EndpointSlow},
			[]doctor.Cause{doctor.Healthy},
			"", "", true,
		},
		"callback of another": {
			func(in *doctor.Install, _ *doctor.Page) { in.Apps[0].Callback = "https://old/webhooks" },
			[]doctor.Cause{doctor.CallbackElsewhere},
			[]doctor.Cause{doctor.Healthy},
			"", "", false,
		},
		"disconnected": {
			func(_ *doctor.Install, p *doctor.Page) { p.Row.State = pages.Disconnected },
			nil,
			[]doctor.Cause{doctor.NotConnected},
			"", "", false,
		},
		"never connected": {
			func(_ *doctor.Install, p *doctor.Page) { p.Row.State = pages.Unknown },
			nil,
			[]doctor.Cause{doctor.NotConnected},
			"", "", true,
		},
		// The first explains the rest.
		"dead, drifted and silent": {func(_ *doctor.Install, p *doctor.Page) {
			p.Token, p.TokenCode, p.TokenSubcode = "invalid", 190, 458
			p.Apps = p.Apps[1:]
			p.Silence = pages.Silence{Enough: true, Expected: 60, Silent: true}
		}, nil, []doctor.Cause{doctor.TokenDead, doctor.UnsubscribedByOthers, doctor.Silent}, doctor.TokenDead, "", true},
		"drifted at both levels": {func(in *doctor.Install, p *doctor.Page) {
			p.Apps[0].Fields, in.Apps[0].Fields = []string{"messages"}, []string{"messages"}
		}, nil, []doctor.Cause{doctor.FieldsDrifted, doctor.AppFieldMissing}, "", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			in, p := install(), page()
			c.change(&in, &p)
			r := doctor.Examine(in, []doctor.Page{p})
			require.Len(t, r.Pages, 1)
			assert.Equal(t, c.install, causes(r.Install))
			assert.Equal(t, c.page, causes(r.Pages[0].Findings))
			last := r.Pages[0].Findings[len(c.page)-1]
			assert.Equal(t, c.because, last.Because)
			assert.Equal(t, c.wrong, r.Wrong)
			if c.evidence != "" {
				assert.Contains(t, join(last.Evidence), c.evidence)
			}
			for _, f := range append(r.Install, r.Pages[0].Findings...) {
				assert.NotEmpty(t, f.Summary)
				assert.Equal(t, f.Severity == doctor.Fine, len(f.Do) == 0, "%s: what to do", f.Cause)
			}
			assert.Equal(t, domain.PageID("104"), r.Pages[0].Page)
		})
	}
}

func join(list []string) (out string) {
	for _, s := range list {
		out += s + "\n"
	}
	return out
}

func causes(list []doctor.Finding) (out []doctor.Cause) {
	for _, f := range list {
		out = append(out, f.Cause)
	}
	return out
}
