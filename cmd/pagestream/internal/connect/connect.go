package connect

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/seal"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
)

// Errors of the operations. None contains a token.
var (
	// ErrRequest is returned when a part of a request is missing or invalid.
	ErrRequest = errors.New("request is not valid")
	// ErrUnknownApp is returned when no app of that name is configured.
	ErrUnknownApp = errors.New("no such app is configured")
	// ErrChanged is returned when a concurrent operation changed the page. Graph may
	// have carried out the calls: check the page.
	ErrChanged = errors.New("page was changed by another operation; type: pagestream pages check PAGE")
	// ErrToken is [meta.ErrToken].
	ErrToken = meta.ErrToken
	// ErrTokenRefused is returned when Graph does not accept the token for the
	// page. Nothing was changed.
	ErrTokenRefused = errors.New("graph does not accept the token for this page")
	// ErrMove is returned when a connection would move a page from one company to another
	// and the request does not say so. Nothing was changed.
	ErrMove = errors.New("page belongs to another company")
	// ErrUserToken is returned when a token is not a valid user token of the app.
	ErrUserToken = errors.New("graph does not accept the token as a user token of this app; log in again")
)

// DefaultFields is [meta.DefaultFields].
func DefaultFields() []string { return meta.DefaultFields() }

// Graph has the calls of Graph for one app; graph.Client implements it. A call about
// a page takes its id and the page's own token. An error that Graph returns is a
// meta.Error.
type Graph interface {
	// AppID returns the app's id at Meta.
	AppID() string
	// Page returns the page's name and linked Instagram account.
	Page(ctx context.Context, page, token string) (name, instagram string, err error)
	// Instagram returns the Instagram account that is linked to the page, empty for none.
	// It fails if the token may not see it.
	Instagram(ctx context.Context, page, token string) (string, error)
	// SubscribedApps lists every app that is subscribed to the page.
	SubscribedApps(ctx context.Context, page, token string) ([]graph.App, error)
	// Subscribe replaces the app's fields on the page.
	Subscribe(ctx context.Context, page, token string, fields []string) error
	// Unsubscribe removes the app from the page.
	Unsubscribe(ctx context.Context, page, token string) error

	// LoginURL returns the URL of the dialog in which a person grants pages to the
	// app.
	LoginURL(redirectURI, state string) string
	// ExchangeCode returns the person's token for the code of a login. A code can be
	// used once.
	ExchangeCode(ctx context.Context, redirectURI, code string) (graph.Token, error)
	// LongLived returns a token of the person that lasts for weeks; page tokens made
	// with it do not expire.
	LongLived(ctx context.Context, userToken string) (graph.Token, error)
	// DebugToken reports on any token of the app.
	DebugToken(ctx context.Context, token string) (graph.TokenInfo, error)
	// Accounts lists every page that the person has a role on and granted to the app,
	// with its token.
	Accounts(ctx context.Context, user, userToken string) ([]graph.Account, error)
	// Account reads one such page by its id, also one that the list does not have because
	// the person has it through a business.
	Account(ctx context.Context, page, userToken string) (graph.Account, error)
}

var _ Graph = (*graph.Client)(nil)

// Known is what the read models have of a page.
type Known struct {
	// Connected reports that the page is connected now, by Connection.
	Connected  bool
	Connection domain.Connection
	// AdminSince is the time from which the connection has had its admin's grant.
	AdminSince time.Time
	// TokenDead reports that the connection's token is recorded as invalid.
	TokenDead bool
	// State and Reason are those of the last subscription event for the connection's
	// app, empty if there is none; Wanted and Actual are its fields.
	State  subscriptions.State
	Reason string
	Wanted []string
	Actual []string
}

// Pages reads what is known about pages; [Models] implements it.
type Pages interface {
	// Known returns the state of the page after the read models have applied event
	// atLeast. For a page that was never seen it returns the zero Known and no error.
	Known(ctx context.Context, page domain.PageID, atLeast uint64) (Known, error)
	// LinkedTo returns the connected page that an Instagram account is linked to, empty if
	// there is none.
	LinkedTo(ctx context.Context, account string) (domain.PageID, error)
	// ByAdmin lists the pages that are connected now with the grant of the person with
	// this [domain.AdminHash], if the person gave it before that time; the zero time is no limit.
	ByAdmin(ctx context.Context, hash string, before time.Time) ([]domain.PageID, error)
}

// Options configure a [Connector]. Graph, Pages, Publisher, Secrets and Sealer are
// required.
type Options struct {
	// Graph returns the Graph of a configured app and the app's name; the empty name
	// means the first app. ok is false if there is no such app or it can't call Graph.
	Graph func(app string) (g Graph, name string, ok bool)
	// AppSubscriptions returns what the app itself is subscribed to: Meta delivers only
	// fields that are subscribed at both levels. known is false if it can't be read. If
	// AppSubscriptions is nil, no check considers the app level.
	AppSubscriptions func(ctx context.Context, app string) (list []meta.AppSubscription, known bool, err error)
	// Endpoint returns our callback URL of an app, empty if it is not known. If Endpoint is
	// nil, no check considers the callback URL.
	Endpoint  func(app string) string
	Pages     Pages
	Publisher streams.Decider
	// Secrets stores the tokens, which Sealer has sealed.
	Secrets Secrets
	Sealer  *seal.KeyRing
	// Fields are the wanted fields of a request without any; the default is
	// [DefaultFields].
	Fields []string
	Now    func() time.Time
	// NewID returns ids for connections and attempts: unique, short and printable.
	NewID func() string
	// Logger discards everything by default.
	Logger *slog.Logger
}

// Connector carries out the operations on pages. It is safe for concurrent use.
// Create it with [New].
type Connector struct{ opts Options }

// New returns a connector. It panics if a required option is missing, which is a
// programming error.
func New(o Options) *Connector {
	if o.Graph == nil || o.Pages == nil || o.Publisher == nil || o.Secrets == nil || o.Sealer == nil {
		panic("connect: Graph, Pages, Publisher, Secrets and Sealer are required")
	}
	if len(o.Fields) == 0 {
		o.Fields = DefaultFields()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.NewID == nil {
		o.NewID = newID
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Connector{opts: o}
}

func newID() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	return hex.EncodeToString(b[:])
}

// app finds a configured app; the empty name means the first one.
func (c *Connector) app(app string) (Graph, string, error) {
	g, name, ok := c.opts.Graph(app)
	if !ok {
		return nil, "", fmt.Errorf("app %q: %w", name, ErrUnknownApp)
	}
	return g, name, nil
}

// parallel is how many pages an operation on several pages works on at a time.
const parallel = 4

// each calls f for 0 to n-1, at most [parallel] at a time, and waits for all.
func each(n int, f func(i int)) {
	var group errgroup.Group
	group.SetLimit(parallel)
	for i := range n {
		group.Go(func() error {
			f(i)
			return nil
		})
	}
	_ = group.Wait() // no function returns an error
}
