package projectionstest

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// Epoch is the time at which the generated events start.
var Epoch = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

// traffic generates events, and has what later events refer to.
type traffic struct {
	rnd      *rand.Rand
	now      time.Time
	mids     map[domain.PageID]map[domain.ContactID][]string // of each conversation, in order
	messages int
	comments int
	conns    map[domain.PageID]int // how often each page was connected
}

const (
	trafficPages    = 4
	trafficContacts = 6
)

// Events returns n generated events as they would be stored in a stream, with sequences from 1. The same
// seed gives the same events. They are mixed traffic of a few pages: messages, echoes, edits, unsends,
// reactions, receipts by watermark and by message, postbacks, standby and handover, events about pages and
// subscriptions, comments and other changes, the Test button, and unreadable deliveries. Some refer to messages that never
// arrive or arrive later, some have an earlier time than the event before, and about one in thirty is a
// duplicate: an earlier event again, with the same id.
func Events(seed uint64, n int) []streams.Stored {
	w := &traffic{
		rnd: rand.New(rand.NewPCG(seed, 0x9a6e57)), now: Epoch,
		mids:  make(map[domain.PageID]map[domain.ContactID][]string),
		conns: make(map[domain.PageID]int),
	}
	out := make([]streams.Stored, 0, n)
	for len(out) < n {
		w.now = w.now.Add(time.Duration(w.rnd.IntN(40_000)) * time.Millisecond)
		var e domain.Event
		if len(out) > 0 && w.rnd.IntN(30) == 0 {
			e = out[w.rnd.IntN(len(out))].Event
			e.Data.EntryTime = w.now.UnixMilli() // Meta's retry is a later delivery
		} else {
			e = w.event()
		}
		out = append(out, streams.Stored{Event: e, Seq: uint64(len(out) + 1), At: w.now})
	}
	return out
}

func (w *traffic) event() domain.Event {
	page := domain.PageID(strconv.Itoa(104000000000001 + w.rnd.IntN(trafficPages)))
	contact := domain.ContactID(strconv.Itoa(7700000000000001 + w.rnd.IntN(trafficContacts)))
	instagram := strings.HasSuffix(string(page), "4")
	e := domain.Event{Page: page, Contact: contact, Time: w.now.Add(-time.Duration(w.rnd.IntN(3000)) * time.Millisecond)}
	if w.rnd.IntN(12) == 0 { // late, by up to a day and a half
		e.Time = e.Time.Add(-time.Duration(w.rnd.IntN(36*3600)) * time.Second)
	}
	if w.rnd.IntN(60) == 0 {
		e.Time = time.Time{}
	}
	e.Data = domain.Data{
		App: "main", Object: "page", Channel: "messaging", Source: domain.SourceWebhook,
		Sender: string(contact), Recipient: string(page), EntryTime: w.now.UnixMilli(),
	}
	if instagram {
		e.Data.Object = "instagram"
	}
	class, key := w.fill(&e, instagram)
	e.ID = domain.DedupID(e.Data.Object, e.Page, class, key)
	if e.Type.Inbound() && e.Data.Unreadable == nil {
		e.Data.Raw = json.RawMessage(fmt.Sprintf(`{"sender":{"id":%q},"recipient":{"id":%q},"timestamp":%d}`,
			e.Data.Sender, e.Data.Recipient, e.Data.EntryTime))
	}
	return e
}

