package pages

import (
	"time"

	"github.com/pagestream/pagestream/domain"
)

// State is the state of a page's connection.
type State string

// The states of a connection.
const (
	// Unknown means that the page has events and was never connected.
	Unknown State = "unknown"
	// Connected means that the page is connected.
	Connected State = "connected"
	// Disconnected means that the connection was ended.
	Disconnected State = "disconnected"
)

// TokenState is the state of a page's token. Deliveries are accepted in every state.
type TokenState string

// The states of a token.
const (
	// TokenNone means that the page has no token.
	TokenNone TokenState = "none"
	// TokenValid means that the token has not been refused.
	TokenValid TokenState = "valid"
	// TokenInvalid means that Graph refused the token.
	TokenInvalid TokenState = "invalid"
)

// Page is one page without its secrets. Times are UTC; a zero time means never.
type Page struct {
	ID domain.PageID `json:"id"`
	// Object is "page" or "instagram", as in the page's deliveries; it is empty
	// before the first one.
	Object  string `json:"object,omitempty"`
	Name    string `json:"name,omitempty"`
	Company string `json:"company,omitempty"`
	App     string `json:"app,omitempty"`
	// AppID is the app's id at Meta; it is empty if the page was connected by a version
	// that did not record it. FormerAppID is the app that the page was connected through
	// before, if it was another, and MovedAt is the event time of the change.
	AppID        string    `json:"app_id,omitempty"`
	FormerAppID  string    `json:"former_app_id,omitempty"`
	MovedAt      time.Time `json:"moved_at,omitzero"`
	ConnectionID string    `json:"connection_id,omitempty"`
	// Instagram is the account that is linked to the page. LinkedPage is the reverse:
	// for an account, the connected page that it is linked to.
	Instagram  string        `json:"instagram,omitempty"`
	LinkedPage domain.PageID `json:"linked_page,omitempty"`
	// Admin is the app-scoped id of the person who connected the page, or
	// [domain.ErasedAdmin]. AdminSince is the event time from which the connection has had
	// this person's grant, AdminSeq the sequence of the last event that named them.
	Admin      string    `json:"admin,omitempty"`
	AdminSince time.Time `json:"admin_since,omitzero"`
	AdminSeq   uint64    `json:"admin_seq,omitempty"`
	// Fields are the webhook fields to subscribe to for the page.
	Fields []string `json:"fields,omitempty"`

	State       State      `json:"state"`
	StateSince  time.Time  `json:"state_since,omitzero"`
	StateReason string     `json:"state_reason,omitempty"`
	Token       TokenState `json:"token"`
	TokenSince  time.Time  `json:"token_since,omitzero"`
	TokenReason string     `json:"token_reason,omitempty"`
	// TokenCode and TokenSubcode are Graph's error codes if it refused the token.
	TokenCode    int `json:"token_code,omitempty"`
	TokenSubcode int `json:"token_subcode,omitempty"`
	// TokenExpires is when the token expires, DataAccessExpires when the consent to
	// read data expires; zero means never or unknown. Scopes are the permissions of
	// the token. All are as of when the token was stored.
	TokenExpires      time.Time `json:"token_expires,omitzero"`
	DataAccessExpires time.Time `json:"data_access_expires,omitzero"`
	Scopes            []string  `json:"scopes,omitempty"`

	// Policy is the newest enforcement by Meta. Roles are the apps' handover roles, if
	// Meta reported them for the whole page, by app; RolesAt is their event time.
	Policy  *Policy             `json:"policy,omitempty"`
	Roles   map[string][]string `json:"roles,omitempty"`
	RolesAt time.Time           `json:"roles_at,omitzero"`
	// Test is set if the page was marked as a test and not connected since.
	Test bool `json:"test,omitempty"`
	// Ignored counts events about the connection that were not applied: those
	// without data, and those about another connection than the current one.
	Ignored uint64 `json:"ignored,omitempty"`

	Traffic Traffic `json:"traffic"`
}

// Policy is a warning, block or unblock of the page by Meta.
type Policy struct {
	Action string    `json:"action,omitempty"`
	Reason string    `json:"reason,omitempty"`
	Time   time.Time `json:"time"`
}

// Traffic has the counts and times of a page's events. Times named "…At" are those at
// which the stream stored an event; the others are event times.
type Traffic struct {
	FirstAt time.Time `json:"first_at,omitzero"`
	LastAt  time.Time `json:"last_at,omitzero"`
	LastSeq uint64    `json:"last_seq,omitempty"`
	// FirstTime and LastTime are the earliest and the latest event time.
	FirstTime time.Time   `json:"first_time,omitzero"`
	LastTime  time.Time   `json:"last_time,omitzero"`
	LastType  domain.Type `json:"last_type,omitempty"`
	// FirstInboundAt and LastInboundAt are when the first and the last event of a
	// delivery was stored: the page has been silent since the last one.
	FirstInboundAt time.Time `json:"first_inbound_at,omitzero"`
	LastInboundAt  time.Time `json:"last_inbound_at,omitzero"`
	// LastMessage is the newest event time of a message in either direction.
	LastMessage time.Time `json:"last_message,omitzero"`
	// Events counts all events except test events. Types counts them by type; unknown
	// types are counted together as "other".
	Events uint64                 `json:"events"`
	Types  map[domain.Type]uint64 `json:"types,omitempty"`
	// Standby counts the events that were received while another app owned the
	// thread.
	Standby uint64 `json:"standby,omitempty"`
	// StandbyRun is how many of the latest messages and postbacks of contacts were
	// received as standby, without one in between that was not.
	StandbyRun uint64 `json:"standby_run,omitempty"`
	// ForeignAt is when the last event of type foreign.received was stored, ForeignApp the
	// app that delivered it: its id at Meta. Types has their number.
	ForeignAt  time.Time `json:"foreign_at,omitzero"`
	ForeignApp string    `json:"foreign_app,omitempty"`
	// Tests counts the test events of Meta's dashboard; no other count has them.
	Tests uint64 `json:"tests,omitempty"`
}

// Connection is a page's connection with the reference to its stored secret, which the
// read model does not have.
type Connection struct {
	Page         domain.PageID `json:"page"`
	ConnectionID string        `json:"connection_id,omitempty"`
	App          string        `json:"app,omitempty"`
	Company      string        `json:"company,omitempty"`
	// Secret is the reference of the stored tokens.
	Secret string `json:"secret"`
	// Token is the state of the token.
	Token TokenState `json:"token"`
}

// AccessEnds returns when the token or the access to data expires, the earlier of the
// two. The zero time means never or unknown.
func (p Page) AccessEnds() time.Time {
	a, b := p.TokenExpires, p.DataAccessExpires
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
