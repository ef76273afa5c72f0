package messenger

import (
	"cmp"
	"slices"
	"strings"

	"github.com/pagestream/pagestream/domain"
)

// itemKind is one kind of messaging item.
type itemKind struct {
	// name is the key that an item of this kind has.
	name string
	// read sets the event's type and typed data from v, the value of that key, and
	// returns the event's dedup key. The key has no class if the item has nothing
	// that identifies the fact. read returns false if v is not valid for the kind.
	read func(it item, v object, e *domain.Event) (key, bool)
}

// kinds are the kinds with a typed form. The kind of an item is the first one
// whose key the item has with an object as its value.
var kinds = []itemKind{
	{"message", readMessage},
	{"message_edit", readEdit},
	{"delivery", readDelivery},
	{"read", readRead},
	{"reaction", readReaction},
	{"postback", readPostback},
	{"optin", readOptin},
	{"referral", readReferral},
	{"account_linking", readAccountLink},
	{"pass_thread_control", readThread(domain.ThreadPassed)},
	{"take_thread_control", readThread(domain.ThreadTaken)},
	{"request_thread_control", readThread(domain.ThreadRequested)},
	{"app_roles", readRoles},
	{"policy_enforcement", readPolicy},
	{"policy-enforcement", readPolicy}, // the spelling in older deliveries
}

// untyped are the known kinds that have no typed form.
var untyped = []string{
	"game_play", "messaging_feedback", "messaging_customer_information", "response_feedback", "order", "payment",
	"pre_checkout", "checkout_update", "messaging_optouts", "message_request", "branded_camera",
}

// commonFields are the fields that an item of any kind may have.
var commonFields = []string{"sender", "recipient", "timestamp", "prior_message", "hop_context"}

// kindOf returns the kind of an item and the value of the kind's key; nil if none
// of the known keys has an object as its value.
func kindOf(fields object) (*itemKind, object) {
	for i := range kinds {
		if v := fields.object(kinds[i].name); v != nil {
			return &kinds[i], v
		}
	}
	return nil, nil
}

// nameOf returns the key that describes an item without a kind: a known one, or
// else the first one in byte order that is not in [commonFields].
func nameOf(fields object) string {
	for _, k := range kinds {
		if fields.count(k.name) > 0 {
			return k.name
		}
	}
	for _, name := range untyped {
		if fields.count(name) > 0 {
			return name
		}
	}
	first := ""
	for _, m := range fields {
		if name := string(m.name); !slices.Contains(commonFields, name) && (first == "" || name < first) {
			first = name
		}
	}
	return first
}

// message returns the event of an item of messaging or standby.
func (s *splitter) message(it item) domain.Event {
	k, v := kindOf(it.fields)
	if k == nil {
		return s.unrecognized(it, nameOf(it.fields))
	}
	it.echo = k.name == "message" && v.is("is_echo")
	e := s.event(it, domain.DeliveryUnrecognized, k.name)
	id, ok := k.read(it, v, &e)
	// If the kind's key is repeated, it is not clear which value counts.
	if !ok || it.fields.count(k.name) > 1 {
		return s.unrecognized(it, k.name)
	}
	if id.class == "" {
		id = key{classHash, hash(it.raw)}
	}
	e.ID = s.id(e, id)
	return e
}

// keyOf returns a key of several parts.
func keyOf(class string, parts ...string) key { return key{class, strings.Join(parts, "|")} }

// sender returns the id of an item's sender or, where Meta has none, its user_ref.
func sender(e *domain.Event) string {
	return cmp.Or(e.Data.Sender, string(e.Contact))
}

func readMessage(_ item, v object, e *domain.Event) (key, bool) {
	m := &domain.Message{
		MID: v.id("mid"), Text: v.text("text"), QuickReply: v.object("quick_reply").text("payload"),
		Echo: v.is("is_echo"), AppID: v.id("app_id"), Metadata: v.text("metadata"),
		Deleted: v.is("is_deleted"), Unsupported: v.is("is_unsupported"),
		Referral: referral(v.object("referral")),
	}
	if r := v.object("reply_to"); r != nil {
		story := r.object("story")
		m.ReplyTo = &domain.ReplyTo{
			MID: r.id("mid"), SelfReply: r.is("is_self_reply"), StoryID: story.id("id"), StoryURL: story.text("url"),
		}
	}
	for _, raw := range v.list("attachments") {
		if a := asObject(raw); a != nil {
			m.Attachments = append(m.Attachments, attachment(a))
		}
	}
	for _, raw := range v.list("commands") {
		if n := asObject(raw).text("name"); n != "" {
			m.Commands = append(m.Commands, n)
		}
	}
	class := "msg"
	switch {
	case m.Deleted: // also the unsend of an echo
		e.Type, class = domain.MessageDeleted, "del"
	case m.Echo:
		e.Type = domain.MessageEchoed
	default:
		e.Type = domain.MessageReceived
	}
	e.Data.Message = m
	if m.MID == "" {
		return key{}, true
	}
	return key{class, m.MID}, true
}

func attachment(a object) domain.Attachment {
	p := a.object("payload")
	out := domain.Attachment{
		Type: a.text("type"), StickerID: p.id("sticker_id"), Template: p.text("template_type"),
		URL:   cmp.Or(p.text("url"), a.text("url"), a.text("URL"), p.text("story_media_url")),
		Title: cmp.Or(p.text("title"), a.text("title")),
	}
	if out.Template == "" && out.Type == "template" && p.object("product") != nil {
		out.Template = "product" // the only template whose payload has no template_type
	}
	if c := p.object("coordinates"); c != nil {
		out.Lat, out.Long = c.float("lat"), c.float("long")
	}
	return out
}

