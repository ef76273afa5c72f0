package operate

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
)

// Bounds of the logins that are kept.
const (
	loginLife = 30 * time.Minute
	maxLogins = 100
)

// logins are consents that were looked at and may be chosen from. They hold tokens
// and are in memory only.
type logins = *expirable.LRU[string, meta.Consent]

func newLogins() logins {
	return expirable.NewLRU[string, meta.Consent](maxLogins, nil, loginLife)
}

// InviteRequest asks for a link.
type InviteRequest struct {
	App     string   `json:"app,omitempty"`
	Company string   `json:"company,omitempty"`
	Fields  []string `json:"fields,omitempty"`
	// Back is where a link at the login's end leads, an http or https URL.
	Back string `json:"back,omitempty"`
}

// Invite is a link that opens one login in a browser.
type Invite struct {
	URL     string    `json:"url"`
	Expires time.Time `json:"expires"`
}

// Login is what a person lets the app use. Its id is good for half an hour.
type Login struct {
	ID string `json:"id"`
	meta.Consent
}

// Connected sums up what became of a choice.
type Connected struct {
	Chosen    int `json:"chosen"`
	Confirmed int `json:"confirmed"`
}

// AppNames are the names of the configured apps, the default first.
func (o *Operator) AppNames() []string { return o.Apps }

// Invite makes a link that opens one login in a browser.
func (o *Operator) Invite(_ context.Context, r InviteRequest) (Invite, error) {
	// An invitation that nobody could use is refused now.
	if _, err := o.Connector.LoginURL(r.App, "", ""); err != nil {
		return Invite{}, err
	}
	url, expires, err := o.Logins.Invite(r.App, r.Company, r.Back, r.Fields)
	return Invite{URL: url, Expires: expires}, err
}

// Login looks at what the person of a user token lets the app use, and changes
// nothing. The token is not kept.
func (o *Operator) Login(ctx context.Context, app, userToken string) (Login, error) {
	consent, err := o.Connector.Consent(ctx, app, userToken)
	if err != nil {
		return Login{}, fmt.Errorf("look at the login: %w", err)
	}
	l := Login{ID: rand.Text(), Consent: consent}
	o.logins.Add(l.ID, consent)
	return l, nil
}

// ConnectChosen connects chosen pages of a login, each for itself, and reports each
// as it is done. It returns when the read models hold the outcomes.
func (o *Operator) ConnectChosen(ctx context.Context, id string, choice meta.Choice, progress func(meta.Outcome)) (Connected, error) {
	consent, ok := o.logins.Get(id)
	if !ok {
		return Connected{}, ErrNoLogin
	}
	outcomes, err := o.Connector.Apply(ctx, consent, choice, progress)
	sum, last := Connected{Chosen: len(outcomes)}, uint64(0)
	for _, out := range outcomes {
		last = max(last, out.Seq)
		if out.Confirmed() {
			sum.Confirmed++
		}
	}
	o.Known.Settle(ctx, last)
	if err != nil {
		err = fmt.Errorf("connect pages: %w", err)
	}
	return sum, err
}
