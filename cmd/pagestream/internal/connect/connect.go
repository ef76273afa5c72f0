package connect

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/seal"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
)

// Errors of the verbs. None has a token in it.
var (
	// ErrRequest is returned when a request lacks something or has it wrong.
	ErrRequest = errors.New("request is not complete")
	// ErrUnknownApp is returned when no app of that name is configured.
	ErrUnknownApp = errors.New("no such app is configured")
	// ErrChanged is returned when another verb changed the page meanwhile. What
	// Graph was asked to do may have been done: check the page.
	ErrChanged = errors.New("page was changed by somebody else meanwhile; type: pagestream pages check PAGE")
	// ErrToken is returned when the stored token can't be opened.
	ErrToken = errors.New("stored page token can't be opened; connect the page again, or restore the key file")
	// ErrTokenRefused is returned when Graph does not accept the token for the
	// page. Nothing was changed.
	ErrTokenRefused = errors.New("graph does not accept the token for this page")
	// ErrUserToken is returned when a token is not one of a person who lets the app
	// use their pages.
	ErrUserToken = errors.New("graph does not accept the token as a user token of this app; log in again")
)

// DefaultFields returns the webhook fields that a page is subscribed to if
// nothing else is asked for: all of messaging but response_feedback, which
// would change what the page's customers see.
func DefaultFields() []string {
	return []string{
		"messages", "message_echoes", "message_deliveries", "message_reads", "message_reactions", "message_edits",
		"messaging_postbacks", "messaging_optins", "messaging_referrals", "messaging_handovers", "standby",
		"messaging_policy_enforcement", "messaging_account_linking",
	}
}

// Graph is what Graph does for one app; graph.Client is one. A call about a page
// names it and brings that page's own token. A refusal is a meta.Error.
type Graph interface {
	// AppID is the app's id at Meta.
	AppID() string
	// Page returns the page's name and linked Instagram account.
	Page(ctx context.Context, page, token string) (name, instagram string, err error)
	// SubscribedApps lists every app that is subscribed to the page.
	SubscribedApps(ctx context.Context, page, token string) ([]graph.App, error)
	// Subscribe replaces the app's fields on the page.
	Subscribe(ctx context.Context, page, token string, fields []string) error
	// Unsubscribe removes the app from the page.
	Unsubscribe(ctx context.Context, page, token string) error

	// LoginURL is where a person lets the app use their pages.
	LoginURL(redirectURI, state string) string
	// ExchangeCode returns the person's token for the code of a login, once.
	ExchangeCode(ctx context.Context, redirectURI, code string) (graph.Token, error)
	// LongLived returns a token of the person that lives for weeks; page tokens
	// made with it don't end by themselves.
	LongLived(ctx context.Context, userToken string) (graph.Token, error)
	// DebugToken tells about any token of the app.
	DebugToken(ctx context.Context, token string) (graph.TokenInfo, error)
	// Accounts lists every page that the person has a role on and lets the app
	// use, with its token.
	Accounts(ctx context.Context, user, userToken string) ([]graph.Account, error)
}

var _ Graph = (*graph.Client)(nil)

// Known is what the read models say of a page.
type Known struct {
	// Connected says that Connection stands.
	Connected  bool
	Connection domain.Connection
	// TokenDead says that the connection's token is known to be invalid.
	TokenDead bool
	// State is what the last subscription event to that app says, empty where
	// there is none, and Reason why. Wanted and Actual are its lists.
	State  subscriptions.State
	Reason string
	Wanted []string
	Actual []string
}

// Pages tells what is known of a page; [Models] is one.
type Pages interface {
	// Known returns the state of the page once the read models hold event
	// atLeast. A page that was never seen is the zero Known, not an error.
	Known(ctx context.Context, page domain.PageID, atLeast uint64) (Known, error)
	// ByAdmin lists the connected pages that the person with this app-scoped id
	// has connected through the app.
	ByAdmin(ctx context.Context, app, admin string) ([]domain.PageID, error)
}

// Options configure a [Connector]. Graph, Pages, Publisher and Sealer are
// required.
type Options struct {
	// Graph returns the Graph of a configured app. The empty name is the first
	// app; name is what it is called.
	Graph func(app string) (g Graph, name string, ok bool)
	// AppFields returns the fields that the app itself is subscribed to for
	// pages: Meta delivers only what is subscribed on both. known is false where
	// nobody can tell. Nil leaves the app's own fields out of every check.
	AppFields func(ctx context.Context, app string) (fields []string, known bool, err error)
	Pages     Pages
	Publisher streams.Decider
	Sealer    *seal.KeyRing
	// Fields are wanted where a request names none; default [DefaultFields].
	Fields []string
	Now    func() time.Time
	// NewID makes connection ids and attempt ids: unique, short, printable.
	NewID func() string
}

// Connector carries out the verbs. It is safe for concurrent use. Make one with
// [New].
type Connector struct{ opts Options }

// New returns a connector. It panics if a required option is missing, which is a
// mistake in the wiring.
func New(o Options) *Connector {
	if o.Graph == nil || o.Pages == nil || o.Publisher == nil || o.Sealer == nil {
		panic("connect: Graph, Pages, Publisher and Sealer are required")
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
	return &Connector{opts: o}
}

func newID() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	return hex.EncodeToString(b[:])
}

// app finds a configured app; the empty name is the first one.
func (c *Connector) app(app string) (Graph, string, error) {
	g, name, ok := c.opts.Graph(app)
	if !ok {
		return nil, "", fmt.Errorf("app %q: %w", name, ErrUnknownApp)
	}
	return g, name, nil
}

// atOnce bounds the pages that a verb on many of them works on at a time.
const atOnce = 4

// each calls f for 0 to n-1, a few at a time, and waits for all.
func each(n int, f func(i int)) {
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i := range n {
		group.Go(func() error {
			f(i)
			return nil
		})
	}
	_ = group.Wait() // no f fails
}
