package messenger

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strings"

	"github.com/pagestream/pagestream/domain"
)

// Options say where a delivery came in.
type Options struct {
	// App names the configured app.
	App string
	// Source is "webhook" by default.
	Source string
}

// Result is what a delivery holds. Each item is one event, so Items is the
// number of events.
type Result struct {
	Events []domain.Event
	Items  int
}

// The arrays of an entry, and their channel names.
const (
	channelMessaging = "messaging"
	channelStandby   = "standby"
	channelChanges   = "changes"
	channelFields    = "changed_fields"
)

var channels = [...]string{channelMessaging, channelStandby, channelChanges, channelFields}

// testEntry is the entry id that the developer dashboard's Test button sends.
const testEntry = domain.NoPage

// Split returns the events of one delivery, in its order. It never fails: a
// body that is not the JSON that Meta documents becomes one
// [domain.DeliveryUnreadable] that holds it whole, and an item of a kind that
// is not known one [domain.DeliveryUnrecognized]. An entry without items is one
// event too, and so is a delivery without entries.
//
// The ids depend on the items and their entry's id alone: not on entry.time,
// nor on what else is in the delivery. Ids repeat in Events where an item does.
//
// Of an entry's own fields only id and time are kept when it has items. The
// events share the bytes of body, which must not change after.
func Split(body []byte, o Options) Result {
	o.Source = cmp.Or(o.Source, "webhook")
	s := splitter{opts: o}
	if !domain.ValidJSON(body) {
		return s.unreadable(body, "not JSON, or nested too deeply")
	}
	whole := json.RawMessage(bytes.TrimSpace(body))
	top := asObject(whole)
	if top == nil {
		return s.unreadable(body, "not a JSON object")
	}
	var entries []json.RawMessage
	for _, m := range top {
		if string(m.name) != "entry" {
			continue
		}
		list, ok := asList(m.value)
		if !ok {
			return s.unreadable(body, "entry is not an array")
		}
		entries = append(entries, list...)
	}
	s.object = top.id("object")
	switch {
	case top.count("entry") == 0:
		return s.unreadable(body, "no entry array")
	case len(entries) == 0 && !domain.ValidJSON(slices.Concat([]byte{'['}, whole, []byte{']'})):
		// One level more, and an event with it could not be read back.
		return s.unreadable(body, "nested too deeply")
	case len(entries) == 0:
		s.add(s.unrecognized(item{raw: whole}, ""))
	}
	for _, e := range entries {
		s.entry(e)
	}
	return Result{Events: s.events, Items: len(s.events)}
}

// splitter gathers the events of one delivery.
type splitter struct {
	opts   Options
	object string
	events []domain.Event
}

// item is one item and what it takes from the entry that it stands in.
type item struct {
	raw     json.RawMessage
	fields  object // nil if it is no object
	channel string
	page    domain.PageID // the entry's, empty where it has none
	sent    int64         // entry.time
	test    bool
	echo    bool // a message of the page's own
}

func (s *splitter) add(e domain.Event) { s.events = append(s.events, e) }

func (s *splitter) unreadable(body []byte, reason string) Result {
	e := domain.Event{
		ID:   domain.DedupID("", domain.NoPage, classHash, digest(body)),
		Type: domain.DeliveryUnreadable,
		Page: domain.NoPage,
		Data: domain.Data{
			App: s.opts.App, Source: s.opts.Source,
			Unreadable: &domain.Unreadable{Reason: reason, Body: body},
		},
	}
	return Result{Events: []domain.Event{e}, Items: 1}
}

// entry adds an event for each item of the entry, and one for the entry itself
// if it has none.
func (s *splitter) entry(raw json.RawMessage) {
	fields := asObject(raw)
	it := item{page: domain.PageID(bounded(fields.id("id"))), sent: fields.millis("time")}
	before := len(s.events)
	for _, m := range fields {
		channel := channelOf(m.name)
		if channel == "" || kind(m.value) == 0 {
			continue
		}
		it := it
		it.channel = channel
		it.test = it.page == testEntry && channel == channelChanges
		list, ok := asList(m.value)
		if !ok {
			it.raw = m.value
			s.add(s.unrecognized(it, channel))
			continue
		}
		s.events = slices.Grow(s.events, len(list))
		for _, v := range list {
			it.raw, it.fields = v, asObject(v)
			s.add(s.item(it))
		}
	}
	if len(s.events) == before {
		it.raw = raw
		e := s.unrecognized(it, "")
		e.ID = s.id(e, key{classHash, hash(timeless(raw))})
		s.add(e)
	}
}

