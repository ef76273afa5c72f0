package subscriptions

import (
	"slices"
	"time"

	"github.com/pagestream/pagestream/domain"
)

// State is the state of one subscription.
type State string

// The states.
const (
	// None: no event has said anything yet.
	None State = "none"
	// Requested: we asked Graph, and have no answer.
	Requested State = "requested"
	// Confirmed: Graph's own list has what we want.
	Confirmed State = "confirmed"
	// Failed: Graph refused.
	Failed State = "failed"
	// Drifted: Graph's own list is no longer what we want.
	Drifted State = "drifted"
	// Removed: the app is not subscribed to the page any more.
	Removed State = "removed"
)

// maxHistory bounds the transitions that are kept; older ones are in the stream.
const maxHistory = 50

// Subscription is one app's subscription to one page. Times are event times in
// UTC; a zero time means never.
type Subscription struct {
	Page domain.PageID `json:"page"`
	App  string        `json:"app"`
	// State has stood since Since.
	State State     `json:"state"`
	Since time.Time `json:"since,omitzero"`
	// Wanted is the list last asked for, Actual the one that Graph last gave.
	Wanted []string `json:"wanted,omitempty"`
	Actual []string `json:"actual,omitempty"`
	// CheckedAt is when Graph last told us Actual.
	CheckedAt time.Time `json:"checked_at,omitzero"`
	// Failure is the last refusal; it stays after a later success.
	Failure *Failure `json:"failure,omitempty"`
	// Reason is the current state's, in Graph's own words where it has any.
	Reason string `json:"reason,omitempty"`
	// LastSeq is the stream's sequence of the last event.
	LastSeq uint64 `json:"last_seq"`
	// History is the last 50 changes of state or fields, oldest first.
	// Transitions counts all there ever were.
	History     []Transition `json:"history"`
	Transitions uint64       `json:"transitions"`
	// Odd counts events without the data their type calls for.
	Odd uint64 `json:"odd,omitempty"`
}

// Failure is a refusal by Graph.
type Failure struct {
	Code    int       `json:"code,omitempty"`
	Subcode int       `json:"subcode,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	Time    time.Time `json:"time"`
}

// Transition is one change of a subscription's state or fields.
type Transition struct {
	// Seq and At are the stream's, Time is the event's.
	Seq     uint64    `json:"seq"`
	At      time.Time `json:"at,omitzero"`
	Time    time.Time `json:"time,omitzero"`
	From    State     `json:"from"`
	To      State     `json:"to"`
	Wanted  []string  `json:"wanted,omitempty"`
	Actual  []string  `json:"actual,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	Code    int       `json:"code,omitempty"`
	Subcode int       `json:"subcode,omitempty"`
}

// Missing returns the fields that we want and Graph did not list, sorted.
func (s Subscription) Missing() []string { return minus(s.Wanted, s.Actual) }

// Extra returns the fields that Graph listed and we don't want, sorted.
func (s Subscription) Extra() []string { return minus(s.Actual, s.Wanted) }

func minus(a, b []string) []string {
	var out []string
	for _, f := range a {
		if !slices.Contains(b, f) {
			out = append(out, f)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
