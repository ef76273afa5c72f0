package console

import (
	"context"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/audit"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/doctor"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/outbound"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

// Operator is what the console can have done and asked. Its errors are for a person
// to read: they have no token in them. An [operate.Operator] is one.
type Operator interface {
	PageOperator
	ConversationOperator
	StreamOperator
}

var _ Operator = (*operate.Operator)(nil)

// PageOperator judges pages and carries out verbs on them.
type PageOperator interface {
	// Judging returns what judges pages by what is on record, Examine asks Graph as
	// well.
	Judging() func(p pages.Page, sub *subscriptions.Subscription) meta.Judgement
	// Subscription returns that of a page's app, nil where nothing was ever asked for.
	Subscription(p pages.Page) (*subscriptions.Subscription, error)
	Examine(ctx context.Context, pages []domain.PageID) (doctor.Report, error)
	// Loop is what the reconcile loop knows of a connected page.
	Loop(page domain.PageID) meta.Loop
	// AllSilent says that nearly all pages are silent at once.
	AllSilent() bool
	// Check, Resubscribe and Disconnect return when the read models hold the outcome.
	Check(ctx context.Context, page domain.PageID) (meta.Outcome, error)
	Resubscribe(ctx context.Context, page domain.PageID) (meta.Outcome, error)
	Disconnect(ctx context.Context, page domain.PageID) (meta.Outcome, error)
	// AppNames are the configured apps' names, the default first.
	AppNames() []string
	Invite(ctx context.Context, r operate.InviteRequest) (operate.Invite, error)
}

// ConversationOperator answers people and reads the past.
type ConversationOperator interface {
	Send(ctx context.Context, r outbound.Request) (outbound.Sent, error)
	Past(ctx context.Context, page domain.PageID, contact domain.ContactID, seq uint64, at time.Time, read func(projections.Viewer) error) error
}

// StreamOperator knows and mends what is made of the stream.
type StreamOperator interface {
	// NotReady returns every reason why the process should get no traffic.
	NotReady() []error
	// Received counts what this process received since its ledger was begun.
	Received() deliveries.Counts
	Statuses() []projections.Status
	Rebuild(ctx context.Context, name string, progress func(projections.Rebuilding)) (projections.Rebuilt, error)
	Verify(ctx context.Context, name string, progress func(projections.Rebuilding)) (projections.Verified, error)
	Audit(ctx context.Context, progress func(audit.Progress)) (audit.Report, error)
	DeadLetters(of string, after projections.DeadLetter, limit int) ([]projections.DeadLetter, error)
	Decide(ctx context.Context, d operate.Decision) (operate.DecisionResult, error)
	ListConsumers(ctx context.Context) ([]consumers.Consumer, error)
	ListHooks() []hooks.Status
}