func channelOf(name []byte) string {
	for _, c := range channels {
		if string(name) == c {
			return c
		}
	}
	return ""
}

func (s *splitter) item(it item) domain.Event {
	switch {
	case it.channel == channelFields:
		if field, ok := asText(it.raw); ok {
			return s.change(it, field)
		}
		return s.unrecognized(it, "")
	case it.fields == nil:
		return s.unrecognized(it, "")
	case it.channel == channelChanges:
		field := it.fields.text("field")
		if value := it.fields.object("value"); !it.test && isMessaging(field, value) {
			// A messaging item in other clothes: the same fact, the same id.
			inner := it
			inner.fields, inner.raw = value, it.fields.get("value")
			e := s.message(inner)
			e.Data.Raw = it.raw
			return e
		}
		return s.change(it, field)
	}
	return s.message(it)
}

// isMessaging reports whether a change holds an item of a messaging kind that
// has a typed form. The fields of those kinds begin alike: messages,
// message_edits, messaging_postbacks.
func isMessaging(field string, value object) bool {
	if !strings.HasPrefix(field, "message") && !strings.HasPrefix(field, "messaging") {
		return false
	}
	if value.object("sender") == nil && value.object("recipient") == nil {
		return false
	}
	_, v := kindOf(value)
	return v != nil
}

// change is an item of changes, whose field says what it is about.
func (s *splitter) change(it item, field string) domain.Event {
	e := s.event(it, domain.ChangeReceived, field)
	value := it.fields.object("value")
	e.Contact = domain.ContactID(bounded(value.object("sender").id("id")))
	e.Time = at(cmp.Or(value.millis("created_time"), value.millis("timestamp"), it.sent))
	e.ID = s.id(e, key{classHash, hash(it.raw)})
	return e
}

// unrecognized keeps what has no typed form.
func (s *splitter) unrecognized(it item, kind string) domain.Event {
	e := s.event(it, domain.DeliveryUnrecognized, kind)
	e.ID = s.id(e, key{classHash, hash(it.raw)})
	return e
}

// event fills in what every item has.
func (s *splitter) event(it item, t domain.Type, kind string) domain.Event {
	sender, recipient := it.fields.object("sender"), it.fields.object("recipient")
	from, to := sender.id("id"), recipient.id("id")
	e := domain.Event{
		Type: t, Page: it.page, Standby: it.channel == channelStandby,
		Time: at(cmp.Or(it.fields.millis("timestamp"), it.sent)),
		Data: domain.Data{
			App: s.opts.App, Source: s.opts.Source, Object: s.object, Channel: it.channel, Kind: kind,
			Sender: from, Recipient: to, EntryTime: it.sent, Test: it.test, Raw: it.raw,
		},
	}
	if e.Page == "" { // some deliveries have no entry id
		owner := to
		if it.echo {
			owner = from
		}
		e.Page = cmp.Or(domain.PageID(bounded(owner)), domain.NoPage)
	}
	// The contact is whichever end is not the page: the recipient of what the
	// page sent, and of old receipts, which have the two ends the wrong way
	// round. In samples both ends may have one id.
	page := string(e.Page)
	contact := cmp.Or(from, sender.id("user_ref"), it.fields.object("optin").id("user_ref"))
	if bounded(to) != page && (it.echo || bounded(from) == page) {
		contact = to
	}
	e.Contact = domain.ContactID(bounded(cmp.Or(contact, recipient.id("user_ref"))))
	return e
}

// key is what tells one fact from another on its page.
type key struct{ class, text string }

// classHash is the class of what has no key of its own.
const classHash = "h"

func (s *splitter) id(e domain.Event, k key) string {
	return domain.DedupID(s.object, e.Page, k.class, k.text)
}
