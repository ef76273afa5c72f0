package console

import (
	"context"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/audit"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/companies"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/doctor"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/outbound"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/tokens"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

// Operator carries out the verbs of the console. [operate.Operator] implements it. Its
// errors are written for the user: they contain no token.
type Operator interface {
	PageOperator
	ConversationOperator
	StreamOperator
	AccessOperator
}

var _ Operator = (*operate.Operator)(nil)

// PageOperator judges pages and carries out verbs on them.
type PageOperator interface {
	// Judging returns a function that judges pages by the recorded facts.
	Judging() func(p pages.Page, sub *subscriptions.Subscription) meta.Judgement
	// Subscription returns the subscription of a page's app, nil if it was never
	// requested.
	Subscription(p pages.Page) (*subscriptions.Subscription, error)
	// Examine judges pages after asking Graph.
	Examine(ctx context.Context, pages []domain.PageID) (doctor.Report, error)
	// Loop returns what the reconcile loop knows about a connected page.
	Loop(page domain.PageID) meta.Loop
	// AllSilent reports whether nearly all pages are silent at once.
	AllSilent() bool
	// Check, Resubscribe and Disconnect return when the read models have applied the
	// outcome.
	Check(ctx context.Context, page domain.PageID) (meta.Outcome, error)
	Resubscribe(ctx context.Context, page domain.PageID) (meta.Outcome, error)
	Disconnect(ctx context.Context, page domain.PageID) (meta.Outcome, error)
	// AppNames returns the names of the configured apps, the default app first.
	AppNames() []string
	// IsOwnApp reports whether an id is that of a configured app at Meta.
	IsOwnApp(id string) bool
	Invite(ctx context.Context, r operate.InviteRequest) (operate.Invite, error)
	// ListCompanies lists the known companies, in order of their names.
	ListCompanies(ctx context.Context) ([]companies.Company, error)
}

// ConversationOperator sends messages and reads past states of conversations.
type ConversationOperator interface {
	Send(ctx context.Context, r outbound.Request) (outbound.Sent, error)
	// Past reads a conversation as it was at the event seq, or at a time if seq is 0.
	Past(ctx context.Context, page domain.PageID, contact domain.ContactID, seq uint64, at time.Time,
		read func(projections.Viewer) error) error
}

// StreamOperator reports and repairs everything that is built from the stream.
type StreamOperator interface {
	// NotReady returns every reason why the process should get no traffic.
	NotReady() []error
	// Received returns the counts of the webhook endpoint since the ledger was created.
	Received() deliveries.Counts
	Statuses() []projections.Status
	Rebuild(ctx context.Context, name string, progress func(projections.Rebuilding)) (projections.Rebuilt, error)
	Verify(ctx context.Context, name string, progress func(projections.Rebuilding)) (projections.Verified, error)
	Audit(ctx context.Context, full bool, progress func(audit.Progress)) (audit.Report, error)
	DeadLetters(of string, after projections.DeadLetter, limit int) ([]projections.DeadLetter, error)
	Decide(ctx context.Context, d operate.Decision) (operate.DecisionResult, error)
	ListConsumers(ctx context.Context) ([]consumers.Consumer, error)
	ListHooks() []hooks.Status
}

// AccessOperator makes and revokes tokens, and lists what operators did.
type AccessOperator interface {
	ListTokens() []tokens.Token
	AddToken(ctx context.Context, t tokens.Token) (tokens.Added, error)
	RevokeToken(ctx context.Context, name string) error
	ListHistory(ctx context.Context, q history.Query) (list []history.Entry, next uint64, err error)
}