// fill sets a random event type and its data, and returns the event's dedup class and key.
func (w *traffic) fill(e *domain.Event, instagram bool) (class, key string) {
	stamp := strconv.FormatInt(e.Time.UnixMilli(), 10)
	switch k := w.rnd.IntN(100); {
	case k < 32: // a message from the contact
		mid := w.newMID(e)
		e.Type, e.Data.Kind = domain.MessageReceived, "message"
		e.Data.Message = w.message(e, mid)
		if w.rnd.IntN(8) == 0 {
			e.Standby, e.Data.Channel = true, "standby"
		}
		return "msg", mid
	case k < 50: // a message from the page
		mid := w.newMID(e)
		e.Type, e.Data.Kind = domain.MessageEchoed, "message"
		e.Data.Sender, e.Data.Recipient = e.Data.Recipient, e.Data.Sender
		e.Data.Message = w.message(e, mid)
		e.Data.Message.Echo = true
		if !instagram {
			e.Data.Message.AppID = "2411"
		}
		return "msg", mid
	case k < 55:
		mid := w.oldMID(e)
		num := int64(1 + w.rnd.IntN(5))
		e.Type, e.Data.Kind = domain.MessageEdited, "message_edit"
		e.Data.Edit = &domain.Edit{MID: mid, Text: new(fmt.Sprintf("corrected %d", num)), Num: num}
		return "edit", mid + "|" + strconv.FormatInt(num, 10)
	case k < 58:
		mid := w.oldMID(e)
		e.Type, e.Data.Kind = domain.MessageDeleted, "message"
		e.Data.Message = &domain.Message{MID: mid, Deleted: true}
		return "del", mid
	case k < 66:
		mid := w.oldMID(e)
		r := &domain.Reaction{MID: mid, Action: "react", Reaction: "love", Emoji: "❤"}
		if w.rnd.IntN(3) == 0 {
			r = &domain.Reaction{MID: mid, Action: "unreact"}
		}
		e.Type, e.Data.Kind, e.Data.Reaction = domain.MessageReacted, "reaction", r
		return "rx", mid + "|" + e.Data.Sender + "|" + r.Action + "|" + r.Emoji + "|" + stamp
	case k < 74:
		d := &domain.Delivery{Watermark: e.Time.UnixMilli()}
		if w.rnd.IntN(2) == 0 {
			d.MIDs = []string{w.oldMID(e)}
		}
		e.Type, e.Data.Kind, e.Data.Delivery = domain.MessageDelivered, "delivery", d
		return "dlv", e.Data.Sender + "|" + stamp + "|" + strings.Join(d.MIDs, ",")
	case k < 82:
		r := &domain.Read{Watermark: e.Time.UnixMilli()}
		key := stamp
		if instagram {
			r = &domain.Read{MID: w.oldMID(e)}
			key = r.MID
		}
		e.Type, e.Data.Kind, e.Data.Read = domain.MessageRead, "read", r
		return "read", e.Data.Sender + "|" + key
	case k < 86:
		mid := w.newMID(e)
		p := &domain.Postback{MID: mid, Title: "Get started", Payload: "START"}
		e.Type, e.Data.Kind, e.Data.Postback = domain.PostbackReceived, "postback", p
		if w.rnd.IntN(4) == 0 {
			e.Standby, e.Data.Channel, p.Payload = true, "standby", ""
		}
		return "pb", mid
	default:
		w.rare(e)
		return "h", fmt.Sprintf("%s-%d-%d", e.Type, w.messages, w.rnd.Uint64())
	}
}

