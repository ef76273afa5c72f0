package conversations

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
)

// Rows are packed: first the fields that nearly every row has, in a fixed order, then
// the other fields as JSON. Every message rewrites its conversation, and encoding all
// of it as JSON took most of the time for that.

// packer appends fields to b.
type packer struct{ b []byte }

func (p *packer) num(n uint64) { p.b = binary.AppendUvarint(p.b, n) }

func (p *packer) text(s string) {
	p.num(uint64(len(s)))
	p.b = append(p.b, s...)
}

func (p *packer) blob(b []byte) {
	p.num(uint64(len(b)))
	p.b = append(p.b, b...)
}

// time packs a time of [projections.Clean]: whole milliseconds since 1970.
func (p *packer) time(t time.Time) {
	if t.IsZero() {
		p.num(0)
		return
	}
	p.num(uint64(t.UnixMilli()) + 1)
}

func (p *packer) bool(b bool) {
	if b {
		p.num(1)
		return
	}
	p.num(0)
}

// unpacker reads fields in the order in which they were packed. If the row is too
// short, it returns zero values and sets bad.
type unpacker struct {
	b   []byte
	bad bool
}

func (u *unpacker) num() uint64 {
	n, size := binary.Uvarint(u.b)
	if size <= 0 {
		u.b, u.bad = nil, true
		return 0
	}
	u.b = u.b[size:]
	return n
}

func (u *unpacker) text() string {
	return string(u.blob())
}

// blob returns what packer.blob or packer.text packed. It shares memory with the row.
func (u *unpacker) blob() []byte {
	return u.bytes(int(min(u.num(), math.MaxInt32)))
}

// word returns a text that is nearly always one of a few, without copying these.
func (u *unpacker) word() string {
	switch b := u.blob(); string(b) {
	case string(In):
		return string(In)
	case string(Out):
		return string(Out)
	case string(KindMessage):
		return string(KindMessage)
	case "page":
		return "page"
	case "webhook":
		return "webhook"
	default:
		return string(b)
	}
}

// bytes returns the next n bytes. They share memory with the row.
func (u *unpacker) bytes(n int) []byte {
	if n > len(u.b) {
		u.b, u.bad = nil, true
		return nil
	}
	b := u.b[:n:n]
	u.b = u.b[n:]
	return b
}

func (u *unpacker) time() time.Time {
	n := u.num()
	if n == 0 {
		return time.Time{}
	}
	return projections.FromMillis(int64(n - 1))
}

func (u *unpacker) bool() bool { return u.num() != 0 }

// rest decodes the JSON after the packed fields into v, if there is any.
func (u *unpacker) rest(v any) error {
	if u.bad {
		return fmt.Errorf("row is too short: %w", store.ErrCorrupt)
	}
	if len(u.b) == 0 {
		return nil
	}
	return json.Unmarshal(u.b, v) //nolint:wrapcheck // the store adds the context
}

// AppendBinary packs the row.
func (m *message) AppendBinary(b []byte) ([]byte, error) {
	p := packer{b}
	p.text(string(m.Kind))
	p.text(string(m.Direction))
	p.text(m.MID)
	before, ends := strings.CutSuffix(m.ID, m.MID) // nearly every id ends with the mid
	p.text(before)
	p.bool(ends)
	p.text(m.Text)
	p.text(m.AppID)
	p.text(m.Source)
	p.num(m.Seq)
	p.time(m.At)
	p.time(m.Time)
	p.num(uint64(m.LateMillis))
	p.bool(m.Standby)
	p.bool(m.Deleted)
	p.time(m.DeletedAt)
	p.time(m.DeliveredAt)
	p.time(m.ReadAt)
	p.num(m.Conflicts)
	p.num(uint64(len(m.Events)))
	for _, seq := range m.Events {
		p.num(seq)
	}
	p.num(m.EventsOmitted)
	if m.plain() {
		return p.b, nil
	}
	return store.AppendJSON(p.b, &messageRest{
		Original: m.Original, Attachments: m.Attachments, QuickReply: m.QuickReply,
		ReplyTo: m.ReplyTo, Referral: m.Referral,
		Title: m.Title, Payload: m.Payload, Commands: m.Commands, Unsupported: m.Unsupported,
		Edits: m.Edits, Reactions: m.Reactions, Withdrawn: m.Withdrawn,
	})
}

