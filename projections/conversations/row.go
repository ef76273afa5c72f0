package conversations

import (
	"bytes"
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

// The functions append one field of a row. They are no methods of a writer, so that a row may be on the stack.

func appendNum(b []byte, n uint64) []byte { return binary.AppendUvarint(b, n) }

func appendText[T ~string | ~[]byte](b []byte, s T) []byte {
	return append(appendNum(b, uint64(len(s))), s...)
}

// appendTime appends a time of [projections.Clean]: whole milliseconds since 1970.
func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return appendNum(b, 0)
	}
	return appendNum(b, uint64(t.UnixMilli())+1)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return appendNum(b, 1)
	}
	return appendNum(b, 0)
}

// unpacker reads fields in the order in which they were appended. If the row is too
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

// texts reads texts that follow each other. They share memory with each other.
func (u *unpacker) texts(into ...*string) {
	from := u.b
	for range into {
		u.blob()
	}
	packed := from[:len(from)-len(u.b)]
	if u.bad || len(packed) == len(into) { // all are empty
		return
	}
	all := string(packed)
	for _, text := range into {
		n, size := binary.Uvarint(packed)
		end := size + int(n) // it is in packed: blob has read it
		*text, all, packed = all[size:end], all[end:], packed[end:]
	}
}

// blob returns what appendText appended. It shares memory with the row.
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
	case domain.SourceWebhook:
		return domain.SourceWebhook
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

// end reports whether all of the row was read.
func (u *unpacker) end() bool { return !u.bad && len(u.b) == 0 }

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
	b = appendText(b, m.Kind)
	b = appendText(b, m.Direction)
	b = appendText(b, m.MID)
	before, ends := strings.CutSuffix(m.ID, m.MID) // nearly every id ends with the mid
	b = appendText(b, before)
	b = appendBool(b, ends)
	b = appendText(b, m.Text)
	b = appendText(b, m.AppID)
	b = appendText(b, m.Source)
	b = appendNum(b, m.Seq)
	b = appendTime(b, m.At)
	b = appendTime(b, m.Time)
	b = appendNum(b, uint64(m.LateMillis))
	b = appendBool(b, m.Standby)
	b = appendBool(b, m.Deleted)
	b = appendTime(b, m.DeletedAt)
	b = appendTime(b, m.DeliveredAt)
	b = appendTime(b, m.ReadAt)
	b = appendNum(b, m.Conflicts)
	b = appendNum(b, uint64(len(m.Events)))
	for _, seq := range m.Events {
		b = appendNum(b, seq)
	}
	b = appendNum(b, m.EventsOmitted)
	if m.plain() {
		return b, nil
	}
	return store.AppendJSON(b, &messageRest{
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
	*m = message{}
	m.Kind, m.Direction, m.MID, m.ID = Kind(u.word()), Direction(u.word()), u.text(), u.text()
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
	if u.end() {
		return nil
	}
	return m.unpackRest(&u)
}

func (m *message) unpackRest(u *unpacker) error {
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

// conversationRow is what a transaction keeps of a conversation, and countsRow of the counts of a page.
type (
	conversationRow = store.InPlace[conversation, *conversation]
	countsRow       = store.InPlace[Counts, *Counts]
)

// AppendBinary packs the row.
func (c *conversation) AppendBinary(b []byte) ([]byte, error) {
	b = appendText(b, c.Page)
	b = appendText(b, c.Contact)
	b = appendText(b, c.Object)
	b = appendText(b, c.Name)
	b = appendText(b, c.Picture)
	b = appendTime(b, c.ProfiledAt)
	b = appendNum(b, c.ProfileSeq)
	b = appendTime(b, c.FirstActivity)
	b = appendTime(b, c.LastActivity)
	b = appendTime(b, c.LastIn)
	b = appendTime(b, c.LastOut)
	b = appendNum(b, c.LastSeq)
	b = appendTime(b, c.LastAt)
	for _, n := range []uint64{c.In, c.Out, c.Unanswered, c.Late, c.Conflicts, c.Pending} {
		b = appendNum(b, n)
	}
	b = appendBool(b, c.Standby)
	b = appendTime(b, c.Delivered)
	b = appendTime(b, c.Read)
	b = appendTime(b, c.ErasedBefore)
	b = appendText(b, c.LastKey)
	b = appendText(b, c.Recent)
	b = appendBool(b, c.Indexed)
	b = appendBool(b, c.Last != nil)
	if l := c.Last; l != nil {
		b = appendText(b, l.Direction)
		b = appendText(b, l.Kind)
		b = appendText(b, l.MID)
		b = appendText(b, l.Text)
		b = appendText(b, l.Attachment)
		b = appendBool(b, l.Deleted)
		b = appendTime(b, l.Time)
	}
	r := conversationRest{
		Thread: c.Thread, ThreadSeq: c.ThreadSeq, RequestSeq: c.RequestSeq, RolesSeq: c.RolesSeq,
		Referral: c.Referral, RefSeq: c.RefSeq, Optin: c.Optin, OptinSeq: c.OptinSeq,
		Account: c.Account, AccountAt: c.AccountAt, AccountSeq: c.AccountSeq,
	}
	if r == (conversationRest{}) {
		return b, nil
	}
	rest := r // r stays on the stack
	return store.AppendJSON(b, &rest)
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
	*c = conversation{}
	u.texts((*string)(&c.Page), (*string)(&c.Contact))
	c.Object = u.word()
	u.texts(&c.Name, &c.Picture)
	c.ProfiledAt, c.ProfileSeq = u.time(), u.num()
	c.FirstActivity, c.LastActivity, c.LastIn, c.LastOut = u.time(), u.time(), u.time(), u.time()
	c.LastSeq, c.LastAt = u.num(), u.time()
	for _, n := range []*uint64{&c.In, &c.Out, &c.Unanswered, &c.Late, &c.Conflicts, &c.Pending} {
		*n = u.num()
	}
	c.Standby, c.Delivered, c.Read, c.ErasedBefore = u.bool(), u.time(), u.time(), u.time()
	if key := u.blob(); len(key) > 0 {
		c.LastKey = bytes.Clone(key)
	}
	if events := u.blob(); len(events) > 0 {
		c.Recent = append(make(recent, 0, len(events)+recentRoom), events...)
	}
	c.Indexed = u.bool()
	if u.bool() {
		c.Last = &Preview{Direction: Direction(u.word()), Kind: Kind(u.word())}
		u.texts(&c.Last.MID, &c.Last.Text, &c.Last.Attachment)
		c.Last.Deleted, c.Last.Time = u.bool(), u.time()
	}
	if u.end() {
		return nil
	}
	return c.unpackRest(&u)
}

func (c *conversation) unpackRest(u *unpacker) error {
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
	for _, n := range c.all() {
		b = appendNum(b, *n)
	}
	return b, nil
}

// UnmarshalBinary unpacks the counts.
func (c *Counts) UnmarshalBinary(b []byte) error {
	u := unpacker{b: b}
	for _, n := range c.all() {
		*n = u.num()
	}
	return u.rest(nil)
}