// rare sets the type and data of an event that is neither a message nor about one.
func (w *traffic) rare(e *domain.Event) {
	pick := func(types ...domain.Type) domain.Type { return types[w.rnd.IntN(len(types))] }
	fields := []string{"messages", "messaging_postbacks", "message_reads"}
	switch w.rnd.IntN(15) {
	case 0:
		e.Type = domain.ReferralReceived
		e.Data.Referral = &domain.Referral{Ref: "summer", Source: "SHORTLINK", Type: "OPEN_THREAD"}
	case 1:
		e.Type = domain.OptinReceived
		e.Data.Optin = &domain.Optin{Type: "notification_messages", Payload: "weekly", Status: "RESUME_NOTIFICATIONS"}
	case 2:
		e.Type = pick(domain.AccountLinked, domain.AccountUnlinked)
		e.Data.AccountLink = &domain.AccountLink{Status: e.Type.Verb()}
	case 3:
		e.Type = pick(domain.ThreadPassed, domain.ThreadTaken, domain.ThreadRequested)
		e.Data.Thread = &domain.Thread{PreviousOwner: "2411", NewOwner: "263902037430900", Requester: "2411"}
	case 4:
		e.Type, e.Data.Channel = pick(domain.ChangeReceived, domain.DeliveryUnrecognized), "changes"
		e.Data.Kind, e.Contact = "feed", ""
	case 5:
		e.Type, e.Contact = domain.PolicyEnforced, ""
		e.Data.Policy = &domain.Policy{Action: "warning", Reason: "spam"}
	case 6:
		if w.rnd.IntN(2) == 0 {
			e.Type, e.Page, e.Contact = domain.DeliveryUnreadable, domain.NoPage, ""
			e.Data.Unreadable = &domain.Unreadable{Reason: "not JSON", Body: []byte("<xml/>")}
			return
		}
		e.Type, e.Page, e.Contact = domain.ChangeReceived, domain.NoPage, ""
		e.Data.Test, e.Data.Channel, e.Data.Kind = true, "changes", "messages"
	case 7:
		clearDelivery(e)
		e.Type = pick(domain.PageConnected, domain.PageConnected, domain.PageRenamed, domain.PageTokenRefreshed,
			domain.PageTokenInvalidated, domain.PageLinked, domain.PageDisconnected, domain.PageAdminErased,
			domain.PageTestMarked, domain.PageForgotten)
		if e.Type == domain.PageAdminErased { // the suite has erasures of events
			e.Data.Erasure = &domain.Erasure{Request: "r", Part: 1, Parts: 1}
			break
		}
		if e.Type == domain.PageConnected {
			w.conns[e.Page]++
		}
		e.Data.Connection = &domain.Connection{
			ConnectionID: fmt.Sprintf("%s-%d", e.Page, w.conns[e.Page]), App: "main",
			Company: []string{"acme", "beta"}[w.conns[e.Page]%2], Instagram: fmt.Sprint("ig-", w.conns[e.Page]%3),
			Name: "Page " + string(e.Page), Secret: "s" + strconv.Itoa(w.rnd.IntN(1000)),
			Fields: fields, Reason: "because",
		}
		if e.Type == domain.PageConnected || e.Type == domain.PageTokenRefreshed {
			e.Data.Connection.Admin = []string{"", "5550001", "5550002"}[w.rnd.IntN(3)]
		}
	case 8:
		clearDelivery(e)
		e.Type = pick(domain.SubscriptionRequested, domain.SubscriptionConfirmed, domain.SubscriptionFailed,
			domain.SubscriptionDrifted, domain.SubscriptionRemoved)
		e.Data.Subscription = &domain.Subscription{App: "main", Wanted: fields}
		if n := w.rnd.IntN(len(fields) + 1); n > 0 {
			e.Data.Subscription.Actual = fields[:n]
		}
		if e.Type == domain.SubscriptionFailed {
			e.Data.Subscription.Reason, e.Data.Subscription.Code = "(#200) Permissions error", 200
		}
	case 9, 10, 11:
		w.comment(e)
	case 12:
		w.feed(e)
	case 13:
		w.other(e)
	default:
		contact := e.Contact
		clearDelivery(e)
		e.Contact = contact
		e.Type = pick(domain.ContactProfiled, domain.ContactProfiled, domain.ContactProfiled, domain.ContactErased)
		if e.Type == domain.ContactProfiled {
			e.Data.Profile = &domain.Profile{Name: "Person " + string(contact)[12:], Picture: "https://example.org/p.jpg"}
		}
	}
}

// change makes the event one of a change of the page.
func change(e *domain.Event, kind string, t domain.Type) {
	e.Type, e.Data.Channel, e.Data.Kind, e.Data.Sender, e.Data.Recipient = t, "changes", kind, "", ""
}

// timed sets the fact of an event whose item has no time of its own; its time is then
// that of the delivery. Two such events of a page may have the same fact.
func (w *traffic) timed(e *domain.Event, own bool, fact ...string) {
	if !own {
		e.Data.Fact, e.Time = strings.Join(append(fact, string(e.Type), string(e.Contact)), "|"), w.now
	}
}

