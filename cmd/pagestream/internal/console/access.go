package console

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/companies"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/tokens"
)

// tokensView is the view of the tokens.
type tokensView struct {
	Tokens    []tokens.Token
	Scopes    []tokens.Scope
	Companies []companies.Company
	// Names are the names of companies by id.
	Names map[string]string
	// Added is the token that was made just now. Its text is shown this once.
	Added *tokens.Added
	Now   time.Time
}

// tokens serves GET /tokens.
func (c *Console) tokens(w http.ResponseWriter, r *http.Request) error {
	return c.showTokens(w, r, http.StatusOK, nil, "", "")
}

func (c *Console) showTokens(w http.ResponseWriter, r *http.Request, status int, added *tokens.Added,
	done, failed string,
) error {
	v := tokensView{Tokens: c.opts.Operator.ListTokens(), Scopes: tokens.Scopes(), Added: added, Now: time.Now()}
	var err error
	if v.Companies, err = c.opts.Operator.ListCompanies(r.Context()); err != nil {
		return fmt.Errorf("list companies: %w", err)
	}
	v.Names = map[string]string{}
	for _, one := range v.Companies {
		v.Names[one.ID] = one.Name
	}
	c.showOutcome(w, r, status, "tokens", "Tokens", v, done, failed)
	return nil
}

// maxDays bounds how long a token made in the console is valid, in days.
const maxDays = 3650

// addToken serves POST /tokens. The token's text is shown instead of a redirect: it can't be
// read again.
func (c *Console) addToken(w http.ResponseWriter, r *http.Request) error {
	f := r.PostForm
	t := tokens.Token{
		Name: strings.TrimSpace(f.Get("name")), Scope: tokens.Scope(f.Get("scope")), Send: f.Get("send") != "",
	}
	if t.Scope == tokens.Company { // the field is shown for every scope
		t.Company = f.Get("company")
	}
	action := history.From(r.Context())
	action.On("token", t.Name)
	action.On("scope", string(t.Scope))
	action.OnText("company", t.Company)
	if days := f.Get("days"); days != "" {
		n, err := strconv.Atoi(days)
		if err != nil || n < 1 || n > maxDays {
			return badInput(fmt.Sprintf("A token is valid for 1 to %d days, or without an end.", maxDays))
		}
		t.Expires = time.Now().Add(time.Duration(n) * 24 * time.Hour)
	}
	added, err := c.opts.Operator.AddToken(r.Context(), t)
	if err != nil {
		return c.showTokens(w, r, http.StatusUnprocessableEntity, nil, "", "Not made: "+err.Error())
	}
	return c.showTokens(w, r, http.StatusOK, &added, "", "")
}

// revokeToken serves POST /tokens/{name}/revoke.
func (c *Console) revokeToken(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	if err := c.opts.Operator.RevokeToken(r.Context(), name); err != nil {
		return c.showTokens(w, r, http.StatusUnprocessableEntity, nil, "", "Not revoked: "+err.Error())
	}
	return c.showTokens(w, r, http.StatusOK, nil, "Revoked. Its sessions and feeds have ended.", "")
}

// historyView is the view of what operators did.
type historyView struct {
	Who, Verb, On string
	Entries       []historyRow
	// Earlier is the URL of the earlier entries, empty if there are none.
	Earlier string
}

type historyRow struct {
	history.Entry
	// What lists what the verb was about.
	What string
}

// historySize is the number of entries on one page.
const historySize = 100

// history serves GET /history: the newest entries, or those before ?before=.
func (c *Console) history(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	v := historyView{Who: q.Get("who"), Verb: q.Get("verb"), On: q.Get("on")}
	query := history.Query{Who: v.Who, Verb: v.Verb, On: v.On, Limit: historySize}
	if before := q.Get("before"); before != "" {
		var err error
		if query.Before, err = strconv.ParseUint(before, 10, 64); err != nil {
			return badInput("That position in the history does not exist.")
		}
	}
	list, next, err := c.opts.Operator.ListHistory(r.Context(), query)
	if err != nil {
		return fmt.Errorf("list history: %w", err)
	}
	for _, e := range list {
		row := historyRow{Entry: e}
		for _, kind := range slices.Sorted(maps.Keys(e.On)) {
			row.What += cmp.Or(kind, "?") + " " + e.On[kind] + " "
		}
		v.Entries = append(v.Entries, row)
	}
	if next > 0 {
		v.Earlier = "/history?" + url.Values{
			"who": {v.Who}, "verb": {v.Verb}, "on": {v.On}, "before": {strconv.FormatUint(next, 10)},
		}.Encode()
	}
	c.show(w, r, http.StatusOK, "history", "History", v)
	return nil
}
