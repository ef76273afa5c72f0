package meta_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
)

func TestCompareAppSubscription(t *testing.T) {
	const ours = "https://x/webhooks/main"
	want := meta.AppSubscription{Object: meta.ObjectPage, CallbackURL: ours, Fields: []string{"messages", "standby"}}
	for name, c := range map[string]struct {
		has   meta.AppSubscription
		want  meta.AppDifference
		words []string
	}{
		"nothing": {
			meta.AppSubscription{Object: meta.ObjectInstagram, Active: true},
			meta.AppDifference{NotSubscribed: true, Missing: want.Fields},
			[]string{"the app is not subscribed to the object page"},
		},
		"inactive": {
			meta.AppSubscription{Object: meta.ObjectPage, CallbackURL: ours, Fields: want.Fields},
			meta.AppDifference{Inactive: true, Missing: want.Fields},
			[]string{"the app's subscription to the object page is inactive"},
		},
		"field and callback": {
			meta.AppSubscription{Object: meta.ObjectPage, CallbackURL: "https://y", Fields: []string{"feed", "messages"}, Active: true},
			meta.AppDifference{Missing: []string{"standby"}, Elsewhere: "https://y"},
			[]string{"missing at the app for the object page: standby", "Meta delivers the object page to https://y"},
		},
		"more than wanted": {
			meta.AppSubscription{Object: meta.ObjectPage, Fields: []string{"feed", "messages", "standby"}, Active: true},
			meta.AppDifference{},
			nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.want.Object = meta.ObjectPage
			got := want.Compare([]meta.AppSubscription{{Object: "user"}, c.has})
			assert.Equal(t, c.want, got)
			assert.Equal(t, c.words, got.Words())
			assert.Equal(t, c.words == nil, got.None())
		})
	}
	assert.Equal(t, "pagestream apps setup main", meta.SetupCommand("main"))
	assert.Equal(t, "pagestream apps setup", meta.SetupCommand(""))
}

func TestVersionEnd(t *testing.T) {
	for version, want := range map[string]string{
		"v26.0": "0001-01-01", "v27.0": "0001-01-01", "v25.0": "2028-07-29", "v23.0": "2027-10-08",
		"v20.0": "2026-09-24", "v19.0": "2026-09-24", "v2.12": "2026-09-24", "": "0001-01-01", "latest": "0001-01-01",
	} {
		assert.Equal(t, want, meta.VersionEnd(version).Format(time.DateOnly), version)
	}
	assert.True(t, meta.VersionEnd(meta.GraphVersion).IsZero(), "the default version has an end: use a newer one")
}

func TestJudgeApp(t *testing.T) {
	judge := func(change func(*meta.AppFacts)) []meta.Finding {
		in := install()
		change(&in.Apps[0])
		return meta.JudgeInstall(in)
	}
	lacks := func(d meta.AppDifference) func(*meta.AppFacts) {
		return func(a *meta.AppFacts) { a.Lacks = []meta.AppDifference{d} }
	}
	for name, c := range map[string]struct {
		change   func(*meta.AppFacts)
		cause    meta.State
		severity meta.Severity
	}{
		"not subscribed": {
			lacks(meta.AppDifference{Object: "page", NotSubscribed: true, Missing: []string{"messages"}}),
			meta.StateAppNotSubscribed, meta.Wrong,
		},
		"inactive": {
			lacks(meta.AppDifference{Object: "page", Inactive: true}), meta.StateAppNotSubscribed, meta.Wrong,
		},
		"instagram": {
			lacks(meta.AppDifference{Object: "instagram", NotSubscribed: true}), meta.StateAppNotSubscribed, meta.Warning,
		},
		"fields": {
			lacks(meta.AppDifference{Object: "page", Missing: []string{"standby"}}), meta.StateAppLacksFields, meta.Warning,
		},
		"elsewhere": {
			lacks(meta.AppDifference{Object: "page", Elsewhere: "https://y"}), meta.StateCallbackElsewhere, meta.Warning,
		},
	} {
		t.Run(name, func(t *testing.T) {
			found := judge(c.change)
			require.Len(t, found, 1)
			assert.Equal(t, c.cause, found[0].Cause)
			assert.Equal(t, c.severity, found[0].Severity)
			assert.NotEmpty(t, found[0].Evidence)
			assert.Contains(t, found[0].Do[0], "pagestream apps setup main")
		})
	}
	assert.Empty(t, judge(lacks(meta.AppDifference{Object: "page"})))

	// A callback URL that can't be reached is said once, and explains the rest.
	found := judge(func(a *meta.AppFacts) {
		a.Reached = false
		a.Lacks = []meta.AppDifference{
			{Object: "page", NotSubscribed: true}, {Object: "instagram", Elsewhere: "https://y"},
		}
	})
	require.Len(t, found, 2)
	assert.Equal(t, meta.StateEndpointUnreachable, found[0].Cause)
	assert.Equal(t, meta.StateEndpointUnreachable, found[1].Because)
}