// comment sets the data of an event about a comment. Edits, removals and reactions are
// of an earlier comment, or sometimes of one that arrives later or never.
func (w *traffic) comment(e *domain.Event) {
	post := fmt.Sprintf("%s_%d", e.Page, w.rnd.IntN(6))
	c := &domain.Comment{Post: post, From: domain.Person{ID: string(e.Contact), Name: "Person"}}
	if w.rnd.IntN(8) == 0 { // by the page itself
		c.From, e.Contact = domain.Person{ID: string(e.Page), Name: "The page"}, ""
	}
	k := w.rnd.IntN(12)
	if k < 5 {
		w.comments++
		c.ID = fmt.Sprintf("9_%d", w.comments)
		c.Text = new("comment " + c.ID)
		if w.rnd.IntN(3) == 0 {
			c.Parent = fmt.Sprintf("9_%d", max(1, w.comments-w.rnd.IntN(12)))
		}
		change(e, "feed", domain.CommentReceived)
	} else {
		c.ID = fmt.Sprintf("9_%d", max(1, w.comments+1-w.rnd.IntN(14)))
		switch k {
		case 5, 6:
			change(e, "feed", domain.CommentEdited)
			if w.rnd.IntN(4) > 0 {
				c.Text = new(fmt.Sprintf("corrected %d", w.rnd.IntN(3)))
			}
		case 7:
			change(e, "feed", domain.CommentRemoved)
		case 8:
			change(e, "feed", domain.CommentHidden)
		case 9:
			change(e, "feed", domain.CommentUnhidden)
		default:
			change(e, "feed", domain.ReactionAdded)
			if k == 11 && w.rnd.IntN(2) == 0 {
				e.Type = domain.ReactionRemoved
			}
			e.Data.PostReaction = &domain.PostReaction{
				Post: c.Post, Comment: c.ID, Parent: c.Post, From: c.From, Reaction: []string{"like", "love"}[w.rnd.IntN(2)],
			}
			if w.rnd.IntN(3) == 0 {
				e.Data.PostReaction.Comment = "" // to the post
			}
			w.timed(e, e.Type == domain.ReactionAdded, c.ID)
			return
		}
	}
	e.Data.Comment = c
	w.timed(e, e.Type == domain.CommentReceived, c.ID)
}

// feed sets the data of an event about a post, a rating or a mention.
func (w *traffic) feed(e *domain.Event) {
	from := domain.Person{ID: string(e.Contact), Name: "Person"}
	switch w.rnd.IntN(3) {
	case 0:
		change(e, "feed", []domain.Type{domain.PostPublished, domain.PostEdited, domain.PostRemoved}[w.rnd.IntN(3)])
		post := fmt.Sprintf("%s_%d", e.Page, w.rnd.IntN(6))
		e.Data.Post = &domain.Post{ID: post, Item: "status", From: from, Text: new("post " + post)}
		w.timed(e, e.Type == domain.PostPublished, post)
	case 1:
		change(e, "ratings", domain.RatingReceived)
		e.Data.Rating = &domain.Rating{Story: "90", From: from, Recommendation: "positive", Text: "good"}
	default:
		change(e, "mention", domain.MentionReceived)
		e.Data.Mention = &domain.Mention{Item: "post", Post: "44_44", From: from, Text: "look"}
	}
}

