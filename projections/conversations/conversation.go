package conversations

import (
	"time"

	"github.com/pagestream/pagestream/domain"
)

// Conversation is everything between one page and one contact, without the
// messages. Times are event times in UTC unless their comment says otherwise; a
// zero time means never.
type Conversation struct {
	Page    domain.PageID    `json:"page"`
	Contact domain.ContactID `json:"contact"`
	// Object is "page" or "instagram".
	Object string `json:"object,omitempty"`
	// Name and Picture are what Graph last said of the contact.
	Name       string    `json:"name,omitempty"`
	Picture    string    `json:"picture,omitempty"`
	ProfiledAt time.Time `json:"profiled_at,omitzero"`

	// FirstActivity and LastActivity span everything but receipts and profiles.
	FirstActivity time.Time `json:"first_activity,omitzero"`
	LastActivity  time.Time `json:"last_activity,omitzero"`
	LastIn        time.Time `json:"last_in,omitzero"`
	LastOut       time.Time `json:"last_out,omitzero"`
	// LastSeq and LastAt are the stream's, of the latest event to arrive.
	LastSeq uint64    `json:"last_seq"`
	LastAt  time.Time `json:"last_at,omitzero"`

	// In and Out count message rows, postbacks among In. Unanswered counts
	// those of In that are newer than the page's last message.
	In         uint64 `json:"in"`
	Out        uint64 `json:"out"`
	Unanswered uint64 `json:"unanswered"`
	// Late counts messages that arrived after a newer one.
	Late uint64 `json:"late,omitempty"`
	// Conflicts counts messages that claimed the mid of a different one.
	Conflicts uint64 `json:"conflicts,omitempty"`
	// Pending counts what waits for a message that is not here.
	Pending uint64 `json:"pending,omitempty"`

	Last *Preview `json:"last,omitempty"`
	// Standby says that the newest message came while another app owned the
	// thread.
	Standby bool    `json:"standby,omitempty"`
	Thread  *Thread `json:"thread,omitempty"`

	// Delivered and Read are how far the contact's receipts reach.
	Delivered time.Time `json:"delivered,omitzero"`
	Read      time.Time `json:"read,omitzero"`

	// Referral and Optin are the newest of their kind.
	Referral *Referral `json:"referral,omitempty"`
	Optin    *Optin    `json:"optin,omitempty"`
	// Account is "linked" or "unlinked" after account linking.
	Account   string    `json:"account,omitempty"`
	AccountAt time.Time `json:"account_at,omitzero"`

	// ErasedBefore is set when an earlier life of this conversation was
	// erased: nothing as old as that comes back in.
	ErasedBefore time.Time `json:"erased_before,omitzero"`
}

// Preview is the newest message in short: at most 120 characters of it.
type Preview struct {
	Direction Direction `json:"direction"`
	Kind      Kind      `json:"kind"`
	MID       string    `json:"mid,omitempty"`
	Text      string    `json:"text,omitempty"`
	// Attachment is the first attachment's type.
	Attachment string    `json:"attachment,omitempty"`
	Deleted    bool      `json:"deleted,omitempty"`
	Time       time.Time `json:"time"`
}

// Thread is who owns the conversation by the handover protocol. The newest
// event by time wins, the later arrival where times are equal.
type Thread struct {
	// Owner is the app id that owns the thread; empty after the owner let go.
	Owner    string    `json:"owner,omitempty"`
	Previous string    `json:"previous,omitempty"`
	Since    time.Time `json:"since,omitzero"`
	// Requester is the app that asked for the thread and has had no answer.
	Requester   string    `json:"requester,omitempty"`
	RequestedAt time.Time `json:"requested_at,omitzero"`
	// Roles lists each app's roles, where Meta tied them to this contact.
	Roles   map[string][]string `json:"roles,omitempty"`
	RolesAt time.Time           `json:"roles_at,omitzero"`
}

// Referral is how the contact last came in. Ad context beyond it is in the raw event.
type Referral struct {
	Ref     string    `json:"ref,omitempty"`
	Source  string    `json:"source,omitempty"`
	Type    string    `json:"type,omitempty"`
	AdID    string    `json:"ad_id,omitempty"`
	Product string    `json:"product,omitempty"`
	Time    time.Time `json:"time"`
}

// Optin is the contact's newest consent or its withdrawal.
type Optin struct {
	Type   string    `json:"type,omitempty"`
	Ref    string    `json:"ref,omitempty"`
	Status string    `json:"status,omitempty"`
	Time   time.Time `json:"time"`
}

// conversation is the row as stored: the public form and what the fold needs.
type conversation struct {
	Conversation
	// LastKey is the tail of the newest message's place.
	LastKey []byte
	// Recent are the latest events; the others are in the buckets.
	Recent recent
	// Indexed says that events have moved to the buckets.
	Indexed bool
	// Seqs break ties between events of one millisecond.
	ProfileSeq uint64
	ThreadSeq  uint64
	RequestSeq uint64
	RolesSeq   uint64
	RefSeq     uint64
	OptinSeq   uint64
	AccountSeq uint64
}

// Counts are the sums of one page, or of all.
type Counts struct {
	Conversations uint64 `json:"conversations"`
	// In and Out count message rows, postbacks among In.
	In  uint64 `json:"in"`
	Out uint64 `json:"out"`
	// Late counts messages that arrived after a newer one of their
	// conversation; backfilled ones are not late.
	Late uint64 `json:"late"`
	// Conflicts counts messages that claimed the mid of a different one; the
	// first stays, the event of the other is in the stream.
	Conflicts uint64 `json:"conflicts"`
	// Pending counts edits, unsends, reactions and receipts that wait for their
	// message; Dropped counts those that a bound pushed out.
	Pending uint64 `json:"pending"`
	Dropped uint64 `json:"dropped"`
	// Odd counts events that lack what their type calls for.
	Odd uint64 `json:"odd"`
	// Erased counts erasures, AfterErasure what came in later and was as old as
	// the erasure, and so was refused.
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

// all are the counts in the order in which they are stored.
func (c *Counts) all() [10]*uint64 {
	return [...]*uint64{
		&c.Conversations, &c.In, &c.Out, &c.Late, &c.Conflicts, &c.Pending, &c.Dropped, &c.Odd, &c.Erased, &c.AfterErasure,
	}
}
