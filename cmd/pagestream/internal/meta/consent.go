package meta

import (
	"fmt"
	"time"

	"github.com/pagestream/pagestream/domain"
)

// Standing is the relation of a page in a consent to the existing connections.
type Standing string

// The values of [Standing].
const (
	// StandingNew: the page is not connected.
	StandingNew Standing = "new"
	// StandingConnected: this admin has connected the page before, in this app.
	StandingConnected Standing = "connected"
	// StandingForeign: the page is connected by another admin or through another
	// app. Choosing it replaces that connection.
	StandingForeign Standing = "foreign"
)

// Consent is what one person has granted to one app. It contains tokens, which
// fmt, slog and encoding/json do not print.
type Consent struct {
	App string `json:"app"`
	// Admin is the app-scoped id of the person.
	Admin string `json:"admin"`
	// MissingScopes are needed permissions that were not granted; without them pages
	// can't be subscribed.
	MissingScopes []string `json:"missing_scopes,omitempty"`
	// Pages are sorted by name.
	Pages []ConsentPage `json:"pages"`
	// Gone are the pages that this person connected before and that this login no
	// longer includes; only their id and name are set.
	Gone []ConsentPage `json:"gone"`

	// DataAccessExpires and Scopes are those of the person's token.
	DataAccessExpires time.Time `json:"-"`
	Scopes            []string  `json:"-"`
}

// ConsentPage is one page of a [Consent].
type ConsentPage struct {
	Page domain.PageID `json:"page"`
	Name string        `json:"name,omitempty"`
	// Token is the page's own token.
	Token     string   `json:"-"`
	Instagram string   `json:"-"`
	Tasks     []string `json:"tasks,omitempty"`
	Standing  Standing `json:"state,omitempty"`
	// Company and App are those of the existing connection, empty if there is none.
	Company string `json:"company,omitempty"`
	App     string `json:"-"`
	// Lacking reports that the person's role is not sufficient to subscribe the page.
	Lacking bool `json:"lacking,omitempty"`
}

// Moves reports whether connecting the page for a company would move it from another
// company.
func (p ConsentPage) Moves(company string) bool {
	return p.Company != "" && company != "" && p.Company != company
}

// Choice is the selection of pages to connect from a [Consent].
type Choice struct {
	Pages []domain.PageID `json:"pages,omitempty"`
	// All selects every page except those that are [StandingForeign] or Lacking;
	// Pages is then ignored.
	All bool `json:"all,omitempty"`
	// Company owns the pages; if it is empty, a connected page keeps its company.
	Company string `json:"company,omitempty"`
	// Move are the pages that may move from the company that the consent shows to
	// Company. Other pages of another company are refused.
	Move []domain.PageID `json:"move,omitempty"`
	// Fields are the wanted webhook fields. If it is empty, a connected page keeps
	// its fields and a new one gets the default.
	Fields []string `json:"fields,omitempty"`
}

// Format keeps the tokens out of logs, for every format verb.
func (c Consent) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "consent of %s to %d pages in app %s", c.Admin, len(c.Pages), c.App)
}

// Format keeps the token out of logs, for every format verb.
func (p ConsentPage) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "page %s of a consent", p.Page)
}
