package messenger

import (
	"cmp"
	"slices"
	"strconv"
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
	read func(it item, v value, e *domain.Event) (key, bool)
	// rows are the kind's rows of [Kinds], one for each type and each identity.
	// [Kinds] sets what all items have in common.
	rows []Kind
}

// fields reports whether field is one of the webhook fields of the kind.
func (k *itemKind) fields(field string) bool {
	return slices.ContainsFunc(k.rows, func(r Kind) bool { return slices.Contains(r.Fields, field) })
}

// The path of the contact in an item that the page sent.
const toContact = "recipient.id"

// noContact is the contact of an item that Meta sends without a sender.
const noContact = "-"

// kinds are the kinds with a typed form. The kind of an item is the first one
// whose key the item has with an object as its value.
var kinds = []itemKind{
	{"message", readMessage, []Kind{
		{
			Fields: []string{"messages"}, Type: domain.MessageReceived, ID: "msg message.mid",
			Example: `{"mid":"m_1","text":"hi"}`, Source: "messages",
		},
		{
			Fields: []string{"message_echoes", "messages"}, Type: domain.MessageEchoed, Contact: toContact,
			ID: "msg message.mid", Example: `{"is_echo":true,"mid":"m_2","text":"hello","app_id":1}`, Source: "message-echoes",
		},
		{
			Fields: []string{"messages"}, Type: domain.MessageDeleted, ID: "del message.mid",
			Example: `{"mid":"m_1","is_deleted":true}`, Source: "messages",
		},
	}},
	{"message_edit", readEdit, []Kind{{
		Fields: []string{"message_edits", "message_edit"}, Type: domain.MessageEdited,
		ID:      "edit message_edit.mid, message_edit.num_edit",
		Example: `{"mid":"m_1","text":"hi!","num_edit":1}`, Source: "message-edits",
	}}},
	{"delivery", readDelivery, []Kind{{
		Fields: []string{"message_deliveries"}, Type: domain.MessageDelivered,
		ID:      "dlv sender.id, delivery.watermark, delivery.mids",
		Example: `{"mids":["m_2"],"watermark":1790000000000}`, Source: "message-deliveries",
	}}},
	{"read", readRead, []Kind{
		{
			Fields: []string{"message_reads"}, Type: domain.MessageRead, ID: "read sender.id, read.watermark",
			Example: `{"watermark":1790000000000}`, Source: "message-reads",
		},
		{
			Fields: []string{"messaging_seen"}, Type: domain.MessageRead, ID: "read sender.id, read.mid",
			Example: `{"mid":"m_2"}`, Source: instagramDocs,
		},
	}},
	{"reaction", readReaction, []Kind{{
		Fields: []string{"message_reactions"}, Type: domain.MessageReacted,
		ID:      "rx reaction.mid, sender.id, reaction.action, reaction.emoji, timestamp",
		Example: `{"mid":"m_2","action":"react","reaction":"love","emoji":"+"}`, Source: "message-reactions",
	}}},
	{"postback", readPostback, []Kind{{
		Fields: []string{"messaging_postbacks"}, Type: domain.PostbackReceived, ID: "pb postback.mid",
		Example: `{"mid":"m_3","title":"Start","payload":"START"}`, Source: "messaging_postbacks",
	}}},
	{"optin", readOptin, []Kind{{
		Fields: []string{"messaging_optins"}, Type: domain.OptinReceived,
		Example: `{"type":"notification_messages","payload":"P"}`, Source: "messaging_optins",
	}}},
	{"referral", readReferral, []Kind{{
		Fields: []string{"messaging_referrals", "messaging_referral"}, Type: domain.ReferralReceived,
		Example: `{"ref":"r","source":"SHORTLINK","type":"OPEN_THREAD"}`, Source: "messaging_referrals",
	}}},
	{"account_linking", readAccountLink, []Kind{
		{
			Fields: []string{"messaging_account_linking"}, Type: domain.AccountLinked,
			Example: `{"status":"linked","authorization_code":"c"}`, Source: "messaging_account_linking",
		},
		{
			Fields: []string{"messaging_account_linking"}, Type: domain.AccountUnlinked,
			Example: `{"status":"unlinked"}`, Source: "messaging_account_linking",
		},
	}},
	{"pass_thread_control", readThread(domain.ThreadPassed), []Kind{{
		Fields: handovers, Type: domain.ThreadPassed,
		Example: `{"previous_owner_app_id":1,"new_owner_app_id":2}`, Source: "messaging_handovers",
	}}},
	{"take_thread_control", readThread(domain.ThreadTaken), []Kind{{
		Fields: handovers, Type: domain.ThreadTaken,
		Example: `{"previous_owner_app_id":2,"new_owner_app_id":1}`, Source: "messaging_handovers",
	}}},
	{"request_thread_control", readThread(domain.ThreadRequested), []Kind{{
		Fields: handovers, Type: domain.ThreadRequested, Example: `{"requested_owner_app_id":2}`,
		Source: "messaging_handovers",
	}}},
	{"app_roles", readRoles, []Kind{{
		Fields: handovers, Type: domain.ThreadRolesChanged, Contact: noContact,
		Example: `{"1":["primary_receiver"]}`, Source: "messaging_handovers",
	}}},
	{"policy_enforcement", readPolicy, []Kind{{
		Fields: []string{"messaging_policy_enforcement"}, Type: domain.PolicyEnforced, Contact: noContact,
		Example: `{"action":"block","reason":"r"}`, Source: "messaging_policy_enforcement",
	}}},
	{"policy-enforcement", readPolicy, []Kind{{ // the spelling in older deliveries
		Fields: []string{"messaging_policy_enforcement"}, Type: domain.PolicyEnforced, Contact: noContact,
		Example: `{"action":"unblock"}`, Source: "messaging_policy_enforcement",
	}}},
	{"messaging_feedback", readSurvey, []Kind{{
		Fields: []string{"messaging_feedback"}, Type: domain.FeedbackReceived, Source: pageDocs + "#messaging_feedback",
		Example: `{"feedback_screens":[{"screen_id":0,"questions":{"q1":{"type":"csat","payload":"5"}}}]}`,
	}}},
	{"response_feedback", readJudgement, []Kind{{
		Fields: []string{"response_feedback"}, Type: domain.FeedbackReceived,
		Example: `{"feedback":"Good response","mid":"m_2"}`, Source: "response_feedback",
	}}},
	{"order", readOrder, []Kind{{
		Fields: []string{"send_cart"}, Type: domain.OrderReceived, Source: pageDocs + "#send_cart",
		Example: `{"products":[{"id":1,"name":"n","unit_price":11.5,"currency":"THB","quantity":1}]}`,
	}}},
}

