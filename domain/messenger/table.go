package messenger

import (
	"strings"

	"github.com/pagestream/pagestream/domain"
)

// Kind is a row of [Kinds]: one kind of item that has a typed form. A test compares each
// row with what [Split] does. A path names a value of the item, as in "value.from.id".
type Kind struct {
	// Channel is the array of the entry: "messaging", which stands for standby as well,
	// or "changes".
	Channel string
	// Fields are the webhook fields with which Meta sends the kind.
	Fields []string
	// Items has the item's key in a messaging item, and values of value.item in a change.
	// Verbs are values of value.verb or value.action. No items or verbs are all of them.
	Items, Verbs []string
	Type         domain.Type
	// Contact is the path of the contact's id, empty for none. The page itself is
	// never a contact.
	Contact string
	// Time is the path of the fact's own time. It is "entry.time" for a kind without
	// one, and then that is part of the id.
	Time string
	// ID has the class of the id, a space, and the parts of its key: paths, or "item"
	// for the item itself.
	ID string
	// Example is an item of the kind. A messaging item has sender, recipient and
	// timestamp as well.
	Example string
	// Source is the address of Meta's reference.
	Source string
}

// Meta's reference pages.
const (
	eventDocs     = "https://developers.facebook.com/docs/messenger-platform/reference/webhook-events/"
	pageDocs      = "https://developers.facebook.com/docs/graph-api/webhooks/reference/page/"
	instagramDocs = "https://developers.facebook.com/docs/instagram-platform/webhooks"
)

// Kinds returns the closed list of kinds with a typed form, in the order in which an item
// is compared with them. README has it as a table. An item of messaging that is none of
// them becomes [domain.DeliveryUnrecognized], a change [domain.ChangeReceived].
func Kinds() []Kind {
	var out []Kind
	for _, k := range kinds {
		for _, row := range k.rows {
			row.Channel, row.Items, row.Time = channelMessaging, []string{k.name}, "timestamp"
			row.Example = `{"` + k.name + `":` + row.Example + `}`
			switch row.Contact {
			case "":
				row.Contact = "sender.id"
			case noContact:
				row.Contact = ""
			}
			if row.ID == "" {
				row.ID = classHash + " item"
			}
			if !strings.HasPrefix(row.Source, "https:") {
				row.Source = eventDocs + row.Source
			}
			out = append(out, row)
		}
	}
	for _, k := range changes {
		row := Kind{
			Channel: channelChanges, Fields: k.fields, Items: k.items, Verbs: k.verbs, Type: k.typ,
			Time: "value." + k.time, ID: classHash + " item", Source: k.source,
			Example: `{"field":"` + k.fields[0] + `","value":` + k.example + `}`,
		}
		if k.contact != "" {
			row.Contact = "value." + k.contact
		}
		if k.time == "" {
			row.Time = "entry.time"
			row.ID += ", entry.time"
		}
		out = append(out, row)
	}
	return out
}
