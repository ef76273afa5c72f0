package operate

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/companies"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/login"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
)

// Bounds of the logins in memory.
const (
	loginLife = 30 * time.Minute
	maxLogins = 100
)

// logins are the consents from which pages can still be chosen, by login id. They
// contain tokens and are in memory only.
type logins = *expirable.LRU[string, meta.Consent]

func newLogins() logins {
	return expirable.NewLRU[string, meta.Consent](maxLogins, nil, loginLife)
}

// InviteRequest is a request for a login link. Only Company is required: whoever opens
// the link can't choose the company.
type InviteRequest struct {
	App     string `json:"app,omitempty"`
	Company string `json:"company,omitempty"`
	// NewCompany allows a company that is not known yet, and adds it.
	NewCompany bool     `json:"new_company,omitempty"`
	Fields     []string `json:"fields,omitempty"`
	// Back is the http or https URL of the link that is shown after the login.
	Back string `json:"back,omitempty"`
}

// Invite is a link that opens one login in a browser.
type Invite struct {
	URL     string    `json:"url"`
	Expires time.Time `json:"expires"`
}

// Login is a user's consent: what the user lets the app use. Its id is valid for half
// an hour.
type Login struct {
	ID string `json:"id"`
	meta.Consent
}

// Connected sums up the result of [Operator.ConnectChosen]: Confirmed of the Chosen
// pages are connected with a confirmed subscription.
type Connected struct {
	Chosen    int `json:"chosen"`
	Confirmed int `json:"confirmed"`
}

// AppNames returns the names of the configured apps, the default app first.
func (o *Operator) AppNames() []string { return o.Apps }

// IsOwnApp reports whether an id is that of a configured app at Meta.
func (o *Operator) IsOwnApp(id string) bool { return id != "" && slices.Contains(o.AppIDs, id) }

// Invite creates a link that opens one login in a browser, for a known company. It
// fails with [ErrNoCompany] or [ErrNewCompany].
func (o *Operator) Invite(ctx context.Context, r InviteRequest) (Invite, error) {
	// This checks the app, so that a link which can't work is refused now.
	if _, err := o.Connector.LoginURL(r.App, "", ""); err != nil {
		return Invite{}, err
	}
	if r.Company == "" {
		return Invite{}, ErrNoCompany
	}
	company, err := o.FindCompany(ctx, r.Company)
	if errors.Is(err, companies.ErrUnknown) {
		if !r.NewCompany {
			return Invite{}, fmt.Errorf("company %q: %w", r.Company, ErrNewCompany)
		}
		company, err = o.Companies.Add(ctx, r.Company)
	}
	if err != nil {
		return Invite{}, err
	}
	url, expires, err := o.Logins.Invite(r.App, login.Company{ID: company.ID, Name: company.Name}, r.Back, r.Fields)
	return Invite{URL: url, Expires: expires}, err
}

// Login reads what the user of a user token lets the app use, and changes nothing. The
// token itself is not stored.
func (o *Operator) Login(ctx context.Context, app, userToken string) (Login, error) {
	consent, err := o.Connector.Consent(ctx, app, userToken)
	if err != nil {
		return Login{}, fmt.Errorf("read the login: %w", err)
	}
	l := Login{ID: rand.Text(), Consent: consent}
	o.logins.Add(l.ID, consent)
	return l, nil
}

// ConnectChosen connects chosen pages of a login, independently of each other, and
// reports each outcome when it is known. It returns when the read models have applied
// the outcomes. It fails with [ErrNoLogin].
func (o *Operator) ConnectChosen(ctx context.Context, id string, choice meta.Choice, progress func(meta.Outcome)) (
	Connected, error,
) {
	consent, ok := o.logins.Get(id)
	if !ok {
		return Connected{}, ErrNoLogin
	}
	var err error
	if choice.Company, err = o.companyID(ctx, choice.Company); err != nil {
		return Connected{}, err
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
