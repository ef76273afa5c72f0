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

// Direction is who sent a message.
type Direction string

// The directions: in from the contact, out from the page by any app or person.
const (
	In  Direction = "in"
	Out Direction = "out"
)

// Kind is what made a row.
type Kind string

// The kinds of row.
const (
	KindMessage  Kind = "message"
	KindPostback Kind = "postback"
)

// Bounds of one row. Meta allows 5 edits, and a conversation has 2 sides.
const (
	maxEvents    = 64
	maxEdits     = 20
	maxReactions = 16
	maxPreview   = 120
)

// Message is one message or postback and what became of it. Times are UTC; a
// zero time means never.
type Message struct {
	Kind      Kind      `json:"kind"`
	Direction Direction `json:"direction"`
	// ID is the id of the event that made the row.
	ID  string `json:"id"`
	MID string `json:"mid,omitempty"`
	// Text is the latest text, Original the first one where it was edited.
	Text        string              `json:"text,omitempty"`
	Original    string              `json:"original,omitempty"`
	Attachments []domain.Attachment `json:"attachments,omitempty"`
	QuickReply  string              `json:"quick_reply,omitempty"`
	ReplyTo     *domain.ReplyTo     `json:"reply_to,omitempty"`
	Referral    *Referral           `json:"referral,omitempty"`
	// Title and Payload are a postback's. A postback seen only in standby has
	// no payload.
	Title       string   `json:"title,omitempty"`
	Payload     string   `json:"payload,omitempty"`
	Commands    []string `json:"commands,omitempty"`
	Unsupported bool     `json:"unsupported,omitempty"`
	// AppID is the app that sent an echo, where Meta says so.
	AppID string `json:"app_id,omitempty"`

	// Seq and At are the stream's, Time is the event's and places the row.
	Seq  uint64    `json:"seq"`
	At   time.Time `json:"at"`
	Time time.Time `json:"time"`
	// LateMillis says by how much the conversation's newest message was
	// ahead of this one when this one arrived; 0 when it came in order.
	LateMillis int64  `json:"late_ms,omitempty"`
	Standby    bool   `json:"standby,omitempty"`
	Source     string `json:"source,omitempty"`

	// Edits are in order of their number, the newest 20.
	Edits []Edit `json:"edits,omitempty"`
	// Deleted marks an unsend: the row keeps its place and loses its content.
	Deleted   bool      `json:"deleted,omitempty"`
	DeletedAt time.Time `json:"deleted_at,omitzero"`
	// Reactions are the standing ones, by the id of who reacted.
	Reactions map[string]Reaction `json:"reactions,omitempty"`
	// DeliveredAt and ReadAt are the earliest receipts that cover the message;
	// only messages of the page have them.
	DeliveredAt time.Time `json:"delivered_at,omitzero"`
	ReadAt      time.Time `json:"read_at,omitzero"`

	// Conflicts counts other messages that claimed this mid.
	Conflicts uint64 `json:"conflicts,omitempty"`
	// Events are the sequences of the events that made the row what it is, in
	// order of arrival: the first 64. EventsOmitted counts the rest.
	Events        []uint64 `json:"events"`
	EventsOmitted uint64   `json:"events_omitted,omitempty"`
}

// Edit is one edit. Its text is empty once the message was unsent.
type Edit struct {
	Num  int64     `json:"num"`
	Text string    `json:"text,omitempty"`
	Time time.Time `json:"time"`
}

// Reaction is one side's standing reaction.
type Reaction struct {
	Reaction string    `json:"reaction,omitempty"`
	Emoji    string    `json:"emoji,omitempty"`
	Time     time.Time `json:"time"`
	Seq      uint64    `json:"seq"`
}

// message is the row as stored. Withdrawn reactions stay as marks so that one
// which arrives late does not come back.
type message struct {
	Message
	Withdrawn map[string]Reaction
}

