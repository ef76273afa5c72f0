package conversations

import (
	"time"

	"github.com/pagestream/pagestream/domain"
)

// Conversation is the conversation between one page and one contact, without its
// messages. Times are event times in UTC unless their comment says otherwise; a
// zero time means never.
type Conversation struct {
	Page    domain.PageID    `json:"page"`
	Contact domain.ContactID `json:"contact"`
	// Object is "page" or "instagram".
	Object string `json:"object,omitempty"`
	// Name and Picture are those of the contact that Graph last returned, at ProfiledAt.
	Name       string    `json:"name,omitempty"`
	Picture    string    `json:"picture,omitempty"`
	ProfiledAt time.Time `json:"profiled_at,omitzero"`

	// FirstActivity and LastActivity are the times of the first and the last event,
	// except receipts and profiles. LastIn and LastOut are those of the last message
	// in each direction.
	FirstActivity time.Time `json:"first_activity,omitzero"`
	LastActivity  time.Time `json:"last_activity,omitzero"`
	LastIn        time.Time `json:"last_in,omitzero"`
	LastOut       time.Time `json:"last_out,omitzero"`
	// LastSeq is the sequence of the last event that arrived, LastAt the time at
	// which the stream stored it.
	LastSeq uint64    `json:"last_seq"`
	LastAt  time.Time `json:"last_at,omitzero"`

	// In and Out count message rows; In includes postbacks. Unanswered counts those
	// of In that are newer than the page's last message.
	In         uint64 `json:"in"`
	Out        uint64 `json:"out"`
	Unanswered uint64 `json:"unanswered"`
	// Late counts messages that arrived after a newer one.
	Late uint64 `json:"late,omitempty"`
	// Conflicts counts messages with the mid of a different message.
	Conflicts uint64 `json:"conflicts,omitempty"`
	// Pending counts changes and receipts that wait for a message that has not
	// arrived.
	Pending uint64 `json:"pending,omitempty"`

	// Last is the newest message, nil if there is none.
	Last *Preview `json:"last,omitempty"`
	// Standby reports whether the newest message was received while another app
	// owned the thread.
	Standby bool    `json:"standby,omitempty"`
	Thread  *Thread `json:"thread,omitempty"`

	// Delivered and Read are the times up to which the contact's receipts cover
	// messages.
	Delivered time.Time `json:"delivered,omitzero"`
	Read      time.Time `json:"read,omitzero"`

	// Referral and Optin are the newest of their kind.
	Referral *Referral `json:"referral,omitempty"`
	Optin    *Optin    `json:"optin,omitempty"`
	// Account is "linked" or "unlinked", empty before any account linking event.
	Account   string    `json:"account,omitempty"`
	AccountAt time.Time `json:"account_at,omitzero"`

	// ErasedBefore is set if this conversation was erased before: events up to this
	// time are not applied.
	ErasedBefore time.Time `json:"erased_before,omitzero"`
}

// Preview is a short form of a message. Its text has at most 120 characters.
type Preview struct {
	Direction Direction `json:"direction"`
	Kind      Kind      `json:"kind"`
	MID       string    `json:"mid,omitempty"`
	Text      string    `json:"text,omitempty"`
	// Attachment is the type of the first attachment.
	Attachment string    `json:"attachment,omitempty"`
	Deleted    bool      `json:"deleted,omitempty"`
	Time       time.Time `json:"time"`
}

// Thread is the state of a conversation in Meta's handover protocol. It is that of the
// newest event by time, and of the later arrival if times are equal.
type Thread struct {
	// Owner is the id of the app that owns the thread, empty after the owner released
	// it. Previous is the owner before, and Since is when the owner changed.
	Owner    string    `json:"owner,omitempty"`
	Previous string    `json:"previous,omitempty"`
	Since    time.Time `json:"since,omitzero"`
	// Requester is the app that requested the thread at RequestedAt, if the owner has
	// not changed since.
	Requester   string    `json:"requester,omitempty"`
	RequestedAt time.Time `json:"requested_at,omitzero"`
	// Roles lists the roles of each app, if Meta reported them for this contact.
	Roles   map[string][]string `json:"roles,omitempty"`
	RolesAt time.Time           `json:"roles_at,omitzero"`
}

// Referral is how the contact last entered the conversation. Further data about an ad
// is in the raw event.
type Referral struct {
	Ref     string    `json:"ref,omitempty"`
	Source  string    `json:"source,omitempty"`
	Type    string    `json:"type,omitempty"`
	AdID    string    `json:"ad_id,omitempty"`
	Product string    `json:"product,omitempty"`
	Time    time.Time `json:"time"`
}

// Optin is the contact's newest consent, or the withdrawal of one.
type Optin struct {
	Type   string    `json:"type,omitempty"`
	Ref    string    `json:"ref,omitempty"`
	Status string    `json:"status,omitempty"`
	Time   time.Time `json:"time"`
}

// conversation is the stored row: the public fields and those that the fold needs.
type conversation struct {
	Conversation
	// LastKey is the end of a key for the newest message's place: see place.tail.
	LastKey []byte
	// Recent has the latest events; the others are in the buckets.
	Recent recent
	// Indexed reports whether events have been moved to the buckets.
	Indexed bool
	// These are the sequences of the events that set a field. They decide which event
	// is the newer one of two in the same millisecond.
	ProfileSeq uint64
	ThreadSeq  uint64
	RequestSeq uint64
	RolesSeq   uint64
	RefSeq     uint64
	OptinSeq   uint64
	AccountSeq uint64
}

// Counts has the counts of one page, or their sums for all pages.
type Counts struct {
	Conversations uint64 `json:"conversations"`
	// In and Out count message rows; In includes postbacks.
	In  uint64 `json:"in"`
	Out uint64 `json:"out"`
	// Late counts messages that arrived after a newer one of their conversation,
	// except backfilled messages.
	Late uint64 `json:"late"`
	// Conflicts counts messages with the mid of a different message. The first one is
	// kept; the event of the other is in the stream.
	Conflicts uint64 `json:"conflicts"`
	// Pending counts edits, unsends, reactions and receipts that wait for their
	// message; Dropped counts those that were dropped because too many waited.
	Pending uint64 `json:"pending"`
	Dropped uint64 `json:"dropped"`
	// Incomplete counts events without the data that their type requires.
	Incomplete uint64 `json:"odd"`
	// Erased counts erasures. AfterErasure counts events that arrived after an
	// erasure, were not newer than it, and so were not applied.
	Erased       uint64 `json:"erased"`
	AfterErasure uint64 `json:"after_erasure"`
}

func (c *Counts) add(o Counts) {
	to, from := c.all(), o.all()
	for i, n := range from {
		*to[i] += *n
	}
}

func (c *Counts) subtract(o Counts) {
	to, from := c.all(), o.all()
	for i, n := range from {
		*to[i] -= *n
	}
}

// all returns pointers to the counts, in the order in which they are stored.
func (c *Counts) all() [10]*uint64 {
	return [...]*uint64{
		&c.Conversations, &c.In, &c.Out, &c.Late, &c.Conflicts,
		&c.Pending, &c.Dropped, &c.Incomplete, &c.Erased, &c.AfterErasure,
	}
}
