package console

import (
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
)

// maxCompany bounds a company's name, in bytes.
const maxCompany = 200

// connectView is the view of the form that creates a login link.
type connectView struct {
	Apps         []string
	App, Company string
	// Link opens the login; it is valid until Expires.
	Link    string
	Expires time.Time
}

// showConnect serves GET /connect: the form that creates a login link.
func (c *Console) showConnect(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	c.show(w, r, http.StatusOK, "connect", "Connect pages", connectView{
		Apps: c.opts.Operator.AppNames(), App: q.Get("app"), Company: q.Get("company"),
	})
	return nil
}

// connect serves POST /connect: it creates a link that opens one login. The link is
// shown instead of a redirect: it may be meant for another person, and form-action in
// the Content-Security-Policy would block the redirects of a form to another site.
func (c *Console) connect(w http.ResponseWriter, r *http.Request) error {
	v := connectView{
		Apps: c.opts.Operator.AppNames(), App: r.PostForm.Get("app"), Company: strings.TrimSpace(r.PostForm.Get("company")),
	}
	if v.App != "" && !slices.Contains(v.Apps, v.App) {
		return badInput("There is no such app in the configuration.")
	}
	if len(v.Company) > maxCompany || strings.ContainsFunc(v.Company, unicode.IsControl) {
		return badInput("The company's name is too long, or has characters that no name has.")
	}
	scheme := "http://"
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
		scheme = "https://"
	}
	in, err := c.opts.Operator.Invite(r.Context(), operate.InviteRequest{
		App: v.App, Company: v.Company, Back: scheme + r.Host + "/",
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