// newMessage makes the row of a message event.
func newMessage(e streams.Stored, d Direction, m *domain.Message) *message {
	return &message{Message: Message{
		Kind: KindMessage, Direction: d, ID: e.ID, MID: m.MID,
		Text: m.Text, Attachments: attachments(m.Attachments), QuickReply: m.QuickReply, ReplyTo: m.ReplyTo,
		Referral: referral(m.Referral, projections.When(e)), Commands: m.Commands, Unsupported: m.Unsupported, AppID: m.AppID,
		Seq: e.Seq, At: projections.Clean(e.At), Time: projections.When(e), Standby: e.Standby, Source: e.Data.Source,
	}}
}

// newPostback makes the row of a postback event.
func newPostback(e streams.Stored, p *domain.Postback) *message {
	return &message{Message: Message{
		Kind: KindPostback, Direction: In, ID: e.ID, MID: p.MID,
		Title: p.Title, Payload: p.Payload, Referral: referral(p.Referral, projections.When(e)),
		Seq: e.Seq, At: projections.Clean(e.At), Time: projections.When(e), Standby: e.Standby, Source: e.Data.Source,
	}}
}

// attachments drops numbers that JSON has no form for.
func attachments(in []domain.Attachment) []domain.Attachment {
	out := slices.Clone(in)
	for i := range out {
		if odd(out[i].Lat) || odd(out[i].Long) {
			out[i].Lat, out[i].Long = nil, nil
		}
	}
	return out
}

func odd(f *float64) bool { return f != nil && (math.IsNaN(*f) || math.IsInf(*f, 0)) }

func referral(r *domain.Referral, t time.Time) *Referral {
	if r == nil {
		return nil
	}
	return &Referral{Ref: r.Ref, Source: r.Source, Type: r.Type, AdID: r.AdID, Product: r.Product, Time: t}
}

// merge takes in a second event with the row's mid and reports whether it was
// a different message. A postback's standby copy has no payload; whichever came
// first, the row has it.
func (m *message) merge(other *message) (conflict bool) {
	if m.Deleted {
		return false // its content is gone, so there is nothing to compare
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
	if m.Kind == other.Kind && m.Direction == other.Direction && first == other.Text && m.QuickReply == other.QuickReply &&
		m.Title == other.Title && m.Payload == other.Payload && sameAttachments(m.Attachments, other.Attachments) {
		return false
	}
	m.Conflicts++
	return true
}

// sameAttachments leaves URLs out: the CDN signs them anew for each delivery.
func sameAttachments(a, b []domain.Attachment) bool {
	return slices.EqualFunc(a, b, func(a, b domain.Attachment) bool {
		a.URL, b.URL = "", ""
		return reflect.DeepEqual(a, b)
	})
}

// edit takes in one edit.
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
	m.settle()
}

// unsend takes in the unsend. The earliest one counts.
func (m *message) unsend(t time.Time) {
	if !m.Deleted || t.Before(m.DeletedAt) {
		m.DeletedAt = t
	}
	m.Deleted = true
	m.settle()
}

// react takes in a reaction or its withdrawal: the newest of each side stands,
// the later arrival where times are equal.
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

// receipt takes in a receipt that covers the message and reports whether it
// changed anything.
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
	m.settle()
	return true
}

// settle restores what holds of every row, so that order can't matter: a read
// message was delivered, an unsent one has no content.
func (m *message) settle() {
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

// note records that the event of this sequence made the row what it is.
func (m *message) note(seq uint64) {
	if len(m.Events) >= maxEvents {
		m.EventsOmitted++
		return
	}
	m.Events = append(m.Events, seq)
}

// preview returns the row in short.
func (m *message) preview() *Preview {
	p := &Preview{Direction: m.Direction, Kind: m.Kind, MID: m.MID, Text: shorten(cmp.Or(m.Text, m.Title)), Deleted: m.Deleted, Time: m.Time}
	if len(m.Attachments) > 0 {
		p.Attachment = m.Attachments[0].Type
	}
	return p
}

func shorten(s string) string {
	n := 0
	for i := range s {
		if n == maxPreview {
			return s[:i]
		}
		n++
	}
	return s
}