// handovers is the field of the kinds of Meta's handover protocol.
var handovers = []string{"messaging_handovers"}

// untyped are the known kinds that have no typed form.
var untyped = []string{
	"game_play", "messaging_customer_information", "payment", "pre_checkout", "checkout_update",
	"messaging_optouts", "message_request", "branded_camera",
}

// commonFields are the fields that an item of any kind may have.
var commonFields = []string{"sender", "recipient", "timestamp", "prior_message", "hop_context"}

// kindIndex has the index in kinds of each name.
var kindIndex = func() map[string]int {
	index := make(map[string]int, len(kinds))
	for i, k := range kinds {
		index[k.name] = i
	}
	return index
}()

// kindOf returns the kind of an item and the value of the kind's key; nil if none
// of the known keys has an object as its value.
func kindOf(fields value) (kind *itemKind, v value) {
	first := len(kinds)
	for m := fields.members(); m.next(); {
		i, known := kindIndex[string(m.name())]
		if known && i < first {
			if o := fields.object(kinds[i].name); o.exists() { // of a repeated name, the last value
				first, kind, v = i, &kinds[i], o
			}
		}
	}
	return kind, v
}

// nameOf returns the key that describes an item without a kind: a known one, or
// else the first one in byte order that is not in [commonFields].
func nameOf(fields value) string {
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
	for m := fields.members(); m.next(); {
		if name := string(m.name()); !slices.Contains(commonFields, name) && (first == "" || name < first) {
			first = name
		}
	}
	return first
}

// message makes the event of an item of messaging or standby.
func (s *splitter) message(it *item, e *domain.Event) {
	k, v := kindOf(it.fields)
	if k == nil {
		s.unrecognized(it, e, nameOf(it.fields))
		return
	}
	it.echo = k.name == "message" && v.is("is_echo")
	s.event(it, e, domain.DeliveryUnrecognized, k.name)
	id, ok := k.read(*it, v, e)
	switch {
	case !ok || it.fields.count(k.name) > 1: // if the key is repeated, it is not clear which value counts
		s.unrecognized(it, e, k.name)
	case id.class == "":
		s.identify(e, it, it.fields.millis("timestamp") > 0 || v.id("mid") != "")
	default:
		e.ID = s.id(e, id)
	}
}

