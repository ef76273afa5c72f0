package messenger

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
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

var channels = []string{channelMessaging, channelStandby, channelChanges, channelFields}

// testEntry is the entry id that the developer dashboard's Test button sends.
const testEntry = "0"

// Split returns the events of one delivery, in its order. It never fails: a
// body that is not the JSON that Meta documents becomes one
// [domain.DeliveryUnreadable] that holds it whole, and an item of a kind that
// is not known one [domain.DeliveryUnrecognized].
//
// The ids depend on the items alone: not on entry.time, nor on what else is in
// the delivery.
func Split(body []byte, o Options) Result {
	if o.Source == "" {
		o.Source = "webhook"
	}
	s := splitter{opts: o}
	var top object
	if err := json.Unmarshal(body, &top); err != nil || top == nil {
		return s.unreadable(body, "not a JSON object")
	}
	entries, ok := asList(top["entry"])
	if !ok {
		return s.unreadable(body, "no entry array")
	}
	s.object = top.id("object")
	if len(entries) == 0 {
		s.add(s.unrecognized(item{raw: bytes.TrimSpace(body)}, ""))
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

// item is one item and the entry it stands in.
type item struct {
	raw     json.RawMessage
	fields  object // nil if it is no object
	channel string
	page    domain.PageID // the entry's, empty where it has none
	sent    int64         // entry.time
	test    bool
}

func (s *splitter) add(e domain.Event) { s.events = append(s.events, e) }

func (s *splitter) unreadable(body []byte, reason string) Result {
	sum := sha256.Sum256(body)
	e := domain.Event{
		ID:   domain.DedupID("", domain.NoPage, "h", hex.EncodeToString(sum[:])),
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
	page := domain.PageID(fields.id("id"))
	sent := fields.millis("time")
	before := len(s.events)
	for _, channel := range channels {
		value := fields[channel]
		if kind(value) == 0 {
			continue
		}
		it := item{channel: channel, page: page, sent: sent}
		list, ok := asList(value)
		if !ok {
			it.raw = value
			s.add(s.unrecognized(it, channel))
			continue
		}
		for _, v := range list {
			it.raw, it.fields = v, asObject(v)
			it.test = page == testEntry && channel == channelChanges
			s.add(s.item(it))
		}
	}
	if len(s.events) == before {
		e := s.unrecognized(item{raw: raw, page: page, sent: sent}, "")
		e.ID = s.id(e, "h", hash(timeless(raw)))
		s.add(e)
	}
}

// timeless is an entry without its time, which is when Meta sent it and differs
// between two deliveries of it.
func timeless(entry json.RawMessage) json.RawMessage {
	fields := asObject(entry)
	if fields == nil {
		return entry
	}
	delete(fields, "time")
	b, err := json.Marshal(fields)
	if err != nil {
		return entry
	}
	return b
}

func (s *splitter) item(it item) domain.Event {
	switch {
	case it.channel == channelFields:
		return s.change(it, asID(it.raw))
	case it.fields == nil:
		return s.unrecognized(it, "")
	case it.channel != channelChanges:
		return s.message(it)
	}
	// A change may be a messaging item in other clothes: the same fact.
	value := it.fields.object("value")
	if !it.test && (value.object("sender") != nil || value.object("recipient") != nil) && kindOf(value) != nil {
		inner := it
		inner.fields, inner.raw = value, it.fields["value"]
		e := s.message(inner)
		e.Data.Raw = it.raw
		return e
	}
	return s.change(it, it.fields.id("field"))
}

// change is an item of changes, whose field says what it is about.
func (s *splitter) change(it item, field string) domain.Event {
	e := s.event(it, domain.ChangeReceived, field)
	value := it.fields.object("value")
	e.Contact = domain.ContactID(value.object("sender").id("id"))
	for _, t := range []int64{value.millis("created_time"), value.millis("timestamp"), it.sent} {
		if t != 0 {
			e.Time = at(t)
			break
		}
	}
	e.ID = s.id(e, "h", hash(it.raw))
	return e
}

// unrecognized keeps what has no typed form.
func (s *splitter) unrecognized(it item, kind string) domain.Event {
	e := s.event(it, domain.DeliveryUnrecognized, kind)
	e.ID = s.id(e, "h", hash(it.raw))
	return e
}

// event fills in what every item has.
func (s *splitter) event(it item, t domain.Type, kind string) domain.Event {
	sender, recipient := it.fields.object("sender"), it.fields.object("recipient")
	d := domain.Data{
		App: s.opts.App, Source: s.opts.Source, Object: s.object, Channel: it.channel, Kind: kind,
		Sender: sender.id("id"), Recipient: recipient.id("id"), EntryTime: it.sent, Test: it.test, Raw: it.raw,
	}
	e := domain.Event{Type: t, Page: it.page, Standby: it.channel == channelStandby}
	echo := it.fields.object("message").is("is_echo")
	if e.Page == "" { // some samples have no entry id
		e.Page = domain.PageID(d.Recipient)
		if echo {
			e.Page = domain.PageID(d.Sender)
		}
		if e.Page == "" {
			e.Page = domain.NoPage
		}
	}
	// The contact is whoever is not the page. Old receipts have the two the
	// wrong way round.
	fromPage := d.Sender == string(e.Page) && d.Recipient != "" && d.Recipient != d.Sender
	switch {
	case echo || fromPage:
		e.Contact = domain.ContactID(d.Recipient)
	default:
		for _, c := range []string{
			d.Sender, sender.id("user_ref"), it.fields.object("optin").id("user_ref"), recipient.id("user_ref"),
		} {
			if c != "" {
				e.Contact = domain.ContactID(c)
				break
			}
		}
	}
	if t := it.fields.millis("timestamp"); t != 0 {
		e.Time = at(t)
	} else {
		e.Time = at(it.sent)
	}
	e.Data = d
	return e
}

// id builds the event's dedup id from its class and key.
func (s *splitter) id(e domain.Event, class string, key ...string) string {
	return domain.DedupID(s.object, e.Page, class, strings.Join(key, "|"))
}

// hash is the identity of what has no key of its own: its canonical JSON, keys
// sorted, text decoded, numbers as they were written.
func hash(raw json.RawMessage) string {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	canonical := []byte(raw)
	if d.Decode(&v) == nil {
		if b, err := json.Marshal(v); err == nil {
			canonical = b
		}
	}
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(sum[:])
}

// plain are fields that every item may have and that don't say its kind.
var plain = []string{"sender", "recipient", "timestamp", "prior_message", "hop_context"}

// name returns the item's own key: the first in order that is not plain.
func name(fields object) string {
	first := ""
	for k := range fields {
		if !slices.Contains(plain, k) && (first == "" || k < first) {
			first = k
		}
	}
	return first
}

func itoa(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}
