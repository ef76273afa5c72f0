package conversations

import (
	"cmp"
	"math"
	"reflect"
	"slices"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/streams"
)

// Direction is the direction of a message.
type Direction string

// The directions.
const (
	// In is a message from the contact.
	In Direction = "in"
	// Out is a message from the page, sent by any app or person.
	Out Direction = "out"
)

// Kind is the kind of a row.
type Kind string

// The kinds of row.
const (
	// KindMessage is a message.
	KindMessage Kind = "message"
	// KindPostback is a postback.
	KindPostback Kind = "postback"
)

// Limits of one row. Meta allows 5 edits, and a conversation has 2 participants.
const (
	maxEvents    = 64
	maxEdits     = 20
	maxReactions = 16
)

// Message is one message or postback with its later changes. Times are UTC; a
// zero time means never.
type Message struct {
	Kind      Kind      `json:"kind"`
	Direction Direction `json:"direction"`
	// ID is the id of the event that created the row.
	ID string `json:"id"`
	// MID is Meta's id of the message; a message may have none.
	MID string `json:"mid,omitempty"`
	// Text is the latest text, Original the first one if it was edited.
	Text        string              `json:"text,omitempty"`
	Original    string              `json:"original,omitempty"`
	Attachments []domain.Attachment `json:"attachments,omitempty"`
	QuickReply  string              `json:"quick_reply,omitempty"`
	ReplyTo     *domain.ReplyTo     `json:"reply_to,omitempty"`
	Referral    *Referral           `json:"referral,omitempty"`
	// Title and Payload are those of a postback. A postback that was received only
	// as standby has no payload.
	Title       string   `json:"title,omitempty"`
	Payload     string   `json:"payload,omitempty"`
	Commands    []string `json:"commands,omitempty"`
	Unsupported bool     `json:"unsupported,omitempty"`
	// AppID is the app that sent the message of an echo, if Meta reported it.
	AppID string `json:"app_id,omitempty"`

	// Seq is the sequence of the event and At the time at which it was stored. Time
	// is the event's own time, by which messages are ordered.
	Seq  uint64    `json:"seq"`
	At   time.Time `json:"at"`
	Time time.Time `json:"time"`
	// LateMillis is by how many milliseconds the conversation's newest message was
	// newer than this one when this one arrived; 0 if it arrived in order.
	LateMillis int64  `json:"late_ms,omitempty"`
	Standby    bool   `json:"standby,omitempty"`
	Source     string `json:"source,omitempty"`

	// Edits has the newest 20 edits, in order of their numbers.
	Edits []Edit `json:"edits,omitempty"`
	// Deleted marks an unsent message: the row remains without its content.
	Deleted   bool      `json:"deleted,omitempty"`
	DeletedAt time.Time `json:"deleted_at,omitzero"`
	// Reactions are those that were not withdrawn, by the id of the sender.
	Reactions map[string]Reaction `json:"reactions,omitempty"`
	// DeliveredAt and ReadAt are the times of the earliest receipts that cover the
	// message. Only messages from the page have them.
	DeliveredAt time.Time `json:"delivered_at,omitzero"`
	ReadAt      time.Time `json:"read_at,omitzero"`

	// Conflicts counts different messages with the same mid.
	Conflicts uint64 `json:"conflicts,omitempty"`
	// Events has the sequences of the first 64 events that created or changed the
	// row, in order of arrival. EventsOmitted counts the others.
	Events        []uint64 `json:"events"`
	EventsOmitted uint64   `json:"events_omitted,omitempty"`
}

// Edit is one edit. Its text is empty if the message was unsent.
type Edit struct {
	Num  int64     `json:"num"`
	Text string    `json:"text,omitempty"`
	Time time.Time `json:"time"`
}

// Reaction is the current reaction of one participant.
type Reaction struct {
	Reaction string    `json:"reaction,omitempty"`
	Emoji    string    `json:"emoji,omitempty"`
	Time     time.Time `json:"time"`
	Seq      uint64    `json:"seq"`
}

// message is the stored row. Withdrawn reactions are kept, so that an older reaction
// that arrives later is not applied.
type message struct {
	Message
	Withdrawn map[string]Reaction
}

// newMessage returns the row of a message event, whose time is at.
func newMessage(e *streams.Stored, at time.Time, d Direction, m *domain.Message) message {
	return message{Message: Message{
		Kind: KindMessage, Direction: d, ID: e.ID, MID: m.MID,
		Text: m.Text, Attachments: attachments(m.Attachments), QuickReply: m.QuickReply, ReplyTo: m.ReplyTo,
		Referral: referral(m.Referral, at), Commands: m.Commands, Unsupported: m.Unsupported,
		AppID: m.AppID, Seq: e.Seq, At: projections.Clean(e.At), Time: at,
		Standby: e.Standby, Source: e.Data.Source,
	}}
}

// newPostback returns the row of a postback event, whose time is at.
func newPostback(e *streams.Stored, at time.Time, p *domain.Postback) message {
	return message{Message: Message{
		Kind: KindPostback, Direction: In, ID: e.ID, MID: p.MID,
		Title: p.Title, Payload: p.Payload, Referral: referral(p.Referral, at),
		Seq: e.Seq, At: projections.Clean(e.At), Time: at,
		Standby: e.Standby, Source: e.Data.Source,
	}}
}

// attachments returns a copy without coordinates that JSON can't represent.
func attachments(in []domain.Attachment) []domain.Attachment {
	out := slices.Clone(in)
	for i := range out {
		if notFinite(out[i].Lat) || notFinite(out[i].Long) {
			out[i].Lat, out[i].Long = nil, nil
		}
	}
	return out
}