// plain reports whether all fields of [messageRest] are empty.
func (m *message) plain() bool {
	return m.Original == "" && len(m.Attachments) == 0 && m.QuickReply == "" && m.ReplyTo == nil && m.Referral == nil &&
		m.Title == "" && m.Payload == "" && len(m.Commands) == 0 && !m.Unsupported &&
		len(m.Edits) == 0 && len(m.Reactions) == 0 && len(m.Withdrawn) == 0
}

// messageRest has the fields that few messages have.
type messageRest struct {
	Original    string              `json:"original,omitempty"`
	Attachments []domain.Attachment `json:"attachments,omitempty"`
	QuickReply  string              `json:"quick_reply,omitempty"`
	ReplyTo     *domain.ReplyTo     `json:"reply_to,omitempty"`
	Referral    *Referral           `json:"referral,omitempty"`
	Title       string              `json:"title,omitempty"`
	Payload     string              `json:"payload,omitempty"`
	Commands    []string            `json:"commands,omitempty"`
	Unsupported bool                `json:"unsupported,omitempty"`
	Edits       []Edit              `json:"edits,omitempty"`
	Reactions   map[string]Reaction `json:"reactions,omitempty"`
	Withdrawn   map[string]Reaction `json:"withdrawn,omitempty"`
}

// UnmarshalBinary unpacks the row.
func (m *message) UnmarshalBinary(b []byte) error {
	u := unpacker{b: b}
	*m = message{Message: Message{
		Kind: Kind(u.word()), Direction: Direction(u.word()), MID: u.text(), ID: u.text(),
	}}
	if u.bool() {
		m.ID += m.MID
	}
	m.Text, m.AppID, m.Source = u.text(), u.text(), u.word()
	m.Seq, m.At, m.Time, m.LateMillis = u.num(), u.time(), u.time(), int64(u.num())
	m.Standby, m.Deleted, m.DeletedAt = u.bool(), u.bool(), u.time()
	m.DeliveredAt, m.ReadAt, m.Conflicts = u.time(), u.time(), u.num()
	if n := u.num(); n > 0 {
		m.Events = make([]uint64, min(n, maxEvents))
		for i := range m.Events {
			m.Events[i] = u.num()
		}
	}
	m.EventsOmitted = u.num()
	var r messageRest
	if err := u.rest(&r); err != nil {
		return err
	}
	m.Original, m.Attachments, m.QuickReply = r.Original, r.Attachments, r.QuickReply
	m.ReplyTo, m.Referral = r.ReplyTo, r.Referral
	m.Title, m.Payload, m.Commands, m.Unsupported = r.Title, r.Payload, r.Commands, r.Unsupported
	m.Edits, m.Reactions, m.Withdrawn = r.Edits, r.Reactions, r.Withdrawn
	return nil
}

// AppendBinary packs the row.
func (c *conversation) AppendBinary(b []byte) ([]byte, error) {
	p := packer{b}
	p.text(string(c.Page))
	p.text(string(c.Contact))
	p.text(c.Object)
	p.text(c.Name)
	p.text(c.Picture)
	p.time(c.ProfiledAt)
	p.num(c.ProfileSeq)
	p.time(c.FirstActivity)
	p.time(c.LastActivity)
	p.time(c.LastIn)
	p.time(c.LastOut)
	p.num(c.LastSeq)
	p.time(c.LastAt)
	for _, n := range []uint64{c.In, c.Out, c.Unanswered, c.Late, c.Conflicts, c.Pending} {
		p.num(n)
	}
	p.bool(c.Standby)
	p.time(c.Delivered)
	p.time(c.Read)
	p.time(c.ErasedBefore)
	p.blob(c.LastKey)
	p.blob(c.Recent)
	p.bool(c.Indexed)
	p.bool(c.Last != nil)
	if l := c.Last; l != nil {
		p.text(string(l.Direction))
		p.text(string(l.Kind))
		p.text(l.MID)
		p.text(l.Text)
		p.text(l.Attachment)
		p.bool(l.Deleted)
		p.time(l.Time)
	}
	r := conversationRest{
		Thread: c.Thread, ThreadSeq: c.ThreadSeq, RequestSeq: c.RequestSeq, RolesSeq: c.RolesSeq,
		Referral: c.Referral, RefSeq: c.RefSeq, Optin: c.Optin, OptinSeq: c.OptinSeq,
		Account: c.Account, AccountAt: c.AccountAt, AccountSeq: c.AccountSeq,
	}
	if r == (conversationRest{}) {
		return p.b, nil
	}
	return store.AppendJSON(p.b, &r)
}

