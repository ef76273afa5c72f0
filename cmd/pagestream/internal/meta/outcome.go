package meta

import (
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

// Outcome is the state of a page's subscription after an operation of package
// connect.
type Outcome struct {
	Page domain.PageID `json:"page"`
	Name string        `json:"name,omitempty"`
	// ConnectionID and App are those of the connection.
	ConnectionID string `json:"-"`
	App          string `json:"-"`
	// State is Confirmed, Drifted, Failed or Removed.
	State subscriptions.State `json:"state"`
	// Wanted are the wanted fields, Actual those that Graph lists, and Missing those
	// that are wanted and not listed. All are sorted.
	Wanted  []string `json:"wanted,omitempty"`
	Actual  []string `json:"actual,omitempty"`
	Missing []string `json:"missing,omitempty"`
	// AppFields is what the app itself is subscribed to for pages, AppMissing the
	// wanted fields that are not in it: Meta delivers only fields that are subscribed
	// at both levels. Both are empty if Graph was not asked about the app.
	AppFields  []string `json:"app_fields,omitempty"`
	AppMissing []string `json:"app_missing,omitempty"`
	// AppLacks says in words what the app itself lacks for pages, the subscription, its fields, or
	// our callback URL, and the command that sets it. A callback URL elsewhere leaves the page confirmed, since it may be another
	// name of ours.
	AppLacks []string `json:"app_lacks,omitempty"`
	// Others are the ids and names of other apps that are subscribed to the page.
	Others []string `json:"-"`
	// Field is the wanted field that Graph's error names. It is for display only,
	// since it is parsed from the message.
	Field string `json:"field,omitempty"`
	// RetryAfter is how many seconds to wait before Graph is called again, rounded up;
	// 0 if Graph does not say.
	RetryAfter int `json:"retry_after,omitempty"`
	// Reason is why the subscription is not confirmed. If Graph returned an error, it
	// is Graph's message, and Code and Subcode are set.
	Reason  string `json:"reason,omitempty"`
	Code    int    `json:"code,omitempty"`
	Subcode int    `json:"subcode,omitempty"`
	// Seq is the sequence of the last event that the operation stored, 0 if there was
	// nothing to record; reads accept it as ?min_seq=.
	Seq uint64 `json:"seq,omitempty"`
}

// Confirmed reports whether Graph lists all wanted fields.
func (o Outcome) Confirmed() bool { return o.State == subscriptions.Confirmed }

// Class returns the class of Graph's error, [Unclassified] if there was none.
func (o Outcome) Class() Class { return Classify(o.Code, o.Subcode) }

// Wait returns RetryAfter as a duration.
func (o Outcome) Wait() time.Duration { return time.Duration(o.RetryAfter) * time.Second }

// TokenState is the state of a token as Graph reports it.
type TokenState string

// The states of a token.
const (
	TokenValid   TokenState = "valid"
	TokenInvalid TokenState = "invalid"
	// TokenDeselected is a valid token of a person who no longer lets the app use the
	// page.
	TokenDeselected TokenState = "deselected"
	TokenUnknown    TokenState = "unknown"
	// TokenMissing is a token that is not stored any more, or can't be opened.
	TokenMissing TokenState = "missing"
)

// TokenReport is what Graph reports about a page's token.
type TokenReport struct {
	Page          domain.PageID
	State         TokenState
	Code, Subcode int
	Reason        string
	// Expires and DataAccessExpires are zero for never or unknown.
	Expires, DataAccessExpires time.Time
	Scopes, MissingScopes      []string
	// Seq is the sequence of the stored event, 0 if there was nothing to record.
	Seq uint64
}
