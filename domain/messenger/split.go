package messenger

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/pagestream/pagestream/domain"
)

// Options describe the origin of a delivery. They become part of its events.
type Options struct {
	// App is the name of the configured app that received the delivery.
	App string
	// AppID is the app's id at Meta.
	AppID string
	// Source is [domain.Data].Source; empty is "webhook".
	Source string
	// Account returns the Instagram account that is linked to a page, or "". Its
	// deliveries may have the page as their entry, and then neither end of an item is the
	// entry. Nil means that no page's account is known.
	Account func(domain.PageID) string
	// MaxItems is the most items that a delivery may have; 0 is no limit.
	MaxItems int
}

// Result is the content of a delivery.
type Result struct {
	// Events are in the order of the delivery.
	Events []domain.Event
	// Items is the number of events, also where there are too many.
	Items int
	// TooMany reports that the delivery has more items than Options.MaxItems. Then
	// there are no events.
	TooMany bool
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

// Split returns the events of one delivery, in its order. It never fails, but it returns no
// events for a delivery with more than Options.MaxItems items, which are only counted. A body
// that is not the JSON that Meta documents becomes one
// [domain.DeliveryUnreadable] event with the complete body. An item of an unknown
// kind, an entry without items and a delivery without entries become one
// [domain.DeliveryUnrecognized] event each.
//
// The id of an event depends only on the delivery's object, its item and the
// entry's id. The id of an item that has neither a message id nor a time of its own
// depends on entry.time as well, and on how many equal items its entry has before it:
// without them, a label that is put on again would be a duplicate of the first time. Meta
// is not known to repeat a delivery with another entry.time; if it does, such a fact is
// stored twice rather than lost ([domain.Data.Fact]).
//
// If an entry has items, only id and time are kept of the entry's own fields. The
// events share the bytes of body: callers must not modify it afterwards.
func Split(body []byte, o Options) Result {
	o.Source = cmp.Or(o.Source, domain.SourceWebhook)
	if o.Account == nil {
		o.Account = func(domain.PageID) string { return "" }
	}
	s := splitter{opts: o}
	d, ok := domain.ParseJSON(body)
	defer d.Release()
	if !ok {
		return s.unreadable(body, "not JSON, or nested too deeply")
	}
	top := value{doc: d}
	if top.first() != '{' {
		return s.unreadable(body, "not a JSON object")
	}
	arrays, items := 0, 0
	for m := top.members(); m.next(); {
		if string(m.name()) != "entry" {
			continue
		}
		if m.first() != '[' {
			return s.unreadable(body, "entry is not an array")
		}
		arrays++
		items += countItems(m.value)
	}
	s.object = top.id("object")
	switch {
	case o.MaxItems > 0 && items > o.MaxItems:
		return Result{Items: items, TooMany: true}
	case arrays == 0:
		return s.unreadable(body, "no entry array")
	case items == 0 && d.Depth == domain.MaxDepth:
		// An event would nest the delivery one level deeper and could not be decoded.
		return s.unreadable(body, "nested too deeply")
	case items == 0:
		s.unrecognized(&item{self: top}, s.add(), "")
	}
	s.events = slices.Grow(s.events, items)
	for m := top.members(); m.next(); {
		if string(m.name()) == "entry" {
			for e := m.elements(); e.next(); {
				s.entry(e.value)
			}
		}
	}
	return Result{Events: s.events, Items: len(s.events)}
}

// countItems returns how many events the entries have.
func countItems(entries value) int {
	total := 0
	for e := entries.elements(); e.next(); {
		n := 0
		for m := e.members(); m.next(); {
			switch {
			case channelOf(m.name()) == "" || m.first() == 0:
			case m.first() == '[':
				for c := m.elements(); c.next(); n++ {
				}
			default:
				n++
			}
		}
		total += max(n, 1)
	}
	return total
}

// IsDelivery reports whether body has the shape of Meta's deliveries: a JSON object with
// the text object and the array entry.
func IsDelivery(body []byte) bool {
	d, ok := domain.ParseJSON(body)
	defer d.Release()
	top := value{doc: d}
	return ok && top.get("object").first() == '"' && top.get("entry").first() == '['
}

// splitter collects the events of one delivery.
type splitter struct {
	opts   Options
	object string
	events []domain.Event
	// equal counts the items of the current entry that have no identity of their own, by
	// their channel and hash.
	equal map[string]int
}

// item is one item with the properties of its entry.
type item struct {
	self    value
	fields  value // self if that is an object
	channel string
	page    domain.PageID // entry.id, empty where absent
	sent    int64         // entry.time in Unix milliseconds, 0 where absent
	test    bool          // from the dashboard's Test button
	echo    bool          // a message that the page sent
}

// add returns the place of a new event.
func (s *splitter) add() *domain.Event {
	s.events = append(s.events, domain.Event{})
	return &s.events[len(s.events)-1]
}

func (s *splitter) unreadable(body []byte, reason string) Result {
	e := domain.Event{
		ID:   domain.DedupID("", domain.NoPage, classHash, digest(body)),
		Type: domain.DeliveryUnreadable,
		Page: domain.NoPage,
		Data: domain.Data{
			App: s.opts.App, AppID: s.opts.AppID, Source: s.opts.Source,
			Unreadable: &domain.Unreadable{Reason: reason, Body: body},
		},
	}
	return Result{Events: []domain.Event{e}, Items: 1}
}

// entry adds an event for each item of the entry, and one for the entry itself
// if it has no items.
func (s *splitter) entry(fields value) {
	it := item{page: domain.PageID(bounded(fields.id("id"))), sent: fields.millis("time")}
	before := len(s.events)
	clear(s.equal)
	for m := fields.members(); m.next(); {
		channel := channelOf(m.name())
		if channel == "" || m.first() == 0 {
			continue
		}
		it := it
		it.channel = channel
		it.test = it.page == testEntry && channel == channelChanges
		if m.first() != '[' {
			it.self = m.value
			s.unrecognized(&it, s.add(), channel)
			continue
		}
		for v := m.elements(); v.next(); {
			s.item(it, v.value)
		}
	}
	if len(s.events) == before {
		it.self = fields
		e := s.add()
		s.event(&it, e, domain.DeliveryUnrecognized, "")
		s.identifyBy(e, &it, hashWithout(fields, "time"), false)
	}
}

// channelOf returns the channel of that name, or "" if an entry's field is none.
func channelOf(name []byte) string {
	for _, c := range channels {
		if string(name) == c {
			return c
		}
	}
	return ""
}

// item adds the event of an item of any channel.
func (s *splitter) item(it item, v value) {
	it.self = v
	if v.first() == '{' {
		it.fields = v
	}
	e := s.add()
	switch {
	case it.channel == channelFields:
		if field, ok := asText(v); ok {
			s.change(&it, e, field)
			return
		}
		s.unrecognized(&it, e, "")
	case !it.fields.exists():
		s.unrecognized(&it, e, "")
	case it.channel == channelChanges:
		field := it.fields.text("field")
		if inner := it.fields.object("value"); !it.test && isMessaging(field, inner) {
			// The change's value is a messaging item: it is the same fact, so it gets
			// the same id as in the messaging array.
			it.self, it.fields = inner, inner
			s.message(&it, e)
			e.Data.Raw = v.raw()
			return
		}
		s.change(&it, e, field)
	default:
		s.message(&it, e)
	}
}

// isMessaging reports whether a change's value is a messaging item of a kind with
// a typed form. The fields of those changes begin with "message" or "messaging"
// (messages, message_edits, messaging_postbacks), or are in the kind's rows.
func isMessaging(field string, v value) bool {
	if !v.object("sender").exists() && !v.object("recipient").exists() {
		return false
	}
	k, _ := kindOf(v)
	return k != nil && (strings.HasPrefix(field, "messag") || k.fields(field))
}

// change makes the event of an item of changes, whose kind is its field.
func (s *splitter) change(it *item, e *domain.Event, field string) {
	s.event(it, e, domain.ChangeReceived, field)
	v := it.fields.object("value")
	own := "timestamp"
	if k := changeOf(field, v); k != nil && !it.test && it.fields.count("value") == 1 {
		e.Type, own = k.typ, k.time
		k.read(v, e)
	}
	e.Contact = ""
	if id := author(v).ID; bounded(id) != string(e.Page) { // a change by the page itself has no contact
		e.Contact = domain.ContactID(bounded(id))
	}
	at := v.millis(own)
	e.Time = fromMillis(cmp.Or(at, it.sent))
	s.identify(e, it, at > 0)
}

// unrecognized makes the event of an item that has no typed form.
func (s *splitter) unrecognized(it *item, e *domain.Event, kind string) {
	s.event(it, e, domain.DeliveryUnrecognized, kind)
	s.identify(e, it, it.fields.millis("timestamp") > 0)
}

// identify sets the id of an item that has no natural key. own reports whether it has a
// message id or a time of its own.
func (s *splitter) identify(e *domain.Event, it *item, own bool) {
	s.identifyBy(e, it, hash(it.self), own)
}

// identifyBy is identify for an item with that hash.
func (s *splitter) identifyBy(e *domain.Event, it *item, hash string, own bool) {
	k := key{classHash, hash}
	if e.Type == domain.PostbackReceived && e.Standby {
		k = keyOf(classHash, channelStandby, hash)
	}
	if own || it.sent == 0 {
		e.ID = s.id(e, k)
		return
	}
	if s.equal == nil {
		s.equal = map[string]int{}
	}
	same := it.channel + hash
	before := s.equal[same]
	s.equal[same]++
	e.Data.Fact = k.text
	k.text = digest([]byte(strings.Join([]string{k.text, formatInt(it.sent), strconv.Itoa(before)}, "|")))
	e.ID = s.id(e, k)
}

// event makes an event with the fields that every item has, in place of what e was.
func (s *splitter) event(it *item, e *domain.Event, t domain.Type, kind string) {
	sender, recipient := it.fields.object("sender"), it.fields.object("recipient")
	from, to := sender.id("id"), recipient.id("id")
	*e = domain.Event{
		Type: t, Page: it.page, Standby: it.channel == channelStandby,
		Time: fromMillis(cmp.Or(it.fields.millis("timestamp"), it.sent)),
		Data: domain.Data{
			App: s.opts.App, AppID: s.opts.AppID, Source: s.opts.Source, Object: s.object, Channel: it.channel, Kind: kind,
			Sender: from, Recipient: to, EntryTime: it.sent, Test: it.test, Raw: it.self.raw(),
		},
	}
	if e.Page == "" { // some deliveries have no entry id
		owner := to
		if it.echo {
			owner = from
		}
		e.Page = cmp.Or(domain.PageID(bounded(owner)), domain.NoPage)
	}
	// The contact is the one of sender and recipient that is not the page: the
	// recipient of a message that the page sent, and of old receipts, which have
	// sender and recipient swapped. In samples both may have the same id.
	contact := cmp.Or(from, sender.id("user_ref"), it.fields.object("optin").id("user_ref"))
	if !s.owns(e.Page, to) && (it.echo || s.owns(e.Page, from)) {
		contact = to
	}
	e.Contact = domain.ContactID(bounded(cmp.Or(contact, recipient.id("user_ref"))))
}

// owns reports whether id is the page itself or the Instagram account that is linked to
// it. Ids of professional accounts begin with 17841 and have 17 digits, those of persons
// do not; that is used where the link is not known.
func (s *splitter) owns(page domain.PageID, id string) bool {
	switch {
	case id == "":
		return false
	case bounded(id) == string(page):
		return true
	case s.object != "instagram":
		return false
	}
	account := s.opts.Account(page)
	return id == account || account == "" && len(id) == 17 && strings.HasPrefix(id, "17841")
}

// key identifies a fact among the facts of its page; see [domain.DedupID].
type key struct{ class, text string }

// classHash is the class of items that have no natural key.
const classHash = "h"

// id returns the dedup id of the event with that key.
func (s *splitter) id(e *domain.Event, k key) string {
	return domain.DedupID(s.object, e.Page, k.class, k.text)
}
