package meta

import (
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

// Outcome is the state of a page's subscription after a verb.
type Outcome struct {
	Page domain.PageID `json:"page"`
	Name string        `json:"name,omitempty"`
	// ConnectionID and App are those of the connection.
	ConnectionID string `json:"-"`
	App          string `json:"-"`
	// State is Confirmed, Drifted, Failed or Removed.
	State subscriptions.State `json:"state"`
	// Wanted is what is asked for, Actual what Graph lists, and Missing what is
	// wanted and not listed. All are sorted.
	Wanted  []string `json:"wanted,omitempty"`
	Actual  []string `json:"actual,omitempty"`
	Missing []string `json:"missing,omitempty"`
	// AppFields is what the app itself is subscribed to for pages, AppMissing what
	// is wanted and not there: Meta delivers only what both levels have. Both are
	// empty where the app was not asked about.
	AppFields  []string `json:"app_fields,omitempty"`
	AppMissing []string `json:"app_missing,omitempty"`
	// Others are the ids and names of other apps that are subscribed to the page.
	Others []string `json:"-"`
	// Field is the wanted field that Graph's refusal names, for the eye.
	Field string `json:"field,omitempty"`
	// RetryAfter is how many seconds Graph wants to be left alone, rounded up, 0 if
	// it does not say.
	RetryAfter int `json:"retry_after,omitempty"`
	// Reason says why the subscription is not confirmed. It is Graph's own words,
	// with Code and Subcode, where Graph refused.
	Reason  string `json:"reason,omitempty"`
	Code    int    `json:"code,omitempty"`
	Subcode int    `json:"subcode,omitempty"`
	// Seq is the last event that the verb stored, 0 if there was nothing to record;
	// reads take it as ?min_seq=.
	Seq uint64 `json:"seq,omitempty"`
}

// Confirmed reports whether Graph lists all that is wanted.
func (o Outcome) Confirmed() bool { return o.State == subscriptions.Confirmed }

// Class is what the refusal means, [Unclassified] where Graph did not refuse.
func (o Outcome) Class() Class { return Classify(o.Code, o.Subcode) }

// Wait is RetryAfter as a duration.
func (o Outcome) Wait() time.Duration { return time.Duration(o.RetryAfter) * time.Second }

// TokenState is what Graph says of a token when it is asked.
type TokenState string

// The states of a token.
const (
	TokenValid   TokenState = "valid"
	TokenInvalid TokenState = "invalid"
	// TokenDeselected is a token that lives, of a person who has taken the page out
	// of what the app may use.
	TokenDeselected TokenState = "deselected"
	TokenUnknown    TokenState = "unknown"
)

// TokenReport is what Graph says of a page's token.
type TokenReport struct {
	Page          domain.PageID
	State         TokenState
	Code, Subcode int
	Reason        string
	// Expires and DataAccessExpires are zero for never or unknown.
	Expires, DataAccessExpires time.Time
	Scopes, MissingScopes      []string
	// Seq is the event that was stored, 0 if there was nothing to record.
	Seq uint64
}
