package pages

import (
	"time"

	"github.com/pagestream/pagestream/domain"
)

// State is the state of a page's connection.
type State string

// The states of a connection.
const (
	// Unknown: events came, and no connection was ever made.
	Unknown      State = "unknown"
	Connected    State = "connected"
	Disconnected State = "disconnected"
)

// TokenState is what is known of a page's token. It never gates ingest.
type TokenState string

// The states of a token.
const (
	TokenNone    TokenState = "none"
	TokenValid   TokenState = "valid"
	TokenInvalid TokenState = "invalid"
)

// Page is one page without its secrets. Times are UTC; a zero time means never.
type Page struct {
	ID domain.PageID `json:"id"`
	// Object is "page" or "instagram", by the page's deliveries; empty before
	// the first.
	Object       string `json:"object,omitempty"`
	Name         string `json:"name,omitempty"`
	Company      string `json:"company,omitempty"`
	App          string `json:"app,omitempty"`
	ConnectionID string `json:"connection_id,omitempty"`
	// Instagram is the account linked to the page, LinkedPage the other way
	// round: the connected page through which this account is known.
	Instagram  string        `json:"instagram,omitempty"`
	LinkedPage domain.PageID `json:"linked_page,omitempty"`
	// Admin is the app-scoped id of the person who connected the page.
	Admin string `json:"admin,omitempty"`
	// Fields are the webhook fields wanted for the page.
	Fields []string `json:"fields,omitempty"`

	State       State      `json:"state"`
	StateSince  time.Time  `json:"state_since,omitzero"`
	StateReason string     `json:"state_reason,omitempty"`
	Token       TokenState `json:"token"`
	TokenSince  time.Time  `json:"token_since,omitzero"`
	TokenReason string     `json:"token_reason,omitempty"`
	// TokenCode and TokenSubcode are Graph's, where it refused the token.
	TokenCode    int `json:"token_code,omitempty"`
	TokenSubcode int `json:"token_subcode,omitempty"`
	// TokenExpires is when the token ends by itself, DataAccessExpires when the
	// consent to read data does, and Scopes what the token was granted, as of
	// when it came; zero is never or unknown.
	TokenExpires      time.Time `json:"token_expires,omitzero"`
	DataAccessExpires time.Time `json:"data_access_expires,omitzero"`
	Scopes            []string  `json:"scopes,omitempty"`

	// Policy is the newest enforcement by Meta; Roles are the apps' handover
	// roles where Meta gave them for the whole page.
	Policy  *Policy             `json:"policy,omitempty"`
	Roles   map[string][]string `json:"roles,omitempty"`
	RolesAt time.Time           `json:"roles_at,omitzero"`
	// Ignored counts events on the connection that did not apply: without
	// data, or about another connection than the current one.
	Ignored uint64 `json:"ignored,omitempty"`

	Traffic Traffic `json:"traffic"`
}

// Policy is a warning, block or unblock of the page by Meta.
type Policy struct {
	Action string    `json:"action,omitempty"`
	Reason string    `json:"reason,omitempty"`
	Time   time.Time `json:"time"`
}

// Traffic is what came of a page. Times named "…At" are the stream's, the moment
// of storing; the others are event times.
type Traffic struct {
	FirstAt time.Time `json:"first_at,omitzero"`
	LastAt  time.Time `json:"last_at,omitzero"`
	LastSeq uint64    `json:"last_seq,omitempty"`
	// FirstTime and LastTime span the events' own times.
	FirstTime time.Time   `json:"first_time,omitzero"`
	LastTime  time.Time   `json:"last_time,omitzero"`
	LastType  domain.Type `json:"last_type,omitempty"`
	// FirstInboundAt and LastInboundAt are when a delivery first and last
	// brought an event: the age of the last is the page's silence.
	FirstInboundAt time.Time `json:"first_inbound_at,omitzero"`
	LastInboundAt  time.Time `json:"last_inbound_at,omitzero"`
	// LastMessage is the newest event time of a message in either direction.
	LastMessage time.Time `json:"last_message,omitzero"`
	// Events counts all events but tests, by type in Types.
	Events uint64                 `json:"events"`
	Types  map[domain.Type]uint64 `json:"types,omitempty"`
	// Standby counts those that came while another app owned the thread.
	Standby uint64 `json:"standby,omitempty"`
	// StandbyRun is how many of people's latest messages and postbacks in a row
	// came as standby.
	StandbyRun uint64 `json:"standby_run,omitempty"`
	// Tests counts the dashboard's test events; they are in no other number.
	Tests uint64 `json:"tests,omitempty"`
}

// Secrets are a page's sealed tokens and whom they belong to. They are
// ciphertext (package seal), and still don't belong in a log or an answer:
// neither fmt nor JSON prints them.
type Secrets struct {
	Page              domain.PageID `json:"page"`
	ConnectionID      string        `json:"connection_id,omitempty"`
	App               string        `json:"app,omitempty"`
	Company           string        `json:"company,omitempty"`
	SealedToken       string        `json:"-"`
	SealedVerifyToken string        `json:"-"`
	// Token is the state of the sealed token; an invalid one is still returned.
	Token TokenState `json:"token"`
}

// String keeps the sealed tokens out of logs.
func (s Secrets) String() string { return "secrets of page " + string(s.Page) }

// GoString keeps the sealed tokens out of logs.
func (s Secrets) GoString() string { return s.String() }

// AccessEnds is when the token or the access to data ends, whichever is first; zero
// is never or unknown.
func (p Page) AccessEnds() time.Time {
	a, b := p.TokenExpires, p.DataAccessExpires
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