// other sets the data of an event of the remaining kinds.
func (w *traffic) other(e *domain.Event) {
	switch w.rnd.IntN(7) {
	case 6:
		e.Type, e.Data.Kind, e.Data.AppID = domain.ForeignReceived, "message", "901"
		e.Original, e.OriginalID = domain.MessageReceived, "page:"+string(e.Page)+":msg:m_foreign"
		e.Data.Message = &domain.Message{MID: "m_foreign", Text: "foreign"}
	case 0:
		change(e, "leadgen", domain.LeadReceived)
		e.Contact, e.Data.Lead = "", &domain.Lead{ID: strconv.Itoa(w.rnd.IntN(100)), Form: "7"}
	case 1:
		clearDelivery(e)
		e.Type = domain.LeadRetrieved
		answers := []domain.LeadAnswer{{Name: "email", Values: []string{"a@example.org"}}}
		e.Data.Lead = &domain.Lead{ID: strconv.Itoa(w.rnd.IntN(100)), Form: "7", Answers: answers}
	case 2:
		change(e, "inbox_labels", []domain.Type{domain.LabelAdded, domain.LabelRemoved}[w.rnd.IntN(2)])
		e.Data.Label = &domain.Label{ID: "1", Name: "vip"}
		w.timed(e, false, "1")
	case 3:
		change(e, "live_videos", domain.LiveChanged)
		e.Contact, e.Data.Live = "", &domain.Live{ID: "5", Status: "live"}
		w.timed(e, false, "live")
	case 4:
		e.Type, e.Data.Kind = domain.OrderReceived, "order"
		e.Data.Order = &domain.Order{Products: []domain.OrderProduct{{ID: "1", Quantity: "2"}}, Note: "soon"}
	default:
		e.Type, e.Data.Kind = domain.FeedbackReceived, "messaging_feedback"
		e.Data.Feedback = &domain.Feedback{Answers: []domain.FeedbackAnswer{{Question: "q1", Type: "csat", Answer: "5"}}}
		w.timed(e, w.rnd.IntN(2) == 0, "q1")
	}
}

// clearDelivery removes what an event has from a delivery, for an event that pagestream itself makes.
func clearDelivery(e *domain.Event) {
	e.Contact, e.Data = "", domain.Data{App: "main"}
}

func (w *traffic) message(e *domain.Event, mid string) *domain.Message {
	m := &domain.Message{MID: mid, Text: "text " + mid}
	switch w.rnd.IntN(8) {
	case 0:
		m.Text, m.Attachments = "", []domain.Attachment{{Type: "image", URL: "https://example.org/a.jpg"}}
	case 1:
		m.ReplyTo = &domain.ReplyTo{MID: w.oldMID(e)}
	case 2:
		m.QuickReply = "YES"
	case 3:
		m.Text, m.Unsupported = "", true
	}
	return m
}

func (w *traffic) newMID(e *domain.Event) string {
	w.messages++
	mid := fmt.Sprintf("m_%06d", w.messages)
	if w.mids[e.Page] == nil {
		w.mids[e.Page] = make(map[domain.ContactID][]string)
	}
	w.mids[e.Page][e.Contact] = append(w.mids[e.Page][e.Contact], mid)
	return mid
}

// oldMID returns the id of an earlier message of the conversation, or sometimes of one that arrives later
// or never.
func (w *traffic) oldMID(e *domain.Event) string {
	mids := w.mids[e.Page][e.Contact]
	switch k := w.rnd.IntN(20); {
	case k == 0:
		return fmt.Sprintf("m_gone_%d", w.rnd.IntN(50))
	case k == 1 || len(mids) == 0:
		return fmt.Sprintf("m_%06d", w.messages+1+w.rnd.IntN(20))
	default:
		return mids[len(mids)-1-w.rnd.IntN(min(len(mids), 12))]
	}
}