// conversationRest has the fields that few conversations have.
type conversationRest struct {
	Thread     *Thread   `json:"thread,omitempty"`
	ThreadSeq  uint64    `json:"thread_seq,omitempty"`
	RequestSeq uint64    `json:"request_seq,omitempty"`
	RolesSeq   uint64    `json:"roles_seq,omitempty"`
	Referral   *Referral `json:"referral,omitempty"`
	RefSeq     uint64    `json:"ref_seq,omitempty"`
	Optin      *Optin    `json:"optin,omitempty"`
	OptinSeq   uint64    `json:"optin_seq,omitempty"`
	Account    string    `json:"account,omitempty"`
	AccountAt  time.Time `json:"account_at,omitzero"`
	AccountSeq uint64    `json:"account_seq,omitempty"`
}

// UnmarshalBinary unpacks the row.
func (c *conversation) UnmarshalBinary(b []byte) error {
	u := unpacker{b: b}
	*c = conversation{Conversation: Conversation{
		Page: domain.PageID(u.text()), Contact: domain.ContactID(u.text()), Object: u.word(),
		Name: u.text(), Picture: u.text(), ProfiledAt: u.time(),
	}}
	c.ProfileSeq = u.num()
	c.FirstActivity, c.LastActivity, c.LastIn, c.LastOut = u.time(), u.time(), u.time(), u.time()
	c.LastSeq, c.LastAt = u.num(), u.time()
	for _, n := range []*uint64{&c.In, &c.Out, &c.Unanswered, &c.Late, &c.Conflicts, &c.Pending} {
		*n = u.num()
	}
	c.Standby, c.Delivered, c.Read, c.ErasedBefore = u.bool(), u.time(), u.time(), u.time()
	if key := u.text(); key != "" {
		c.LastKey = []byte(key)
	}
	if events := u.blob(); len(events) > 0 {
		c.Recent = append(recent(nil), events...)
	}
	c.Indexed = u.bool()
	if u.bool() {
		c.Last = &Preview{
			Direction: Direction(u.word()), Kind: Kind(u.word()), MID: u.text(),
			Text: u.text(), Attachment: u.text(), Deleted: u.bool(), Time: u.time(),
		}
	}
	var r conversationRest
	if err := u.rest(&r); err != nil {
		return err
	}
	c.Thread, c.ThreadSeq, c.RequestSeq, c.RolesSeq = r.Thread, r.ThreadSeq, r.RequestSeq, r.RolesSeq
	c.Referral, c.RefSeq, c.Optin, c.OptinSeq = r.Referral, r.RefSeq, r.Optin, r.OptinSeq
	c.Account, c.AccountAt, c.AccountSeq = r.Account, r.AccountAt, r.AccountSeq
	return nil
}

// AppendBinary packs the counts.
func (c *Counts) AppendBinary(b []byte) ([]byte, error) {
	p := packer{b}
	for _, n := range c.all() {
		p.num(*n)
	}
	return p.b, nil
}

// UnmarshalBinary unpacks the counts.
func (c *Counts) UnmarshalBinary(b []byte) error {
	u := unpacker{b: b}
	for _, n := range c.all() {
		*n = u.num()
	}
	return u.rest(nil)
}
