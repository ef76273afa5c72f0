package meta

import (
	"fmt"
	"time"

	"github.com/pagestream/pagestream/domain"
)

// Standing is how a page of a consent stands to what is connected.
type Standing string

// The standings of a page.
const (
	// StandingNew: the page is not connected.
	StandingNew Standing = "new"
	// StandingConnected: this admin has connected it before, in this app.
	StandingConnected Standing = "connected"
	// StandingForeign: it is connected by another admin or through another app. To
	// choose it is to take it over.
	StandingForeign Standing = "foreign"
)

// Consent is what one person lets one app use. It holds tokens; neither fmt nor
// slog nor encoding/json prints them.
type Consent struct {
	App string `json:"app"`
	// Admin is the app-scoped id of the person.
	Admin string `json:"admin"`
	// MissingScopes are permissions that were not given; without them pages can't be
	// subscribed.
	MissingScopes []string `json:"missing_scopes,omitempty"`
	// Pages are in order of their names.
	Pages []ConsentPage `json:"pages"`
	// Gone are the pages that this person connected before and that this login no
	// longer includes; they have an id and a name alone.
	Gone []ConsentPage `json:"gone"`

	// DataAccessExpires and Scopes are those of the person's token.
	DataAccessExpires time.Time `json:"-"`
	Scopes            []string  `json:"-"`
}

// ConsentPage is one page of a [Consent].
type ConsentPage struct {
	Page domain.PageID `json:"page"`
	Name string        `json:"name,omitempty"`
	// Token is the page's own.
	Token     string   `json:"-"`
	Instagram string   `json:"-"`
	Tasks     []string `json:"tasks,omitempty"`
	Standing  Standing `json:"state,omitempty"`
	// Company and App are those of the connection that there is.
	Company string `json:"company,omitempty"`
	App     string `json:"-"`
	// Lacking says that the person's role does not let them subscribe the page.
	Lacking bool `json:"lacking,omitempty"`
}

// Choice is what a person wants of a [Consent].
type Choice struct {
	Pages []domain.PageID `json:"pages,omitempty"`
	// All is every page but those of others and those that the role does not let
	// connect; Pages is then ignored.
	All bool `json:"all,omitempty"`
	// Company owns the pages; empty leaves a connected page to the one it has.
	Company string `json:"company,omitempty"`
	// Fields are the wanted fields; empty is the default, or what the page has.
	Fields []string `json:"fields,omitempty"`
}

// Format keeps the tokens out of logs, whatever the verb.
func (c Consent) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "consent of %s to %d pages in app %s", c.Admin, len(c.Pages), c.App)
}

// Format keeps the token out of logs, whatever the verb.
func (p ConsentPage) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "page %s of a consent", p.Page)
}
