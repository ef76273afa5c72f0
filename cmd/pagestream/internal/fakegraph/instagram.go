package fakegraph

import (
	"maps"
	"slices"
)

// The objects of webhooks, as they are named in app-level subscriptions.
const (
	objectPage      = "page"
	objectInstagram = "instagram"
)

// instagramFields maps the fields of a page to those of object instagram. An echo
// is sent as a message, and there are no delivery receipts.
// https://developers.facebook.com/docs/instagram-platform/webhooks
var instagramFields = map[string]string{
	"messages": "messages", "message_echoes": "messages", "message_reads": "messaging_seen",
	"message_reactions": "message_reactions", "message_edits": "message_edit",
	"messaging_postbacks": "messaging_postbacks", "messaging_referrals": "messaging_referral",
}

// instagram returns the Instagram account that is linked to a page, empty for none.
func (g *Graph) instagram(page string) string { return (*g.linked.Load())[page] }

// SetInstagram links an Instagram account to a page, and unlinks it from the page that
// had it; no account means that the page has none. People write to the account of the
// page from then on.
func (g *Graph) SetInstagram(page, account string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	accounts := maps.Clone(*g.linked.Load())
	maps.DeleteFunc(accounts, func(at, a string) bool { return at == page || a == account })
	if account != "" {
		accounts[page] = account
	}
	g.linked.Store(&accounts)
}

// onInstagram reports whether a person writes to the page's Instagram account. If
// the page has one and the app has fields of object instagram, every third person
// does, starting with the second. The generator calls it at a person's first event
// only.
func (g *Graph) onInstagram(app, page, psid string) bool {
	fields := g.delivers(app, objectInstagram)
	return len(fields) > 0 && g.instagram(page) != "" && slices.Index(g.people[page], psid)%3 == 1
}

// toInstagram converts an item of a page to an item of its Instagram account. It
// copies the body, since others may refer to it.
func (i *item) toInstagram(account, lastOut string) {
	i.object, i.entry, i.field = objectInstagram, account, instagramFields[i.field]
	i.body = maps.Clone(i.body)
	for _, who := range []string{"sender", "recipient"} {
		if m, _ := i.body[who].(map[string]any); m["id"] == i.page {
			i.body[who] = map[string]any{"id": account}
		}
	}
	if m, ok := i.body["message"].(map[string]any); ok && m["is_echo"] == true {
		m = maps.Clone(m)
		delete(m, "app_id")
		delete(m, "metadata")
		i.body["message"] = m
	}
	if _, ok := i.body["read"]; ok {
		i.body["read"] = map[string]any{"mid": lastOut}
	}
	if i.stored != nil {
		i.stored.platform = objectInstagram
	}
}