// Garbage returns n generated events that are not valid, but that a faulty publisher could store: with types
// that don't match the data or don't exist, missing payloads, ids that are empty, long or binary, and times
// that are zero, negative or absurd. The same seed gives the same events.
func Garbage(seed uint64, n int) []streams.Stored {
	rnd := rand.New(rand.NewPCG(seed, 0x6a4ba6e))
	ids := []string{
		"", " ", "0", "x", "m_1", "m_2", "\x00", "a\x00b", "\x00\x01", "\xff\xfe", "ünïcode", "page|contact|7",
		strings.Repeat("9", 300), strings.Repeat("long", 10_000), "104000000000001", "7700000000000001",
	}
	id := func() string { return ids[rnd.IntN(len(ids))] }
	numbers := []int64{0, 1, -1, 5, 1_772_352_000_000, math.MaxInt64, math.MinInt64, 1 << 53}
	number := func() int64 { return numbers[rnd.IntN(len(numbers))] }
	moments := []time.Time{
		{},
		Epoch, Epoch.Add(-time.Hour), time.Unix(0, 0).UTC(), time.Unix(-1, 0).UTC(),
		time.UnixMilli(math.MaxInt64 / 4).UTC(), time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC),
		time.Date(-200, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	moment := func() time.Time { return moments[rnd.IntN(len(moments))] }
	types := append(domain.Types(),
		"", ".", "message.invented", "Message.Received", "page", domain.Type(strings.Repeat("t", 200)))
	maybe := func() bool { return rnd.IntN(3) > 0 }
	out := make([]streams.Stored, 0, n)
	for seq := range uint64(n) {
		e := domain.Event{
			ID: fmt.Sprintf("%s-%d", id(), seq), Type: types[rnd.IntN(len(types))], Page: domain.PageID(id()),
			Contact: domain.ContactID(id()), Time: moment(), Standby: rnd.IntN(4) == 0, TraceParent: id(),
		}
		if rnd.IntN(6) == 0 {
			e.ID = id()
		}
		d := &e.Data
		if maybe() {
			*d = domain.Data{
				App: id(), Object: id(), Channel: id(), Kind: id(), Source: id(), Sender: id(), Recipient: id(),
				EntryTime: number(), Test: rnd.IntN(8) == 0,
			}
		}
		if maybe() {
			d.Message = &domain.Message{MID: id(), Text: id(), Echo: maybe(), Deleted: rnd.IntN(4) == 0, AppID: id()}
			if maybe() {
				nan := math.MaxFloat64
				d.Message.Attachments = []domain.Attachment{{}, {Type: id(), URL: id(), Lat: &nan}}
				d.Message.ReplyTo = &domain.ReplyTo{MID: id()}
				d.Message.Referral = &domain.Referral{}
			}
		}
		if maybe() {
			d.Edit = &domain.Edit{MID: id(), Text: new(id()), Num: number()}
			d.Reaction = &domain.Reaction{MID: id(), Action: id(), Reaction: id(), Emoji: id()}
		}
		if maybe() {
			d.Delivery = &domain.Delivery{MIDs: []string{id(), id(), ""}, Watermark: number()}
			d.Read = &domain.Read{MID: id(), Watermark: number()}
		}
		if maybe() {
			d.Postback = &domain.Postback{MID: id(), Title: id(), Payload: id()}
			d.Referral, d.Optin = &domain.Referral{Ref: id()}, &domain.Optin{UserRef: id()}
			d.AccountLink, d.Policy = &domain.AccountLink{Status: id()}, &domain.Policy{Action: id()}
			d.Thread = &domain.Thread{NewOwner: id(), Roles: map[string][]string{id(): {id()}, "": nil}}
			d.Unreadable = &domain.Unreadable{Reason: id()}
		}
		if maybe() {
			who := domain.Person{ID: id(), Name: id()}
			d.Fact = id()
			d.Comment = &domain.Comment{ID: id(), Post: id(), Parent: id(), From: who, Text: new(id()), Photo: id()}
			d.Post = &domain.Post{ID: id(), Item: id(), From: who, Text: new(id()), Photos: []string{id()}}
			d.PostReaction = &domain.PostReaction{Post: id(), Comment: id(), Parent: id(), From: who, Reaction: id()}
			d.Label, d.Live, d.Lead = &domain.Label{ID: id()}, &domain.Live{ID: id()}, &domain.Lead{ID: id()}
		}
		if maybe() {
			d.Connection = &domain.Connection{
				ConnectionID: id(), Company: id(), Secret: id(), Fields: []string{id(), ""},
			}
			d.Subscription = &domain.Subscription{
				Wanted: []string{id(), id()}, Actual: []string{id()}, Code: int(int32(number())),
			}
			d.Profile = &domain.Profile{Name: id(), Picture: id()}
		}
		out = append(out, streams.Stored{Event: e, Seq: seq + 1, At: moment()})
	}
	return out
}
