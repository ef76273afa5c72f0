package console

import (
	"context"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/streams"
)

// Operator is what the console can have done and asked. Its errors are for a
// person to read: they have no token in them.
type Operator interface {
	// Check reads a page's subscription from Graph, Resubscribe sets it again, and
	// Disconnect ends it. Each returns when the read models hold the outcome.
	Check(ctx context.Context, page domain.PageID) (Outcome, error)
	Resubscribe(ctx context.Context, page domain.PageID) (Outcome, error)
	Disconnect(ctx context.Context, page domain.PageID) (Outcome, error)
	// Apps are the configured apps' names, the default first.
	Apps() []string
	// Invite makes a link that opens one login, and at its end leads to back.
	Invite(ctx context.Context, app, company, back string) (link string, expires time.Time, err error)
	// Examine says what is wrong with a page, and with the installation.
	Examine(ctx context.Context, page domain.PageID) (install, of []Finding, err error)
	// Health is what the reconcile loop knows of each connected page.
	Health() Health
	// Send sends a text as a page.
	Send(ctx context.Context, page domain.PageID, m Reply) (Sent, error)
	// Past reads a conversation as it was at an event.
	Past(ctx context.Context, page domain.PageID, contact domain.ContactID, seq uint64, read func(projections.Viewer) error) error

	// Ready returns every reason why the process should get no traffic.
	Ready(ctx context.Context) []error
	// Intake counts what this process took in since its ledger was begun.
	Intake() Intake
	// Statuses say where each read model stands.
	Statuses() []projections.Status
	Rebuild(ctx context.Context, name string, progress func(projections.Rebuilding)) (projections.Rebuilt, error)
	Verify(ctx context.Context, name string, progress func(projections.Rebuilding)) (projections.Verified, error)
	Audit(ctx context.Context, progress func(done, of uint64)) (Audited, error)
	// DeadLetters lists at most limit of what read models and reactors could not
	// handle.
	DeadLetters(limit int) ([]projections.DeadLetter, error)
	// Decide redrives or discards dead letters, and says in a sentence what came
	// of it.
	Decide(ctx context.Context, d Decision) (string, error)
	// Consumers lists the programs that read events by NATS, Hooks the endpoints
	// that webhooks are sent to.
	Consumers(ctx context.Context) ([]Consumer, error)
	Hooks() []Hook
}

// Outcome is the state of a page's subscription after a verb.
type Outcome struct {
	State               string
	Missing, AppMissing []string
	// Reason is Graph's, where it refused.
	Reason string
}

// Finding is one thing that holds of a page or of the installation.
type Finding struct {
	Cause string
	// Severity is "wrong", "warning" or "fine".
	Severity string
	Summary  string
	Evidence []string
	// Do is what to type, or to do elsewhere, in order.
	Do []string
	// Because names the finding that explains this one.
	Because string
}

// Health is what the reconcile loop knows. Pages has connected pages only.
type Health struct {
	// AllSilent says that nearly all pages are silent at once: deliveries don't
	// reach us.
	AllSilent bool
	Pages     map[domain.PageID]PageHealth
}

// PageHealth is what the reconcile loop knows of one page. A zero time is never.
type PageHealth struct {
	// State is "unknown" before the first look, "confirmed", "drifted", "failed",
	// "token_dead", "throttled" or "unreachable".
	State               string
	Reason              string
	Missing, AppMissing []string
	Checked             time.Time
	// TokenWarning says that the token, or what it was granted, ends soon.
	TokenWarning string
	// Silent says that Expected events should have come since SilentSince, and
	// none did.
	Silent      bool
	SilentSince time.Time
	Expected    float64
}

// Reply is a text from a page to a contact.
type Reply struct {
	Contact domain.ContactID
	Text    string
	// Tag is Meta's message tag; empty for an answer within the standard window.
	Tag string
}

// Sent is what became of a reply. Seq is its event, 0 where nothing was
// recorded; Warning says that it was sent and could not be recorded.
type Sent struct {
	Seq     uint64
	Warning string
}

// Intake counts deliveries' items.
type Intake struct {
	Stored, Duplicates, Refused uint64
}

// Audited is what an audit came to.
type Audited struct {
	OK     bool
	Seq    uint64
	Took   time.Duration
	Events uint64
	Erased uint64
	// Accepted are deliveries answered 200; Items = Stored + Duplicates.
	Accepted, Items, Stored, Duplicates uint64
	Problems                            []string
}

// Decision is about the dead letter Event, those of Page, or All.
type Decision struct {
	Action     streams.DecisionAction
	Projection string
	Event      uint64
	Page       domain.PageID
	All        bool
	Reason     string
}

// Consumer is a program that reads events by NATS.
type Consumer struct {
	Name    string
	Pages   []domain.PageID
	Company string
	Types   []domain.Type
	// Lag is how many events it has not acknowledged, of which Pending were not
	// given yet.
	Lag, Pending uint64
	Redelivered  int
	// Reading says that it asks for events now.
	Reading    bool
	LastActive time.Time
}

// Hook is an endpoint that webhooks are sent to.
type Hook struct {
	Name, Host  string
	Lag         uint64
	Delivered   uint64
	Failed      uint64
	Retrying    int
	LastError   string
	Disabled    string
	DeadLetters int
}
