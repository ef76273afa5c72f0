package meta

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
)

// The kinds of objects whose webhooks an app subscribes to.
const (
	ObjectPage      = "page"
	ObjectInstagram = "instagram"
)

// DefaultFields returns the webhook fields that a page is subscribed to by default: all messaging
// fields except response_feedback, which would change what the page's customers see.
func DefaultFields() []string {
	return []string{
		"messages", "message_echoes", "message_deliveries", "message_reads", "message_reactions", "message_edits",
		"messaging_postbacks", "messaging_optins", "messaging_referrals", "messaging_handovers", "standby",
		"messaging_policy_enforcement", "messaging_account_linking",
	}
}

// instagramFields are the fields of [DefaultFields] under their names in the object instagram, which
// has no fields for the other ones.
// https://developers.facebook.com/docs/graph-api/webhooks/reference/instagram
var instagramFields = []string{
	"messages", "message_reactions", "message_edit", "messaging_postbacks", "messaging_optins", "messaging_referral",
	"messaging_handover", "messaging_seen", "standby",
}

// AppSubscription is an app's own subscription to the webhooks of one kind of object. Meta delivers a
// page's events only for fields that are subscribed here and on the page.
type AppSubscription struct {
	// Object is [ObjectPage], [ObjectInstagram] or another one of Meta's.
	Object      string `json:"object"`
	CallbackURL string `json:"callback_url"`
	// Fields are sorted.
	Fields []string `json:"fields"`
	Active bool     `json:"active"`
}

// AppDifference is what an app lacks at Meta of a wanted subscription. The zero value with an Object
// lacks nothing.
type AppDifference struct {
	Object string `json:"object"`
	// NotSubscribed is set if the app is not subscribed to the object at all, and Inactive if Meta
	// delivers nothing for it. All wanted fields are missing then.
	NotSubscribed bool `json:"not_subscribed,omitempty"`
	Inactive      bool `json:"inactive,omitempty"`
	// Elsewhere is the callback URL at Meta if that is not the wanted one.
	Elsewhere string `json:"callback_elsewhere,omitempty"`
	// Missing are the wanted fields that are not delivered, in the order of the wanted ones.
	Missing []string `json:"missing,omitempty"`
}

// None reports whether the app lacks nothing.
func (d AppDifference) None() bool {
	return !d.NotSubscribed && !d.Inactive && d.Elsewhere == "" && len(d.Missing) == 0
}

// Words returns a sentence for each difference, none if there is none.
func (d AppDifference) Words() (out []string) {
	switch {
	case d.NotSubscribed:
		out = append(out, "the app is not subscribed to the object "+d.Object)
	case d.Inactive:
		out = append(out, "the app's subscription to the object "+d.Object+" is inactive")
	case len(d.Missing) > 0:
		out = append(out, "missing at the app for the object "+d.Object+": "+strings.Join(d.Missing, ", "))
	}
	if d.Elsewhere != "" {
		out = append(out, "Meta delivers the object "+d.Object+" to "+d.Elsewhere)
	}
	return out
}

// Compare returns what is missing of the wanted subscription s in the list of those that an app has.
// A callback URL is compared if both are known.
func (s AppSubscription) Compare(list []AppSubscription) AppDifference {
	d := AppDifference{Object: s.Object}
	i := slices.IndexFunc(list, func(has AppSubscription) bool { return has.Object == s.Object })
	if i < 0 {
		d.NotSubscribed, d.Missing = true, s.Fields
		return d
	}
	has := list[i]
	d.Inactive, d.Missing = !has.Active, Lack(s.Fields, has.Fields)
	if d.Inactive {
		d.Missing = s.Fields
	}
	if s.CallbackURL != "" && has.CallbackURL != "" && s.CallbackURL != has.CallbackURL {
		d.Elsewhere = has.CallbackURL
	}
	return d
}

// AppDelivers returns the fields of an object that Meta delivers to an app with these subscriptions,
// sorted, and an empty list if there are none.
func AppDelivers(list []AppSubscription, object string) []string {
	for _, s := range list {
		if s.Object == object && s.Active {
			return slices.Sorted(slices.Values(s.Fields))
		}
	}
	return []string{}
}

// WantedOfApp returns the subscriptions that an app must have: of the object page the default fields
// and those that its connected pages want, and of the object instagram the fields of messages. It must
// have instagram only if that is used: a connected page of the app has a linked Instagram account whose
// messages the app may read. Instagram wants it in any case. Meta refuses the object for an app without
// it. Endpoint is our callback URL of the app, empty if it is not known.
func WantedOfApp(
	model projections.Reader, app, endpoint string, instagram bool,
) (wanted []AppSubscription, err error) {
	fields := map[string]bool{}
	for _, f := range DefaultFields() {
		fields[f] = true
	}
	used := instagram
	err = pages.Each(model, func(p pages.Page) error {
		if p.State != pages.Connected || p.App != app {
			return nil
		}
		for _, f := range p.Fields {
			fields[f] = true
		}
		used = used || p.Instagram != "" && slices.Contains(p.Scopes, "instagram_manage_messages")
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list pages of app %s: %w", app, err)
	}
	wanted = []AppSubscription{
		{Object: ObjectPage, CallbackURL: endpoint, Fields: slices.Sorted(maps.Keys(fields)), Active: true},
	}
	if used {
		wanted = append(wanted, AppSubscription{
			Object: ObjectInstagram, CallbackURL: endpoint, Fields: slices.Clone(instagramFields), Active: true,
		})
	}
	return wanted, nil
}

// SetupCommand returns the command that sets the subscriptions of an app at Meta.
func SetupCommand(app string) string { return strings.TrimSpace("pagestream apps setup " + app) }
