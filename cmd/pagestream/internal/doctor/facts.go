package doctor

import (
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

// Refusal is why Graph did not do or tell something. The zero value is none.
type Refusal struct {
	// Code and Subcode are Graph's; 0 where it did not answer at all.
	Code, Subcode int
	Words         string
	// Throttled says that it wants fewer calls, RetryAfter for how long.
	Throttled  bool
	RetryAfter time.Duration
}

// App is an app that is subscribed to a page.
type App struct {
	ID, Name string
	Fields   []string
}

// Install is what is known of the installation.
type Install struct {
	Now time.Time
	// Refused says why deliveries are answered 503 now, if they are.
	Refused []string
	// Accepted, BadSignatures and NotStored count this process's deliveries in the
	// last hour; Slow those whose answer took longer than SlowAnswer. P99 is how
	// long 99 of 100 answers took at most.
	Accepted, BadSignatures, NotStored, Slow uint64
	P99                                      time.Duration
	Apps                                     []AppFacts
	// AllSilent says that nearly all pages are silent at once.
	AllSilent bool
}

// AppFacts is what is known of one configured app.
type AppFacts struct {
	Name string
	// Fields are the app's own of object page, Callback the URL that Meta has for
	// it. Known is false where Graph was not asked or did not tell: see Err.
	Fields   []string
	Callback string
	Known    bool
	Err      Refusal
	// Endpoint is our own callback URL as the outside sees it, empty if it is not
	// known. Reached says that a handshake there came back; Trouble why not.
	Endpoint string
	Reached  bool
	Trouble  string
}

// Page is what is known of one page.
type Page struct {
	// Row is the read model's.
	Row pages.Page
	// Subscription is the read model's, nil if nothing was ever said.
	Subscription *subscriptions.Subscription
	// Asked says that Graph has told the apps that are subscribed to the page. If
	// not, Err says why; it is the zero value where nobody asked.
	Asked bool
	Apps  []App
	// Own is Meta's id of our app.
	Own string
	Err Refusal
	// Token is "valid", "invalid", "deselected", or empty where Graph did not tell.
	Token         string
	TokenCode     int
	TokenSubcode  int
	TokenWords    string
	MissingScopes []string
	Silence       pages.Silence
}

func (p Page) id() domain.PageID { return p.Row.ID }