// keyOf returns a key of several parts.
func keyOf(class string, parts ...string) key { return key{class, strings.Join(parts, "|")} }

// sender returns the id of an item's sender or, where Meta has none, its user_ref.
func sender(e *domain.Event) string {
	return cmp.Or(e.Data.Sender, string(e.Contact))
}

func readMessage(_ item, v value, e *domain.Event) (key, bool) {
	m := &domain.Message{
		MID: v.id("mid"), Text: v.text("text"), QuickReply: v.object("quick_reply").payload("payload"),
		Echo: v.is("is_echo"), AppID: v.id("app_id"), Metadata: v.text("metadata"),
		Deleted: v.is("is_deleted"), Unsupported: v.is("is_unsupported"),
		Referral: referral(v.object("referral")),
	}
	if r := v.object("reply_to"); r.exists() {
		story := r.object("story")
		m.ReplyTo = &domain.ReplyTo{
			MID: r.id("mid"), SelfReply: r.is("is_self_reply"), StoryID: story.id("id"), StoryURL: story.text("url"),
		}
	}
	for a := v.list("attachments"); a.next(); {
		if a.first() == '{' {
			m.Attachments = append(m.Attachments, attachment(a.value))
		}
	}
	for c := v.list("commands"); c.next(); {
		if n := c.text("name"); n != "" {
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

func attachment(a value) domain.Attachment {
	p := a.object("payload")
	out := domain.Attachment{
		Type: a.text("type"), StickerID: p.id("sticker_id"), Template: p.text("template_type"),
		URL: cmp.Or(p.text("url"), a.text("url"), a.text("URL"), p.text("story_media_url")),
		ID: cmp.Or(p.id("story_media_id"), p.id("reel_video_id"), p.id("ig_post_media_id"), p.id("booking_id"),
			p.id("id")),
		Title: cmp.Or(p.text("title"), a.text("title")),
	}
	if product := p.object("product"); product.exists() {
		for e := product.list("elements"); e.next(); {
			out.Products = append(out.Products, domain.Product{
				ID: e.id("id"), RetailerID: e.id("retailer_id"), Title: e.text("title"), Subtitle: e.text("subtitle"),
				Image: e.text("image_url"),
			})
		}
		if out.Template == "" && out.Type == "template" {
			out.Template = "product" // the only template whose payload has no template_type
		}
	}
	if c := p.object("coordinates"); c.exists() {
		out.Lat, out.Long = c.float("lat"), c.float("long")
	}
	out.Expires = expiry(out.URL)
	return out
}

// expiry returns when a URL of Meta's CDN expires, in Unix seconds: its parameter oe is
// that time in hex. It returns 0 for any other URL.
func expiry(url string) int64 {
	_, query, _ := strings.Cut(url, "?")
	for param := range strings.SplitSeq(query, "&") {
		if value, ok := strings.CutPrefix(param, "oe="); ok && len(value) == 8 {
			n, err := strconv.ParseInt(value, 16, 64)
			if err == nil {
				return n
			}
		}
	}
	return 0
}

func referral(r value) *domain.Referral {
	if !r.exists() {
		return nil
	}
	out := &domain.Referral{
		Ref: r.text("ref"), Source: r.text("source"), Type: r.text("type"), AdID: r.id("ad_id"),
		Product: r.object("product").id("id"),
	}
	if ads := r.object("ads_context_data"); ads.exists() {
		out.Ads = &domain.AdsContext{
			Title: ads.text("ad_title"), Photo: ads.text("photo_url"), Video: ads.text("video_url"),
			Post: ads.id("post_id"), Product: ads.id("product_id"), Flow: ads.id("flow_id"),
		}
	}
	return out
}

func readEdit(_ item, v value, e *domain.Event) (key, bool) {
	m := &domain.Edit{MID: v.id("mid"), Text: v.maybeText("text"), Num: v.number("num_edit")}
	e.Type, e.Data.Edit = domain.MessageEdited, m
	if m.MID == "" || m.Num == 0 {
		return key{}, true
	}
	return keyOf("edit", m.MID, formatInt(m.Num)), true
}

func readDelivery(_ item, v value, e *domain.Event) (key, bool) {
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

func readRead(_ item, v value, e *domain.Event) (key, bool) {
	r := &domain.Read{MID: v.id("mid"), Watermark: v.millis("watermark")}
	e.Type, e.Data.Read = domain.MessageRead, r
	read := cmp.Or(formatInt(r.Watermark), r.MID)
	if read == "" {
		return key{}, true
	}
	return keyOf("read", sender(e), read), true
}

func readReaction(it item, v value, e *domain.Event) (key, bool) {
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
func readPostback(_ item, v value, e *domain.Event) (key, bool) {
	p := &domain.Postback{
		MID: v.id("mid"), Title: v.text("title"), Payload: v.payload("payload"),
		Referral: referral(v.object("referral")),
	}
	e.Type, e.Data.Postback = domain.PostbackReceived, p
	switch {
	case p.MID != "" && e.Standby:
		return keyOf("pb", channelStandby, p.MID), true
	case p.MID != "":
		return key{"pb", p.MID}, true
	}
	return key{}, true
}

func readOptin(_ item, v value, e *domain.Event) (key, bool) {
	e.Type = domain.OptinReceived
	e.Data.Optin = &domain.Optin{
		Type: v.text("type"), Ref: v.text("ref"), UserRef: v.id("user_ref"), Payload: v.text("payload"),
		Status: v.text("notification_messages_status"),
	}
	return key{}, true
}

func readReferral(_ item, v value, e *domain.Event) (key, bool) {
	e.Type, e.Data.Referral = domain.ReferralReceived, referral(v)
	return key{}, true
}

func readAccountLink(_ item, v value, e *domain.Event) (key, bool) {
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

func readThread(t domain.Type) func(item, value, *domain.Event) (key, bool) {
	return func(_ item, v value, e *domain.Event) (key, bool) {
		e.Type = t
		e.Data.Thread = &domain.Thread{
			PreviousOwner: v.id("previous_owner_app_id"), NewOwner: v.id("new_owner_app_id"),
			Requester: v.id("requested_owner_app_id"), Metadata: v.text("metadata"),
		}
		return key{}, true
	}
}

func readRoles(_ item, v value, e *domain.Event) (key, bool) {
	roles := map[string][]string{}
	for app := v.members(); app.next(); {
		roles[string(app.name())] = append([]string{}, asIDs(app.value)...)
	}
	e.Type, e.Data.Thread = domain.ThreadRolesChanged, &domain.Thread{Roles: roles}
	return key{}, true
}

func readPolicy(_ item, v value, e *domain.Event) (key, bool) {
	e.Type = domain.PolicyEnforced
	e.Data.Policy = &domain.Policy{Action: v.text("action"), Reason: v.text("reason")}
	return key{}, true
}

// readSurvey reads the answers to a survey, which are by question in an object.
func readSurvey(_ item, v value, e *domain.Event) (key, bool) {
	f := &domain.Feedback{}
	for screen := v.list("feedback_screens"); screen.next(); {
		for _, q := range sorted(screen.object("questions")) {
			f.Answers = append(f.Answers, domain.FeedbackAnswer{
				Screen: screen.id("screen_id"), Question: string(q.name()), Type: q.text("type"),
				Answer: q.id("payload"), FollowUp: q.object("follow_up").text("payload"),
			})
		}
	}
	e.Type, e.Data.Feedback = domain.FeedbackReceived, f
	return key{}, true
}

func readJudgement(_ item, v value, e *domain.Event) (key, bool) {
	e.Type = domain.FeedbackReceived
	e.Data.Feedback = &domain.Feedback{MID: v.id("mid"), Judgement: v.text("feedback")}
	return key{}, true
}

func readOrder(_ item, v value, e *domain.Event) (key, bool) {
	o := &domain.Order{Note: v.text("note")}
	for p := v.list("products"); p.next(); {
		o.Products = append(o.Products, domain.OrderProduct{
			ID: p.id("id"), RetailerID: p.id("retailer_id"), Name: p.text("name"),
			UnitPrice: p.id("unit_price"), Currency: p.text("currency"), Quantity: p.id("quantity"),
		})
	}
	e.Type, e.Data.Order = domain.OrderReceived, o
	return key{}, true
}
