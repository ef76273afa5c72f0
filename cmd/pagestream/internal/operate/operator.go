package operate

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/apps"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/backfill"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/companies"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/doctor"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/erase"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/erasures"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/ledgers"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/login"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/losses"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/outbound"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/reconcile"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/tokens"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/seal"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/comments"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
)

// Parts are the dependencies of an [Operator]. All are required except ConfigFile,
// Logger, and Hooks, which is nil if no endpoint is configured.
type Parts struct {
	Conn   *nats.Conn
	JS     jetstream.JetStream
	Stream string
	// Models are the running read models; pagestream's own must be included.
	Models Models
	// Ledger contains the counts of the webhook endpoint, also of items that are not
	// in the stream.
	Ledger *deliveries.Ledger
	// Ledgers has the counts of other nodes, nil for the embedded NATS.
	Ledgers *ledgers.Ledgers
	Parking *streams.Parking
	// Journal has what is not in the stream yet; nil with an external NATS.
	Journal *streams.Journal
	// Publisher stores adopted events.
	Publisher streams.Storer

	AppSetup     *apps.Setup
	Connector    *connect.Connector
	Known        connect.Models
	Logins       *login.Handler
	Reconciler   *reconcile.Reconciler
	Doctor       *doctor.Doctor
	Sender       *outbound.Sender
	Filler       *backfill.Filler
	Eraser       *erase.Eraser
	Lost         *losses.Losses
	ErasuresFile *erasures.File
	Consumers    *consumers.Consumers
	Companies    *companies.Companies
	Tokens       *tokens.Tokens
	History      *history.History
	Hooks        *hooks.Hooks

	Keys *seal.KeyRing
	// Secrets stores the tokens that Keys have sealed.
	Secrets *connect.Bucket
	// Ready returns every reason why the process should get no traffic.
	Ready func() []error
	// Space returns how full the limits of the stream and the disks are.
	Space func() []meta.Space
	// Durability returns what an external NATS says of how it stores the stream, nil for the embedded one.
	Durability func() *meta.Durability

	// Apps are the names of the configured apps, the default app first.
	Apps []string
	// AppIDs are the ids that these apps have at Meta.
	AppIDs []string
	// KeyFile and ConfigFile are where the key ring and the configuration were read
	// from; ConfigFile is empty for none.
	KeyFile, ConfigFile string
	// ModelsDir is the directory of the read models' files.
	ModelsDir string
	Version   string
	Started   time.Time
	Logger    *slog.Logger
}

// Operator carries out the verbs. Make one with [New]; it is safe for concurrent use.
type Operator struct {
	Parts
	logins logins
}

// New returns an operator over running parts.
func New(p Parts) *Operator {
	if p.Logger == nil {
		p.Logger = slog.New(slog.DiscardHandler)
	}
	return &Operator{Parts: p, logins: newLogins()}
}

// Models are running read models, in the order in which they were started.
type Models []*projections.Runner

// Find returns the read model with the name. It fails with [ErrUnknown].
func (m Models) Find(name string) (*projections.Runner, error) {
	for _, r := range m {
		if r.Name() == name {
			return r, nil
		}
	}
	return nil, fmt.Errorf("projection %q: %w", name, ErrUnknown)
}

// must returns one of pagestream's own read models, and panics if it is missing.
func (m Models) must(name string) *projections.Runner {
	r, err := m.Find(name)
	if err != nil {
		panic(err) // a programming error in the setup
	}
	return r
}

// Pages returns the read model of pages.
func (m Models) Pages() *projections.Runner { return m.must(pages.Name) }

// Subscriptions returns the read model of subscriptions.
func (m Models) Subscriptions() *projections.Runner { return m.must(subscriptions.Name) }

// Conversations returns the read model of conversations.
func (m Models) Conversations() *projections.Runner { return m.must(conversations.Name) }

// Comments returns the read model of comments and posts.
func (m Models) Comments() *projections.Runner { return m.must(comments.Name) }

// Deliveries returns the read model of deliveries, the index of all event ids.
func (m Models) Deliveries() *projections.Runner { return m.must(deliveries.Name) }

// KnowsPage reports whether an id is that of a page or of a linked Instagram account, or
// [domain.NoPage].
func (m Models) KnowsPage(id domain.PageID) (bool, error) {
	_, err := pages.Get(m.Pages(), id)
	if errors.Is(err, pages.ErrNotFound) {
		_, err = pages.ByInstagram(m.Pages(), string(id))
	}
	if errors.Is(err, pages.ErrNotFound) {
		return id == domain.NoPage, nil
	}
	return err == nil, err
}

// Statuses returns the status of each read model.
func (m Models) Statuses() []projections.Status {
	out := make([]projections.Status, len(m))
	for i, r := range m {
		out[i] = r.Status()
	}
	return out
}