func referral(r object) *domain.Referral {
	if r == nil {
		return nil
	}
	out := &domain.Referral{
		Ref: r.text("ref"), Source: r.text("source"), Type: r.text("type"), AdID: r.id("ad_id"),
		Product: r.object("product").id("id"),
	}
	if ads := r.get("ads_context_data"); firstByte(ads) == '{' {
		out.Ads = ads
	}
	return out
}

func readEdit(_ item, v object, e *domain.Event) (key, bool) {
	m := &domain.Edit{MID: v.id("mid"), Text: v.text("text"), Num: v.number("num_edit")}
	e.Type, e.Data.Edit = domain.MessageEdited, m
	if m.MID == "" || m.Num == 0 {
		return key{}, true
	}
	return keyOf("edit", m.MID, formatInt(m.Num)), true
}

func readDelivery(_ item, v object, e *domain.Event) (key, bool) {
	d := &domain.Delivery{MIDs: asIDs(v.get("mids")), Watermark: v.millis("watermark")}
	e.Type, e.Data.Delivery = domain.MessageDelivered, d
	if d.Watermark == 0 && len(d.MIDs) == 0 {
		return key{}, true
	}
	mids := ""
	if len(d.MIDs) > 0 {
		mids = digest([]byte(strings.Join(d.MIDs, "\n")))[:32]
	}
	return keyOf("dlv", sender(e), formatInt(d.Watermark), mids), true
}

func readRead(_ item, v object, e *domain.Event) (key, bool) {
	r := &domain.Read{MID: v.id("mid"), Watermark: v.millis("watermark")}
	e.Type, e.Data.Read = domain.MessageRead, r
	read := cmp.Or(formatInt(r.Watermark), r.MID)
	if read == "" {
		return key{}, true
	}
	return keyOf("read", sender(e), read), true
}

func readReaction(it item, v object, e *domain.Event) (key, bool) {
	r := &domain.Reaction{
		MID: v.id("mid"), Action: v.text("action"), Reaction: v.text("reaction"), Emoji: v.text("emoji"),
	}
	e.Type, e.Data.Reaction = domain.MessageReacted, r
	if r.MID == "" {
		return key{}, true
	}
	// The key has the item's own time. The event's time may be entry.time, which
	// differs between two deliveries of the same fact.
	return keyOf("rx", r.MID, sender(e), r.Action, r.Emoji, formatInt(it.fields.millis("timestamp"))), true
}

// readPostback returns another key for a copy in standby: the copy has no
// payload, so it is not the same event.
func readPostback(it item, v object, e *domain.Event) (key, bool) {
	p := &domain.Postback{
		MID: v.id("mid"), Title: v.text("title"), Payload: v.text("payload"),
		Referral: referral(v.object("referral")),
	}
	e.Type, e.Data.Postback = domain.PostbackReceived, p
	switch {
	case p.MID != "" && e.Standby:
		return keyOf("pb", channelStandby, p.MID), true
	case p.MID != "":
		return key{"pb", p.MID}, true
	case e.Standby:
		return keyOf(classHash, channelStandby, hash(it.raw)), true
	}
	return key{}, true
}

func readOptin(_ item, v object, e *domain.Event) (key, bool) {
	e.Type = domain.OptinReceived
	e.Data.Optin = &domain.Optin{
		Type: v.text("type"), Ref: v.text("ref"), UserRef: v.id("user_ref"), Payload: v.text("payload"),
		Status: v.text("notification_messages_status"),
	}
	return key{}, true
}

func readReferral(_ item, v object, e *domain.Event) (key, bool) {
	e.Type, e.Data.Referral = domain.ReferralReceived, referral(v)
	return key{}, true
}

func readAccountLink(_ item, v object, e *domain.Event) (key, bool) {
	status := v.text("status")
	switch status {
	case "linked":
		e.Type = domain.AccountLinked
	case "unlinked":
		e.Type = domain.AccountUnlinked
	default:
		return key{}, false
	}
	e.Data.AccountLink = &domain.AccountLink{Status: status}
	return key{}, true
}

func readThread(t domain.Type) func(item, object, *domain.Event) (key, bool) {
	return func(_ item, v object, e *domain.Event) (key, bool) {
		e.Type = t
		e.Data.Thread = &domain.Thread{
			PreviousOwner: v.id("previous_owner_app_id"), NewOwner: v.id("new_owner_app_id"),
			Requester: v.id("requested_owner_app_id"), Metadata: v.text("metadata"),
		}
		return key{}, true
	}
}

func readRoles(_ item, v object, e *domain.Event) (key, bool) {
	roles := make(map[string][]string, len(v))
	for _, app := range v {
		roles[string(app.name)] = append([]string{}, asIDs(app.value)...)
	}
	e.Type, e.Data.Thread = domain.ThreadRolesChanged, &domain.Thread{Roles: roles}
	return key{}, true
}

func readPolicy(_ item, v object, e *domain.Event) (key, bool) {
	e.Type = domain.PolicyEnforced
	e.Data.Policy = &domain.Policy{Action: v.text("action"), Reason: v.text("reason")}
	return key{}, true
}
