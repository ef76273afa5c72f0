package console

import (
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
)

const maxCompany = 200

type connectView struct {
	Apps         []string
	App, Company string
	// Link opens the login, until Expires.
	Link    string
	Expires time.Time
}

// showConnect serves GET /connect: who is to log in, and for whom.
func (c *Console) showConnect(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	c.show(w, r, http.StatusOK, "connect", "Connect pages", connectView{
		Apps: c.opts.Operator.AppNames(), App: q.Get("app"), Company: q.Get("company"),
	})
	return nil
}

// connect makes a link that opens one login. It is shown and not redirected to: it
// may be for somebody else, and a browser that follows a form to another site
// asks the page's policy at each hop.
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
	in, err := c.opts.Operator.Invite(r.Context(), operate.InviteRequest{App: v.App, Company: v.Company, Back: scheme + r.Host + "/"})
	v.Link, v.Expires = in.URL, in.Expires
	if err != nil {
		c.showOutcome(w, r, http.StatusUnprocessableEntity, "connect", "Connect pages", v, "", "No link could be made: "+err.Error())
		return nil
	}
	c.show(w, r, http.StatusOK, "connect", "Connect pages", v)
	return nil
}
