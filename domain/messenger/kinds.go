package messenger

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"

	"github.com/pagestream/pagestream/domain"
)

// itemKind is one kind of messaging item: the key that an item of it has, and
// how it is read. Read fills in the event's type, typed data and id from the
// value of the key; it returns false for a value that it can't be.
type itemKind struct {
	key  string
	read func(s *splitter, it item, v object, e *domain.Event) bool
}

// kinds are the kinds with a typed form. An item with the keys of several is of
// the first.
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
	{"policy-enforcement", readPolicy}, // as older deliveries spell it
}

// kindOf finds the kind of an item by the keys it has.
func kindOf(fields object) *itemKind {
	for i := range kinds {
		if _, has := fields[kinds[i].key]; has {
			return &kinds[i]
		}
	}
	return nil
}

// message reads an item of messaging or standby.
func (s *splitter) message(it item) domain.Event {
	k := kindOf(it.fields)
	if k == nil {
		return s.unrecognized(it, name(it.fields))
	}
	v := it.fields.object(k.key)
	if v == nil {
		return s.unrecognized(it, k.key)
	}
	e := s.event(it, domain.DeliveryUnrecognized, k.key)
	e.ID = s.id(e, "h", hash(it.raw))
	if !k.read(s, it, v, &e) {
		return s.unrecognized(it, k.key)
	}
	return e
}

func readMessage(s *splitter, _ item, v object, e *domain.Event) bool {
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
	case m.Deleted:
		e.Type, class = domain.MessageDeleted, "del"
	case m.Echo:
		e.Type = domain.MessageEchoed
	default:
		e.Type = domain.MessageReceived
	}
	if m.MID != "" {
		e.ID = s.id(*e, class, m.MID)
	}
	e.Data.Message = m
	return true
}

func attachment(a object) domain.Attachment {
	p := a.object("payload")
	out := domain.Attachment{
		Type: a.text("type"), URL: p.text("url"), Title: p.text("title"), StickerID: p.id("sticker_id"),
		Template: p.text("template_type"),
	}
	if out.URL == "" {
		out.URL = a.text("url")
	}
	if out.Title == "" {
		out.Title = a.text("title")
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
	if ads := r["ads_context_data"]; kind(ads) == '{' {
		out.Ads = json.RawMessage(ads)
	}
	return out
}

func readEdit(s *splitter, _ item, v object, e *domain.Event) bool {
	m := &domain.Edit{MID: v.id("mid"), Text: v.text("text"), Num: v.number("num_edit")}
	e.Type, e.Data.Edit = domain.MessageEdited, m
	if m.MID != "" && m.Num != 0 {
		e.ID = s.id(*e, "edit", m.MID, itoa(m.Num))
	}
	return true
}

func readDelivery(s *splitter, _ item, v object, e *domain.Event) bool {
	d := &domain.Delivery{Watermark: v.millis("watermark")}
	for _, raw := range v.list("mids") {
		if mid := asID(raw); mid != "" {
			d.MIDs = append(d.MIDs, mid)
		}
	}
	e.Type, e.Data.Delivery = domain.MessageDelivered, d
	if d.Watermark != 0 || len(d.MIDs) > 0 {
		mids := ""
		if len(d.MIDs) > 0 {
			sum := sha256.Sum256([]byte(strings.Join(d.MIDs, "\n")))
			mids = hex.EncodeToString(sum[:16])
		}
		e.ID = s.id(*e, "dlv", e.Data.Sender, itoa(d.Watermark), mids)
	}
	return true
}

func readRead(s *splitter, _ item, v object, e *domain.Event) bool {
	r := &domain.Read{MID: v.id("mid"), Watermark: v.millis("watermark")}
	e.Type, e.Data.Read = domain.MessageRead, r
	switch {
	case r.Watermark != 0:
		e.ID = s.id(*e, "read", e.Data.Sender, itoa(r.Watermark))
	case r.MID != "":
		e.ID = s.id(*e, "read", e.Data.Sender, r.MID)
	}
	return true
}

func readReaction(s *splitter, it item, v object, e *domain.Event) bool {
	r := &domain.Reaction{
		MID: v.id("mid"), Action: v.text("action"), Reaction: v.text("reaction"), Emoji: v.text("emoji"),
	}
	e.Type, e.Data.Reaction = domain.MessageReacted, r
	if r.MID != "" {
		e.ID = s.id(*e, "rx", r.MID, e.Data.Sender, r.Action, r.Emoji, itoa(it.fields.millis("timestamp")))
	}
	return true
}

// readPostback gives a standby copy an id of its own: it lacks the payload, so
// it is not the same event.
func readPostback(s *splitter, it item, v object, e *domain.Event) bool {
	p := &domain.Postback{
		MID: v.id("mid"), Title: v.text("title"), Payload: v.text("payload"), Referral: referral(v.object("referral")),
	}
	e.Type, e.Data.Postback = domain.PostbackReceived, p
	class, key := "h", hash(it.raw)
	if p.MID != "" {
		class, key = "pb", p.MID
	}
	if e.Standby {
		e.ID = s.id(*e, class, channelStandby, key)
	} else {
		e.ID = s.id(*e, class, key)
	}
	return true
}

func readOptin(_ *splitter, _ item, v object, e *domain.Event) bool {
	e.Type = domain.OptinReceived
	e.Data.Optin = &domain.Optin{
		Type: v.text("type"), Ref: v.text("ref"), UserRef: v.id("user_ref"), Payload: v.text("payload"),
		Status: v.text("notification_messages_status"),
	}
	return true
}

func readReferral(_ *splitter, _ item, v object, e *domain.Event) bool {
	e.Type, e.Data.Referral = domain.ReferralReceived, referral(v)
	return true
}

func readAccountLink(_ *splitter, _ item, v object, e *domain.Event) bool {
	status := v.text("status")
	switch status {
	case "linked":
		e.Type = domain.AccountLinked
	case "unlinked":
		e.Type = domain.AccountUnlinked
	default:
		return false
	}
	e.Data.AccountLink = &domain.AccountLink{Status: status}
	return true
}

func readThread(t domain.Type) func(*splitter, item, object, *domain.Event) bool {
	return func(_ *splitter, _ item, v object, e *domain.Event) bool {
		e.Type = t
		e.Data.Thread = &domain.Thread{
			PreviousOwner: v.id("previous_owner_app_id"), NewOwner: v.id("new_owner_app_id"),
			Requester: v.id("requested_owner_app_id"), Metadata: v.text("metadata"),
		}
		return true
	}
}

func readRoles(_ *splitter, _ item, v object, e *domain.Event) bool {
	roles := make(map[string][]string, len(v))
	for app := range v {
		names := []string{}
		for _, raw := range v.list(app) {
			if n := asID(raw); n != "" {
				names = append(names, n)
			}
		}
		roles[app] = names
	}
	e.Type, e.Data.Thread = domain.ThreadRolesChanged, &domain.Thread{Roles: roles}
	return true
}

func readPolicy(_ *splitter, _ item, v object, e *domain.Event) bool {
	e.Type = domain.PolicyEnforced
	e.Data.Policy = &domain.Policy{Action: v.text("action"), Reason: v.text("reason")}
	return true
}
