package subscriptions

import (
	"slices"
	"time"

	"github.com/pagestream/pagestream/domain"
)

// State is the state of one subscription.
type State string

// The states of a subscription.
const (
	// None means that no event has set a state yet.
	None State = "none"
	// Requested means that a request was sent to Graph, without an answer so far.
	Requested State = "requested"
	// Confirmed means that Graph lists all the wanted fields.
	Confirmed State = "confirmed"
	// Failed means that Graph refused the request.
	Failed State = "failed"
	// Drifted means that Graph no longer lists the wanted fields.
	Drifted State = "drifted"
	// Removed means that the app is no longer subscribed to the page.
	Removed State = "removed"
)

// maxHistory is the maximum number of stored transitions; older ones are in the stream.
const maxHistory = 50

// Subscription is one app's subscription to one page. Times are event times in
// UTC; a zero time means never.
type Subscription struct {
	Page domain.PageID `json:"page"`
	App  string        `json:"app"`
	// Since is when the subscription entered State.
	State State     `json:"state"`
	Since time.Time `json:"since,omitzero"`
	// Wanted has the fields of the last request, Actual those that Graph last listed.
	Wanted []string `json:"wanted,omitempty"`
	Actual []string `json:"actual,omitempty"`
	// CheckedAt is when Graph last listed the fields.
	CheckedAt time.Time `json:"checked_at,omitzero"`
	// Failure is the last refusal. It is kept after a later success.
	Failure *Failure `json:"failure,omitempty"`
	// Reason is the reason for the current state, in Graph's words if it gave any.
	Reason string `json:"reason,omitempty"`
	// LastSeq is the stream's sequence of the last event.
	LastSeq uint64 `json:"last_seq"`
	// History has the last 50 changes of state or fields, oldest first.
	// Transitions counts all changes.
	History     []Transition `json:"history"`
	Transitions uint64       `json:"transitions"`
	// Incomplete counts events without the data that their type requires.
	Incomplete uint64 `json:"odd,omitempty"`
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
	// Seq is the sequence and At the storage time of the event, Time its own time.
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

// Missing returns the wanted fields that Graph did not list, sorted.
func (s Subscription) Missing() []string { return minus(s.Wanted, s.Actual) }

// Extra returns the fields that Graph listed and that are not wanted, sorted.
func (s Subscription) Extra() []string { return minus(s.Actual, s.Wanted) }

// minus returns the elements of a that are not in b, sorted and without duplicates.
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
