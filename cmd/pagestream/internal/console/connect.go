package console

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/companies"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
)

// connectView is the view of the form that creates a login link.
type connectView struct {
	Apps      []string
	Companies []companies.Company
	// Company is the id of a known company, New the name of a new one.
	App, Company, New string
	// Link opens the login; it is valid until Expires.
	Link    string
	Expires time.Time
}

// showConnect serves GET /connect: the form that creates a login link.
func (c *Console) showConnect(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	v, err := c.connectView(r.Context(), q.Get("app"), q.Get("company"))
	if err != nil {
		return err
	}
	c.show(w, r, http.StatusOK, "connect", "Connect pages", v)
	return nil
}

// connectView returns the view of the form with the chosen app and company.
func (c *Console) connectView(ctx context.Context, app, company string) (v connectView, err error) {
	v.Apps, v.App, v.Company = c.opts.Operator.AppNames(), app, company
	if v.Companies, err = c.opts.Operator.ListCompanies(ctx); err != nil {
		err = fmt.Errorf("list companies: %w", err)
	}
	return v, err
}

// names returns the names of the known companies by their ids.
func (c *Console) names(ctx context.Context) (map[string]string, error) {
	list, err := c.opts.Operator.ListCompanies(ctx)
	if err != nil {
		return nil, fmt.Errorf("list companies: %w", err)
	}
	out := make(map[string]string, len(list))
	for _, company := range list {
		out[company.ID] = company.Name
	}
	return out, nil
}

// connect serves POST /connect: it creates a link that opens one login. The link is
// shown instead of a redirect: it may be meant for another person, and form-action in
// the Content-Security-Policy would block the redirects of a form to another site.
func (c *Console) connect(w http.ResponseWriter, r *http.Request) error {
	v, err := c.connectView(r.Context(), r.PostForm.Get("app"), r.PostForm.Get("company"))
	if err != nil {
		return err
	}
	v.New = strings.TrimSpace(r.PostForm.Get("new_company"))
	history.From(r.Context()).OnText("company", cmp.Or(v.Company, v.New))
	if v.App != "" && !slices.Contains(v.Apps, v.App) {
		return badInput("There is no such app in the configuration.")
	}
	if v.Company != "" && v.New != "" || v.Company == "" && v.New == "" {
		const failed = "Choose a company, or name a new one."
		c.showOutcome(w, r, http.StatusUnprocessableEntity, "connect", "Connect pages", v, "", failed)
		return nil
	}
	scheme := "http://"
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
		scheme = "https://"
	}
	in, err := c.opts.Operator.Invite(r.Context(), operate.InviteRequest{
		App: v.App, Company: cmp.Or(v.Company, v.New), NewCompany: v.New != "", Back: scheme + r.Host + "/",
	})
	v.Link, v.Expires = in.URL, in.Expires
	if err != nil {
		failed := "No link could be made: " + err.Error()
		c.showOutcome(w, r, http.StatusUnprocessableEntity, "connect", "Connect pages", v, "", failed)
		return nil
	}
	c.show(w, r, http.StatusOK, "connect", "Connect pages", v)
	return nil
}
