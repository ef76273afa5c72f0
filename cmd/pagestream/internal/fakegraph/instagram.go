package fakegraph

import (
	"maps"
	"slices"
)

// The objects that webhooks are about, as app-level subscriptions name them.
const (
	objectPage      = "page"
	objectInstagram = "instagram"
)

// instagramFields are what the fields of a page are called on object instagram.
// An echo comes as a message, and there are no deliveries.
// https://developers.facebook.com/docs/instagram-platform/webhooks
var instagramFields = map[string]string{
	"messages": "messages", "message_echoes": "messages", "message_reads": "messaging_seen",
	"message_reactions": "message_reactions", "message_edits": "message_edit",
	"messaging_postbacks": "messaging_postbacks", "messaging_referrals": "messaging_referral",
}

// onInstagram reports whether a person writes to the page's Instagram account.
// Where the page has one and the app has fields of object instagram, every third
// does, beginning with the second; they are decided when they first write.
func (g *Graph) onInstagram(app, page, psid string) bool {
	fields, _, _ := g.appFields(app, objectInstagram)
	return len(fields) > 0 && g.pages[page].Instagram != "" && slices.Index(g.people[page], psid)%3 == 1
}

// toInstagram makes what a person on Instagram or their page did the item that
// comes of it. Bodies that others hold are left alone.
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
	if i.past != nil {
		i.past.platform = objectInstagram
	}
}