func notFinite(f *float64) bool { return f != nil && (math.IsNaN(*f) || math.IsInf(*f, 0)) }

func referral(r *domain.Referral, t time.Time) *Referral {
	if r == nil {
		return nil
	}
	return &Referral{Ref: r.Ref, Source: r.Source, Type: r.Type, AdID: r.AdID, Product: r.Product, Time: t}
}

// merge applies another event with the mid of the row, and reports whether it is a
// different message. The standby copy of a postback has no payload; the row has the
// payload of the other copy, whichever of them arrived first.
func (m *message) merge(other *message) (conflict bool) {
	if m.Deleted {
		return false // its content was removed, so it can't be compared
	}
	if m.Kind == KindPostback && other.Kind == KindPostback && m.Title == other.Title &&
		(m.Payload == other.Payload || m.Payload == "" || other.Payload == "") {
		m.Payload = cmp.Or(m.Payload, other.Payload)
		m.Standby = m.Standby && other.Standby
		if m.Referral == nil {
			m.Referral = other.Referral
		}
		return false
	}
	first := m.Text
	if len(m.Edits) > 0 {
		first = m.Original
	}
	if m.Kind == other.Kind && m.Direction == other.Direction && first == other.Text &&
		m.QuickReply == other.QuickReply && m.Title == other.Title && m.Payload == other.Payload &&
		sameAttachments(m.Attachments, other.Attachments) {
		return false
	}
	m.Conflicts++
	return true
}

// sameAttachments compares attachments without their URLs, which the CDN signs again
// for each delivery.
func sameAttachments(a, b []domain.Attachment) bool {
	return slices.EqualFunc(a, b, func(a, b domain.Attachment) bool {
		a.URL, b.URL, a.Expires, b.Expires = "", "", 0, 0
		return reflect.DeepEqual(a, b)
	})
}

// edit applies an edit.
func (m *message) edit(e Edit) {
	if len(m.Edits) == 0 {
		m.Original = m.Text
	}
	m.Edits = append(m.Edits, e)
	slices.SortFunc(m.Edits, func(a, b Edit) int {
		return cmp.Or(cmp.Compare(a.Num, b.Num), a.Time.Compare(b.Time), cmp.Compare(a.Text, b.Text))
	})
	m.Edits = slices.Compact(m.Edits)
	if n := len(m.Edits) - maxEdits; n > 0 {
		m.Edits = slices.Delete(m.Edits, 0, n)
	}
	m.Text = m.Edits[len(m.Edits)-1].Text
	m.normalize()
}

// unsend applies an unsend. The time is that of the earliest one.
func (m *message) unsend(t time.Time) {
	if !m.Deleted || t.Before(m.DeletedAt) {
		m.DeletedAt = t
	}
	m.Deleted = true
	m.normalize()
}

// react applies a reaction or its withdrawal. The row keeps the newest one of each
// sender, and the later arrival if times are equal.
func (m *message) react(sender string, r Reaction, withdrawn bool) {
	for _, old := range []map[string]Reaction{m.Reactions, m.Withdrawn} {
		if o, ok := old[sender]; ok && cmp.Or(r.Time.Compare(o.Time), cmp.Compare(r.Seq, o.Seq)) < 0 {
			return
		}
	}
	delete(m.Reactions, sender)
	delete(m.Withdrawn, sender)
	if len(m.Reactions)+len(m.Withdrawn) >= maxReactions {
		return
	}
	into := &m.Reactions
	if withdrawn {
		into = &m.Withdrawn
	}
	if *into == nil {
		*into = map[string]Reaction{}
	}
	(*into)[sender] = r
}

// receipt applies a receipt that covers the message, and reports whether it changed
// the message.
func (m *message) receipt(kind receiptKind, at time.Time) bool {
	if m.Direction != Out {
		return false
	}
	stamp := &m.DeliveredAt
	if kind == receiptRead {
		stamp = &m.ReadAt
	}
	if !stamp.IsZero() && !at.Before(*stamp) {
		return false
	}
	*stamp = at
	m.normalize()
	return true
}

// normalize restores the invariants of a row, so that the order of events does not
// matter: a read message is delivered, and an unsent one has no content.
func (m *message) normalize() {
	if !m.ReadAt.IsZero() && (m.DeliveredAt.IsZero() || m.ReadAt.Before(m.DeliveredAt)) {
		m.DeliveredAt = m.ReadAt
	}
	if !m.Deleted {
		return
	}
	m.Text, m.Original, m.Attachments, m.QuickReply, m.ReplyTo = "", "", nil, "", nil
	m.Referral, m.Title, m.Payload, m.Commands = nil, "", "", nil
	for i := range m.Edits {
		m.Edits[i].Text = ""
	}
	m.Edits = slices.Compact(m.Edits)
}

// addEvent records the sequence of an event that created or changed the row.
func (m *message) addEvent(seq uint64) {
	if len(m.Events) >= maxEvents {
		m.EventsOmitted++
		return
	}
	m.Events = append(m.Events, seq)
}

// preview returns the short form of the row.
func (m *message) preview() Preview {
	p := Preview{
		Direction: m.Direction, Kind: m.Kind, MID: m.MID, Text: domain.Shorten(cmp.Or(m.Text, m.Title)),
		Deleted: m.Deleted, Time: m.Time,
	}
	if len(m.Attachments) > 0 {
		p.Attachment = m.Attachments[0].Type
	}
	return p
}
